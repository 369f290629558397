"""How an attempt ends when one side keeps the other waiting, or makes a mistake."""

import gc
import weakref
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import BackendFailed, Errand, Fault, Served, Sink
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.refusal import Code
from tests.engine.floor import Socket, backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import spec

FIRST_BYTE_S = 30.0
STALL_S = 12.0
TIMEOUTS: dict[str, Any] = {"first_byte_timeout_s": FIRST_BYTE_S, "stall_timeout_s": STALL_S}


async def test_a_backend_that_says_nothing_is_given_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After the first-byte timeout it has failed, and another takes over."""
    npu = backend("npu").hang()
    floor = open_floor(nursery, autojump_clock, npu, backend("igpu").say("a"), **TIMEOUTS)

    caller = await floor.ask()

    assert [(FIRST_BYTE_S, "a"), (FIRST_BYTE_S, "done")] == caller.heard
    assert (1, 1) == (npu.left, floor.station("npu").circuit.failures)


async def test_the_last_backend_that_says_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Where there is no other, the caller hears that it took too long."""
    floor = open_floor(nursery, autojump_clock, backend().hang(), **TIMEOUTS)

    caller = await floor.ask()

    assert caller.refusal is not None
    assert (FIRST_BYTE_S, Code.DEADLINE_EXCEEDED) == (
        autojump_clock.current_time(),
        caller.refusal.code,
    )
    assert caller.refusal.message == "Backend npu failed: it sent nothing for too long."


