"""Ours in virtual time, in figures that were worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from ollama_proxy.simulate.arrivals import traffic
from ollama_proxy.simulate.model import machines
from ollama_proxy.simulate.report import Tally
from ollama_proxy.simulate.run import simulate
from ollama_proxy.simulate.scenario import load
from ollama_proxy.simulate.world import World
from tests.simulate.stage import backend, first_s, play, request, write

BATCH = request(0, 1000, 1, priority="best-effort")
VOICE = request(5, priority="critical")


def test_a_request_takes_its_prefill_and_its_decode(tmp_path: Path) -> None:
    """A first token after a second, the end after two, and the watts of that time."""
    figures = play(tmp_path, request(0), backends=[backend(watts_busy=11, watts_idle=1)])

    assert (1.0, 2.0, 1) == (first_s(figures), figures["ended_at_s"], figures["served"])
    assert 2.0 == figures["joules_per_token"]


def test_an_idle_backend_draws_its_idle_watts(tmp_path: Path) -> None:
    """Energy is counted from the start, and by slots."""
    figures = play(tmp_path, request(8), backends=[backend(slots=2, watts_busy=6, watts_idle=2)])

    assert 24.0 == pytest.approx(11 * figures["joules_per_token"])


def test_who_comes_second_waits(tmp_path: Path) -> None:
    """A slot serves one after the other."""
    figures = play(tmp_path, request(0), request(0.5))

    assert 2.5 == first_s(figures, quantile="p99")


def test_a_model_is_loaded_once_while_there_is_room(tmp_path: Path) -> None:
    """The least recently used goes: of a, b, a, c, a there are three loads where two fit."""
    models = [{"name": name} for name in "abc"]
    comes = [request(10.0 * n, model=model) for n, model in enumerate("abaca")]
    figures = play(tmp_path, *comes, models=models, backends=[backend(load_s=3, memory=2)])

    assert 3 == figures["cold_loads"]
    assert (1.0, 4.0) == (round(first_s(figures) % 3, 6), first_s(figures, quantile="p99"))


def test_a_larger_model_takes_longer(tmp_path: Path) -> None:
    """Its size multiplies loading, prefill and decode."""
    figures = play(
        tmp_path,
        request(0, model="big"),
        models=[{"name": "big", "size": 2}],
        backends=[backend(load_s=3)],
    )

    assert (8.0, 10.0) == (first_s(figures), figures["ended_at_s"])


def test_a_drift_counts_from_the_next_request(tmp_path: Path) -> None:
    """Half the speed is twice the time."""
    slower = backend(drift=[{"at_s": 5, "speed": 0.5}])
    figures = play(tmp_path, request(4.5), request(10), backends=[slower])

    assert (1.0, 2.0) == (first_s(figures), first_s(figures, quantile="p99"))


def test_a_voice_has_the_batch_put_back(tmp_path: Path) -> None:
    """It starts at once, and what was computed for the batch is lost."""
    figures = play(tmp_path, BATCH, VOICE)

    assert (1.0, 17.0) == (first_s(figures, "critical"), first_s(figures, "best-effort"))
    assert (1, 5.0, 500) == tuple(figures[k] for k in ("put_back", "wasted_s", "wasted_tokens"))


@pytest.mark.parametrize(("tells", "waits_s"), [(True, 0.15), (False, 0.12)])
def test_a_prefill_lingers_when_cancelled(tmp_path: Path, *, tells: bool, waits_s: float) -> None:
    """Where it is told, the next probe after its end frees the slot; else the backend's own line."""
    lingers = backend(cancel_linger_s=0.12, tells_computing=tells)
    figures = play(tmp_path, BATCH, VOICE, backends=[lingers])

    assert 1.0 + waits_s == pytest.approx(first_s(figures, "critical"))
    assert 5.12 == pytest.approx(figures["wasted_s"])


def test_a_stream_that_has_begun_is_stopped_where_the_owner_says_so(tmp_path: Path) -> None:
    """Its caller is told, and the voice starts at once."""
    streams = request(0, 100, 1001, priority="best-effort")
    figures = play(tmp_path, streams, VOICE, scheduler={"preempt_started": "stop"})

    assert (1.0, 1, {"preempted": 1}) == (
        first_s(figures, "critical"),
        figures["stopped"],
        figures["failed"],
    )


def test_a_deadline_that_passes_ends_the_work(tmp_path: Path) -> None:
    """It was promised on a prior that was wrong, and is missed."""
    figures = play(
        tmp_path,
        request(0, max_latency_ms=500),
        backends=[backend(prior_latency_ms=100)],
        warm_up_requests=1,
    )

    assert ({"deadline_exceeded": 1}, 0.5) == (figures["failed"], figures["wasted_s"])
    assert (1, 0) == tuple(figures["deadlines"]["cold"][k] for k in ("admitted", "met"))


