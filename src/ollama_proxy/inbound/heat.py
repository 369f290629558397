"""What every door tells of heat, fans and power: plain values, as `figures` has those of the router."""

from ollama_proxy.engine.climate import Moment
from ollama_proxy.inbound.figures import Values
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Draw, Fan, Part, Zone
from ollama_proxy.policy.thermal import Grader, ThermalState


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def zone_of(zone: Zone, age_s: float | None) -> Values:
    """A place whose temperature is measured; `age_s`: how long ago anybody told of it."""
    return {
        "name": zone.name,
        "kind": zone.kind.value,
        "hardware": _named(zone.hardware),
        "temperature_c": _rounded(zone.temperature_c),
        "limit_c": _rounded(zone.limit_c),
        "throttling": zone.throttling,
        "source": zone.source,
        "updated_s_ago": age_s,
        "quality": zone.quality.value,
        "part": zone.part,
    }


def _named(hardware: Hardware | None) -> str | None:
    return None if hardware is None else hardware.value


def fan_of(fan: Fan) -> Values:
    """A fan."""
    return {
        "name": fan.name,
        "rpm": _rounded(fan.rpm, 0),
        "percent": None if fan.share is None else round(fan.share * 100, 1),
        "quality": fan.quality.value,
    }


def draw_of(draw: Draw) -> Values:
    """A power that is measured."""
    return {
        "name": draw.name,
        "watts": _rounded(draw.watts, 2),
        "source": draw.source,
        "scope": draw.scope.value,
        "part": draw.part,
        "quality": draw.quality.value,
    }


def moment_of(moment: Moment, now: float) -> Values:
    """What was kept of one look."""
    return {
        "s_ago": round(now - moment.at, 1),
        "state": moment.state.value,
        "mode": moment.mode.value,
        "temperatures_c": {p: round(c, 1) for p, c in moment.temperatures_c.items()},
        "fan_percent": None if moment.fan_share is None else round(moment.fan_share * 100, 1),
        "watts": _rounded(moment.watts, 2),
        "battery_percent": _rounded(moment.battery_percent),
    }


def part_of(part: Part, grader: Grader | None) -> Values:
    """A part of the machine, and what is thought of its heat."""
    return {
        "id": part.id,
        "name": part.name,
        "hardware": part.hardware.value,
        "state": (ThermalState.UNKNOWN if grader is None else grader.level).value,
        "why": "" if grader is None else grader.why,
        "awake": part.awake,
    }
