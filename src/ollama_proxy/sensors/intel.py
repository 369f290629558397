"""Intel graphics, of the drivers i915 and xe: clocks, why they are held down, and cards' energy.

What is built into the processor has neither thermometer nor counter of its own; it lends its heat to
the package.
"""

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import (
    Draw,
    Findings,
    Kind,
    Load,
    Part,
    Scope,
    Zone,
)
from ollama_proxy.sensors.card import Sleeper
from ollama_proxy.sensors.card_hwmon import (
    MICRO,
    CardHwmon,
    check_present,
    open_hwmon,
    read_of_card,
)
from ollama_proxy.sensors.counter import Counter
from ollama_proxy.sensors.files import Files, list_or_nothing, read_text
from ollama_proxy.sensors.sensor import Heed

INTERVAL_S = 2.0
BUILT_IN = "0000:00:"  # only what is in the processor is on the first bus
_HEAT = ("thermal", "ratl", "vr_thermalert", "prochot")


@attrs.frozen
class Clocks:
    """Where a driver tells the clock of its first engine group, and why it is held down.

    Attributes:
        current: the clock in MHz; 0 while the engines sleep.
        lowest: the lowest it can have.
        highest: the highest.
        status: whether it is held down at all; "" where the driver does not say.
        reason: what the name of each reason's file begins with.
        reasons: one file with all of them, if there is one.
    """

    current: str
    lowest: str
    highest: str
    status: str = ""
    reason: str = ""
    reasons: str = ""


def _find_clocks(files: Files, driver: str, card: str, device: str) -> Clocks:
    if driver == "i915":
        reason = f"{card}/gt/gt0/throttle_reason_"
        is_told = "throttle_reason_status" in list_or_nothing(files, f"{card}/gt/gt0")
        return Clocks(
            f"{card}/gt_act_freq_mhz",
            f"{card}/gt_RPn_freq_mhz",
            f"{card}/gt_RP0_freq_mhz",
            f"{reason}status" if is_told else "",
            reason,
        )
    frequency = f"{device}/tile0/gt0/freq0"
    told = list_or_nothing(files, f"{frequency}/throttle")
    return Clocks(
        f"{frequency}/act_freq",
        f"{frequency}/rpn_freq",
        f"{frequency}/rp0_freq",
        f"{frequency}/throttle/status" if told else "",
        f"{frequency}/throttle/reason_",
        f"{frequency}/throttle/reasons" if "reasons" in told else "",
    )


@attrs.define(kw_only=True)
class IntelGpu:
    """One device of i915 or xe."""

    files: Files
    name: str
    key: str
    interval_s: float = INTERVAL_S
    driver: str
    part: str
    clocks: Clocks
    hwmon: CardHwmon | None
    sleeper: Sleeper
    _range: tuple[float, float] | None = None
    _energy: str = ""
    _seen: dict[str, float] = attrs.field(factory=dict)
    _counter: Counter = attrs.field(factory=Counter)

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        return self.sleeper.read(now, self._ask)

    def close(self) -> None:
        """See `Sensor`. Nothing is held open."""

    def _ask(self, now: float) -> Findings:
        clock = read_of_card(self.files, self.clocks.current).value
        # To read why it is held down would wake engines that sleep.
        heat = self._read_heat() if clock else None
        findings = Findings(
            zones=tuple(self._zones(heat)),
            fans=tuple(self.hwmon.read_fans()) if self.hwmon else (),
            draws=tuple(self._draws(self.hwmon, now)) if self.hwmon else (),
            loads=(Load(name=self.name, hardware=Hardware.IGPU, share=self._share(clock)),),
        )
        if self.hwmon:
            check_present(findings)
        return findings

    def _share(self, clock: float | None) -> float | None:
        """How far up its range the clock is: the driver raises it with the work there is.

        Time asleep would be the better measure, but reading it wakes the engines.
        """
        if not clock:
            return clock
        if self._range is None:
            lowest = read_of_card(self.files, self.clocks.lowest).value
            highest = read_of_card(self.files, self.clocks.highest).value
            if lowest is None or highest is None or lowest >= highest:
                return None
            self._range = lowest, highest
        lowest, highest = self._range
        return min(1.0, max(0.0, (clock - lowest) / (highest - lowest)))

    def _read_heat(self) -> frozenset[str] | None:
        """Which reasons of heat hold the clock down; None where the driver does not say."""
        if self.clocks.reasons:
            told = read_text(self.files, self.clocks.reasons)
            return None if told is None else frozenset(told.split()) & frozenset(_HEAT)
        if not self.clocks.status:
            return None
        status = read_of_card(self.files, self.clocks.status).value
        if not status:
            return None if status is None else frozenset()
        return frozenset(
            why for why in _HEAT if read_of_card(self.files, self.clocks.reason + why).value
        )

    def _zones(self, heat: frozenset[str] | None) -> list[Zone]:
        zones = self.hwmon.read_zones() if self.hwmon else []
        if not zones and self.clocks.status:
            zones = [
                Zone(
                    name=self.name,
                    kind=Kind.GPU,
                    part=self.part,
                    hardware=Hardware.IGPU,
                    source=self.driver,
                )
            ]
        if zones and heat is not None:
            zones[0] = attrs.evolve(zones[0], throttling=bool(heat), emergency="prochot" in heat)
        return zones

    def _draws(self, hwmon: CardHwmon, now: float) -> list[Draw]:
        files: list[str] = [f for f in ("energy1_input", "energy2_input") if f in hwmon.names]
        if not files:
            return []
        told = {f: read_of_card(self.files, f"{hwmon.path}/{f}", scale=MICRO) for f in files}
        joules: float | None = None
        watts: float | None = None
        for file in files:
            # The whole card's counter stands still at 0 on some; the chip's then has to do.
            value = told[file].value
            if not self._energy and value and value > self._seen.setdefault(file, value):
                self._energy = file
            if file == self._energy and value is not None:
                joules, watts = self._counter.advance(value, now)
        return [
            Draw(
                name=self.name,
                scope=Scope.DEVICE,
                part=self.part,
                watts=watts,
                joules=joules,
                quality=told[self._energy or files[0]].quality,
                source=self.driver,
            )
        ]


def open_intel(
    files: Files, driver: str, *, card: str, device: str, address: str, heed: Heed
) -> IntelGpu:
    """The sensor of a device that i915 or xe drives. Reads no file of it."""
    title = f"{driver} {address}"
    part: Part | None = None
    hwmon: CardHwmon | None = None
    if not address.startswith(BUILT_IN):
        # No backend's hardware is called after Intel's cards; their address tells them apart.
        part = Part(id=address, name=f"Intel graphics {address}", hardware=Hardware.IGPU)
        hwmon = open_hwmon(
            files, device, title=title, part=address, hardware=Hardware.IGPU, source=driver
        )
    clocks = _find_clocks(files, driver, card, device)
    return IntelGpu(
        files=files,
        name=title,
        key=f"{title} {clocks.current} {hwmon.path if hwmon else ''}",
        driver=driver,
        part=part.id if part else PACKAGE,
        clocks=clocks,
        hwmon=hwmon,
        sleeper=Sleeper(files, device, heed, part),
    )
