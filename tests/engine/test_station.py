"""A backend at work: what a decision sees of it, and its workers."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Call
from tests.engine.floor import backend, open_floor
from tests.fleet import MODEL


def station(**changes: Any) -> Station:
    """One that is well, has the fleet's model, and has no workers."""
    opened = Station(backend(**changes), queue_capacity=8, jitter=lambda: 0.0)
    opened.is_well(Probe(models=frozenset({MODEL})))
    return opened


def test_nothing_is_known_at_first() -> None:
    """Before its first probe nobody is sent there."""
    view = Station(backend(), queue_capacity=8).view(0.0)

    assert (False, None, None) == (view.healthy, view.models, view.loaded)


def test_a_view_is_kept_until_something_changes() -> None:
    """Deciding costs no new view of a backend that stands as it stood."""
    opened = station()
    before = opened.view(0.0)
    kept = opened.view(100.0)
    opened.does_not_serve(Call.OLLAMA_CHAT)

    assert before is kept
    assert {Call.OLLAMA_CHAT} == opened.view(100.0).unserved


def test_a_view_after_failures_knows_the_time() -> None:
    """An open circuit is half-open when its time comes, without anybody's doing."""
    opened = station()
    for _ in range(5):
        opened.has_failed(0.0, "it broke")

    assert [True, True, False] == [opened.view(now).circuit_open for now in (0.0, 4.9, 5.0)]


def test_a_backend_may_fail_for_days() -> None:
    """However often the circuit has opened, the pause stays the longest one."""
    opened = station()
    now = 0.0
    for _ in range(2000):
        opened.circuit = opened.circuit.tried()
        opened.has_failed(now, "it broke")
        now = max(now, opened.circuit.retry_at)

    assert opened.circuit.openings > 1024
    assert opened.view(now - 300.0).circuit_open
    assert not opened.view(now).circuit_open


def test_one_that_retires_takes_no_more() -> None:
    """To those who decide it looks as if it were down."""
    opened = station()
    opened.retire()

    assert not opened.view(0.0).healthy


def test_an_old_failure_is_forgotten_when_it_is_well() -> None:
    """What was wrong last is told only while it may still be."""
    opened = station()
    opened.has_failed(0.0, "it broke")
    said = opened.last_error
    opened.is_well(Probe())

    assert ("it broke", None) == (said, opened.last_error)


@pytest.mark.parametrize("asked", ["m", "m:latest", "alias"])
def test_a_model_is_struck_off_by_all_its_names(asked: str) -> None:
    """An alias and a tag that says nothing name the same model."""
    opened = station(aliases={"alias": "m"})
    opened.is_well(Probe(models=frozenset({"m:latest", "other:1b"})))
    opened.lacks(asked)

    assert frozenset({"other:1b"}) == opened.models


def test_no_list_cannot_be_shortened() -> None:
    """A backend that never told what it has is still trusted with the rest."""
    opened = station()
    opened.is_well(Probe(models=None))
    opened.lacks("m")

    assert opened.models is None


async def test_workers_are_started_when_needed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """As many as ever worked at once, however many slots there are."""
    floor = open_floor(nursery, autojump_clock, backend(slots=64).say("a", after=1.0))
    before = len(nursery.child_tasks)
    for _ in range(3):
        callers = [floor.submit(), floor.submit()]
        await callers[-1].ended.wait()

    assert 2 == len(nursery.child_tasks) - before


async def test_retired_means_idle(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who waits for the retirement waits for every slot, and never before it is told."""
    floor = open_floor(nursery, autojump_clock, backend(slots=2).say("a", after=2.0))
    opened = floor.station()
    floor.submit()
    await trio.sleep(1.0)
    floor.submit()

    floor.dispatcher.remove(opened)
    await opened.wait_retired()

    assert 3.0 == autojump_clock.current_time()
    await floor.assert_at_rest()


async def test_idle_is_not_retired(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An idle station goes on."""
    floor = open_floor(nursery, autojump_clock, backend().say("a"))
    await floor.ask()
    await wait_all_tasks_blocked()

    with trio.move_on_after(100.0) as patience:
        await floor.station().wait_retired()

    assert patience.cancelled_caught


def test_a_successor_begins_with_what_was_known() -> None:
    """A backend whose owner describes it anew is not unknown for that."""
    former, successor = station(), Station(backend(name="New"), queue_capacity=8)
    successor.inherit(former)

    assert (True, frozenset({MODEL})) == (successor.view(0.0).healthy, successor.models)
    assert successor.estimates is former.estimates


def test_it_says_how_it_stands() -> None:
    """In a log a station is readable."""
    assert repr(station(slots=2)) == "<Station npu: healthy, 0/2 slots, 0 waiting>"
