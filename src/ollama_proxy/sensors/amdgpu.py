"""AMD graphics: cards, which sleep, and what is built into the processor, whose heat is its own."""

import re

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Draw, Findings, Load, Part, Quality, Scope, Zone
from ollama_proxy.sensors import gpu_metrics
from ollama_proxy.sensors.card import Sleeper
from ollama_proxy.sensors.card_hwmon import (
    MICRO,
    CardHwmon,
    check_present,
    open_hwmon,
    read_of_card,
)
from ollama_proxy.sensors.files import Files, list_or_nothing, read_text
from ollama_proxy.sensors.gpu_metrics import NOTHING, Metrics
from ollama_proxy.sensors.sensor import Heed

INTERVAL_S = 2.0
SETTLING_S = 15.0  # after it woke, the firmware tells watts of a load that is not there
HOT_MARGIN_C = 15.0  # a flagged limiter is believed this near to the limit ...
SLOWED_SHARE = 0.8  # ... or at less than this of the highest clock
BUSY_SHARE = 0.5  # ... while it works
_ONLY_ON_CARDS = {"temp2_input", "temp1_crit"}
_CLOCK = re.compile(r"(\d+)mhz", re.IGNORECASE)


@attrs.define(kw_only=True)
class Amdgpu:
    """One device of the driver amdgpu."""

    files: Files
    device: str
    name: str
    key: str
    interval_s: float = INTERVAL_S
    part: str
    hardware: Hardware
    hwmon: CardHwmon | None
    sleeper: Sleeper
    has_metrics: bool
    _last: Metrics = NOTHING

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        return self.sleeper.read(now, self._ask)

    def close(self) -> None:
        """See `Sensor`. Nothing is held open."""

    @property
    def _is_card(self) -> bool:
        return self.part != PACKAGE

    def _ask(self, now: float) -> Findings:
        busy = read_of_card(
            self.files, f"{self.device}/gpu_busy_percent", scale=0.01, highest=1.0
        ).value
        loads = [Load(name=self.name, hardware=self.hardware, share=busy)]
        metrics = self._read_metrics()
        if metrics.npu_share is not None:
            loads.append(
                Load(name=f"{self.name} npu", hardware=Hardware.NPU, share=metrics.npu_share)
            )
        findings = Findings(loads=tuple(loads))
        if self.hwmon is not None:
            zones = self.hwmon.read_zones()
            findings = attrs.evolve(
                findings,
                zones=tuple(self._judged(zones, metrics, busy)),
                fans=tuple(self.hwmon.read_fans()),
                draws=tuple(self._draws(self.hwmon, now)),
            )
            check_present(findings)
        self._last = metrics
        return findings

    def _draws(self, hwmon: CardHwmon, now: float) -> list[Draw]:
        # The mean, if there is one: what counts is energy, and two readings are seconds apart.
        file = next((f for f in ("power1_average", "power1_input") if f in hwmon.names), None)
        if file is None:
            return []
        read = read_of_card(self.files, f"{hwmon.path}/{file}", scale=MICRO)
        is_settling = now - self.sleeper.woke_at < SETTLING_S
        return [
            Draw(
                name=self.name,
                scope=Scope.DEVICE if self._is_card else Scope.PACKAGE,
                part=self.part,
                watts=None if is_settling else read.value,
                quality=Quality.IMPLAUSIBLE if is_settling else read.quality,
                source="amdgpu",
            )
        ]

    def _read_metrics(self) -> Metrics:
        if not self.has_metrics:
            return NOTHING
        try:
            return gpu_metrics.decode(self.files.read(f"{self.device}/gpu_metrics"))
        except OSError:
            return NOTHING

    def _judged(self, zones: list[Zone], metrics: Metrics, busy: float | None) -> list[Zone]:
        """The zones, the hottest place of the chip with what is known of throttling."""
        at = next((i for i, zone in enumerate(zones) if zone.name.endswith("junction")), 0)
        if not zones:
            return zones
        throttling = _has_risen(self._last.heat_ticks, metrics.heat_ticks)
        if metrics.is_hot is not None:
            throttling = metrics.is_hot and self._is_slowed(zones[at], busy)
        zones[at] = attrs.evolve(
            zones[at],
            throttling=throttling,
            emergency=bool(_has_risen(self._last.prochot_ticks, metrics.prochot_ticks)),
        )
        return zones

    def _is_slowed(self, zone: Zone, busy: float | None) -> bool:
        """Whether something agrees with the flag, which some cards set while they idle."""
        if (
            zone.temperature_c is not None
            and zone.limit_c is not None
            and zone.temperature_c >= zone.limit_c - HOT_MARGIN_C
        ):
            return True
        if busy is None or busy < BUSY_SHARE or self.hwmon is None:
            return False
        clock = read_of_card(self.files, f"{self.hwmon.path}/freq1_input", scale=MICRO).value
        steps = _CLOCK.findall(read_text(self.files, f"{self.device}/pp_dpm_sclk") or "")
        return clock is not None and bool(steps) and clock < SLOWED_SHARE * max(map(int, steps))


def _has_risen(before: int | None, now: int | None) -> bool | None:
    return None if before is None or now is None else now > before


def open_amdgpu(files: Files, device: str, address: str, heed: Heed) -> Amdgpu:
    """The sensor of a device that amdgpu drives. Reads no file of it."""
    title = f"amdgpu {address}"
    hwmon = open_hwmon(
        files, device, title=title, part=address, hardware=Hardware.AMD, source="amdgpu"
    )
    part: Part | None = Part(id=address, name=f"AMD graphics {address}", hardware=Hardware.AMD)
    # Only cards tell junction temperatures, or (old ones) limits: what is there is seen unopened.
    if hwmon is not None and not _ONLY_ON_CARDS & hwmon.names:
        hwmon = attrs.evolve(hwmon, part=PACKAGE, hardware=Hardware.IGPU)
        part = None
    return Amdgpu(
        files=files,
        device=device,
        name=title,
        key=f"{title} {hwmon.path if hwmon else device}",
        part=part.id if part else PACKAGE,
        hardware=part.hardware if part else Hardware.IGPU,
        hwmon=hwmon,
        sleeper=Sleeper(files, device, heed, part),
        has_metrics="gpu_metrics" in list_or_nothing(files, device),
    )
