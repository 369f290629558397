"""Hwmon chips: temperatures, fans and, of one driver, the package's power.

A chip is known by its driver's name and by the device that it sits on, never by its number, which
the kernel deals out anew each time. It is read at its place in /sys/devices: where another chip
inherits the number, the file is gone, not another's.

Left out are what others read (cards, and batteries, which hwmon repeats), disks that reading would
keep awake, and chips without a temperature or a fan: the Raspberry Pi's `rpi_volt` tells only of
too low a voltage, for which there is no word among the readings.
"""

import errno
import re
from collections.abc import Iterable

import attrs

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Findings, Quality, Scope
from ollama_proxy.sensors.chips import (
    family_of,
    interval_of,
    is_believed_when_it_moves,
    is_ours,
    is_sure_of_fans,
    kind_of,
    speakers,
)
from ollama_proxy.sensors.files import Files, list_or_nothing, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor
from ollama_proxy.sensors.tachometer import Tachometer, read_most_rpm
from ollama_proxy.sensors.temperature import Thermometer, read_limit

HWMON = "/sys/class/hwmon"
SUPPLIES = "/sys/class/power_supply"
MOST_WATTS = 1000.0
_LONGEST_LABEL = 64

# `nvme0`, `phy0`, `thermal_zone3`, `cros-ec-hwmon.2.auto`: numbers that change at the next boot.
_NUMBERED = re.compile(r"[A-Za-z_]+[0-9]+|.*\.auto")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ONE_OF_SEVERAL = re.compile(r".*\.[1-9][0-9]*|[0-9]+-[0-9a-f]{4}")


@attrs.define(kw_only=True)
class HwmonChip:
    """One chip. See `Sensor`."""

    name: str
    key: str
    interval_s: float
    _files: Files
    _path: str
    _driver: str
    _thermometers: tuple[Thermometer, ...]
    _tachometers: tuple[Tachometer, ...]
    _rails: tuple[str, ...]

    def read(self, now: float) -> Findings:  # noqa: ARG002 - see Sensor
        """See `Sensor`."""
        if read_text(self._files, f"{self._path}/name") != self._driver:
            raise OSError(errno.ENODEV, "another chip, or none", self._path)
        zones = tuple(t.read(self._files) for t in self._thermometers)
        turning = (t.read(self._files) for t in self._tachometers)
        fans = tuple(fan for fan in turning if fan is not None)
        draws = (self._draw(),) if self._rails else ()
        told = [reading.quality for reading in (*zones, *fans, *draws)]
        if told and all(quality is Quality.ABSENT for quality in told):
            raise OSError(errno.ENODEV, "none of its files is left", self._path)
        return Findings(zones=zones, fans=fans, draws=draws)

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""

    def _draw(self) -> Draw:
        rails = [
            read_number(self._files, rail, scale=1e-6, lowest=0.0, highest=MOST_WATTS)
            for rail in self._rails
        ]
        known = [rail.value for rail in rails if rail.value is not None]
        lost = [rail.quality for rail in rails if rail.value is None]
        return Draw(
            name=self.name,
            scope=Scope.PACKAGE,
            part=PACKAGE,
            watts=None if lost else sum(known),
            quality=lost[0] if lost else Quality.OK,
            source=self._driver,
        )


def find_hwmon_chips(files: Files) -> list[Sensor]:
    """Every chip that tells something, in the order of their names."""
    # The kernel gives each supply a chip of its name, with the dashes replaced.
    repeated = {name.replace("-", "_") for name in list_or_nothing(files, SUPPLIES)}
    found: dict[str, Sensor] = {}
    for entry in list_or_nothing(files, HWMON):
        try:
            chip = _chip(files, entry, repeated, found)
        except OSError:  # a link that leads in a circle
            continue
        if chip is not None:
            found[chip.name] = chip
    return [found[name] for name in sorted(found)]


