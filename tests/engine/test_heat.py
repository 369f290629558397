"""What becomes of work that waits for a part of the machine that becomes too hot; in virtual times."""

import trio
from trio.testing import MockClock

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Steering
from ollama_proxy.policy.thermal import ThermalState
from tests.engine.floor import Floor, backend, open_floor


def heat(floor: Floor, name: str, level: ThermalState) -> None:
    """Let a backend's part be so warm, as the climate tells it."""
    station = floor.station(name)
    station.feels("part", level, f"{name} is hot", asleep=False)
    floor.dispatcher.steer(Steering(all_cool=level is ThermalState.NOMINAL))
    floor.dispatcher.heat_changed(station)


async def test_who_waits_goes_where_it_is_cool(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who runs there finishes; nobody starts."""
    slow = backend("npu").say("ran", after=10.0).then().say("never")
    floor = open_floor(nursery, autojump_clock, slow, backend("igpu").say("cool", after=1.0))
    first = floor.submit(target="npu")
    waits = floor.submit()

    heat(floor, "npu", ThermalState.CRITICAL)
    second = floor.submit()
    for caller in (first, waits, second):
        await caller.ended.wait()

    assert [1, 2] == [len(slow.errands), len(floor.station("igpu").backend.errands)]  # type: ignore[attr-defined]  # it is scripted
    assert {Outcome.SERVED} == {floor.outcome(c) for c in (first, waits, second)}
    await floor.assert_at_rest()


async def test_who_can_go_nowhere_is_told(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """With when to ask again."""
    floor = open_floor(nursery, autojump_clock, backend("npu").say("ran", after=10.0))
    floor.submit()
    waits = floor.submit()

    heat(floor, "npu", ThermalState.CRITICAL)
    await waits.ended.wait()

    assert waits.refusal is not None
    assert (Code.NO_BACKEND, True) == (waits.refusal.code, bool(waits.refusal.retry_after_s))


async def test_work_that_was_put_back_does_not_start_on_a_part_that_is_too_hot(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It had a place there; heat came between its halt and its end."""
    played = backend("npu").say("batch", after=10.0).then().say("voice", after=1.0)
    floor = open_floor(nursery, autojump_clock, played)
    batch = floor.submit(priority=Priority.BEST_EFFORT)
    await trio.sleep(3.0)
    voice = floor.submit(priority=Priority.CRITICAL)
    heat(floor, "npu", ThermalState.CRITICAL)
    await batch.ended.wait()
    await voice.ended.wait()

    assert 1 == len(played.errands)
    assert Outcome.REFUSED is floor.outcome(batch)
    await floor.assert_at_rest()


async def test_who_waits_elsewhere_comes_back_when_it_is_cool(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A part that has cooled is a free slot like any other."""
    floor = open_floor(
        nursery,
        autojump_clock,
        backend("npu").say("cool", after=1.0),
        backend("cpu").say("slow", after=100.0),
    )
    heat(floor, "npu", ThermalState.CRITICAL)
    floor.submit()
    waits = floor.submit()
    await trio.sleep(5.0)
    heat(floor, "npu", ThermalState.NOMINAL)
    await waits.ended.wait()

    assert (6.0, "cool") == waits.heard[0]
