"""One worker at one slot of a backend: takes a job, makes the call, reports how it ended."""

import trio

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallerLeft,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
)
from ollama_proxy.engine.dispatcher import (
    CallerGone,
    CallerStalled,
    DeadlinePassed,
    Dispatcher,
    Ending,
    RouterStopped,
)
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.station import Station


async def work(
    dispatcher: Dispatcher, station: Station, jobs: trio.MemoryReceiveChannel[Job]
) -> None:
    """Serve jobs until the channel closes.

    Error handling: what a backend or a caller may do wrong ends the attempt and is reported; a
    fault of the router's own goes up and ends the process.
    """
    async with jobs:
        async for job in jobs:
            ending: Ending = RouterStopped()
            try:
                ending = await _attempt(station, job)
            finally:
                # Also when the worker itself is cancelled: the books are balanced, the caller told.
                dispatcher.finished(station, job, ending)


async def _attempt(station: Station, job: Job) -> Ending:
    """Make the call within the job's scope, which holds its deadline and its cancelling."""
    scope = job.scope
    assert scope is not None, "the dispatcher opens a scope for each attempt"  # noqa: S101 - its promise
    try:
        with scope:
            # What ended on its way through the channel must not reach the backend at all.
            if not scope.cancel_called:
                return await station.backend.exchange(job.errand, job)
    except (BackendFailed, CallUnserved, ModelMissing, CallRejected) as ending:
        return ending
    except CallerLeft:
        return CallerGone()
    # The scope was cancelled: the caller left, the router ends, the deadline came, or the
    # caller or the backend kept the other waiting.
    if job.left:
        return CallerGone()
    if job.stopped:
        return RouterStopped()
    past = trio.current_time() >= job.deadline
    if past and (job.begun is None or not job.ask.stream):
        return DeadlinePassed()
    if job.is_giving:
        return CallerStalled()
    return BackendFailed(Fault.SILENT, "it sent nothing for too long")
