"""What all backends have, told as if it were one server's.

OpenAI's lists are made of what the probes told; Ollama's are asked for live, since their entries
hold more than a probe keeps, and passed on with their bytes.
"""

import difflib
import hashlib
import re
import time

import msgspec
import trio
from quart import Response

from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.http.endpoint import JSON, Endpoint, Services
from ollama_proxy.inbound.http.exchange import raw_headers
from ollama_proxy.inbound.http.naming import GARBLED, read_named
from ollama_proxy.inbound.http.replies import json_reply, reply
from ollama_proxy.inbound.http.upstream import Told, ask
from ollama_proxy.inbound.inventory import holders, names
from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.policy.fleet import BackendType, canonical_model
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

LIST_TIMEOUT_S = 3.0
SHOW_TIMEOUT_S = 10.0
_SINCE = int(time.time())  # OpenAI demands a time of making, which no backend tells
_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which Ollama's CLI shows as "Never"


class _Lists(msgspec.Struct):
    """An answer of Ollama's that lists models."""

    models: list[msgspec.Raw] | None = None


class _Entry(msgspec.Struct):
    """What a listed model is called."""

    name: str = ""
    model: str = ""


class _Version(msgspec.Struct):
    """An answer to /api/version."""

    version: str


def _has(station: Station, model: str) -> bool:
    return station.spec.may_serve(model) and station.view(trio.current_time()).has_model(model)


def _is_ollama(station: Station) -> bool:
    return station.spec.type is BackendType.OLLAMA


def _tells_more(station: Station) -> bool:
    """Whether it can be asked in Ollama's words about one of its models."""
    return _is_ollama(station) or station.is_router


def _not_found(services: Services, model: str) -> RequestRefused:
    known = sorted({n for s in services.healthy_stations for n in names(s, s.models)})
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return RequestRefused(
        Refusal(
            Code.MODEL_NOT_FOUND,
            f"model {model!r} not found on any backend.{hint}",
            param="model",
        )
    )


# -- OpenAI ------------------------------------------------------------------------------------


def _models(services: Services) -> dict[str, dict[str, object]]:
    found = holders(services.healthy_stations)
    return {
        name: {
            "id": name,
            "object": "model",
            "created": _SINCE,
            "owned_by": "ollama-proxy",
            "backends": found[name],
        }
        for name in sorted(found)
    }


async def models(services: Services) -> Response:
    """List every model that some healthy backend may serve."""
    return json_reply({"object": "list", "data": list(_models(services).values())})


async def model(services: Services, *, model: str) -> Response:
    """Tell of one model, with or without its tag `latest`."""
    known = _models(services)
    for name in (model, canonical_model(model), model.removesuffix(":latest")):
        if name in known:
            return json_reply(known[name])
    raise _not_found(services, model)


# -- Ollama ------------------------------------------------------------------------------------


async def _ask_all(services: Services, path: str) -> list[tuple[Station, bytes]]:
    """Ask every healthy Ollama server at once; those that do not answer are left out."""
    told: dict[str, bytes] = {}

    async def ask_one(station: Station) -> None:
        answer = await ask(station, "GET", path, within_s=LIST_TIMEOUT_S)
        if answer is not None and answer.status == 200:  # noqa: PLR2004 - RFC 9110: OK
            told[station.spec.id] = answer.body

    asked = [s for s in meant(services) if _is_ollama(s)]
    async with trio.open_nursery() as nursery:
        for station in asked:
            nursery.start_soon(ask_one, station)
    return [(s, told[s.spec.id]) for s in asked if s.spec.id in told]


def _entries(station: Station, content: bytes) -> dict[str, msgspec.Raw]:
    """A server's entries by name, as far as they make sense and may be served."""
    try:
        raw = msgspec.json.decode(content, type=_Lists).models or []
        read = [(msgspec.json.decode(each, type=_Entry), each) for each in raw]
    except GARBLED:
        return {}
    named = {entry.name or entry.model: each for entry, each in read}
    return {name: each for name, each in named.items() if name and station.spec.may_serve(name)}


def _made_up_entry(name: str) -> dict[str, object]:
    """An entry for a model of which only the name is known."""
    return {
        "name": name,
        "model": name,
        "size": 0,
        # Of a true digest's form: Ollama's CLI cuts out its first 12 letters unseen.
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": _NO_DETAILS,
    }


