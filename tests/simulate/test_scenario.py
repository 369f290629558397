"""Scenario files: the good ones, and every fault of the bad ones."""

from pathlib import Path

import pytest

from ollama_proxy.simulate.run import names, simulate
from ollama_proxy.simulate.scenario import load, read_trace
from ollama_proxy.tables import ConfigFaults
from tests.simulate.stage import backend, request, toml, write

SHIPPED = sorted((Path(__file__).parents[2] / "tools" / "scenarios").glob("*.toml"))
CHAT = {"name": "chat", "rate_per_s": 1}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_scenario_runs(path: Path) -> None:
    """With few requests; nobody is lost in any of the routers."""
    scenario, runs = simulate(path, requests=40)

    assert set(names(scenario)) <= set(runs)
    one_each = [run["by_seed"][0] if scenario.fleet else run for run in runs.values()]
    refused, failed = ("refusals", "failures") if scenario.fleet else ("refused", "failed")
    for figures in one_each:
        ended = sum([*figures[refused].values(), *figures[failed].values()])
        assert figures["arrived"] == figures["served"] + ended > 0


def faults(path: Path) -> list[str]:
    """All of a file's faults."""
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"backend": [backend()]}, ["backend: unknown key, did you mean backends?"]),
        (
            {"backends": [backend(slots=0, jitters=1)], "traffic": [CHAT]},
            [
                "backends[0].slots: must be 1 to 1024 (got 0)",
                "backends[0].jitters: unknown key, did you mean jitter?",
            ],
        ),
        (
            {"backends": [{"id": "a", "decode_tokens_per_s": 1}], "traffic": [CHAT]},
            ["backends[0].prefill_tokens_per_s: is required"],
        ),
        (
            {"scheduler": {"preempt_started": "never"}},
            ['scheduler.preempt_started: must be one of keep, stop, continue (got "never")'],
        ),
        (
            {},
            ["backends: there must be one at least", "traffic: there must be one at least, or a trace"],
        ),
        (
            {
                "models": [{"name": "m"}],
                "backends": [backend(models=["n"]), backend()],
                "traffic": [CHAT | {"model": "x", "keep": 1, "on_s": 1}],
            },
            [
                "backends[1]: 'a' is already used by backends[0]",
                "backends[0].models: there is no [[models]] named 'n'",
                "traffic[0].model: there is no [[models]] named 'x'",
                "traffic[0]: must have either rate_per_s or keep",
                "traffic[0]: must have both on_s and off_s, or neither",
            ],
        ),
        (
            {"backends": [backend()], "traffic": [CHAT | {"priority": "urgent"}]},
            [
                'traffic[0].priority: must be one of best-effort, normal, high, critical (got "urgent")'
            ],
        ),
    ],
)  # fmt: skip
def test_every_fault_is_named(tmp_path: Path, keys: dict[str, object], expected: list[str]) -> None:
    """As those of the configuration are: all at once, with what may have been meant."""
    assert sorted(expected) == sorted(faults(write(tmp_path, **keys)))


def test_a_trace_that_was_cut_off(tmp_path: Path) -> None:
    """The line is named, and so is every other fault."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 1, "prompt_tokens": 0}\n\n{"at_s": 2, "prompt_tok')

    with pytest.raises(ConfigFaults) as caught:
        read_trace(path)
    assert (
        "line 1: prompt_tokens: must be 1 to 10000000 (got 0)",
        "line 1: answer_tokens: is required",
        "line 3: is no complete JSON object",
    ) == caught.value.faults


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "holds nothing"), ("[]\n", "line 1: must be a table (got a list)")],
)
def test_a_trace_without_requests(tmp_path: Path, content: str, expected: str) -> None:
    """It is not taken for a quiet day."""
    path = tmp_path / "trace.jsonl"
    path.write_text(content)

    with pytest.raises(ConfigFaults) as caught:
        read_trace(path)
    assert (expected,) == caught.value.faults


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    """The fault names the file."""
    path = write(tmp_path, trace="gone.jsonl", backends=[backend()])

    with pytest.raises(ConfigFaults) as caught:
        simulate(path)
    assert tmp_path / "gone.jsonl" == caught.value.path


def test_a_trace_is_played_by_its_times(tmp_path: Path) -> None:
    """Also where its lines are out of order."""
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(toml_line(at) for at in (3, 1, 2)))

    assert [1, 2, 3] == [recorded.at_s for recorded in read_trace(path)]


def toml_line(at_s: float) -> str:
    """A line of a trace."""
    return "{" + ", ".join(f'"{k}": {toml(v)}' for k, v in request(at_s).items()) + "}\n"
