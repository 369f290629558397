"""Who gives up a slot for a critical request, and what becomes of it; in exact virtual times."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.preempt import PUT_BACK_MAX, Started
from tests.engine.floor import Floor, Listener, backend, open_floor
from tests.fakes.backend import ScriptedBackend

BATCH = Priority.BEST_EFFORT
VOICE = Priority.CRITICAL


def prefilling() -> ScriptedBackend:
    """Thinks for ten seconds about the first request, and for one about each after it."""
    return backend().say("batch", after=10.0).then().say("a", after=1.0)


async def test_work_that_has_sent_nothing_is_put_back(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The critical request has the slot at once; the other begins anew after it, and is served."""
    played = prefilling()
    floor = open_floor(nursery, autojump_clock, played)
    batch = floor.submit(priority=BATCH)
    await trio.sleep(3.0)

    voice = floor.submit(priority=VOICE)
    await batch.ended.wait()

    assert [(4.0, "a"), (4.0, "done")] == voice.heard
    assert [(5.0, "a"), (5.0, "done")] == batch.heard
    assert (1, 0) == (floor.fact(batch).put_back, floor.fact(voice).put_back)
    assert (1, 3) == (played.left, len(played.errands))
    await floor.assert_at_rest()


async def test_who_is_put_back_keeps_its_place(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is before those of its kind that came after it."""
    floor = open_floor(nursery, autojump_clock, prefilling())
    first = floor.submit(priority=BATCH)
    await trio.sleep(1.0)
    second = floor.submit(priority=BATCH)

    floor.submit(priority=VOICE)
    await second.ended.wait()

    assert [3.0, 4.0] == [first.heard[0][0], second.heard[0][0]]


async def test_nobody_is_put_back_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After twice it goes on, whoever comes."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
    batch = floor.submit(priority=BATCH)
    voices = []
    for _ in range(PUT_BACK_MAX + 2):
        await trio.sleep(0.5)
        voices.append(floor.submit(priority=VOICE))
        await wait_all_tasks_blocked()
        if len(voices) <= PUT_BACK_MAX:
            await voices[-1].ended.wait()
    await voices[-1].ended.wait()

    assert PUT_BACK_MAX == floor.fact(batch).put_back
    assert [(4.0, "a"), (4.0, "done")] == batch.heard
    await floor.assert_at_rest()


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.HIGH])
async def test_only_critical_requests_preempt(
    nursery: trio.Nursery, autojump_clock: MockClock, priority: Priority
) -> None:
    """Whoever is merely more urgent waits until the slot is free."""
    floor = open_floor(nursery, autojump_clock, prefilling())
    floor.submit(priority=BATCH)

    caller = await floor.ask(priority=priority)

    assert 11.0 == caller.heard[0][0]


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.HIGH, Priority.CRITICAL])
async def test_only_best_effort_yields(
    nursery: trio.Nursery, autojump_clock: MockClock, priority: Priority
) -> None:
    """Nobody else's work is thrown away."""
    floor = open_floor(nursery, autojump_clock, prefilling())
    floor.submit(priority=priority)

    voice = await floor.ask(priority=VOICE)

    assert 11.0 == voice.heard[0][0]


async def test_it_may_be_turned_off(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Then critical requests are merely the next in line."""
    floor = open_floor(nursery, autojump_clock, prefilling(), preempts=None)
    floor.submit(priority=BATCH)

    voice = await floor.ask(priority=VOICE)

    assert 11.0 == voice.heard[0][0]


async def test_one_slot_for_each_critical_request(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Two that come at once cost two their slots, the youngest first, and no more."""
    played = backend(slots=3).say("batch", after=10.0)
    floor = open_floor(nursery, autojump_clock, played)
    batch = []
    for _ in range(3):
        batch.append(floor.submit(priority=BATCH))
        await trio.sleep(1.0)

    for _ in range(2):
        floor.submit(priority=VOICE)
    await wait_all_tasks_blocked()

    assert [0, 1, 1] == [caller.job.put_back for caller in batch]
    assert 2 == played.left


async def test_a_slot_is_cleared_whoever_is_due(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Eight may go before one who has waited long; the ninth is promised a slot like them, and has it."""
    played = backend(slots=10)
    for _ in range(10):
        played.say("batch", after=100.0).then()
    played.say("a", after=1.0)
    floor = open_floor(nursery, autojump_clock, played, capacity=20)
    batch = [floor.submit(priority=BATCH) for _ in range(11)]
    await trio.sleep(40.0)

    voices = [floor.submit(priority=VOICE) for _ in range(8)]
    await trio.sleep(0.5)
    voices.append(floor.submit(priority=VOICE))
    for caller in [*voices, *batch]:
        await caller.ended.wait()

    assert [41.0] * 8 + [41.5] == [caller.heard[0][0] for caller in voices]
    assert (42.0, 0) == (batch[10].heard[0][0], floor.fact(batch[10]).put_back)
    await floor.assert_at_rest()


async def test_a_full_line_does_not_keep_critical_requests_out(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Those who are less urgent do not count against their capacity."""
    floor = open_floor(nursery, autojump_clock, prefilling(), capacity=1)
    batch = [floor.submit(priority=BATCH) for _ in range(2)]
    turned_away = floor.submit(priority=BATCH)
    await wait_all_tasks_blocked()

    voice = await floor.ask(priority=VOICE)
    for caller in batch:
        await caller.ended.wait()

    assert ["queue_full", "done"] == turned_away.said
    assert [(1.0, "a"), (1.0, "done")] == voice.heard
    assert [["a", "done"]] * 2 == [caller.said for caller in batch]
    await floor.assert_at_rest()


async def test_a_started_stream_goes_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Unless its owner wants it otherwise, an answer that has begun is given to its end."""
    floor = open_floor(nursery, autojump_clock, streaming())
    batch = floor.submit(priority=BATCH)
    await trio.sleep(2.0)

    voice = await floor.ask(priority=VOICE)

    assert ["a", "b", "done"] == batch.said
    assert 11.0 == voice.heard[0][0]


def streaming() -> ScriptedBackend:
    """Says something at once, and more ten seconds later; then answers quickly."""
    return backend().say("a", after=1.0).say("b", after=9.0).then().say("v", after=1.0)


async def test_a_started_stream_may_be_stopped(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Where its owner says so, its caller hears why it ends."""
    floor = open_floor(nursery, autojump_clock, streaming(), preempts=Started.STOP)
    batch = floor.submit(priority=BATCH)
    await trio.sleep(2.0)

    voice = await floor.ask(priority=VOICE)

    assert [(1.0, "a"), (2.0, "preempted"), (2.0, "done")] == batch.heard
    assert (3.0, Outcome.BROKEN) == (voice.heard[0][0], floor.outcome(batch))
    await floor.assert_at_rest()


async def test_who_has_not_begun_yields_before_who_has(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A stream is only broken into where nothing else would do."""
    played = backend(slots=2).say("a", after=0.5).say("b", after=99.0)
    floor = open_floor(nursery, autojump_clock, played, preempts=Started.STOP)
    begun = floor.submit(priority=BATCH)
    await trio.sleep(0.9)
    silent = floor.submit(priority=BATCH)
    await trio.sleep(0.1)

    floor.submit(priority=VOICE)
    await wait_all_tasks_blocked()

    assert (["a"], 1) == (begun.said, silent.job.put_back)


async def test_a_better_place_is_taken_when_put_back(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who lost a slot goes where it is served soonest now."""
    npu = prefilling()
    floor = open_floor(nursery, autojump_clock, npu, backend("igpu").say("igpu", after=0.5))
    batch = floor.submit(priority=BATCH)
    await trio.sleep(1.0)

    floor.submit(priority=VOICE, target="npu")
    await batch.ended.wait()

    assert [(1.5, "igpu"), (1.5, "done")] == batch.heard


async def leaves(floor: Floor, caller: Listener) -> None:
    """Its caller goes."""
    floor.dispatcher.withdraw(caller.job)


async def stops(floor: Floor, caller: Listener) -> None:
    """The router stops."""
    floor.dispatcher.stop()


@pytest.mark.parametrize("happens", [leaves, stops])
async def test_being_put_back_and_something_else_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock, happens: object
) -> None:
    """Whoever leaves or is stopped while it loses its slot does not wait for another."""
    floor = open_floor(nursery, autojump_clock, prefilling())
    batch = floor.submit(priority=BATCH)
    await wait_all_tasks_blocked()

    floor.submit(priority=VOICE)
    await happens(floor, batch)  # type: ignore[operator]  # one of the two above
    await trio.sleep(20.0)

    assert "done" == batch.said[-1]
    await floor.assert_at_rest()


class TestReserve:
    """Slots that are kept for critical requests."""

    async def test_others_leave_them_free(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A critical request starts at once, without anybody losing anything."""
        played = backend(slots=2).say("a", after=4.0)
        floor = open_floor(nursery, autojump_clock, played, preempts=None, reserve_critical_slots=1)
        batch = [floor.submit(priority=BATCH) for _ in range(2)]

        voice = floor.submit(priority=VOICE)
        await batch[-1].ended.wait()

        assert [4.0, 8.0, 4.0] == [c.heard[0][0] for c in (*batch, voice)]
        await floor.assert_at_rest()

    async def test_one_slot_is_left_for_the_others(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """However many are to be reserved, and where there is only one."""
        floor = open_floor(
            nursery, autojump_clock, backend(slots=2).say("a", after=1.0), reserve_critical_slots=9
        )
        callers = [floor.submit(), floor.submit()]

        await callers[-1].ended.wait()

        assert [1.0, 2.0] == [caller.heard[0][0] for caller in callers]

    async def test_critical_requests_may_take_every_slot(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """What is kept for them is not all that they may have."""
        played = backend(slots=2).say("a", after=1.0)
        floor = open_floor(nursery, autojump_clock, played, reserve_critical_slots=1)
        voices = [floor.submit(priority=VOICE) for _ in range(2)]

        await voices[-1].ended.wait()

        assert [1.0, 1.0] == [caller.heard[0][0] for caller in voices]