_NO_DETAILS: dict[str, object] = {
    "parent_model": "",
    "format": "",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}


def meant(services: Services) -> list[Station]:
    """Whom a question is for: for another router's, no router, or two would ask each other for ever."""
    is_forwarded = RoutingHeaders(raw_headers()).forwarded
    return [s for s in services.healthy_stations if not (is_forwarded and s.is_router)]


async def tags(services: Services) -> Response:
    """List every model in Ollama's words; of two backends' entries the first counts."""
    merged: dict[str, object] = {}
    for station, content in await _ask_all(services, "/api/tags"):
        entries = _entries(station, content)
        for name, entry in entries.items():
            merged.setdefault(name, entry)
        for alias in names(station, entries).difference(entries):
            merged.setdefault(alias, _made_up_entry(alias) | {"modified_at": _NEVER})
    for station in meant(services):
        if not _is_ollama(station):
            for name in sorted(names(station, station.models)):
                merged.setdefault(name, _made_up_entry(name) | {"modified_at": _NEVER})
    return json_reply({"models": list(merged.values())})


async def running(services: Services) -> Response:
    """List the models in memory, in Ollama's words."""
    merged: dict[str, object] = {}
    for station, content in await _ask_all(services, "/api/ps"):
        for name, entry in _entries(station, content).items():
            merged.setdefault(name, entry)
    for station in meant(services):
        if not _is_ollama(station):
            for name in sorted(station.loaded or ()):
                if station.spec.may_serve(name):
                    in_memory = {"expires_at": _NEVER, "size_vram": 0}
                    merged.setdefault(name, _made_up_entry(name) | in_memory)
    return json_reply({"models": list(merged.values())})


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version))


async def version(services: Services) -> Response:
    """Tell the highest version of an Ollama server, which is what clients go by; else our own."""
    told = []
    for _, content in await _ask_all(services, "/api/version"):
        try:
            told.append(msgspec.json.decode(content, type=_Version).version)
        except GARBLED:
            continue
    return json_reply({"version": max(told, key=_order, default=services.version)})


def _with_name(body: bytes, model: str) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


async def show(services: Services) -> Response:
    """Tell what a server says of one model: the first that has it."""
    body, name = await read_named()
    holders = [s for s in meant(services) if _has(s, name)]
    for station in filter(_tells_more, holders):
        told = await _ask_about(station, name, body)
        if told is not None and told.status != 404:  # noqa: PLR2004 - gone since it was listed
            return reply(told.body, told.status, [(b"content-type", told.content_type)])
    if not holders:
        raise _not_found(services, name)
    if all(map(_tells_more, holders)):
        ids = ", ".join(s.spec.id for s in holders)
        raise RequestRefused(
            Refusal(Code.BACKEND_FAILED, f"No backend that has {name!r} told of it: {ids}.")
        )
    return json_reply({
        "details": _NO_DETAILS,
        "model_info": {},
        "capabilities": ["completion"],
    })


async def _ask_about(station: Station, name: str, body: bytes) -> Told | None:
    real = station.spec.real_name(name)
    sent = body if real == name else _with_name(body, real)
    return await ask(station, "POST", "/api/show", body=sent, within_s=SHOW_TIMEOUT_S)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        view=models,
        name="models",
        summary="The models of all healthy backends",
        tag="listing",
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        view=model,
        name="model",
        summary="One model; its id may hold slashes",
        tag="listing",
    ),
    Endpoint(
        method="GET",
        path="/api/tags",
        view=tags,
        name="tags",
        summary="The models of all healthy backends, in Ollama's words",
        tag="listing",
    ),
    Endpoint(
        method="GET",
        path="/api/ps",
        view=running,
        name="running",
        summary="The models in memory, in Ollama's words",
        tag="listing",
    ),
    Endpoint(
        method="GET",
        path="/api/version",
        view=version,
        name="version",
        summary="The highest version of an Ollama server behind the router",
        tag="listing",
    ),
    Endpoint(
        method="POST",
        path="/api/show",
        view=show,
        name="show",
        summary="What the first backend that has a model says of it",
        tag="listing",
        takes=JSON,
    ),
)
