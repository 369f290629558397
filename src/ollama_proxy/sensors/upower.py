"""What UPower tells of battery and mains: where power comes from, and what is drawn of a battery.

Rule 1: unplugging counts once it has lasted, as a dock that is plugged in flaps.
Rule 2: what is drawn is known only while the battery alone feeds the machine.
Rule 3: no rate is believed for a while after a sleep: UPower takes it from a difference over it.
"""

import enum
import math
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import Properties, Remote
from ollama_proxy.bus.remote import keep_current
from ollama_proxy.policy.readings import Draw, Findings, Quality, Scope, Supply

NAME = "upower"
SETTLING_S = 3.0
DISTRUST_S = 10.0
SLEEP_S = 1.0  # a difference of clocks beyond this is a sleep
LEAST_WATTS, MOST_WATTS = 0.1, 300.0  # UPower's own limits, which its older versions do not hold to
_FULL_PERCENT = 100.0

_SERVICE = "org.freedesktop.UPower"
DAEMON = Remote(_SERVICE, "/org/freedesktop/UPower", _SERVICE)
DISPLAY = Remote(_SERVICE, "/org/freedesktop/UPower/devices/DisplayDevice", _SERVICE + ".Device")

Publish = Callable[[str, Findings | None], None]


class State(enum.IntEnum):
    """What a battery does, as UPower numbers it; as far as it matters here."""

    UNKNOWN = 0
    DISCHARGING = 2


@attrs.define
class Power:
    """What UPower said, as far as it can be believed. Pure: `now` is an argument, in seconds.

    Attributes:
        daemon: of the machine; None: not known.
        display: of all its batteries together; None: not known.
    """

    daemon: Properties | None = None
    display: Properties | None = None
    _on_battery: bool | None = None
    _other_since: float | None = None
    _resumed_at: float = -math.inf

    def heard_daemon(self, properties: Properties | None, now: float) -> None:
        """The machine's properties are these now."""
        self.daemon = properties
        said = properties.flag("OnBattery") if properties is not None else None
        if said is None or self._on_battery is None:
            self._on_battery, self._other_since = said, None
        elif said == self._on_battery:
            self._other_since = None
        elif self._other_since is None:
            self._other_since = now

    def heard_display(self, properties: Properties | None) -> None:
        """The battery's properties are these now."""
        self.display = properties

    def resumed(self, now: float) -> None:
        """The machine has slept."""
        self._resumed_at = now

    def next_at(self, now: float) -> float:
        """When to look again though nothing was heard; inf: never."""
        times = [self._resumed_at + DISTRUST_S]
        if self._other_since is not None:
            times.append(self._other_since + SETTLING_S)
        return min((time for time in times if time > now), default=math.inf)

    def findings(self, now: float) -> Findings | None:
        """All that is known now; None where UPower says nothing."""
        if self._other_since is not None and now >= self._other_since + SETTLING_S:
            self._on_battery, self._other_since = not self._on_battery, None
        if self.daemon is None:
            return None
        display = self.display or Properties({})
        state = display.number("State")
        to_empty_s = display.number("TimeToEmpty") or 0.0  # where it is not known, UPower says 0
        is_discharging = state == State.DISCHARGING
        return Findings(
            supply=Supply(
                on_battery=self._on_battery,
                percent=_percent(display),
                to_empty_s=to_empty_s if is_discharging and to_empty_s > 0 else None,
                source=NAME,
            ),
            # A weak charger helps the battery out: then the battery's rate is not the machine's.
            draws=(self._draw(display, now),) if is_discharging and self._on_battery else (),
        )

    def _draw(self, display: Properties, now: float) -> Draw:
        rate = display.number("EnergyRate")
        watts, quality = None, Quality.OK
        if rate is None:
            quality = Quality.ABSENT
        elif now < self._resumed_at + DISTRUST_S:
            quality = Quality.STALE
        # Some firmware counts what leaves the battery as negative.
        elif not LEAST_WATTS <= abs(rate) <= MOST_WATTS:
            quality = Quality.IMPLAUSIBLE
        else:
            watts = abs(rate)
        return Draw(
            name="battery", scope=Scope.SYSTEM, watts=watts, quality=quality, source="battery"
        )


def _percent(display: Properties) -> float | None:
    percent = display.number("Percentage")
    if not display.flag("IsPresent") or percent is None or percent < 0:
        return None
    if percent == 0 and display.number("State") in {State.UNKNOWN, None}:
        return None  # UPower has just started and has not looked yet
    return min(percent, _FULL_PERCENT)


class UPower:
    """UPower's findings, published at each change and each time they were read again."""

    def __init__(self, publish: Publish, slept_s: Callable[[], float]) -> None:
        """Publish under the name "upower"; None when UPower is silent or gone.

        `slept_s` is how long the machine has slept since it started, in seconds.
        """
        self._publish = publish
        self._slept_s = slept_s
        self._had_slept_s = slept_s()
        self._power = Power()
        self._changed = trio.Event()

    def resumed(self) -> None:
        """The machine has slept."""
        self._power.resumed(trio.current_time())
        self._changed.set()

    async def sense(self, bus: Bus) -> NoReturn:
        """Publish until cancelled, and None at the end.

        Raises:
            CallFailed: the bus does not let us watch.
        """
        try:
            async with trio.open_nursery() as nursery:
                # Whoever asks for UPower has it started; it changes nothing on the machine.
                watch = partial(keep_current, starts=True)
                nursery.start_soon(watch, bus, DAEMON, self._heard_daemon)
                nursery.start_soon(watch, bus, DISPLAY, self._heard_display)
                while True:
                    now = trio.current_time()
                    with trio.move_on_at(self._power.next_at(now)):
                        await self._changed.wait()
                    self._changed = trio.Event()
                    self._publish(NAME, self._power.findings(trio.current_time()))
        finally:
            self._heard_daemon(None)
            self._heard_display(None)
            self._publish(NAME, None)

    def _heard_daemon(self, properties: Properties | None) -> None:
        self._power.heard_daemon(properties, trio.current_time())
        self._changed.set()

    def _heard_display(self, properties: Properties | None) -> None:
        # Where nobody tells of sleep, the clocks do, before the first rate that it spoils.
        slept_s = self._slept_s()
        if slept_s > self._had_slept_s + SLEEP_S:
            self._power.resumed(trio.current_time())
        self._had_slept_s = slept_s
        self._power.heard_display(properties)
        self._changed.set()
