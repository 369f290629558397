"""Values as Quart's answers, refusals in the dialect of the path that was asked for."""

from collections.abc import AsyncIterable, Sequence
from types import TracebackType
from typing import Self

import msgspec
from quart import Response, request
from quart.wrappers.response import ResponseBody
from werkzeug.datastructures import Headers as WerkzeugHeaders

from ollama_proxy.inbound.answers import STATUS, Headers, error_body, error_headers
from ollama_proxy.inbound.http.endpoint import JSON, TEXT
from ollama_proxy.inbound.http.exchange import asked, raw_headers
from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.policy.ask import CALLS_BY_PATH, Dialect
from ollama_proxy.policy.refusal import Refusal


def dialect_of(path: str) -> Dialect:
    """Whose words a path belongs to, whether or not there is anything at it."""
    if path == "/api" or path.startswith("/api/"):
        return Dialect.OLLAMA
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI


class HeldBody(ResponseBody, AsyncIterable[bytes]):
    """A body in pieces; what it needs is held by its request's stack, which is left for sure."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Nothing, as above."""


def reply(body: bytes | ResponseBody, status: int, headers: Headers) -> Response:
    """An answer with exactly these headers, and a length where it is known."""
    response = Response(
        body,
        status,
        WerkzeugHeaders([(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers]),
    )
    if not any(name == b"content-type" for name, _ in headers):
        del response.headers["content-type"]  # Quart guesses HTML
    return response


def json_reply(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    return reply(msgspec.json.encode(value), status, [(b"content-type", JSON.encode())])


def text_reply(text: str, status: int = 200) -> Response:
    """Words for people."""
    return reply(text.encode(), status, [(b"content-type", TEXT.encode() + b"; charset=utf-8")])


def refusal_reply(refusal: Refusal, more: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """A refusal, with headers besides its own; every inference answer tells the request's id."""
    headers = [*error_headers(refusal), *more]
    path = asked().path
    if path in CALLS_BY_PATH and not any(name == b"x-request-id" for name, _ in more):
        request_id = RoutingHeaders(raw_headers()).request_id
        headers.append((b"x-request-id", request_id.encode()))
    return reply(
        error_body(dialect_of(path), refusal),
        STATUS[refusal.code],
        headers,
    )


def prefers_text() -> bool:
    """Whether the present request asks for text rather than JSON."""
    return request.accept_mimetypes.best_match([JSON, TEXT], default=JSON) == TEXT
