"""A caller may leave at any place: each frees what its job held, and is booked once."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Errand, Served, Sink
from ollama_proxy.engine.ledger import Outcome
from tests.engine.floor import Floor, Listener, backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec


async def assert_left(floor: Floor, caller: Listener) -> None:
    """The caller is booked as one who left, all are at rest, and the next is served."""
    await wait_all_tasks_blocked()

    assert Outcome.LEFT is floor.outcome(caller)
    assert caller.refusal is None
    await floor.assert_serves_next()


async def test_before_submit(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A job that was withdrawn before it was submitted is not served."""
    played = backend().say("a")
    floor = open_floor(nursery, autojump_clock, played)
    caller = floor.job()

    floor.dispatcher.withdraw(caller.job)
    floor.dispatcher.submit(caller.job)
    await wait_all_tasks_blocked()

    assert [] == played.errands
    await assert_left(floor, caller)


async def test_in_line(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It leaves the line, and whoever is behind it moves up."""
    played = backend().say("a", after=1.0)
    floor = open_floor(nursery, autojump_clock, played)
    first, leaver, last = floor.submit(), floor.submit(max_latency_s=10.0), floor.submit()

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(leaver.job)
    await last.ended.wait()

    assert [(0.5, "done")] == leaver.heard
    assert [1.0, 2.0] == [caller.heard[0][0] for caller in (first, last)]
    assert 0.5 == floor.fact(leaver).queue_s
    await assert_left(floor, leaver)


async def test_handed_over_but_not_started(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The backend never hears of it."""
    played = backend().say("a")
    floor = open_floor(nursery, autojump_clock, played)
    caller = floor.submit()

    floor.dispatcher.withdraw(caller.job)
    await wait_all_tasks_blocked()

    assert [] == played.errands
    await assert_left(floor, caller)


async def test_before_a_silent_backend(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """While it connects or computes the first token, the backend is let go at once."""
    played = backend().hang().then().say("a")
    floor = open_floor(nursery, autojump_clock, played)
    caller = floor.submit()

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert ([(0.5, "done")], 1) == (caller.heard, played.left)
    await assert_left(floor, caller)


async def test_between_tokens(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The next token is not waited for."""
    played = backend().say("a").say("b", after=10.0)
    floor = open_floor(nursery, autojump_clock, played)
    caller = floor.submit()

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert ([(0.0, "a"), (0.5, "done")], 1) == (caller.heard, played.left)
    await assert_left(floor, caller)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_blocked_on_a_slow_reader(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    """A write that nobody takes is given up."""
    floor = open_floor(nursery, autojump_clock, backend().say("a").say("b"))
    caller = floor.submit(is_reading=False, stream=stream)

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert [(0.5, "done")] == caller.heard
    await assert_left(floor, caller)


@pytest.mark.parametrize("pieces", [0, 1], ids=["at-begin", "at-write"])
async def test_seen_by_the_worker_alone(
    nursery: trio.Nursery, autojump_clock: MockClock, pieces: int
) -> None:
    """A closed door that only a write meets is a caller who left, too."""
    played = backend().say("a").say("b", after=1.0).then().say("c")
    floor = open_floor(nursery, autojump_clock, played)
    caller = floor.submit()
    if pieces:
        await wait_all_tasks_blocked()
    caller.gone = True

    await caller.ended.wait()
    floor.dispatcher.withdraw(caller.job)

    assert ["a"] * pieces + ["done"] == caller.said
    assert 0 == floor.station().circuit.failures
    await assert_left(floor, caller)


class Tidying(ScriptedBackend):
    """Has something to put away after its last byte."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Play the script, and take a second longer."""
        served = await super().exchange(errand, sink)
        await trio.sleep(1.0)
        return served


async def test_after_the_last_token(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What the backend still does for itself is not waited for."""
    floor = open_floor(nursery, autojump_clock, Tidying(spec("npu")).say("a"))
    caller = floor.submit()

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert [(0.0, "a"), (0.5, "done")] == caller.heard
    await assert_left(floor, caller)


async def test_after_the_end(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A job that was served stays served."""
    floor = open_floor(nursery, autojump_clock, backend().say("a"))
    caller = await floor.ask()

    floor.dispatcher.withdraw(caller.job)

    assert Outcome.SERVED is floor.outcome(caller)
    await floor.assert_serves_next()


@pytest.mark.parametrize("waiting", [True, False], ids=["in-line", "at-work"])
async def test_twice(nursery: trio.Nursery, autojump_clock: MockClock, waiting: bool) -> None:
    """Leaving again is no harm, at once or later."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0))
    callers = [floor.submit(), floor.submit()]
    leaver = callers[waiting]
    await wait_all_tasks_blocked()

    floor.dispatcher.withdraw(leaver.job)
    floor.dispatcher.withdraw(leaver.job)
    await callers[not waiting].ended.wait()
    floor.dispatcher.withdraw(leaver.job)

    await assert_left(floor, leaver)


async def test_between_two_attempts(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who waits for an alternative leaves its line, not that of the first."""
    npu, igpu = backend("npu").refuse().then().say("n"), backend("igpu").say("i", after=1.0)
    floor = open_floor(nursery, autojump_clock, npu, igpu)
    floor.submit(target="igpu")
    caller = floor.submit(power_efficient=True)
    await wait_all_tasks_blocked()

    assert 1 == len(floor.station("igpu").line)
    floor.dispatcher.withdraw(caller.job)
    await trio.sleep(2.0)

    assert 1 == len(igpu.errands)
    await assert_left(floor, caller)


async def test_in_the_line_of_one_that_was_replaced(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It leaves the line it stands in now, and neither of the two serves it."""
    former, successor = backend().say("old", after=1.0), backend().say("new", after=1.0)
    floor = open_floor(nursery, autojump_clock, former)
    floor.submit()
    caller = floor.submit()
    floor.open(successor)
    floor.submit()

    floor.dispatcher.withdraw(caller.job)
    await trio.sleep(5.0)

    assert (1, 1) == (len(former.errands), len(successor.errands))
    await assert_left(floor, caller)


class Leaving(ScriptedBackend):
    """Fails in the moment in which its caller leaves."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Take no notice of the leaving, as an answer that was read already does."""
        with trio.CancelScope(shield=True):
            await trio.sleep(1.0)
        return await super().exchange(errand, sink)


async def test_while_its_backend_fails(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Nobody tries elsewhere for who is not there, and it is booked as one who left."""
    igpu = backend("igpu").say("a")
    floor = open_floor(nursery, autojump_clock, Leaving(spec("npu")).refuse().then().say("a"), igpu)
    caller = floor.submit()

    await trio.sleep(0.5)
    floor.dispatcher.withdraw(caller.job)
    await caller.ended.wait()

    assert ([], [(1.0, "done")]) == (igpu.errands, caller.heard)
    await assert_left(floor, caller)


async def test_when_the_router_stops_as_well(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who left before the stop is not told of it."""
    floor = open_floor(nursery, autojump_clock, backend().hang())
    callers = [floor.submit(), floor.submit()]
    await wait_all_tasks_blocked()
    for caller in callers:
        floor.dispatcher.withdraw(caller.job)

    floor.dispatcher.stop()

    await floor.assert_at_rest()
    assert [["done"]] * 2 == [caller.said for caller in callers]
