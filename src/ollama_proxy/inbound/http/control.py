"""What the router tells of itself: whether it is well, its backends, and how it would decide."""

from collections.abc import Iterable
from typing import cast
from urllib.parse import urlsplit

import msgspec
import trio
from quart import Response, request

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.answers import STATUS, error_headers, error_object
from ollama_proxy.inbound.http.endpoint import JSON, TEXT, Endpoint, Services
from ollama_proxy.inbound.http.exchange import raw_headers
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
from ollama_proxy.policy.ask import CALLS_BY_PATH, Call, Dialect
from ollama_proxy.policy.candidate import Candidate
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused
from ollama_proxy.policy.route import Explanation

Values = dict[str, object]


async def greet(services: Services) -> Response:  # noqa: ARG001 - every view is given them
    """Say what Ollama's own clients wait for."""
    return text_reply("Ollama is running")


# -- health ------------------------------------------------------------------------------------


def _state(station: Station) -> str:
    if not station.spec.enabled:
        return "disabled"
    return "healthy" if station.healthy else "unhealthy"


async def health(services: Services) -> Response:
    """Tell how many backends are well; 200 as long as anybody can ask."""
    healthy, total = len(services.healthy_stations), len(services.enabled_stations)
    status = "down" if not healthy else "ok" if healthy == total else "degraded"
    backends = {id_: _state(s) for id_, s in services.dispatcher.stations.items()}
    if prefers_text():
        lines = [f"Status: {'healthy' if status == 'ok' else status}"]
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
    if prefers_text():
        word = "ready" if ready else "draining" if draining else "not ready"
        return text_reply(f"{word}: {healthy}/{total} backends healthy\n", status)
    return json_reply(
        {"ready": ready, "draining": draining, "healthy": healthy, "total": total}, status
    )


# -- backends ----------------------------------------------------------------------------------


def _without_credentials(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _latest(learned: Iterable[Learned | None]) -> Learned | None:
    """What was learned last, of whichever model."""
    return max(filter(None, learned), key=lambda each: each.at, default=None)


def _rounded(learned: Learned | None) -> float | None:
    return None if learned is None else round(learned.value, 4)


def _calibration(station: Station) -> Values:
    """How the forecasts came true; errors are shares of what came, unknown is None."""
    found = station.calibration
    return {
        "requests": found.requests,
        "mean_error": _rounded(found.error),
        "bias": _rounded(found.bias),
        "deadlines_met": found.deadlines_met,
        "deadlines_missed": found.deadlines_missed,
    }


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _watts(station: Station, climate: Climate) -> Values:
    """What a backend draws: its card's sensor, else what its requests drew, else its owner's word."""
    live = climate.card_watts(station.part)
    if live is not None:
        return {"value": round(live, 2), "source": "measured"}
    learned = station.learned_watts
    if learned is not None:
        return {"value": round(learned, 2), "source": "learned"}
    return {"value": station.spec.power_watts, "source": "configured"}


def _figures(station: Station, climate: Climate) -> Values:
    """One backend with the fields of the contract, and how it kept its word; unknown is None."""
    spec = station.spec
    grader = climate.grade_of(station.part)
    hottest = grader.hottest if grader is not None else None
    known = station.estimates.subjects.values()
    first = _latest(speeds.first_s for speeds in known)
    decode = _latest(speeds.decode for speeds in known)
    return {
        "id": spec.id,
        "name": spec.name or spec.id,
        "type": spec.type.value,
        "hardware": spec.hardware.value,
        "endpoint": _without_credentials(spec.endpoint),
        "enabled": spec.enabled,
        "healthy": spec.enabled and station.healthy,
        "last_error": station.last_error,
        "models": _listed(station.models),
        "loaded_models": _listed(station.loaded),
        "slots": spec.slots,
        "in_flight": station.in_flight,
        "queued": {p.name.lower(): depth for p, depth in sorted(station.line.depths.items())},
        "latency": {
            "ttft_ms": {
                "value": (spec.avg_latency_s if first is None else first.value) * 1000,
                "source": "configured" if first is None else "learned",
            },
            "tokens_per_s": {
                "value": None if decode is None else decode.value,
                "source": None if decode is None else "learned",
            },
        },
        "power_watts": _watts(station, climate),
        "temperature_c": hottest.temperature_c if hottest is not None else None,
        "thermal_state": station.heat.value,
        "throttled": climate.is_throttled(station.part),
        "asleep": station.asleep,
        "energy_j_per_token": station.energy.value(),
        "calibration": _calibration(station),
        "requests_total": station.requests_total,
        "errors_total": station.errors_total,
    }


def _in_words(station: Station, climate: Climate) -> str:
    spec = station.spec
    watts = _watts(station, climate)
    first = _latest(speeds.first_s for speeds in station.estimates.subjects.values())
    latency_s, source = (
        (spec.avg_latency_s, "configured") if first is None else (first.value, "learned")
    )
    return (
        f"{spec.id}: {_state(station)}\n"
        f"  Name: {spec.name or spec.id}\n"
        f"  Hardware: {spec.hardware.value}\n"
        f"  Power: {watts['value']:.1f} W ({watts['source']})\n"
        f"  First token: {latency_s * 1000:.0f} ms ({source})\n"
        f"  In flight: {station.in_flight}/{spec.slots}, waiting: {len(station.line)}\n"
        f"  Models: {', '.join(_listed(station.models) or []) or 'unknown'}\n"
    )


async def backends(services: Services) -> Response:
    """List the backends as they stand."""
    stations = services.dispatcher.stations.values()
    if prefers_text():
        return text_reply("\n".join(_in_words(s, services.climate) for s in stations))
    return json_reply([_figures(station, services.climate) for station in stations])


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


def _eligible(candidate: Candidate) -> Values:
    return {
        "backend": candidate.id,
        "eligible": True,
        "why_not": None,
        "score": candidate.score,
        "terms": candidate.terms._asdict(),
        "predicted_ttft_ms": candidate.predicted_s * 1000,
        "predicted_watts": candidate.watts,
    }


def _barred(backend: str, why_not: str) -> Values:
    unknown = ("score", "terms", "predicted_ttft_ms", "predicted_watts")
    return {"backend": backend, "eligible": False, "why_not": why_not} | dict.fromkeys(unknown)


def _explained(explanation: Explanation) -> Response:
    barred = [_barred(each.id, each.why_not) for each in explanation.barred]
    outcome = explanation.outcome
    if isinstance(outcome, Refusal):
        error = cast("Values", error_object(Dialect.OPENAI, outcome))
        return reply(
            msgspec.json.encode(error | {"candidates": barred}),
            STATUS[outcome.code],
            error_headers(outcome),
        )
    return json_reply({
        "backend": outcome.backend,
        "reason": outcome.reason.value,
        "alternatives": outcome.alternatives,
        "candidates": [*map(_eligible, outcome.candidates), *barred],
    })


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
        path="/",
        view=greet,
        name="greet",
        summary="Says that Ollama is running, as its clients ask first",
        tag="control",
        answers=(TEXT,),
    ),
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