def test_what_cannot_be_promised_is_refused(tmp_path: Path) -> None:
    """It is no miss, but no answer either."""
    figures = play(tmp_path, request(0, max_latency_ms=500), request(1))

    assert {"deadline_unmeetable": 1} == figures["refused"]
    assert (0, 1) == tuple(figures["deadlines"]["calibrated"][k] for k in ("admitted", "refused"))


def test_a_backend_that_breaks_is_replaced(tmp_path: Path) -> None:
    """The other one answers, from the moment the first has broken off."""
    pair = [backend("a", failing=1, priority=1), backend("b")]
    figures = play(tmp_path, request(0), backends=pair)

    assert (2.0, {}) == (first_s(figures), figures["failed"])


def test_a_hedge_answers_where_the_first_attempt_does_not(tmp_path: Path) -> None:
    """The budget was saved up before; the attempt that is beaten is work for nothing."""
    pair = [
        backend("a", priority=1, prior_latency_ms=1000, drift=[{"at_s": 60, "speed": 0.01}]),
        backend("b", prior_latency_ms=1000),
    ]
    before = [request(3.0 * n) for n in range(10)]
    last = request(100, latency_critical=True)
    figures = play(
        tmp_path,
        *before,
        last,
        backends=pair,
        scheduler={"hedge": True, "hedge_budget": 0.5},
    )

    assert (1, 11) == (figures["hedges"], figures["served"])
    assert first_s(figures, quantile="p99") < 3.0
    assert figures["wasted_s"] > 0


def test_a_conversation_is_computed_from_where_it_grew(tmp_path: Path) -> None:
    """What the prefix cache has is not computed again: each turn takes as long as the first."""
    talk = {
        "name": "talk",
        "rate_per_s": 0.01,
        "continues": 1,
        "prompt_tokens": 100,
        "answer_tokens": 11,
    }
    path = write(tmp_path, requests=5, traffic=[talk], backends=[backend()])
    figures = simulate(path, only=["ours"])[1]["ours"]

    assert (1.0, 1.0) == (first_s(figures), first_s(figures, quantile="p99"))


def test_those_who_are_kept_waiting_ask_again(tmp_path: Path) -> None:
    """Two are asked at any time, until as many came as were wanted."""
    kept = {"name": "batch", "keep": 2, "prompt_tokens": 100, "answer_tokens": 11}
    path = write(tmp_path, requests=5, traffic=[kept], backends=[backend()])
    figures = simulate(path, only=["ours"])[1]["ours"]

    assert (5, 10.0) == (figures["served"], figures["ended_at_s"])
    assert (3.0, 1.0) == (first_s(figures), figures["by_priority"]["normal"]["fairness"])


def storm(directory: Path, **changes: Any) -> Path:
    """A scenario with something of everything."""
    return write(
        directory,
        requests=400,
        scheduler={"hedge": True, "preempt_started": "stop"},
        backends=[
            backend("a", jitter=0.3, failing=0.1, load_s=1, cancel_linger_s=0.2),
            backend("b", count=2, slots=2, uneven=0.3, prior_off=1, tells_loaded=False),
        ],
        traffic=[
            {"name": "voice", "rate_per_s": 0.2, "priority": "critical", "latency_critical": True},
            {"name": "chat", "rate_per_s": 0.3, "max_latency_ms": 9000, "continues": 0.5},
            {"name": "burst", "rate_per_s": 1, "on_s": 5, "off_s": 20, "clients": 3},
            {"name": "batch", "keep": 4, "priority": "best-effort", "background": True},
        ],
        **changes,
    )


def test_a_seed_tells_it_all(tmp_path: Path) -> None:
    """The same seed has the same figures, to the last digit; another has others."""
    path = storm(tmp_path)
    runs = [simulate(path, seed=seed)[1] for seed in (7, 7, 8)]
    for run in runs:
        for figures in run.values():
            del figures["wall_s"]

    assert runs[0] == runs[1] != runs[2]


def test_nobody_is_left_behind(tmp_path: Path) -> None:
    """At the end of a storm nobody waits or works, and everybody was answered, refused or told."""
    scenario = load(storm(tmp_path))
    comes, fleet = traffic(scenario), machines(scenario)
    tally = Tally(comes.kinds, warm_up_s=0, warm_up_requests=0)
    world = World(scenario, comes, fleet, tally)
    world.run()
    figures = tally.figures(fleet)
    ended = sum([*figures["refused"].values(), *figures["failed"].values()])

    assert set() == world.dispatcher.jobs
    assert figures["arrived"] == figures["served"] + ended
    assert [0] * 3 == [machine.at_work for machine in fleet]
