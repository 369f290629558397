"""One task a sensor: it is read at its interval, on a thread, and never twice at once.

A read that hangs is not given up, as its thread cannot be: it is reported as lost while the task
waits for it, so nothing else is started for that device, and no other device waits.
"""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.sensor import Sensor

TIMEOUT_S = 0.5
LONGEST_PAUSE_S = 60.0
_T = TypeVar("_T")

Publish = Callable[[str, Findings | None], None]  # by a sensor's name; None: nothing is known now

log = logging.getLogger("ollama_proxy.sensors")


class Blocking(Protocol):
    """How calls are made that may block."""

    async def __call__(
        self, call: Callable[[], _T], *, name: str, limiter: trio.CapacityLimiter
    ) -> _T:
        """Make a call when the limiter has a place; cancelled, it leaves the call to itself."""


async def on_thread(call: Callable[[], _T], *, name: str, limiter: trio.CapacityLimiter) -> _T:
    """See `Blocking`. The place of an abandoned call stays taken until it ends."""
    return await trio.to_thread.run_sync(
        call, abandon_on_cancel=True, limiter=limiter, thread_name=name
    )


async def watch(
    sensor: Sensor,
    publish: Publish,
    *,
    limiter: trio.CapacityLimiter,
    timeout_s: float = TIMEOUT_S,
    block: Blocking = on_thread,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Read a sensor until it is gone. Reports itself started once its first read is over or late.

    Args:
        sensor: what is read.
        publish: told what was found, or None when that became unknown.
        limiter: of one place, this device's own: who abandoned a read of it may still hold it.
        timeout_s: how long a read may take before what it tells is lost.
        block: where reads are made.
        task_status: Trio's.

    Error handling: OSError means that the device is gone: the task ends, after saying so. A read
    that is late makes the next ones rarer, up to once a minute. Other exceptions go up.
    """
    started = _once(task_status)
    pause_s = sensor.interval_s
    was_late = False
    try:
        while True:
            begun = trio.current_time()
            try:
                findings = await _read(
                    sensor, publish, started, limiter=limiter, timeout_s=timeout_s, block=block
                )
            except OSError as error:
                log.info("sensor %s is gone: %s", sensor.name, error)
                publish(sensor.name, None)
                return
            taken_s = trio.current_time() - begun
            is_late = taken_s > timeout_s
            # What was read before it hung is as old as that.
            if not is_late or taken_s <= sensor.interval_s:
                publish(sensor.name, findings)
            if was_late and not is_late:
                log.info("sensor %s answers in time again", sensor.name)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if is_late else sensor.interval_s
            was_late = is_late
            started()
            await trio.sleep(pause_s)
    finally:
        await _close(sensor, limiter=limiter, timeout_s=timeout_s, block=block)


async def _read(
    sensor: Sensor,
    publish: Publish,
    started: Callable[[], None],
    *,
    limiter: trio.CapacityLimiter,
    timeout_s: float,
    block: Blocking,
) -> Findings:
    """A read, however long it takes; while it is late, what it tells is unknown."""

    async def report_late() -> None:
        await trio.sleep(timeout_s)
        log.warning("sensor %s does not answer within %g s", sensor.name, timeout_s)
        publish(sensor.name, None)
        started()

    now = trio.current_time()
    failure: OSError | None = None
    findings = Findings()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_late)
        try:
            findings = await block(
                lambda: sensor.read(now), name=f"sensor {sensor.name}", limiter=limiter
            )
        except OSError as error:
            failure = error  # out of the nursery, it would be in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return findings


async def _close(
    sensor: Sensor, *, limiter: trio.CapacityLimiter, timeout_s: float, block: Blocking
) -> None:
    """Let a sensor close what it holds; behind a read that hangs it waits a moment, then leaves."""
    with trio.move_on_after(timeout_s, shield=True):
        await block(sensor.close, name=f"sensor {sensor.name}", limiter=limiter)


def _once(task_status: trio.TaskStatus[None]) -> Callable[[], None]:
    """What reports the start, whoever of several comes to it first."""
    waiting = [task_status]

    def started() -> None:
        if waiting:
            waiting.pop().started()

    return started
