"""One worker at one slot of a backend: takes a job, makes the call, reports how it ended."""

import logging
import traceback

import trio

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallerLeft,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
)
from ollama_proxy.engine.attempt import Attempt, Halt
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.endings import (
    Beaten,
    CallerGone,
    CallerStalled,
    DeadlinePassed,
    Ending,
    PutBack,
    RouterFaulted,
    RouterStopped,
)
from ollama_proxy.engine.station import Station

log = logging.getLogger("ollama_proxy")


_STOPPED = RouterStopped()
ENDINGS: dict[Halt, Ending] = {
    Halt.CALLER_LEFT: CallerGone(),
    Halt.ROUTER_STOPS: _STOPPED,
    Halt.PUT_BACK: PutBack(),
    Halt.BEATEN: Beaten(),
}


async def work(
    dispatcher: Dispatcher, station: Station, attempts: trio.MemoryReceiveChannel[Attempt]
) -> None:
    """Make attempts until the channel closes.

    Error handling: what a backend or a caller may do wrong ends the attempt and is reported. So
    does a fault of the router's own: it is logged, its caller is told, and nobody else concerned.
    """
    async with attempts:
        async for attempt in attempts:
            ending: Ending = _STOPPED
            try:
                ending = await _make(station, attempt)
            finally:
                # Also when the worker itself is cancelled: the books are balanced, the caller told.
                dispatcher.finished(station, attempt, ending)
            # This worker may be idle for long. The one holds a body, and the other, as a fault, the
            # frames that it came through, with all that was received of a broken answer.
            del attempt, ending


async def _make(station: Station, attempt: Attempt) -> Ending:
    """Make the call within the attempt's scope, which holds its deadline and its cancelling."""
    job = attempt.job
    try:
        with attempt.scope as scope:
            attempt.sent = trio.current_time()
            # What ended on its way through the channel must not reach the backend at all.
            if attempt.halted is None and attempt.sent < scope.deadline:
                if job.carriage is not None:
                    return await job.carriage.carry(attempt, station.backend)
                return await station.backend.exchange(attempt.errand, attempt)
    except (BackendFailed, CallUnserved, ModelMissing, CallRejected) as ending:
        return ending
    except CallerLeft:
        return CallerGone()
    except Exception as fault:  # noqa: BLE001 - one request's fault must not end the others
        # The text of an exception may quote a prompt; where it was raised does not.
        where = "".join(traceback.format_tb(fault.__traceback__))
        log.error("a request failed by a fault of ours: %s\n%s", type(fault).__name__, where)  # noqa: TRY400 - as above
        return RouterFaulted()
    # The scope was cancelled: somebody ended the attempt, the deadline came, or the caller or the
    # backend kept the other waiting.
    if attempt.halted is not None:
        return ENDINGS[attempt.halted]
    past = trio.current_time() >= job.deadline
    if past and (job.begun is None or not job.ask.stream):
        return DeadlinePassed()
    if attempt.is_giving:
        return CallerStalled()
    return BackendFailed(Fault.SILENT, "it sent nothing for too long")
