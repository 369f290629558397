"""Thermal zones: the temperatures by which the kernel itself cools.

Zones that hwmon repeats are read there. Each of the others is a sensor of its own, because reading
one may run the firmware's code, and one that hangs should lose nothing but itself.
"""

import errno
import re

import attrs

from ollama_proxy.policy.readings import Findings, Quality
from ollama_proxy.sensors.chips import (
    INTERVAL_S,
    family_of,
    is_believed_when_it_moves,
    kind_of,
    speakers,
)
from ollama_proxy.sensors.files import Files, list_or_nothing, read_text
from ollama_proxy.sensors.sensor import Sensor
from ollama_proxy.sensors.temperature import Thermometer, read_limit

THERMAL = "/sys/class/thermal"
ONLOOKER_INTERVAL_S = 10.0


@attrs.define(kw_only=True)
class ThermalZone:
    """One zone. See `Sensor`."""

    name: str
    key: str
    interval_s: float
    _files: Files
    _path: str
    _type: str
    _thermometer: Thermometer

    def read(self, now: float) -> Findings:  # noqa: ARG002 - see Sensor
        """See `Sensor`."""
        if read_text(self._files, f"{self._path}/type") != self._type:
            raise OSError(errno.ENODEV, "another zone, or none", self._path)
        zone = self._thermometer.read(self._files)
        if zone.quality is Quality.ABSENT:
            raise OSError(errno.ENODEV, "it has no temperature any more", self._path)
        return Findings(zones=(zone,))

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""


def find_thermal_zones(files: Files) -> list[Sensor]:
    """Every zone that hwmon does not repeat, in the kernel's order."""
    entries = (
        re.fullmatch(r"thermal_zone([0-9]{1,6})", e) for e in list_or_nothing(files, THERMAL)
    )
    found: dict[str, Sensor] = {}
    for number in sorted(int(entry[1]) for entry in entries if entry):
        try:
            zone = _zone(files, f"{THERMAL}/thermal_zone{number}", found)
        except OSError:  # a link that leads in a circle
            continue
        if zone is not None:
            found[zone.name] = zone
    return list(found.values())


def _zone(files: Files, entry: str, taken: dict[str, Sensor]) -> ThermalZone | None:
    path = files.real(entry)
    there = list_or_nothing(files, path)
    typed = read_text(files, f"{path}/type")
    if not typed or not typed.isprintable() or "temp" not in there:
        return None
    if any(re.fullmatch(r"hwmon[0-9]+", name) for name in there):
        return None
    name = f"{typed} zone"
    same = sum(known == name or known.startswith(f"{name} ") for known in taken)
    if same:
        name = f"{name} {same + 1}"
    speaks = bool(speakers(typed, {0: ""}))
    return ThermalZone(
        name=name,
        key=f"{name} at {path}",
        interval_s=INTERVAL_S if speaks else ONLOOKER_INTERVAL_S,
        files=files,
        path=path,
        type=typed,
        thermometer=Thermometer(
            path=f"{path}/temp",
            name=name,
            kind=kind_of(typed, typed),
            source=family_of(typed),
            limit_c=read_limit(files, _trips(files, path, there)),
            speaks=speaks,
            must_move=is_believed_when_it_moves(typed),
        ),
    )


def _trips(files: Files, path: str, there: list[str]) -> list[str]:
    """The files of trip points where the kernel stops or slows the machine, the first one first."""
    trips = [re.fullmatch(r"(trip_point_[0-9]{1,4})_type", name) for name in there]
    types = {trip[1]: read_text(files, f"{path}/{trip[0]}") for trip in trips if trip}
    return [
        f"{path}/{trip}_temp"
        for wanted in ("hot", "critical")
        for trip, found in sorted(types.items())
        if found == wanted
    ]
