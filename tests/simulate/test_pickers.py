"""Several pickers over a fleet, in figures that were worked out by hand, and in a storm."""

from pathlib import Path
from typing import Any

import attrs
import pytest

from ollama_proxy.simulate.arrivals import traffic
from ollama_proxy.simulate.model import machines
from ollama_proxy.simulate.pickers import Fleet
from ollama_proxy.simulate.report import Figures, Tally
from ollama_proxy.simulate.rounds import ALL_KNOWING, FIGURES, compare
from ollama_proxy.simulate.scenario import Scenario, load, read_trace
from ollama_proxy.simulate.sizing import capacity_per_s, sized
from ollama_proxy.tables import ConfigFaults
from tests.simulate.stage import backend, request, toml, write


def scenario(directory: Path, *requests: dict[str, Any], **keys: Any) -> Scenario:
    """A fleet's, of recorded requests."""
    lines = "".join(toml_line(each) for each in requests)
    (directory / "trace.jsonl").write_text(lines)
    return load(write(directory, trace="trace.jsonl", **keys))


def toml_line(request_: dict[str, Any]) -> str:
    """A line of a trace; JSON's strings and numbers are TOML's."""
    return "{" + ", ".join(f'"{key}": {toml(value)}' for key, value in request_.items()) + "}\n"


def play(directory: Path, given: Scenario, count: int) -> tuple[Fleet, Figures]:
    """What comes of them with so many pickers."""
    comes = traffic(given, read_trace(directory / "trace.jsonl"))
    fleet = machines(given)
    tally = Tally(comes.kinds, warm_up_s=0, warm_up_requests=0)
    run = Fleet(given, comes, fleet, tally, count)
    run.run()
    return run, tally.figures(fleet)


def longest_s(figures: Figures) -> float:
    """To the first token, of whoever had to wait longest; to a millisecond."""
    return round(float(figures["by_priority"]["normal"]["first_s"]["p99"]), 3)


PAIR = [backend(name, prior_latency_ms=1000, tells_loaded=False) for name in "ab"]
# Dealt to both of two pickers, at this seed: each sends one, before either is told of the other's.
AT_ONCE = [request(10.0), request(10.1)]


def test_one_picker_knows_what_it_sent(tmp_path: Path) -> None:
    """Nobody need tell it: the second request goes to the other node."""
    given = scenario(tmp_path, *AT_ONCE, backends=PAIR, fleet={"refresh_s": 60})
    run, figures = play(tmp_path, given, 1)

    assert (1.0, 0) == (longest_s(figures), run.misplaced)


@pytest.mark.parametrize(("refresh_s", "waits_s", "misplaced"), [(60, 1.9, 1), (0.05, 0, 0)])
def test_two_meet_at_a_node_unless_they_are_told(
    tmp_path: Path, refresh_s: float, waits_s: float, misplaced: int
) -> None:
    """The second waits in the node's own line, though the other node is idle."""
    given = scenario(tmp_path, *AT_ONCE, backends=PAIR, seed=3, fleet={"refresh_s": refresh_s})
    run, figures = play(tmp_path, given, 2)

    assert (1.0 + waits_s, misplaced) == (longest_s(figures), run.misplaced)


def test_an_urgent_one_goes_first_at_the_node(tmp_path: Path) -> None:
    """Its priority goes along: what has not begun there is put back, whoever sent it."""
    batch = request(10, 1000, 1, priority="best-effort")
    voice = request(15, priority="critical")
    given = scenario(tmp_path, batch, voice, backends=[backend()], seed=3, fleet={"refresh_s": 60})
    _, figures = play(tmp_path, given, 2)

    assert 1.0 == pytest.approx(figures["by_priority"]["critical"]["first_s"]["p50"])


def test_what_a_node_would_be_late_with_goes_to_another(tmp_path: Path) -> None:
    """The deadline goes along as well, as what is left of it; the node declines at once."""
    late = [request(10.0), request(10.1, max_latency_ms=1500)]
    given = scenario(tmp_path, *late, backends=PAIR, seed=3, fleet={"refresh_s": 60})
    run, figures = play(tmp_path, given, 2)

    assert (1.0, 1, 1) == (
        longest_s(figures),
        run.declined,
        figures["deadlines"]["calibrated"]["met"],
    )


def test_a_node_that_lies_is_found_out_by_nobody(tmp_path: Path) -> None:
    """It says that it is idle, however often it is asked."""
    liars = [backend("a", lies=True), backend("b", priority=-1)]
    given = scenario(tmp_path, *AT_ONCE, backends=liars, seed=3, fleet={"refresh_s": 0.05})
    run, _ = play(tmp_path, given, 2)

    assert 1 == run.misplaced


def test_a_node_that_is_lost_loses_what_it_had_begun(tmp_path: Path) -> None:
    """What had no byte yet is served by another, what comes later too, and after its return by it."""
    away = [{"at_s": 11.5, "until_s": 20}]
    pair = [backend("a", priority=1, absent=away), backend("b")]
    comes = [request(10.0), request(11.0), request(13.0), request(30.0)]
    given = scenario(tmp_path, *comes, backends=pair, fleet={"refresh_s": 0.5})
    _, figures = play(tmp_path, given, 1)

    assert (3, {"backend_failed": 1}) == (figures["served"], figures["failed"])


