"""The machine's state and the mode: what heat, fans, power and battery are, and what follows.

For people each by itself; for another router, which sends work here, all of it in few words.
"""

import msgspec
import trio
from quart import Response, request

from ollama_proxy.engine.climate import Climate
from ollama_proxy.inbound.figures import efficiency_of, unknown_mode
from ollama_proxy.inbound.heat import draw_of, fan_of, moment_of, part_of, zone_of
from ollama_proxy.inbound.http.auditing import tell_change
from ollama_proxy.inbound.http.endpoint import JSON, TEXT, Endpoint, Services
from ollama_proxy.inbound.http.naming import GARBLED
from ollama_proxy.inbound.http.replies import json_reply, prefers_text, text_reply
from ollama_proxy.inbound.node import node_of
from ollama_proxy.policy.modes import parse_mode
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

# -- heat ------------------------------------------------------------------------------------------


async def thermal(services: Services) -> Response:
    """Tell how warm the machine is, how its fans turn, and what it draws."""
    climate = services.climate
    found, now = climate.conditions, trio.current_time()
    if prefers_text():
        return text_reply(_heat_in_words(climate))
    ages = {name: round(now - at, 1) for name, at in found.heard.items()}
    return json_reply({
        "state": climate.state.value,
        "zones": [zone_of(zone, ages.get(zone.name)) for zone in found.zones],
        "fans": [fan_of(fan) for fan in found.fans],
        "power": [draw_of(draw) for draw in found.draws],
        "loads": [
            {
                "name": load.name,
                "hardware": load.hardware.value,
                "percent": None if load.share is None else round(load.share * 100, 1),
            }
            for load in found.loads
        ],
        "parts": [part_of(part, climate.grade_of(part.id)) for part in climate.parts],
        "history": [moment_of(moment, now) for moment in climate.history],
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


async def node(services: Services) -> Response:
    """Tell another router how this one is."""
    told = node_of(
        services.dispatcher,
        services.climate,
        node_id=services.node_id,
        machine=services.machine,
        version=services.version,
    )
    return json_reply(told)


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
    tell_change(services, f"mode {mode.value}")
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
        method="GET",
        path="/node",
        view=node,
        name="node",
        summary="What a router that sends work here must know: slots, lines, models, heat, watts",
        tag="control",
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
