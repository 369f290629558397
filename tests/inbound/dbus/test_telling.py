"""What is told of changes, and when."""

import itertools
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.inbound.dbus.interface import parse_interfaces
from ollama_proxy.inbound.dbus.telling import GAUGES_S, Pacer, Telling
from ollama_proxy.inbound.dbus.tree import Exported

XML = """
<node>
  <interface name="org.example.Thing">
    <property name="Mode" type="s" access="read"/>
    <property name="Place" type="s" access="read"/>
    <property name="Heat" type="d" access="read"/>
  </interface>
</node>
"""


@attrs.define
class Thing:
    """An object whose values a test sets."""

    states: dict[str, object] = attrs.field(factory=lambda: {"Mode": "quiet", "Place": "lap"})
    gauges: dict[str, object] = attrs.field(factory=lambda: {"Heat": 40.0})
    telling: Telling = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        (interface,) = parse_interfaces(XML)
        exported = Exported(
            interface=interface,
            constants={},
            states=lambda: self.states,
            gauges=lambda: self.gauges,
        )
        self.telling = Telling([exported])
        self.telling.begin()

    def told(self) -> list[tuple[Any, ...]]:
        """What was changed and what is gone, of each signal; taken."""
        bodies = [emission.body[1:] for emission in self.telling.due]
        self.telling.due.clear()
        return bodies


def test_1_all_that_changes_at_once_is_one_signal() -> None:
    """With the new values and their types, and nothing that stayed."""
    thing = Thing()
    thing.states = {"Mode": "loud", "Place": "lap"}
    thing.telling.look_at_states()
    assert [({"Mode": ("s", "loud")}, [])] == thing.told()
    thing.states = {"Mode": "quiet", "Place": "desk"}
    thing.telling.look_at_states()

    assert [({"Mode": ("s", "quiet"), "Place": ("s", "desk")}, [])] == thing.told()


def test_1_a_change_and_back_are_two() -> None:
    """Each is told, though nobody has taken the first."""
    thing = Thing()
    for mode in ("loud", "quiet"):
        thing.states = {"Mode": mode, "Place": "lap"}
        thing.telling.look_at_states()

    assert [({"Mode": ("s", "loud")}, []), ({"Mode": ("s", "quiet")}, [])] == thing.told()


def test_1_what_is_not_known_any_more_is_told() -> None:
    """By its name; known again it is a change."""
    thing = Thing()
    thing.states = {"Mode": "quiet"}
    thing.telling.look_at_states()
    assert [({}, ["Place"])] == thing.told()
    thing.states = {"Mode": "quiet", "Place": "lap"}
    thing.telling.look_at_states()

    assert [({"Place": ("s", "lap")}, [])] == thing.told()


@given(st.lists(st.floats(0, 0.5), max_size=60))
def test_2_gauges_are_told_so_often_and_no_more(pauses: list[float]) -> None:
    """However often they change; and the last look that may tells the value of then."""
    thing, now, told_at = Thing(), 1000.0, []
    for number, pause in enumerate(pauses):
        now += pause
        thing.gauges = {"Heat": 50.0 + number}
        if thing.telling.look_at_gauges(now):
            told_at.append(now)
            assert [({"Heat": ("d", 50.0 + number)}, [])] == thing.told()
        else:
            assert not thing.telling.due

    assert all(b - a >= GAUGES_S for a, b in itertools.pairwise(told_at))


@pytest.mark.parametrize("name", ["states", "gauges"])
def test_3_what_stays_is_not_told(name: str) -> None:
    """Looking costs no signal."""
    thing = Thing()
    setattr(thing, name, dict(getattr(thing, name)))
    thing.telling.look_at_states()
    thing.telling.look_at_gauges(1000.0)

    assert not thing.told()


@given(st.lists(st.floats(0, 0.3), max_size=80))
def test_no_second_sees_more_than_it_may(pauses: list[float]) -> None:
    """Whichever second one looks at; and who comes slower is always let through."""
    pacer, now = Pacer(3), 0.0
    let: list[float] = []
    for pause in pauses:
        now += pause
        recent = [at for at in let if now - at < 1.0]
        is_let = pacer.lets(now)
        assert is_let == (len(recent) < 3)
        if is_let:
            let.append(now)
