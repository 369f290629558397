"""What is done to the models of one backend: sent there, and its answer passed on as it comes."""

import re
from collections.abc import AsyncIterator
from functools import partial

import trio
from quart import Response, request

from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.answers import error_piece
from ollama_proxy.inbound.http.auditing import tell_change
from ollama_proxy.inbound.http.endpoint import JSON, Endpoint, Services
from ollama_proxy.inbound.http.exchange import holding, raw_headers
from ollama_proxy.inbound.http.naming import read_named
from ollama_proxy.inbound.http.openapi import TARGET
from ollama_proxy.inbound.http.pipe import Pipe, piped_reply
from ollama_proxy.inbound.http.replies import refusal_reply
from ollama_proxy.inbound.http.upstream import carry
from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.policy.ask import Dialect, Framing
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_OCTETS = "application/octet-stream"


async def manage(services: Services, *, path: str, changes_models: bool) -> Response:
    """Pass on a call about a model."""
    body, model = await read_named()
    station = _choose(services, model)
    tell_change(services, f"{path.rpartition('/')[2]} {model or '-'} on {station.spec.id}")
    return await _pass_on(services, station, path, body, changes_models=changes_models)


async def blob(services: Services, *, digest: str) -> Response:
    """Pass on a layer of a model, or the question whether it is there."""
    if not _DIGEST.fullmatch(digest):
        raise RequestRefused(
            Refusal(
                Code.INVALID_REQUEST, "digest: expected sha256: and 64 hex digits.", param="digest"
            )
        )
    body = request.body if request.method == "POST" else None
    # Nobody says for which model it is: whoever sends the same calls elsewhere names the target.
    station = _choose(services, None)
    if body is not None:
        tell_change(services, f"blob {digest} on {station.spec.id}")
    return await _pass_on(services, station, f"/api/blobs/{digest}", body, changes_models=False)


def _choose(services: Services, model: str | None) -> Station:
    """The healthy Ollama server that is meant: one that has the model before one that may have it.

    Raises:
        RequestRefused: there is none.
    """
    headers = RoutingHeaders(raw_headers())
    target = headers.given.get("target", "").strip()
    everybody = list(services.dispatcher.stations.values())
    meant = everybody
    if target:
        meant = [s for s in everybody if s.spec.id == target] or [
            s for s in everybody if s.spec.hardware.value == target.lower()
        ]
        if not meant:
            known = ", ".join(sorted(s.spec.id for s in everybody)) or "none"
            raise RequestRefused(
                Refusal(
                    Code.UNKNOWN_BACKEND,
                    f"There is no backend or hardware named {target!r}. Backends: {known}.",
                    param="target",
                )
            )
    able = [
        s
        for s in services.healthy_stations
        if s in meant
        and (
            s.spec.type is BackendType.OLLAMA
            # What is another machine's is only changed where that is named.
            or (s.is_router and s.spec.id == target and not headers.forwarded)
        )
        and (model is None or s.spec.may_serve(model))
    ]
    if not able:
        where = f" on {target!r}" if target else ""
        what = f" that may hold {model!r}" if model is not None else ""
        raise RequestRefused(
            Refusal(
                Code.NO_BACKEND,
                f"There is no healthy Ollama server{where}{what}.",
                retry_after_s=5.0,
            )
        )
    if model is None:
        return able[0]
    now = trio.current_time()
    return next((s for s in able if s.view(now).has_model(model)), able[0])


async def _pass_on(
    services: Services,
    station: Station,
    path: str,
    body: AsyncIterator[bytes] | bytes | None,
    *,
    changes_models: bool,
) -> Response:
    pipe = Pipe()
    nursery = await holding().enter_async_context(trio.open_nursery())
    holding().callback(nursery.cancel_scope.cancel)
    nursery.start_soon(
        partial(carry, body=body, pipe=pipe, changes_models=changes_models),
        services.dispatcher,
        station,
        request.method,
        path,
    )
    first = await pipe.take()
    more = [(b"x-backend-used", station.spec.id.encode())]
    if isinstance(first, Refusal):
        return refusal_reply(first, more)
    types = {value.partition(b";")[0] for name, value in pipe.head.headers}
    last_words = (
        partial(error_piece, Framing.NDJSON, Dialect.OLLAMA)
        if Framing.NDJSON.value.encode() in types
        else None
    )
    return piped_reply(pipe, first.data, more, last_words)


def _endpoint(method: str, path: str, summary: str, *, changes_models: bool = True) -> Endpoint:
    return Endpoint(
        method=method,
        path=path,
        view=partial(manage, path=path, changes_models=changes_models),
        name=path.rpartition("/")[2],
        summary=summary,
        tag="managing",
        takes=JSON,
        answers=(JSON, Framing.NDJSON.value),
        headers=(TARGET,),
    )


ENDPOINTS = (
    _endpoint("POST", "/api/pull", "Downloads a model to one backend"),
    _endpoint("POST", "/api/create", "Makes a model of another on one backend"),
    _endpoint("POST", "/api/copy", "Copies a model on one backend"),
    _endpoint("POST", "/api/push", "Uploads a model from one backend", changes_models=False),
    _endpoint("DELETE", "/api/delete", "Deletes a model from one backend"),
    Endpoint(
        method="HEAD",
        path="/api/blobs/{digest}",
        view=blob,
        name="has_blob",
        summary="Whether one backend has a layer",
        tag="managing",
        headers=(TARGET,),
    ),
    Endpoint(
        method="POST",
        path="/api/blobs/{digest}",
        view=blob,
        name="put_blob",
        summary="Gives a layer, of any size, to one backend",
        tag="managing",
        takes=_OCTETS,
        headers=(TARGET,),
    ),
)
