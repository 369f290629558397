"""The Quart app, put together: every endpoint behind one gate, every error in its path's dialect."""

from functools import partial

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ollama_proxy.inbound.http import (
    control,
    inference,
    listing,
    machine,
    managing,
    scraping,
    watching,
)
from ollama_proxy.inbound.http.endpoint import Endpoint, Services
from ollama_proxy.inbound.http.exchange import Exchange, HoldingRequest, asked, raw_headers
from ollama_proxy.inbound.http.openapi import describe
from ollama_proxy.inbound.http.replies import json_reply, refusal_reply
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

__all__ = ["ENDPOINTS", "Services", "create_app"]

_CODES = {
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.REQUEST_TIMEOUT,
    413: Code.BODY_TOO_LARGE,
}


async def openapi(services: Services) -> Response:
    """Describe the app."""
    return json_reply(describe(ENDPOINTS, version=services.version))


ENDPOINTS = (
    *inference.ENDPOINTS,
    *listing.ENDPOINTS,
    *managing.ENDPOINTS,
    *control.ENDPOINTS,
    *machine.ENDPOINTS,
    *scraping.ENDPOINTS,
    *watching.ENDPOINTS,
    Endpoint(
        method="GET",
        path="/openapi.json",
        view=openapi,
        name="openapi",
        summary="This document",
        tag="control",
    ),
)


def create_app(services: Services) -> QuartTrio:
    """Make the app.

    Args:
        services: what its views work with.

    Returns:
        An ASGI app that any server on Trio can serve.
    """
    app = QuartTrio(__name__, static_folder=None)
    app.asgi_http_class = Exchange
    app.request_class = HoldingRequest
    # A path is one thing or another: neither a slash more nor two for one leads elsewhere.
    app.url_map.merge_slashes = False
    app.config.update(
        BODY_TIMEOUT=services.body_timeout_s,
        MAX_CONTENT_LENGTH=services.max_body_bytes,
        RESPONSE_TIMEOUT=None,
    )
    for endpoint in ENDPOINTS:
        app.add_url_rule(
            endpoint.rule,
            endpoint.name,
            partial(endpoint.view, services),
            methods=[endpoint.method],
            provide_automatic_options=False,
        )

    # Asynchronous though they wait for nothing: Quart runs plain functions in threads.
    @app.before_request
    @app.before_websocket
    async def judge() -> Response | None:
        refusal = _judged(services)
        return None if refusal is None else refusal_reply(refusal)

    @app.errorhandler(RequestRefused)
    async def refuse(refused: RequestRefused) -> Response:
        return refusal_reply(refused.refusal)

    @app.errorhandler(HTTPException)
    async def explain(error: HTTPException) -> Response:
        allowed = sorted(error.valid_methods or ()) if isinstance(error, MethodNotAllowed) else []
        more = [(b"allow", ", ".join(allowed).encode())] if allowed else []
        return refusal_reply(_refusal_of(error, services), more)

    return app


def _judged(services: Services) -> Refusal | None:
    headers = raw_headers()
    hosts = [value for name, value in headers if name == b"host"]
    origins = [value for name, value in headers if name == b"origin"]
    # Of two hosts neither can be believed, and two origins are none that is allowed.
    host = hosts[0] if len(hosts) == 1 else b""
    return services.gate.judge(host, b", ".join(origins) if origins else None)


def _refusal_of(error: HTTPException, services: Services) -> Refusal:
    """Say in the router's words what Quart itself has refused."""
    status = error.code or 500
    code = _CODES.get(status, Code.INVALID_REQUEST if status < 500 else Code.INTERNAL)  # noqa: PLR2004 - RFC 9110: 5xx
    match code:
        case Code.NOT_FOUND:
            message = f"There is nothing at {asked().path}."
        case Code.METHOD_NOT_ALLOWED:
            message = f"{request.path} does not take {request.method}."
        case Code.REQUEST_TIMEOUT:
            message = "The request's body took too long."
        case Code.BODY_TOO_LARGE:
            limit = services.max_body_bytes >> 20
            message = f"The body is larger than {limit} MiB (max_body_mib)."
        case Code.INTERNAL:
            message = "The router made a mistake; its log says which."
        case _:
            message = error.description or "The request is not understood."
    return Refusal(code, message)
