"""What the router tells of itself: whether it is well, its backends, and how it would decide."""

from typing import cast

import msgspec
import trio
from quart import Response, request

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.answers import STATUS, error_headers, error_object
from ollama_proxy.inbound.figures import (
    Values,
    barred_of,
    decision_of,
    figures_of,
    first_token_of,
    listed,
    state_of,
    status_of,
    watts_of,
)
from ollama_proxy.inbound.http.endpoint import JSON, TEXT, Endpoint, Services
from ollama_proxy.inbound.http.exchange import raw_headers, visitor
from ollama_proxy.inbound.http.inference import ChannelCaller
from ollama_proxy.inbound.http.naming import GARBLED
from ollama_proxy.inbound.http.openapi import ROUTING_HEADERS
from ollama_proxy.inbound.http.replies import (
    json_reply,
    prefers_text,
    reply,
    text_reply,
)
from ollama_proxy.inbound.reading import RoutingHeaders, read_job
from ollama_proxy.policy.access import Permission
from ollama_proxy.policy.ask import CALLS_BY_PATH, Call, Dialect
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused
from ollama_proxy.policy.route import Explanation

# -- health ------------------------------------------------------------------------------------


# By it our own commands know a router from others that tell a status.
_MORE = "for an API key that may read"


def _in_a_word(status: str) -> str:
    return "healthy" if status == "ok" else status


async def health(services: Services) -> Response:
    """Tell how many backends are well, and to who may not read that alone whether it serves; 200."""
    healthy, total = len(services.healthy_stations), len(services.enabled_stations)
    status = status_of(services.dispatcher)
    if not visitor().may(Permission.READ):
        return (
            text_reply(f"Status: {_in_a_word(status)}\n")
            if prefers_text()
            else json_reply({"status": status, "more": _MORE})
        )
    backends = {id_: state_of(s) for id_, s in services.dispatcher.stations.items()}
    if prefers_text():
        lines = [f"Status: {_in_a_word(status)}"]
        lines += [f"  {id_}: {state}" for id_, state in backends.items()]
        return text_reply("\n".join(lines) + "\n")
    return json_reply({
        "status": status,
        "backends": backends,
        "healthy": healthy,
        "total": total,
        "version": services.version,
    })


async def is_alive(services: Services) -> Response:  # noqa: ARG001 - every view is given them
    """Answer, which is all there is to tell."""
    return text_reply("ok\n") if prefers_text() else json_reply({"status": "ok"})


async def is_ready(services: Services) -> Response:
    """200 if a request would be taken on now, else 503."""
    healthy, total = len(services.healthy_stations), len(services.enabled_stations)
    draining = services.dispatcher.is_draining
    ready = healthy > 0 and not draining
    status = 200 if ready else 503
    word = "ready" if ready else "draining" if draining else "not ready"
    if not visitor().may(Permission.READ):
        told = {"ready": ready, "draining": draining}
        return text_reply(f"{word}\n", status) if prefers_text() else json_reply(told, status)
    if prefers_text():
        return text_reply(f"{word}: {healthy}/{total} backends healthy\n", status)
    return json_reply(
        {"ready": ready, "draining": draining, "healthy": healthy, "total": total}, status
    )


# -- backends ----------------------------------------------------------------------------------


def _in_words(station: Station, climate: Climate) -> str:
    spec = station.spec
    watts = watts_of(station, climate)
    latency_s, source = first_token_of(station)
    return (
        f"{spec.id}: {state_of(station)}\n"
        f"  Name: {spec.name or spec.id}\n"
        f"  Hardware: {spec.hardware.value}\n"
        f"  Power: {watts['value']:.1f} W ({watts['source']})\n"
        f"  First token: {latency_s * 1000:.0f} ms ({source})\n"
        f"  In flight: {station.in_flight}/{spec.slots}, waiting: {len(station.line)}\n"
        f"  Models: {', '.join(listed(station.models) or []) or 'unknown'}\n"
    )


async def backends(services: Services) -> Response:
    """List the backends as they stand."""
    stations = services.dispatcher.stations.values()
    if prefers_text():
        return text_reply("\n".join(_in_words(s, services.climate) for s in stations))
    return json_reply([figures_of(station, services.climate) for station in stations])


# -- decisions ---------------------------------------------------------------------------------


class _Asked(msgspec.Struct):
    """Which call a decision is asked for."""

    path: object = Call.OPENAI_CHAT.path


def _call_of(body: bytes) -> Call:
    try:
        path = msgspec.json.decode(body, type=_Asked).path
    except GARBLED:
        # What is wrong with the body is said where the rest of it is read.
        path = Call.OPENAI_CHAT.path
    call = CALLS_BY_PATH.get(path) if isinstance(path, str) else None
    if call is None:
        raise RequestRefused(
            Refusal(
                Code.INVALID_REQUEST,
                f"path: expected one of {', '.join(CALLS_BY_PATH)}, got {path!r}.",
                param="path",
            )
        )
    return call


def _explained(explanation: Explanation) -> Response:
    decision = decision_of(explanation)
    if isinstance(decision, Refusal):
        error = cast("Values", error_object(Dialect.OPENAI, decision))
        return reply(
            msgspec.json.encode(error | {"candidates": barred_of(explanation)}),
            STATUS[decision.code],
            error_headers(decision),
        )
    return json_reply(decision)


async def route(services: Services) -> Response:
    """Explain what would be decided for a request now; nothing is sent to any backend."""
    body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    # The job is never submitted: reading one is what makes body and headers mean here what they
    # mean in the call itself.
    job = read_job(
        _call_of(body),
        RoutingHeaders(raw_headers()),
        body,
        caller=ChannelCaller(),
        door="http",
        arrived=trio.current_time(),
    )
    return _explained(services.dispatcher.explain(job))


_BOTH = (JSON, TEXT)
ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/health",
        view=health,
        name="health",
        summary="Which backends are well: status is ok, degraded or down",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="GET",
        path="/healthz",
        view=is_alive,
        name="is_alive",
        summary="200 while the router is alive",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="GET",
        path="/readyz",
        view=is_ready,
        name="is_ready",
        summary="200 while requests are taken on, else 503",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="GET",
        path="/backends",
        view=backends,
        name="backends",
        summary="Every backend: what is configured, known, learned and under way",
        tag="control",
        answers=_BOTH,
    ),
    Endpoint(
        method="POST",
        path="/v1/route",
        view=route,
        name="route",
        summary="Which backend an inference call would go to now, and why; sends nothing."
        " `path` in the body names the call",
        tag="control",
        takes=JSON,
        headers=ROUTING_HEADERS,
    ),
)
