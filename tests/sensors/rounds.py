"""One round of readings: everything that is found on a machine, read once."""

from collections.abc import Iterable

from ollama_proxy.policy.readings import Draw, Fan, Findings, Zone
from ollama_proxy.sensors.chip_families import discover_chips
from ollama_proxy.sensors.files import Files
from ollama_proxy.sensors.sensor import Sensor


def read_all(sensors: Iterable[Sensor], now: float = 0.0) -> Findings:
    """What all sensors tell, put together."""
    told = [sensor.read(now) for sensor in sensors]
    return Findings(
        zones=tuple(zone for found in told for zone in found.zones),
        fans=tuple(fan for found in told for fan in found.fans),
        draws=tuple(draw for found in told for draw in found.draws),
        supply=next((found.supply for found in told if found.supply), None),
        profile=next((found.profile for found in told if found.profile), None),
    )


def first_round(files: Files) -> Findings:
    """Everything that is found, read once."""
    return read_all(discover_chips(files))


def zone_named(name: str, findings: Findings) -> Zone:
    """The zone of a name; there must be just one."""
    (zone,) = (zone for zone in findings.zones if zone.name == name)
    return zone


def fan_named(name: str, findings: Findings) -> Fan:
    """The fan of a name; there must be just one."""
    (fan,) = (fan for fan in findings.fans if fan.name == name)
    return fan


def only_draw(findings: Findings) -> Draw:
    """The one draw that was told."""
    (draw,) = findings.draws
    return draw
