"""The hwmon directory of a graphics device: its temperatures, fans, and where they become too much."""

import errno
import re

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Fan, Findings, Kind, Quality, Zone
from ollama_proxy.sensors.files import (
    Files,
    Reading,
    list_or_nothing,
    read_number,
    read_text,
)

COLDEST_C, HOTTEST_C = -20.0, 125.0
LOWEST_LIMIT_C = 40.0  # amdgpu and nvme tell -273 where they mean "none"
FASTEST_RPM = 19_999.0
MILLI = 1e-3
MICRO = 1e-6
_MEMORY_LABELS = {"mem", "vram"}
_TEMPERATURE = re.compile(r"temp\d+_input")
_FAN = re.compile(r"fan\d+_input")


def find_hwmon(files: Files, device: str) -> str | None:
    """The hwmon directory of a device, whatever number the kernel gave it this time."""
    for chip in list_or_nothing(files, "/sys/class/hwmon"):
        if files.real(f"/sys/class/hwmon/{chip}/device") == device:
            return files.real(f"/sys/class/hwmon/{chip}")
    return None


def read_of_card(
    files: Files,
    path: str,
    *,
    scale: float = 1.0,
    lowest: float = 0.0,
    highest: float = float("inf"),
) -> Reading:
    """Read a number of a card. All may read them, so "not permitted" is a card that just slept in."""
    told = read_number(files, path, scale=scale, lowest=lowest, highest=highest)
    return Reading(None, Quality.ASLEEP) if told.quality is Quality.DENIED else told


def check_present(findings: Findings) -> None:
    """Tell a device without a fan from one that was pulled out.

    Raises:
        OSError: of all that it has, nothing is there any more.
    """
    told = [z.quality for z in findings.zones] + [d.quality for d in findings.draws]
    if told and set(told) == {Quality.ABSENT}:
        raise OSError(errno.ENODEV, "the device is gone")


@attrs.define
class CardHwmon:
    """What of a card's hwmon directory is the same for all drivers.

    Attributes:
        path: the directory.
        names: what is in it.
        title: begins the names of its readings.
        part: whose heat it tells.
    """

    files: Files
    path: str
    names: frozenset[str]
    title: str
    part: str
    hardware: Hardware
    source: str
    _labels: dict[str, str] = attrs.field(factory=dict)
    _limits: dict[str, float | None] = attrs.field(factory=dict)

    def read_zones(self) -> list[Zone]:
        """All temperatures. Labels and limits are read once: they are the board's."""
        return [
            self._zone(name.removesuffix("_input"))
            for name in sorted(self.names)
            if _TEMPERATURE.fullmatch(name)
        ]

    def _zone(self, channel: str) -> Zone:
        read = read_of_card(
            self.files,
            f"{self.path}/{channel}_input",
            scale=MILLI,
            lowest=COLDEST_C,
            highest=HOTTEST_C,
        )
        if channel not in self._labels and read.value is not None:
            label = read_text(self.files, f"{self.path}/{channel}_label")
            self._labels[channel] = label or channel
            self._limits[channel] = read_of_card(
                self.files, f"{self.path}/{channel}_crit", scale=MILLI, lowest=LOWEST_LIMIT_C
            ).value
        label = self._labels.get(channel, channel)
        return Zone(
            name=f"{self.title} {label}",
            kind=Kind.MEMORY if label in _MEMORY_LABELS else Kind.GPU,
            part=self.part,
            hardware=self.hardware,
            temperature_c=read.value,
            limit_c=self._limits.get(channel),
            quality=read.quality,
            source=self.source,
        )

    def read_fans(self) -> list[Fan]:
        """All fans, with their share of what the board says is the most."""
        return [
            self._fan(name.removesuffix("_input"))
            for name in sorted(self.names)
            if _FAN.fullmatch(name)
        ]

    def _fan(self, channel: str) -> Fan:
        read = read_of_card(self.files, f"{self.path}/{channel}_input", highest=FASTEST_RPM)
        if f"{channel}_max" in self.names and not self._limits.get(channel):
            most = read_of_card(self.files, f"{self.path}/{channel}_max", highest=FASTEST_RPM)
            self._limits[channel] = most.value
        most_rpm = self._limits.get(channel)
        share = min(1.0, read.value / most_rpm) if read.value is not None and most_rpm else None
        return Fan(
            name=f"{self.title} {channel}",
            rpm=read.value,
            share=share,
            quality=read.quality,
            source=self.source,
        )


def open_hwmon(
    files: Files, device: str, *, title: str, part: str, hardware: Hardware, source: str
) -> CardHwmon | None:
    """A device's hwmon directory, if it has one. Reads no file."""
    path = find_hwmon(files, device)
    if path is None:
        return None
    names = frozenset(list_or_nothing(files, path))
    return CardHwmon(files, path, names, title, part, hardware, source)
