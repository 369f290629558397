"""A router's answers as lines for people."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ollama_proxy.client import MISSHAPEN
from ollama_proxy.shown import (
    show_backends,
    show_decision,
    show_health,
    show_heat,
    show_mode,
)
from ollama_proxy.terminal import Line, Tone
from tests.answers import BACKEND, DECISION, EFFICIENCY, HEALTH, HEAT

SHOWN: list[tuple[Callable[[Any, int | None], list[Line]], Any]] = [
    (show_health, HEALTH),
    (show_backends, [BACKEND, BACKEND | {"id": "cpu", "last_error": "refused " * 9}]),
    (show_decision, DECISION),
    (show_heat, HEAT),
    (partial(show_mode, lists_all=True), EFFICIENCY),
]


def plain(lines: list[Line]) -> list[str]:
    return ["".join(each.text for each in line).rstrip() for line in lines]


@pytest.mark.parametrize(("show", "told"), SHOWN)
@pytest.mark.parametrize("width", [None, 120, 80, 40])
def test_it_fits(
    show: Callable[[Any, int | None], list[Line]], told: Any, width: int | None
) -> None:
    """Whatever the terminal's width."""
    widest = max(map(len, plain(show(told, width))))

    assert width is None or widest <= width


def test_a_machine_without_sensors_has_no_table() -> None:
    """Heads without rows tell nothing."""
    nothing = HEAT | {"state": "unknown", "zones": [], "fans": [], "power": []}

    assert ["unknown", "no sensor tells anything"] == plain(show_heat(nothing, 80))


def test_what_was_only_configured_is_in_parentheses() -> None:
    """And what nobody knows is a dash."""
    _, row = plain(show_backends([BACKEND | {"temperature_c": None}], None))

    assert ["npu", "npu", "healthy", "1/2", "3", "-", "(3.0)", "41.5"] == row.split()[:8]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"enabled": False, "healthy": False}, "disabled"),
        ({"healthy": False}, "unhealthy"),
        ({"throttled": True}, "throttled"),
        ({"asleep": True}, "asleep"),
        ({}, "healthy"),
    ],
)
def test_the_state_of_a_backend(changes: dict[str, object], state: str) -> None:
    """What keeps requests away comes first."""
    _, row = plain(show_backends([BACKEND | changes], None))

    assert state in row.split()


def test_who_was_not_eligible_says_why() -> None:
    """Beside the terms of those who were."""
    head, _, chosen, barred = plain(show_decision(DECISION, None))

    assert "npu (power-efficient)" == head
    assert ["npu", "1.50", "800", "ms", "3.0", "time=+1.00", "watts=+0.50"] == chosen.split()
    assert barred.endswith("it is too hot")


def test_heat_is_toned_by_its_limit() -> None:
    """At it, near it, and below."""
    tones = {line[0].text: line[4].tone for line in show_heat(HEAT, None)[2:]}

    assert (Tone.BAD, Tone.WARN, Tone.PLAIN) == (tones["gpu"], tones["package"], tones["board"])


def test_the_mode_that_was_chosen_is_marked() -> None:
    """And battery and mains are told where they are known."""
    lines = plain(show_mode(EFFICIENCY, None, lists_all=True))

    assert "auto, in force: quiet (battery)" == lines[0]
    assert "on battery, 41 %" == lines[1]
    assert ["* auto   as it is", "  quiet  few fans"] == lines[2:]


def test_names_are_harmless() -> None:
    """A server that calls its backend or its fault by an escape sequence changes no screen."""
    evil = "\x1b]0;pwned\x07\x1b[2J"
    shown = [
        *show_backends([BACKEND | {"id": evil, "hardware": evil, "last_error": evil}], None),
        *show_decision(DECISION | {"reason": evil, "backend": evil}, None),
        *show_health(HEALTH | {"status": evil, "backends": {evil: evil}}, None),
        *show_heat(HEAT | {"state": evil}, None),
        *show_mode(EFFICIENCY | {"reason": evil, "mode": evil}, None, lists_all=True),
    ]

    assert all(line.isprintable() for line in plain(shown))


@pytest.mark.parametrize("told", [None, 7, "ok", [1], [None], {"zones": 3, "status": []}, [[]]])
@pytest.mark.parametrize("show", [show for show, _ in SHOWN])
def test_what_is_no_answer(show: Callable[[Any, int | None], list[Line]], told: Any) -> None:
    """Another shape raises what a caller expects, and nothing else."""
    with pytest.raises(MISSHAPEN):
        show(told, 80)