async def test_each_attempt_has_the_timeout_anew(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """An alternative does not pay for the silence of the first."""
    floor = open_floor(
        nursery,
        autojump_clock,
        backend("npu").hang(),
        backend("igpu").say("a", after=FIRST_BYTE_S - 1),
        **TIMEOUTS,
    )

    caller = await floor.ask()

    assert (2 * FIRST_BYTE_S - 1, "a") == caller.heard[0]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_backend_that_falls_silent_has_failed(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    """Between two pieces there may be so much silence; then the answer is broken off."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.0).hang(), **TIMEOUTS)

    caller = await floor.ask(stream=stream)

    assert [(1.0, "a"), (13.0, "deadline_exceeded"), (13.0, "done")] == caller.heard
    assert (Outcome.BROKEN, 1) == (floor.outcome(caller), floor.station().circuit.failures)
    await floor.assert_at_rest()


async def test_each_piece_breaks_the_silence(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """However long the whole takes."""
    played = backend()
    for _ in range(10):
        played.say("a", after=STALL_S - 1)
    floor = open_floor(nursery, autojump_clock, played, **TIMEOUTS)

    caller = await floor.ask()

    assert (10 * (STALL_S - 1), "done") == caller.heard[-1]
    assert Outcome.SERVED is floor.outcome(caller)


async def test_a_reader_that_stops_is_not_the_backends_fault(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is given up after the same time, but nothing is held against the backend."""
    floor = open_floor(nursery, autojump_clock, backend().say("a"), **TIMEOUTS)

    caller = await floor.ask(is_reading=False)

    assert [(STALL_S, "request_timeout"), (STALL_S, "done")] == caller.heard
    station = floor.station()
    assert (0, 0) == (station.circuit.failures, station.errors_total)
    assert Outcome.BROKEN is floor.outcome(caller)
    await floor.assert_serves_next()


async def test_a_reader_that_is_slow_is_served(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It slows its backend, within the timeout, and loses nothing."""
    floor = open_floor(
        nursery, autojump_clock, backend().say("a").say("b", after=STALL_S - 1), **TIMEOUTS
    )
    caller = floor.submit(is_reading=False)

    await trio.sleep(STALL_S - 1)
    caller.reading.set()
    await caller.ended.wait()

    assert ["a", "b", "done"] == caller.said
    assert 2 * (STALL_S - 1) == autojump_clock.current_time()


async def test_both_sides_may_take_their_time_in_turn(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The timeout counts anew for each side when it is its turn."""
    turn_s = STALL_S - 1
    played = backend().say("a").say("b", after=turn_s).say("c", after=turn_s)
    floor = open_floor(nursery, autojump_clock, played, **TIMEOUTS)
    caller = floor.submit()
    await wait_all_tasks_blocked()
    caller.reading = trio.Event()

    await trio.sleep(2 * turn_s)
    caller.reading.set()
    await caller.ended.wait()

    assert [(0.0, "a"), (2 * turn_s, "b"), (3 * turn_s, "c")] == caller.heard[:3]
    assert Outcome.SERVED is floor.outcome(caller)


class Pumped(ScriptedBackend):
    """Gives its first bytes to the sink and the rest to the tap."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Play the script, then pump for a long time."""
        served = await super().exchange(errand, sink)
        assert sink.tap() is not None
        await trio.sleep(10 * STALL_S)
        return served


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_what_is_pumped_is_watched_by_the_pump(
    nursery: trio.Nursery, autojump_clock: MockClock, stream: bool
) -> None:
    """The worker sees none of its bytes, and must not take that for silence."""
    floor = open_floor(nursery, autojump_clock, Pumped(spec("npu")).say("a"), **TIMEOUTS)
    caller = floor.job(stream=stream)
    caller.socket = Socket()

    floor.dispatcher.submit(caller.job)
    await caller.ended.wait()

    assert [(0.0, "a"), (10 * STALL_S, "done")] == caller.heard


async def test_a_whole_answer_that_is_pumped_keeps_its_deadline(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Only the watch for silence is the pump's."""
    floor = open_floor(nursery, autojump_clock, Pumped(spec("npu")).say("a"), **TIMEOUTS)
    caller = floor.job(stream=False, max_latency_s=40.0)
    caller.socket = Socket()

    floor.dispatcher.submit(caller.job)
    await caller.ended.wait()

    assert (40.0, "deadline_exceeded") == caller.heard[1]


async def test_an_idle_worker_goes_home_when_its_station_closes(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Closing ends the workers without cancelling them."""
    async with trio.open_nursery() as workers:
        floor = open_floor(nursery, autojump_clock)
        floor.nursery = workers
        station = floor.open(backend(slots=2).say("a"))
        callers = [floor.submit(), floor.submit()]
        await wait_all_tasks_blocked()
        station.close()

    assert [["a", "done"]] * 2 == [caller.said for caller in callers]


async def test_a_fault_of_ours_ends_one_request(
    nursery: trio.Nursery, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its caller is told, the log says where, quotes nothing, and the next request is served."""
    clumsy = backend()._fail(KeyError("a secret prompt")).then().say("a")
    floor = open_floor(nursery, autojump_clock, clumsy)

    unlucky = await floor.ask()
    next_one = await floor.ask()

    assert ["internal_error", "done"] == unlucky.said
    assert ["a", "done"] == next_one.said
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


async def test_what_was_served_is_let_go(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An idle worker does not keep its last job, whose body may be large."""
    floor = open_floor(nursery, autojump_clock, backend(slots=3).say("a", after=1.0))
    callers = [floor.submit() for _ in range(3)]
    jobs = [weakref.ref(caller.job) for caller in callers]
    for caller in callers:
        await caller.ended.wait()
    await wait_all_tasks_blocked()

    floor.callers.clear()
    del caller, callers
    gc.collect()

    assert [None] * 3 == [job() for job in jobs]


class Received:
    """What was read of an answer."""


class Breaking(ScriptedBackend):
    """Breaks off in the middle of an answer; `received` is what was read of it until then."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:  # noqa: ARG002 - as `Backend` has it
        """Fail."""
        received = Received()
        self.received = weakref.ref(received)
        raise BackendFailed(Fault.GARBLED, "it sent bytes that are no HTTP answer")


async def test_an_idle_worker_keeps_no_fault(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A fault holds the frames that it came through, and those what was received by then."""
    broken = Breaking(spec("npu"))
    floor = open_floor(nursery, autojump_clock, broken)
    await floor.ask()
    await wait_all_tasks_blocked()
    gc.collect()

    assert broken.received() is None
