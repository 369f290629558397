"""The machine's state and the mode: what heat, fans, power and battery are, and what follows."""

import msgspec
import trio
from quart import Response, request

from ollama_proxy.engine.climate import Climate, Moment
from ollama_proxy.inbound.figures import Values, efficiency_of, unknown_mode
from ollama_proxy.inbound.http.endpoint import JSON, TEXT, Endpoint, Services
from ollama_proxy.inbound.http.naming import GARBLED
from ollama_proxy.inbound.http.replies import json_reply, prefers_text, text_reply
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.modes import parse_mode
from ollama_proxy.policy.readings import Draw, Fan, Part, Zone
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused
from ollama_proxy.policy.thermal import Grader, ThermalState


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


# -- heat ------------------------------------------------------------------------------------------


def _zone(zone: Zone, age_s: float | None) -> Values:
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


def _fan(fan: Fan) -> Values:
    return {
        "name": fan.name,
        "rpm": _rounded(fan.rpm, 0),
        "percent": None if fan.share is None else round(fan.share * 100, 1),
        "quality": fan.quality.value,
    }


def _draw(draw: Draw) -> Values:
    return {
        "name": draw.name,
        "watts": _rounded(draw.watts, 2),
        "source": draw.source,
        "scope": draw.scope.value,
        "part": draw.part,
        "quality": draw.quality.value,
    }


def _moment(moment: Moment, now: float) -> Values:
    return {
        "s_ago": round(now - moment.at, 1),
        "state": moment.state.value,
        "mode": moment.mode.value,
        "temperatures_c": {p: round(c, 1) for p, c in moment.temperatures_c.items()},
        "fan_percent": None if moment.fan_share is None else round(moment.fan_share * 100, 1),
        "watts": _rounded(moment.watts, 2),
        "battery_percent": _rounded(moment.battery_percent),
    }


def _part(part: Part, grader: Grader | None) -> Values:
    return {
        "id": part.id,
        "name": part.name,
        "hardware": part.hardware.value,
        "state": (ThermalState.UNKNOWN if grader is None else grader.level).value,
        "why": "" if grader is None else grader.why,
        "awake": part.awake,
    }


async def thermal(services: Services) -> Response:
    """Tell how warm the machine is, how its fans turn, and what it draws."""
    climate = services.climate
    found, now = climate.conditions, trio.current_time()
    if prefers_text():
        return text_reply(_heat_in_words(climate))
    ages = {name: round(now - at, 1) for name, at in found.heard.items()}
    return json_reply({
        "state": climate.state.value,
        "zones": [_zone(zone, ages.get(zone.name)) for zone in found.zones],
        "fans": [_fan(fan) for fan in found.fans],
        "power": [_draw(draw) for draw in found.draws],
        "loads": [
            {
                "name": load.name,
                "hardware": load.hardware.value,
                "percent": None if load.share is None else round(load.share * 100, 1),
            }
            for load in found.loads
        ],
        "parts": [_part(part, climate.grade_of(part.id)) for part in climate.parts],
        "history": [_moment(moment, now) for moment in climate.history],
    })


def _heat_in_words(climate: Climate) -> str:
    found = climate.conditions
    lines = [f"Thermal state: {climate.state.value}"]
    lines += [
        f"  {zone.name}: "
        + (f"{zone.temperature_c:.1f} °C" if zone.temperature_c is not None else zone.quality.value)
        for zone in found.zones
    ]
    lines += [
        f"  {fan.name}: " + (f"{fan.rpm:.0f} RPM" if fan.rpm is not None else fan.quality.value)
        for fan in found.fans
    ]
    lines += [
        f"  {draw.name}: "
        + (f"{draw.watts:.1f} W" if draw.watts is not None else draw.quality.value)
        for draw in found.draws
    ]
    return "\n".join(lines) + "\n"


# -- the mode --------------------------------------------------------------------------------------


def _mode_reply(services: Services) -> Response:
    told = efficiency_of(services.climate, services.dispatcher)
    if prefers_text():
        return text_reply(
            f"Mode: {told['mode']}\nIn force: {told['effective_mode']} ({told['reason']})\n"
        )
    return json_reply(told)


async def efficiency(services: Services) -> Response:
    """Tell the mode, which one is in force, and why."""
    return _mode_reply(services)


class _Wanted(msgspec.Struct):
    """What a mode is set by."""

    mode: object = None


async def set_efficiency(services: Services) -> Response:
    """Set the mode: the next request is routed by it."""
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    try:
        wanted = msgspec.json.decode(body, type=_Wanted).mode
    except GARBLED as error:
        raise RequestRefused(
            Refusal(Code.INVALID_REQUEST, f'expected JSON such as {{"mode": "quiet"}}: {error}.')
        ) from error
    mode = parse_mode(wanted) if isinstance(wanted, str) else None
    if mode is None:
        raise RequestRefused(unknown_mode(wanted))
    services.climate.choose_mode(mode)
    return _mode_reply(services)


_BOTH = (JSON, TEXT)
ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/thermal",
        view=thermal,
        name="thermal",
        summary="Temperatures, fans and power, what they mean, and an hour of their past",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="GET",
        path="/efficiency",
        view=efficiency,
        name="efficiency",
        summary="The mode, which one is in force, and why",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="POST",
        path="/efficiency",
        view=set_efficiency,
        name="set_efficiency",
        summary="Sets the mode, by name or title; the next request is routed by it",
        tag="control",
        takes=JSON,
        answers=_BOTH,
    ),
)
