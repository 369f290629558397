"""The Quart app, put together: every endpoint behind one gate, every error in its path's dialect."""

from collections.abc import Iterable, Sequence
from functools import partial

from quart import Response, g, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import BadHost, HTTPException, MethodNotAllowed
from werkzeug.routing import MapAdapter

from ollama_proxy.inbound.admission import Visitor
from ollama_proxy.inbound.answers import turned_away
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD, Bound
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
from ollama_proxy.inbound.http.exchange import HoldingRequest, asked, bounded, raw_headers
from ollama_proxy.inbound.http.openapi import describe
from ollama_proxy.inbound.http.replies import json_reply, refusal_reply, reply
from ollama_proxy.inbound.trust import is_preflight, judge_page, preflight_headers
from ollama_proxy.policy.access import NOTHING, OPEN
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

__all__ = ["ENDPOINTS", "Services", "create_app"]

_CODES = {
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.REQUEST_TIMEOUT,
    413: Code.BODY_TOO_LARGE,
    503: TOO_MUCH_HELD.code,
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


class _App(QuartTrio):
    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Leave it to the gate to refuse a host that is none: without an adapter it is asked."""
        try:
            return super().create_url_adapter(request)
        except BadHost:
            return None


def create_app(services: Services) -> QuartTrio:
    """Make the app.

    Args:
        services: what its views work with.

    Returns:
        An ASGI app that any server on Trio can serve.
    """
    app = _App(__name__, static_folder=None)
    app.asgi_http_class = bounded(services.bounds)
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
        judged = _judged(services)
        if isinstance(judged, Refusal):
            return _turned_away(services, judged)
        if judged is PREFLIGHT:
            return reply(b"", 204, preflight_headers(raw_headers()))
        g.visitor = judged
        return None

    @app.after_request
    async def share(response: Response) -> Response:
        for name, value in services.gate.sharing(_origin(raw_headers())):
            response.headers.add(name.decode(), value.decode("latin-1"))
        return response

    @app.errorhandler(RequestRefused)
    async def refuse(refused: RequestRefused) -> Response:
        return _turned_away(services, refused.refusal)

    @app.errorhandler(HTTPException)
    async def explain(error: HTTPException) -> Response:
        allowed = sorted(error.valid_methods or ()) if isinstance(error, MethodNotAllowed) else []
        more = [(b"allow", ", ".join(allowed).encode())] if allowed else []
        return _turned_away(services, _refusal_of(error, services), more)

    return app


_RULES = {endpoint.name: f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS}
_PATHS = {endpoint.name: endpoint.path for endpoint in ENDPOINTS}


def _place() -> str:
    """Which of our paths was asked for. Any other may hold what is secret: a key, pasted amiss."""
    rule = asked().url_rule
    return "elsewhere" if rule is None else _PATHS.get(str(rule.endpoint), str(rule))


def _turned_away(
    services: Services, refusal: Refusal, more: Sequence[tuple[bytes, bytes]] = ()
) -> Response:
    """Refuse what is being asked, and book it."""
    services.dispatcher.ledger.turn_away(turned_away("http", _place(), refusal))
    return refusal_reply(refusal, more)


# Who only asks what a listed page may do.
PREFLIGHT = Visitor(OPEN)


def _origin(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    # Two origins are none that is allowed.
    origins = [value for name, value in headers if name == b"origin"]
    return b", ".join(origins) if origins else None


def _judged(services: Services) -> Visitor | Refusal:
    headers = raw_headers()
    hosts = [value for name, value in headers if name == b"host"]
    # Of two hosts neither can be believed.
    host = hosts[0] if len(hosts) == 1 else b""
    origin = _origin(headers)
    refusal = services.gate.judge(host, origin) or judge_page(asked().method, headers)
    if refusal is not None:
        return refusal
    if services.gate.sharing(origin) and is_preflight(asked().method, headers):
        return PREFLIGHT
    # By the endpoint that will answer, not by the path again: there is no second reading of it.
    rule = asked().url_rule
    what = NOTHING if rule is None else _RULES.get(str(rule.endpoint), str(rule))
    client = asked().scope["client"]
    return services.gate.admission.admit(what, headers, client[0] if client else "")


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
            services.bounds.reach(Bound.BODY_TIME)
            message = "The request's body took too long."
        case Code.BODY_TOO_LARGE:
            services.bounds.reach(Bound.BODY_BYTES)
            limit = services.max_body_bytes >> 20
            message = f"The body is larger than {limit} MiB (max_body_mib)."
        case Code.QUEUE_FULL:
            return TOO_MUCH_HELD
        case Code.INTERNAL:
            message = "The router made a mistake; its log says which."
        case _:
            message = error.description or "The request is not understood."
    return Refusal(code, message)