def _chip(
    files: Files, entry: str, repeated: Iterable[str], taken: Iterable[str]
) -> HwmonChip | None:
    path = files.real(f"{HWMON}/{entry}")
    driver = read_text(files, f"{path}/name")
    if not driver or not driver.isprintable() or not is_ours(driver):
        return None
    if driver in repeated or "/power_supply/" in path:
        return None
    name = f"{driver} {_place(_device(files, path))}".strip()
    if name in taken:  # two chips on no device at all: nothing but the number tells them apart
        name = f"{name} {entry}"
    there = list_or_nothing(files, path)
    thermometers = tuple(_thermometers(files, path, driver, name, there))
    tachometers = tuple(_tachometers(files, path, driver, name, there))
    if not thermometers and not tachometers:
        return None
    return HwmonChip(
        name=name,
        key=f"{name} at {path}",
        interval_s=interval_of(driver),
        files=files,
        path=path,
        driver=driver,
        thermometers=thermometers,
        tachometers=tachometers,
        rails=_rails(files, path, there) if driver == "zenpower" else (),
    )


def _device(files: Files, path: str) -> str:
    """The device that a chip sits on, "" where there is none."""
    linked = files.real(f"{path}/device")
    if linked != f"{path}/device":
        return linked
    return path.rpartition("/")[0].removesuffix("/hwmon").removesuffix("/sys/class")


def _place(device: str) -> str:
    """Which one it is among all that its driver may have, "" where there is but one."""
    tail = device.rpartition("/")[2]
    if _NUMBERED.fullmatch(tail):
        return next(reversed(_PCI_ADDRESS.findall(device)), "")
    is_alone = device.startswith(("/sys/devices/platform", "/sys/devices/virtual"))
    return "" if is_alone and not _ONE_OF_SEVERAL.fullmatch(tail) else tail


def _numbers(there: Iterable[str], prefix: str) -> list[int]:
    found = (re.fullmatch(rf"{prefix}([0-9]{{1,4}})_input", name) for name in there)
    return sorted(int(match[1]) for match in found if match)


def _labels(files: Files, path: str, there: Iterable[str], prefix: str) -> dict[int, str]:
    """The labels of a chip's channels; "" for one that has none, or none that can be shown."""
    labels = {}
    for n in _numbers(there, prefix):
        text = read_text(files, f"{path}/{prefix}{n}_label") or ""
        labels[n] = text if text.isprintable() and len(text) <= _LONGEST_LABEL else ""
    return labels


def _names(chip: str, labels: dict[int, str], prefix: str) -> dict[int, str]:
    said = list(labels.values())
    return {
        n: f"{chip} {label}" if label and said.count(label) == 1 else f"{chip} {prefix}{n}"
        for n, label in labels.items()
    }


def _thermometers(
    files: Files, path: str, driver: str, chip: str, there: Iterable[str]
) -> Iterable[Thermometer]:
    labels = _labels(files, path, there, "temp")
    names = _names(chip, labels, "temp")
    trusted = speakers(driver, labels)
    # k10temp's `_max` is 70 degrees whatever the processor.
    limits = ("crit",) if driver == "k10temp" else ("crit", "max")
    for n, label in labels.items():
        yield Thermometer(
            path=f"{path}/temp{n}_input",
            name=names[n],
            kind=kind_of(driver, label),
            source=family_of(driver),
            limit_c=read_limit(files, [f"{path}/temp{n}_{limit}" for limit in limits]),
            speaks=n in trusted,
            must_move=is_believed_when_it_moves(driver),
        )


def _tachometers(
    files: Files, path: str, driver: str, chip: str, there: Iterable[str]
) -> Iterable[Tachometer]:
    labels = _labels(files, path, there, "fan")
    for n, name in _names(chip, labels, "fan").items():
        yield Tachometer(
            path=f"{path}/fan{n}",
            name=name,
            source=family_of(driver),
            pwm=f"{path}/pwm{n}" if driver == "pwmfan" else None,
            is_certain=is_sure_of_fans(driver),
            most_rpm=read_most_rpm(files, f"{path}/fan{n}"),
        )


def _rails(files: Files, path: str, there: Iterable[str]) -> tuple[str, ...]:
    """The power files that together are the package: one for all of it, or one a rail."""
    labels = _labels(files, path, there, "power")
    whole = [n for n, label in labels.items() if label == "RAPL_P_Package"]
    rails = whole or [n for n, label in labels.items() if label.startswith("SVI2_P_")]
    return tuple(f"{path}/power{n}_input" for n in rails)