def test_an_answer_that_comes_late_is_heard_late(tmp_path: Path) -> None:
    """However often a node is asked: what it tells is as old as its way is long."""
    given = scenario(
        tmp_path, *AT_ONCE, backends=PAIR, seed=3, fleet={"refresh_s": 0.05, "late_s": 1.0}
    )
    run, _ = play(tmp_path, given, 2)

    assert 1 == run.misplaced


STORM = {
    "requests": 300,
    "backends": [
        backend("a", count=3, jitter=0.3, failing=0.05, load_s=1, cancel_linger_s=0.2),
        backend("b", count=2, slots=2, uneven=0.3, prior_off=1, absent=[{"at_s": 50, "until_s": 60}]),
    ],
    "traffic": [
        {"name": "voice", "rate_per_s": 1, "priority": "critical", "max_latency_ms": 3000},
        {"name": "chat", "rate_per_s": 3, "max_latency_ms": 9000, "continues": 0.5},
        {"name": "batch", "rate_per_s": 1, "priority": "best-effort", "stream": False},
    ],
    "fleet": {"nodes": 7, "load": 0.9, "pickers": [1, 3], "seeds": 2, "jitter": 0.5, "late_s": 0.2},
}  # fmt: skip


def test_a_seed_tells_it_all(tmp_path: Path) -> None:
    """The same figures, to the last digit; each variant on the same requests."""
    given = load(write(tmp_path, **STORM))
    runs = [compare(given) for _ in range(2)]
    for run in runs:
        for figures in run.values():
            for one in figures["by_seed"]:
                del one["cpu_s"]

    assert runs[0] == runs[1]
    assert [ALL_KNOWING, "1 picker", "3 pickers"] == list(runs[0])
    assert 1 == len({tuple(o["arrived"] for o in f["by_seed"]) for f in runs[0].values()})
    assert set(FIGURES) < set(runs[0]["3 pickers"])
    assert (
        0.0
        == runs[0][ALL_KNOWING]["misplaced"]["mean"]
        == runs[0][ALL_KNOWING]["joules"]["against"]
    )


def test_nobody_is_left_behind(tmp_path: Path) -> None:
    """At the end nobody waits or works anywhere, and everybody was answered, refused or told."""
    given = sized(load(write(tmp_path, **STORM)), 5)
    comes, fleet = traffic(given), machines(given)
    tally = Tally(comes.kinds, warm_up_s=0, warm_up_requests=0)
    run = Fleet(given, comes, fleet, tally, 3)
    run.run()
    figures = tally.figures(fleet)
    ended = sum([*figures["refused"].values(), *figures["failed"].values()])

    assert figures["arrived"] == figures["served"] + ended > 0
    assert [0] * 7 == [machine.at_work for machine in fleet]
    assert not any(picker.dispatcher.jobs or picker.visits for picker in run.pickers)
    assert not any(node.visits for node in run.nodes)


def test_a_fleet_has_the_size_and_the_load_that_were_asked_for(tmp_path: Path) -> None:
    """Counts in the mix of the backends', rates in that of the traffic."""
    given = load(write(tmp_path, **STORM))
    one = sized(given, 1)
    rates = [each.rate_per_s for each in one.traffic]

    assert [4, 3] == [each.count for each in one.backends]
    assert sum(rates) == pytest.approx(0.9 * capacity_per_s(one))
    assert rates[1] == pytest.approx(3 * rates[0])


def test_capacity_is_what_all_slots_serve(tmp_path: Path) -> None:
    """Two requests a second and a half on each of three slots, if both take as long as the plain one."""
    plain = {"name": "chat", "rate_per_s": 1, "prompt_tokens": 100, "answer_tokens": 11}
    trio = [backend("a", slots=3)]
    given = load(write(tmp_path, backends=trio, traffic=[plain], fleet={"seeds": 1}))

    assert 1.5 == pytest.approx(capacity_per_s(given))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"fleet": {"pickers": [0], "refresh_s": 0}},
            [
                "fleet.pickers: must be some numbers from 1 to 64 (got a list)",
                "fleet.refresh_s: must be > 0 (got 0)",
            ],
        ),
        (
            {"backends": [backend(lies=True, absent=[{"at_s": 2, "until_s": 1}])]},
            [
                "backends[0].absent[0]: until_s must be after at_s",
                "backends[0].absent: only a [fleet] heeds it",
                "backends[0].lies: only a [fleet] heeds it",
            ],
        ),
        (
            {
                "traffic": [{"name": "batch", "keep": 2}],
                "battery_wh": 50,
                "efficiency": {"mode": "quiet"},
                "fleet": {"load": 0.5},
            },
            [
                "fleet: nodes have no conditions, parts or efficiency here",
                "traffic[0].keep: has no rate that fleet.load could change",
            ],
        ),
    ],
)
def test_every_fault_is_named(tmp_path: Path, keys: dict[str, Any], expected: list[str]) -> None:
    """As those of every scenario are."""
    chat = {"name": "chat", "rate_per_s": 1}
    path = write(tmp_path, **({"backends": [backend()], "traffic": [chat]} | keys))
    with pytest.raises(ConfigFaults) as caught:
        load(path)

    assert sorted(expected) == sorted(caught.value.faults)


def test_a_fleet_of_nobody_is_none(tmp_path: Path) -> None:
    """A scenario without one is a machine's."""
    given = load(write(tmp_path, backends=[backend()], traffic=[{"name": "c", "rate_per_s": 1}]))

    assert given.fleet is None
    assert attrs.evolve(given, seed=2).fleet is None
