"""One task a sensor: it is read at its interval, on a thread, and never twice at once.

A read that hangs is not given up, as its thread cannot be: it is reported as lost while the task
waits for it, so nothing else is started for that device, and no other device waits.
"""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import attrs
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
    pace: Callable[[], float] = lambda: 1.0,
) -> None:
    """Read a sensor until it is gone.

    Args:
        sensor: what is read.
        publish: told what was found, or None when that became unknown.
        limiter: of one place, this device's own: who abandoned a read of it may still hold it.
        timeout_s: how long a read may take before what it tells is lost.
        block: where reads are made.
        pace: what its intervals are multiplied by.

    Error handling: OSError means that the device is gone: the task ends, after saying so. A read
    that is late makes the next ones rarer, up to once a minute. Any other exception is a fault of
    ours: it is logged, and the device is unknown until the task is cancelled.
    """
    is_faulty = False
    watching = _Watching(sensor, publish, limiter, timeout_s, block)
    pause_s = sensor.interval_s * pace()
    try:
        while True:
            begun = trio.current_time()
            findings = await watching.read()
            taken_s = trio.current_time() - begun
            is_late = taken_s > timeout_s
            # What was read before it hung is as old as that.
            if not is_late or taken_s <= pause_s:
                publish(sensor.name, findings)
            if is_late:
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                await trio.sleep(pause_s)
                continue
            watching.is_in_time()
            pause_s = sensor.interval_s * pace()
            # On the beat, so that all sensors of an interval share the processor's one waking: that
            # costs a third of reading each when its own time has come.
            await trio.sleep_until((trio.current_time() // pause_s + 1) * pause_s)
    except OSError as error:
        log.info("sensor %s is gone: %s", sensor.name, error)
        publish(sensor.name, None)
    except Exception:
        # Not hidden, but no reason to stop either: whoever asks is served without this device.
        log.exception("sensor %s failed by a fault of ours, and is left out", sensor.name)
        publish(sensor.name, None)
        is_faulty = True
    finally:
        # Behind a read that hangs this waits a moment, then leaves.
        with trio.move_on_after(timeout_s, shield=True):
            await watching.close()
    if is_faulty:
        await trio.sleep_forever()  # ended, it would be found again and begun again


@attrs.define
class _Watching:
    """A sensor, and how it is called."""

    sensor: Sensor
    publish: Publish
    limiter: trio.CapacityLimiter
    timeout_s: float
    block: Blocking
    was_late: bool = False

    async def read(self) -> Findings:
        """A read, however long it takes; while it is late, what it tells is unknown."""
        now = trio.current_time()
        findings: Findings | OSError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_late)
            try:
                findings = await self._call(lambda: self.sensor.read(now))
            except OSError as error:
                findings = error  # raised from here, it would leave the nursery in a group
            nursery.cancel_scope.cancel()
        if isinstance(findings, OSError):
            raise findings
        return findings

    async def _report_late(self) -> None:
        await trio.sleep(self.timeout_s)
        if not self.was_late:
            log.warning("sensor %s is silent for over %g s", self.sensor.name, self.timeout_s)
        self.was_late = True
        self.publish(self.sensor.name, None)

    def is_in_time(self) -> None:
        """A read was in time."""
        if self.was_late:
            log.info("sensor %s answers in time again", self.sensor.name)
        self.was_late = False

    async def close(self) -> None:
        """Let it close what it holds."""
        await self._call(self.sensor.close)

    async def _call(self, call: Callable[[], _T]) -> _T:
        name = f"sensor {self.sensor.name}"
        return await self.block(call, name=name, limiter=self.limiter)
