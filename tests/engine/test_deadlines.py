"""Until when a job may take: in line, before its first byte, and after it."""

import gc
import weakref
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.refusal import Code
from tests.engine.floor import backend, open_floor

PATIENT: dict[str, Any] = {"first_byte_timeout_s": 1e6}
ABSURD_S = [1e9, 1e18, 1e300, 1.7e308]


async def test_in_line(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who waits when its deadline passes hears so at exactly that time, and leaves the line."""
    played = backend().say("a", after=10.0)
    floor = open_floor(nursery, autojump_clock, played)
    floor.submit()

    caller = await floor.ask(max_latency_s=2.5)

    assert [(2.5, "deadline_exceeded"), (2.5, "done")] == caller.heard
    fact = floor.fact(caller)
    assert (Outcome.REFUSED, Code.DEADLINE_EXCEEDED, 2.5) == (fact.outcome, fact.code, fact.queue_s)
    assert (1, 0) == (len(played.errands), len(floor.station().line))
    await trio.sleep(10.0)
    await floor.assert_at_rest()


async def test_in_line_each_at_its_own(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A later job may have the earlier deadline."""
    floor = open_floor(nursery, autojump_clock, backend(avg_latency_s=0.1).hang())
    floor.submit()
    callers = []
    for limit_s in (5.0, 2.0, 3.0, 2.0):
        callers.append(floor.submit(max_latency_s=limit_s))
        await trio.sleep(0.25)

    await callers[0].ended.wait()

    assert [5.0, 2.25, 3.5, 2.75] == [caller.heard[0][0] for caller in callers]


async def test_the_wait_counts(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What is left after the line is all the backend has."""
    played = backend().say("a", after=1.5).then().say("b", after=3.0)
    floor = open_floor(nursery, autojump_clock, played)
    floor.submit()

    caller = await floor.ask(max_latency_s=3.2)

    assert [(3.2, "deadline_exceeded"), (3.2, "done")] == caller.heard
    assert 1.5 == floor.fact(caller).queue_s
    await floor.assert_at_rest()


async def test_who_would_be_late_in_any_case_is_told_when_it_is_its_turn(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It would keep a slot for nothing, and whoever comes behind it would be late for that."""
    played = backend().say("a", after=1.5)
    floor = open_floor(nursery, autojump_clock, played)
    floor.submit()
    caller = floor.submit(max_latency_s=2.0)
    behind = floor.submit(max_latency_s=9.0)
    await behind.ended.wait()

    assert [(1.5, "deadline_exceeded"), (1.5, "done")] == caller.heard
    assert (1.5, 2) == (floor.fact(caller).queue_s, len(played.errands))
    assert (3.0, "a") == behind.heard[0]
    await floor.assert_at_rest()


async def test_a_slot_that_frees_at_the_deadline_is_too_late(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The backend is not asked for an answer that nobody can use."""
    played = backend().say("a", after=2.0)
    floor = open_floor(nursery, autojump_clock, played)
    floor.submit()

    caller = await floor.ask(max_latency_s=2.0)
    await wait_all_tasks_blocked()

    assert [(2.0, "deadline_exceeded"), (2.0, "done")] == caller.heard
    assert 1 == len(played.errands)
    await floor.assert_at_rest()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_before_the_first_byte(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    """A silent backend is left at the deadline, and serves the next."""
    played = backend().hang().then().say("a")
    floor = open_floor(nursery, autojump_clock, played)

    caller = await floor.ask(max_latency_s=1.5, stream=stream)

    assert [(1.5, "deadline_exceeded"), (1.5, "done")] == caller.heard
    await floor.assert_serves_next()
    assert 1 == played.left


async def test_a_stream_that_began_in_time_has_kept_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After its first byte a stream may take as long as it likes."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0).say("b", after=100.0))

    caller = await floor.ask(max_latency_s=1.5)

    assert [(1.0, "a"), (101.0, "b"), (101.0, "done")] == caller.heard


async def test_a_stream_that_stalls_later_has_kept_it_too(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """That it broke off is the backend's fault, and not the deadline's doing."""
    floor = open_floor(
        nursery, autojump_clock, backend().say("a", after=1.0).hang(), stall_timeout_s=10.0
    )

    caller = await floor.ask(max_latency_s=1.5)

    assert (11.0, "done") == caller.heard[-1]
    assert 1 == floor.station().circuit.failures


async def test_a_whole_answer_must_end_in_time(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its first byte alone is nothing."""
    played = backend().say("a", after=1.0).say("b", after=1.0)
    floor = open_floor(nursery, autojump_clock, played)

    caller = await floor.ask(max_latency_s=1.5, stream=False)

    assert [(1.0, "a"), (1.5, "deadline_exceeded"), (1.5, "done")] == caller.heard
    assert (Outcome.BROKEN, 0) == (floor.outcome(caller), floor.station().circuit.failures)
    await floor.assert_at_rest()


async def test_failing_over_does_not_extend_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """An alternative has what the first backend left."""
    floor = open_floor(
        nursery, autojump_clock, backend("npu").pause(1.0).refuse(), backend("igpu").hang()
    )

    caller = await floor.ask(max_latency_s=1.5)

    assert [(1.5, "deadline_exceeded"), (1.5, "done")] == caller.heard
    assert "igpu" == floor.fact(caller).backend


async def test_in_the_line_of_an_alternative(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It also ends a job that waits for the second time."""
    floor = open_floor(
        nursery, autojump_clock, backend("npu").pause(1.0).refuse(), backend("igpu").hang()
    )
    floor.submit(target="igpu")

    caller = await floor.ask(max_latency_s=2.0)

    assert [(2.0, "deadline_exceeded"), (2.0, "done")] == caller.heard


@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "free"])
async def test_one_that_has_passed_at_submit(
    nursery: trio.Nursery, autojump_clock: MockClock, is_busy: bool
) -> None:
    """It is refused at once, and no backend hears of it."""
    played = backend().hang()
    floor = open_floor(nursery, autojump_clock, played)
    if is_busy:
        floor.submit()
    await trio.sleep(10.0)

    caller = floor.submit(arrived=5.0, max_latency_s=5.0)

    assert [(10.0, "deadline_exceeded"), (10.0, "done")] == caller.heard
    assert int(is_busy) == len(played.errands)


async def test_one_that_nobody_can_meet(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A deadline under every prediction is refused at once."""
    floor = open_floor(nursery, autojump_clock, backend())

    caller = floor.submit(max_latency_s=0.5)

    assert [(0.0, "deadline_unmeetable"), (0.0, "done")] == caller.heard


@pytest.mark.parametrize("limit_s", ABSURD_S)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_absurdly_large_ones(
    nursery: trio.Nursery, autojump_clock: MockClock, limit_s: float, stream: bool
) -> None:
    """They are as good as none, in line and at work."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
    callers = [floor.submit(max_latency_s=limit_s, stream=stream) for _ in range(2)]

    await callers[1].ended.wait()

    assert [1.0, 2.0] == [caller.heard[0][0] for caller in callers]
    await floor.assert_at_rest()


class TestTheirHeap:
    """What is remembered of those who wait does not outlive them."""

    async def test_served_jobs_do_not_pile_up(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """After ten thousand jobs with distant deadlines it is as small as ever."""
        floor = open_floor(nursery, autojump_clock, backend(slots=4).say("a"), capacity=100)
        largest = 0
        for _ in range(100):
            floor.callers.clear()
            callers = [floor.submit(max_latency_s=1e6) for _ in range(100)]
            await callers[-1].ended.wait()
            largest = max(largest, len(floor.dispatcher.alarms))

        assert 10_000 == len(floor.facts)
        assert largest <= 2 * 100

    async def test_who_left_does_not_pile_up(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Nor do those who gave up waiting."""
        floor = open_floor(nursery, autojump_clock, backend().hang())
        floor.submit()
        for _ in range(10_000):
            floor.dispatcher.withdraw(floor.submit(max_latency_s=1e6).job)

        assert len(floor.dispatcher.alarms) <= 64

    async def test_those_who_wait_are_not_swept_out(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """However many came and went, each deadline is kept."""
        floor = open_floor(nursery, autojump_clock, backend().hang(), capacity=1000, **PATIENT)
        floor.submit()
        waiting = [floor.submit(max_latency_s=2000.0 + number) for number in range(10)]
        for _ in range(1000):
            floor.dispatcher.withdraw(floor.submit(max_latency_s=1e6).job)

        await waiting[-1].ended.wait()

        assert [2000.0 + number for number in range(10)] == [c.heard[0][0] for c in waiting]

    async def test_a_flapping_backend_does_not_grow_it(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A job that is placed again and again is remembered once, give or take a sweep."""
        fleet = [backend("npu").hang(), backend("igpu").hang()]
        floor = open_floor(nursery, autojump_clock, *fleet, **PATIENT)
        for name in ("npu", "igpu"):
            floor.submit(target=name)
        caller = floor.submit(max_latency_s=5000.0, power_efficient=True)
        for number in range(1000):
            gone, back = ("npu", "igpu") if number % 2 == 0 else ("igpu", "npu")
            floor.station(back).healthy = True
            floor.station(back).touch()
            floor.station(gone).is_down("it flaps")
            floor.dispatcher.health_changed(floor.station(gone))

        assert len(floor.dispatcher.alarms) <= 64
        await caller.ended.wait()
        assert [(5000.0, "deadline_exceeded"), (5000.0, "done")] == caller.heard

    async def test_a_body_is_let_go(self, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
        """A job that has ended is not kept for its deadline's sake: its body may be large."""
        floor = open_floor(nursery, autojump_clock, backend().hang())
        floor.submit()
        job = floor.submit(max_latency_s=1e6).job
        floor.dispatcher.withdraw(job)
        floor.callers.clear()
        kept = weakref.ref(job)

        del job
        gc.collect()

        assert kept() is None


async def test_an_alternative_must_make_what_is_left(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """One that would have made the whole deadline, but not the rest of it, is passed over."""
    failing = backend("npu").pause(0.5).refuse()
    slow = backend("igpu", avg_latency_s=0.9, power_watts=3.0).say("slow")
    fast = backend("nvidia").say("fast")
    floor = open_floor(nursery, autojump_clock, failing, slow, fast)

    caller = await floor.ask(max_latency_s=1.0)

    assert ["fast", "done"] == caller.said
