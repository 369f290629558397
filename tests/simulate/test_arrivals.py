"""Who comes, and when."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from ollama_proxy.simulate.arrivals import Arrival, traffic
from ollama_proxy.simulate.scenario import Scenario, TrafficConfig, load
from tests.simulate.stage import backend, write


def drawn(directory: Path, *given: dict[str, Any], **keys: Any) -> list[Arrival]:
    """Those who come by themselves."""
    path = write(directory, backends=[backend()], traffic=list(given), **keys)
    return list(traffic(load(path)).open())


def test_a_rate_is_kept(tmp_path: Path) -> None:
    """Of two classes, each comes as often as it should, one after the other."""
    comes = drawn(tmp_path, {"name": "a", "rate_per_s": 2}, {"name": "b", "rate_per_s": 1})

    assert 10_000 == len(comes)
    assert 3 == pytest.approx(10_000 / comes[-1].at, rel=0.05)
    assert 2 / 3 == pytest.approx(sum(c.kind == 0 for c in comes) / 10_000, rel=0.05)
    assert sorted(c.at for c in comes) == [c.at for c in comes]


def test_bursts_have_pauses(tmp_path: Path) -> None:
    """Half the time nobody comes, and the mean is half the rate."""
    comes = drawn(tmp_path, {"name": "a", "rate_per_s": 10, "on_s": 10, "off_s": 10})
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(comes)]

    assert 5 == pytest.approx(10_000 / comes[-1].at, rel=0.2)
    assert max(gaps) > 10


def test_nobody_comes_after_the_end(tmp_path: Path) -> None:
    """Neither after the scenario's, nor after the class's own."""
    early = {"name": "a", "rate_per_s": 5, "starts_s": 3, "ends_s": 10}
    comes = drawn(tmp_path, early, {"name": "b", "rate_per_s": 5}, duration_s=20)
    of_a = [c.at for c in comes if c.kind == 0]

    assert 3 < min(of_a) < max(of_a) <= 10 < max(c.at for c in comes) <= 20


def test_a_conversation_grows(tmp_path: Path) -> None:
    """Each turn begins with the prompt and the answer of the one before, up to a limit."""
    talk = {"name": "a", "rate_per_s": 1, "continues": 1, "prompt_tokens": 100, "answer_tokens": 50}
    first, second, *_, last = drawn(tmp_path, talk | {"talk_tokens": 500}, requests=4)

    assert (0, 100) == (first.known, first.prompt)
    assert (150, 250, first.talk) == (second.known, second.prompt, second.talk)
    assert (0, 100) == (last.known, last.prompt)
    assert first.talk != last.talk


def test_contents_do_not_depend_on_how_they_come() -> None:
    """The n-th request of a class is the same at any rate."""
    asked = [
        [
            (c.prompt, c.answer, c.luck)
            for c in traffic(
                Scenario(
                    requests=50,
                    traffic=(TrafficConfig(name="a", rate_per_s=rate, prompt_sigma=1),),
                )
            ).open()
        ]
        for rate in (1, 7)
    ]

    assert asked[0] == asked[1]


def test_the_background_can_be_left_out(tmp_path: Path) -> None:
    """The others come as they did."""
    back = {"name": "b", "rate_per_s": 1, "background": True}
    path = write(
        tmp_path,
        backends=[backend()],
        traffic=[{"name": "a", "rate_per_s": 1}, back, back | {"name": "c", "keep": 1, "rate_per_s": 0}],
    )  # fmt: skip
    comes = traffic(load(path))
    alone = comes.without_background()

    assert [c for c in comes.open() if c.kind == 0] == list(alone.open())
    assert (1, 0) == (len(comes.kept), len(alone.kept))
