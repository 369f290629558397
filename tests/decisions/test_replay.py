"""What is written down of a choice is all that it went by: decided again, it comes out the same."""

import random

import attrs
import pytest
from hypothesis import given
from promising import storm

from ollama_proxy.config import BackendConfig, Config, Efficiency
from ollama_proxy.decisions.outcome import differences
from ollama_proxy.decisions.reading import Recorded, read
from ollama_proxy.decisions.replay import Change, decide_again
from ollama_proxy.decisions.writing import Scribe
from ollama_proxy.policy.ask import Wishes
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import STANCES, Mode
from ollama_proxy.policy.preempt import Started
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision, Reason, RouteSettings, Steering
from ollama_proxy.policy.thermal import ThermalState
from tests.decisions.questions import MODES, NOW, questions
from tests.engine.storm import Storm
from tests.fleet import ask, laptop

AS_IT_WAS = Change()


def recorded(question: Question, outcome: Decision | Refusal | None = None) -> Recorded:
    """A choice, through its line and back."""
    outcome = outcome or question.decide()
    (read_back,) = read([Scribe(str).line("req-1", question, outcome)])
    assert isinstance(read_back, Recorded)
    return read_back


def plain(**changes: object) -> Question:
    """A chat on the laptop."""
    given: dict[str, object] = {"wishes": Wishes(), "settings": RouteSettings(), "now": NOW}
    return Question(ask=ask(), fleet=laptop(), **(given | changes))  # type: ignore[arg-type]


@given(question=questions())
def test_any_choice_comes_out_the_same(question: Question) -> None:
    """Whatever state the fleet is in and whatever is asked of it: candidates, terms, refusals."""
    first = question.decide()
    again = decide_again(recorded(question, first), AS_IT_WAS)

    if isinstance(first, Refusal):
        assert isinstance(again, Refusal)
        assert first.code is again.code
    else:
        assert first == again


@pytest.mark.parametrize("preempts", [None, *Started], ids=str)
def test_every_choice_of_a_storm_comes_out_the_same(preempts: Started | None) -> None:
    """Failures, cancels, learning, lines, second attempts, in all modes: thousands of choices.

    What is live is told as it was then: judgements are up to a minute old when they are used, and
    what was learned since is not in them. Warm backends and battery come and go with the modes.
    """
    lines: list[bytes] = []
    scribe = Scribe(str)
    chance = random.Random(7)  # noqa: S311 - it makes weather
    weather = Storm(
        preempts=preempts,
        reserve=1,
        hedge_budget=0.5,
        note=lambda *choice: lines.append(scribe.line(*choice)),
    )
    for number in range(6500):
        if number % 250 == 0:
            turn(weather, MODES[number // 250 % len(MODES)], chance)
        storm.one_event(weather, chance)
    weather.subside()

    was = [each for each in read(lines) if isinstance(each, Recorded)]
    assert len(lines) == len(was) > 1900
    assert len(MODES) == len({each.question.settings.steering.stance for each in was})
    for each in was:
        assert {} == differences(each.gave, decide_again(each, AS_IT_WAS))


def turn(weather: Storm, mode: Mode, chance: random.Random) -> None:
    """Another mode comes into force, and the machine's state changes with it."""
    weather.dispatcher.steer(
        Steering(
            stance=STANCES[mode],
            reason=Reason(f"mode-{mode.value}"),
            is_loud=chance.random() < 0.5,
            on_battery=chance.random() < 0.5,
            all_cool=False,
        )
    )
    for station in weather.dispatcher.stations.values():
        station.heat = chance.choice(tuple(ThermalState))
        station.touch()
        weather.dispatcher.heat_changed(station)


def test_nothing_of_who_asks_is_written() -> None:
    """Neither the client's name, nor where a backend is, nor its key's name."""
    question = plain(client="alice@192.0.2.7")
    line = Scribe(str).line("req-1", question, question.decide())

    assert b"alice" not in line
    assert b"192.0.2.7" not in line
    assert b"127.0.0.1" not in line


def test_another_mode_decides_otherwise() -> None:
    """In performance the fastest, in efficiency the thriftiest, and the reason says so."""
    was = recorded(plain())
    fast = decide_again(was, Change(mode=Mode.PERFORMANCE))
    thrifty = decide_again(was, Change(mode=Mode.ULTRA_EFFICIENCY))

    assert isinstance(fast, Decision)
    assert isinstance(thrifty, Decision)
    assert ("nvidia", Reason.MODE_PERFORMANCE) == (fast.backend, fast.reason)
    assert ("npu", Reason.MODE_ULTRA_EFFICIENCY) == (thrifty.backend, thrifty.reason)


def test_another_configuration_decides_otherwise() -> None:
    """Who is not in it any more gets nothing; who is new to it has no state, and stays away."""
    names = {"igpu": Hardware.IGPU, "newcomer": Hardware.NPU}
    made = tuple(
        BackendConfig(id=name, hardware=hardware, endpoint="http://127.0.0.1:1")
        for name, hardware in names.items()
    )
    config = Config(backends=made, efficiency=Efficiency(mode=Mode.QUIET))
    again = decide_again(recorded(plain()), Change(config=config))

    assert isinstance(again, Decision)
    assert ("igpu", ()) == (again.backend, again.alternatives)


def test_auto_is_the_mode_that_was_in_force() -> None:
    """No log tells what auto would have made of other circumstances."""
    question = plain()
    again = decide_again(recorded(question), Change(mode=Mode.AUTO))

    assert question.decide() == again


def test_what_differs_is_named() -> None:
    """With what it was and what it is now."""
    was = recorded(plain())
    outcome = decide_again(was, Change(mode=Mode.PERFORMANCE))
    found = differences(was.gave, outcome)
    refused = decide_again(
        attrs.evolve(was, question=plain(wishes=Wishes(target="nobody"))), AS_IT_WAS
    )

    assert ("balanced", "mode-performance") == found["reason"]
    assert ("npu", "nvidia") == found["backend"]
    assert {"outcome": ("npu (balanced)", "unknown_backend")} == differences(was.gave, refused)
