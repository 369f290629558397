"""All sensors of the machine: which there are, asked again and again, and a task for each.

A sensor whose `key` is found again goes on; one that is not found is closed, and told as gone.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import attrs
import trio

from ollama_proxy.sensors.sensor import Sensor
from ollama_proxy.sensors.watch import TIMEOUT_S, Blocking, Publish, on_thread, watch

DISCOVERY_INTERVAL_S = 60.0
DISCOVERY_MAX_S = 30.0  # a file that hangs may be among those that are looked at
DISCOVERY_PAUSE_S = 5.0  # a device that is found and cannot be read must not spin
SETTLING_S = 2.0  # after the machine woke, devices are still coming back

log = logging.getLogger("ollama_proxy.sensors")


@attrs.define
class Senses:
    """The machine's senses.

    Attributes:
        discover: finds all sensors that there are now; it blocks.
        publish: told what each of them found.
        forget: told the name of one whose device is no longer there.
        pace: what all intervals are multiplied by.
        timeout_s: how long a read may take.
        known: the names of all sensors that there are.
        looked: set once it was looked for them.
        block: where what blocks is called.
    """

    discover: Callable[[], list[Sensor]]
    publish: Publish
    forget: Callable[[str], None] = lambda _: None
    pace: Callable[[], float] = lambda: 1.0
    timeout_s: float = TIMEOUT_S
    block: Blocking = on_thread
    _running: dict[str, trio.CancelScope] = attrs.field(factory=dict)
    # By name, and for good: an abandoned read of a device that comes back still holds its place.
    _limiters: dict[str, trio.CapacityLimiter] = attrs.field(factory=dict)
    known: set[str] = attrs.field(factory=set, init=False)
    looked: trio.Event = attrs.field(factory=trio.Event, init=False)
    _awake: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _asked: trio.Event = attrs.field(factory=trio.Event)
    _resumed: trio.Event | None = None
    _is_blind: bool = False
    _rested: trio.Event = attrs.field(factory=trio.Event)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Sense until cancelled. Reports itself started after the first discovery.

        Error handling: sensors that fail are told as unknown or gone; faults of ours go up.
        """
        started = False
        while True:
            while (resumed := self._resumed) is not None:
                self._rested.set()
                await resumed.wait()
                if self._resumed is resumed:  # else it went to sleep again at once
                    self._resumed = None
                    await trio.sleep(SETTLING_S)
            with trio.CancelScope() as self._awake:
                async with trio.open_nursery() as nursery:
                    await self._look(nursery)
                    if not started:
                        task_status.started()
                        started = True
                    await self._keep_looking(nursery)
            self._running.clear()

    async def pause(self) -> None:
        """The machine goes to sleep: nothing is read from here on. Returns when all are closed.

        What was told stays: it ages with the machine.
        """
        if self._resumed is None or self._resumed.is_set():
            self._resumed = trio.Event()
            self._rested = trio.Event()
            self._awake.cancel()
        await self._rested.wait()

    def resume(self) -> None:
        """The machine woke, or something was plugged in: look what there is now."""
        self._asked.set()
        if self._resumed is not None:
            self._resumed.set()

    async def _keep_looking(self, nursery: trio.Nursery) -> NoReturn:
        while True:
            looked_at = trio.current_time()
            with trio.move_on_after(DISCOVERY_INTERVAL_S):
                await self._asked.wait()
                await trio.sleep_until(looked_at + DISCOVERY_PAUSE_S)
            await self._look(nursery)

    async def _look(self, nursery: trio.Nursery) -> None:
        """Find what there is now; start what is new, end what is gone."""
        self._asked = trio.Event()
        limiter = self._limiter("discovery")
        found: list[Sensor] | None = None
        with trio.move_on_after(DISCOVERY_MAX_S):
            found = await self._discover(limiter)
        if found is None:
            if not self._is_blind:
                log.warning("sensors cannot be looked for; those that are known go on")
            self._is_blind = True
            return
        self._is_blind = False
        self.looked.set()
        keys = {sensor.key for sensor in found}
        for key in set(self._running) - keys:
            self._running.pop(key).cancel()
        names = {sensor.name for sensor in found}
        for name in sorted(self.known - names):
            log.info("sensor %s is no longer there", name)
            self.forget(name)
        self.known = names
        for sensor in found:
            if sensor.key not in self._running:
                scope = self._running[sensor.key] = trio.CancelScope()
                nursery.start_soon(partial(self._watch, sensor, scope))

    async def _discover(self, limiter: trio.CapacityLimiter) -> list[Sensor] | None:
        """What there is; None by a fault of ours, which must not cost more than what is new."""
        try:
            return await self.block(self.discover, name="sensor discovery", limiter=limiter)
        except Exception:
            log.exception("looking for sensors failed by a fault of ours")
            return None

    async def _watch(self, sensor: Sensor, scope: trio.CancelScope) -> None:
        with scope:
            await watch(
                sensor,
                self.publish,
                limiter=self._limiter(f"sensor {sensor.name}"),
                timeout_s=self.timeout_s,
                block=self.block,
                pace=self.pace,
            )
            # It ended by itself: its device is gone, or has another place now.
            self._running.pop(sensor.key, None)
            self._asked.set()

    def _limiter(self, name: str) -> trio.CapacityLimiter:
        return self._limiters.setdefault(name, trio.CapacityLimiter(1))
