"""What is written down of a request that ended, beyond its outcome; in exact virtual times."""

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.ledger import Deadline, Outcome
from tests.engine.floor import backend, open_floor


@pytest.mark.parametrize(
    ("after_s", "stage", "first_s"),
    [(1.0, Stage.WAITING, None), (10.0, Stage.RUNNING, None), (15.0, Stage.RUNNING, 14.0)],
    ids=["in line", "before the first byte", "after it"],
)
async def test_how_far_one_had_come_who_left(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    after_s: float,
    stage: Stage,
    first_s: float | None,
) -> None:
    """In line, at a backend, or in the middle of its answer."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=5.0).say("b", after=4.0))
    floor.submit()
    caller = floor.submit()
    await trio.sleep(after_s)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    fact = floor.fact(caller)
    assert (Outcome.LEFT, stage, first_s) == (fact.outcome, fact.stage, fact.first_s)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("needs_s", "limit_s", "expected"),
    [
        (1.0, 2.0, Deadline.MET),
        (3.0, 2.0, Deadline.MISSED),
        (3.0, 0.001, Deadline.REFUSED),
        (3.0, None, None),
    ],
    ids=["met", "missed", "refused", "none"],
)
async def test_what_became_of_a_deadline(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    *,
    stream: bool,
    needs_s: float,
    limit_s: float | None,
    expected: Deadline | None,
) -> None:
    """As its backend's calibration has it, and also where nobody would take it on."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=needs_s))

    caller = await floor.ask(max_latency_s=limit_s, stream=stream)

    found = floor.station().calibration
    assert expected is floor.fact(caller).deadline
    assert (expected is Deadline.MET, expected is Deadline.MISSED) == (
        found.deadlines_met,
        found.deadlines_missed,
    )


async def test_who_leaves_in_time_has_missed_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whether it would have been met, nobody knows."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=5.0))
    caller = floor.submit(max_latency_s=10.0)
    await trio.sleep(1.0)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert Deadline.LEFT is floor.fact(caller).deadline


async def test_who_failed_whom(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Each step from a backend that failed to the next; the last that failed led nowhere."""
    floor = open_floor(
        nursery,
        autojump_clock,
        backend("npu").refuse(),
        backend("igpu").refuse(),
        backend("cpu").say("a"),
    )

    served = await floor.ask()
    failed = floor.fact(served).failovers
    alone = await floor.ask(target="npu")

    ends = [each for step in failed for each in step]
    assert ["cpu", 2] == [floor.fact(served).backend, len(failed)]
    assert (ends[1], "cpu") == (ends[2], ends[3])
    assert () == floor.fact(alone).failovers


async def test_neither_the_line_nor_the_backend_is_overhead(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Five seconds in line and five at work are none of it; two until the bytes were taken are."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=5.0))
    floor.submit()
    caller = floor.submit(is_reading=False)
    await trio.sleep(12.0)
    caller.reading.set()
    await caller.ended.wait()
    left = floor.submit()
    floor.dispatcher.withdraw(left.job)
    await left.ended.wait()

    fact = floor.fact(caller)
    assert (5.0, 10.0, 2.0) == (fact.queue_s, fact.first_s, fact.overhead_s)
    assert floor.fact(left).overhead_s is None


async def test_reading_and_deciding_are_overhead(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """From the arrival until there was a place."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=5.0))
    arrived = trio.current_time()
    await trio.sleep(0.25)

    caller = await floor.ask(arrived=arrived)

    assert 0.25 == floor.fact(caller).overhead_s
