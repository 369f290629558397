"""`ollama-proxy say`: asks a running router for a text, shows it as it comes, and what was decided.

Law: the tokens are all that stdout gets, so that they can be piped; what is said about them goes to
stderr. All ways, HTTP, WebSocket and gRPC, end in one `Heard`.
"""

import argparse
import contextlib
import json
import math
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
import httpx
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from ollama_proxy.client import (
    NOT_OURS,
    OK,
    WISHES,
    Unanswered,
    ask,
    client_settings,
    complain,
    encryption,
    key_headers,
    read_fault,
    router_url,
    unanswered,
    wish_headers,
)
from ollama_proxy.terminal import harmless

INTERRUPTED = 128 + signal.SIGINT
CONNECT_S = 10.0
SOCKET_PATH = "/v1/stream/ws"
CANCEL_S = 1.0  # for the router to acknowledge that nothing more is wanted
_NUMBERS = {"max_latency_ms", "max_power_watts"}
_ID = "say"


@attrs.define
class Heard:
    """What has come of an answer.

    Attributes:
        shows: whether text is printed as it comes.
        asked_at: when it was asked for; seconds on Trio's clock.
        backend: who gives it, as the router says.
        reason: why that one.
        first_s: from asking to its first piece.
        tokens: as the server counts them, else its pieces.
        finish_reason: how it ended; "" while it has not.
        joules: what it cost; None where nobody tells.
        joules_source: how that was found.
        fault: why there is no answer, or no more of it; "" where there is no fault.
        watts: what its backend draws by the router's estimate.
        is_unread: nobody reads what is printed any more.
    """

    shows: bool
    asked_at: float
    backend: str | None = None
    reason: str | None = None
    first_s: float | None = None
    ended_s: float = 0.0
    tokens: int = 0
    finish_reason: str = ""
    joules: float | None = None
    joules_source: str = ""
    fault: str = ""
    watts: float | None = None
    is_unread: bool = False
    _pieces: list[str] = attrs.field(factory=list)

    def take(self, text: str, scope: trio.CancelScope) -> None:
        """Take a piece of it; `scope` is left where nobody reads any more."""
        if not text:
            return
        if self.first_s is None:
            self.first_s = trio.current_time() - self.asked_at
        self._pieces.append(text)
        self.tokens += 1
        if self.shows:
            try:
                # A file gets what was said; a terminal obeys no model.
                sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
                sys.stdout.flush()
            except BrokenPipeError:
                self.is_unread = True
                scope.cancel()

    def end(self) -> None:
        """Note when nothing more can come, and what it cost if nobody has told."""
        self.ended_s = trio.current_time() - self.asked_at
        if self.joules is None and self.watts is not None:
            self.joules, self.joules_source = self.watts * self.ended_s, "estimated"

    @property
    def tokens_per_s(self) -> float | None:
        """How fast it came once it came; None where that cannot be told."""
        if self.first_s is None or self.tokens < 2 or self.ended_s <= self.first_s:  # noqa: PLR2004 - two make a pace
            return None
        return (self.tokens - 1) / (self.ended_s - self.first_s)

    def summary(self) -> str:
        """What was decided and how it went, in a line for people."""
        facts = []
        if self.first_s is not None:
            facts.append(f"first token after {self.first_s * 1000:.0f} ms")
        if self.tokens_per_s is not None:
            facts.append(f"{self.tokens_per_s:.1f} tokens/s")
        if self.joules is not None:
            facts.append(f"{self.joules:.2f} J ({self.joules_source})")
        return f"{self.backend} ({self.reason}): {', '.join(facts) or 'nothing came'}"

    def report(self) -> dict[str, object]:
        """The same and the text, for machines."""
        return {
            "text": "".join(self._pieces),
            "backend": self.backend,
            "routing_reason": self.reason,
            "finish_reason": self.finish_reason or None,
            "ttft_ms": None if self.first_s is None else round(self.first_s * 1000, 3),
            "token_count": self.tokens,
            "tokens_per_second": None if self.tokens_per_s is None else round(self.tokens_per_s, 2),
            "energy_j": None if self.joules is None else round(self.joules, 3),
            "energy_source": self.joules_source or None,
            "error": self.fault or None,
        }


@attrs.frozen(kw_only=True)
class Asked:
    """What is asked, of whom, and by which way."""

    url: str
    model: str
    text: str
    wishes: argparse.Namespace
    by_socket: bool
    key: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    encryption: ssl.SSLContext | None = None


def say(arguments: argparse.Namespace) -> int:
    """Ask for a text and show it; returns the exit code."""
    try:
        url = "" if arguments.grpc else router_url(arguments)
        asked = Asked(
            url=url,
            model="" if arguments.grpc else arguments.model or _first_model(arguments),
            text=arguments.text,
            wishes=arguments,
            by_socket=arguments.ws,
            key=key_headers(arguments),
            encryption=encryption(arguments, url),
        )
    except Unanswered as error:
        return complain(str(error))
    heard, is_interrupted = trio.run(_run, asked, not arguments.json)
    if heard.is_unread:
        raise BrokenPipeError  # as from any other command
    if arguments.json:
        print(json.dumps(heard.report(), indent=2))
    elif heard.tokens:
        print(flush=True)
    if heard.fault and not is_interrupted:
        return complain(heard.fault)
    if heard.backend is not None and not arguments.json:
        print(harmless(heard.summary()), file=sys.stderr)
    return INTERRUPTED if is_interrupted else OK


def _first_model(arguments: argparse.Namespace) -> str:
    status, answer = ask(arguments, "GET", "/v1/models")
    if status != httpx.codes.OK or not isinstance(answer, dict) or "data" not in answer:
        raise Unanswered(NOT_OURS.format(router_url(arguments)))
    if not answer["data"]:
        raise Unanswered("no backend has a model; name one with --model")
    return str(answer["data"][0]["id"])


async def _run(asked: Asked, shows: bool) -> tuple[Heard, bool]:  # noqa: FBT001 - trio.run passes by position
    """Ask, and hear the answer to its end, or until it is interrupted."""
    heard = Heard(shows, trio.current_time())
    interrupted = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                async for _ in signals:
                    # A second one does not wait.
                    patience = CANCEL_S if asked.by_socket and not interrupted.is_set() else 0.0
                    interrupted.set()
                    scope.deadline = trio.current_time() + patience

            nursery.start_soon(heed)
            with trio.CancelScope() as scope:
                if asked.wishes.grpc:
                    # Not at the head: messages are slow to import, and seldom wanted here.
                    from ollama_proxy.say_grpc import hear_over_grpc  # noqa: PLC0415 - as above

                    await hear_over_grpc(asked.wishes, heard, scope)
                elif asked.by_socket:
                    await _by_socket(asked, heard, scope, interrupted)
                else:
                    await _by_http(asked, heard, scope)
            heard.end()
            nursery.cancel_scope.cancel()
    return heard, interrupted.is_set()


# -- HTTP ------------------------------------------------------------------------------------------


async def _by_http(asked: Asked, heard: Heard, scope: trio.CancelScope) -> None:
    body = {
        "model": asked.model,
        "messages": [{"role": "user", "content": asked.text}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    # A model that must be loaded first may take minutes.
    timeout = httpx.Timeout(None, connect=CONNECT_S)
    try:
        async with (
            httpx.AsyncClient(**client_settings(asked.wishes, timeout=timeout)) as client,
            client.stream(
                "POST",
                asked.url + "/v1/chat/completions",
                json=body,
                headers=wish_headers(asked.wishes),
            ) as answer,
        ):
            await _hear_events(answer, asked, heard, scope)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        heard.fault = _fault_in(error, asked, heard)
    except ValueError:
        heard.fault = "the answer is not understood"


async def _hear_events(
    answer: httpx.Response, asked: Asked, heard: Heard, scope: trio.CancelScope
) -> None:
    if "x-routing-reason" not in answer.headers and answer.is_success:
        heard.fault = NOT_OURS.format(asked.url)
        return
    if not answer.is_success:
        heard.fault = _fault_of(await answer.aread())
        return
    heard.backend = answer.headers.get("x-backend-used")
    heard.reason = answer.headers["x-routing-reason"]
    heard.watts = _number(answer.headers.get("x-estimated-power-w"))
    async for line in answer.aiter_lines():
        name, _, data = line.partition(":")
        if name != "data":
            continue
        if data.strip() == "[DONE]":
            return
        _hear_chunk(json.loads(data), heard, scope)
        if heard.fault:
            return
    heard.fault = "the answer broke off"


def _hear_chunk(chunk: Mapping[str, Any], heard: Heard, scope: trio.CancelScope) -> None:
    if "error" in chunk:
        heard.fault = read_fault(chunk)
        return
    for choice in chunk.get("choices") or ():
        heard.take((choice.get("delta") or {}).get("content") or "", scope)
        heard.finish_reason = choice.get("finish_reason") or heard.finish_reason
    counted = (chunk.get("usage") or {}).get("completion_tokens")
    heard.tokens = counted or heard.tokens


def _fault_of(body: bytes) -> str:
    try:
        return read_fault(json.loads(body))
    except ValueError:
        return "the answer is not understood"


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


# -- WebSocket -------------------------------------------------------------------------------------


async def _by_socket(
    asked: Asked, heard: Heard, scope: trio.CancelScope, interrupted: trio.Event
) -> None:
    try:
        message = json.dumps(_request(asked))
        async with _open_socket(asked) as socket:
            await socket.send_message(message)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel, socket, interrupted)
                await _hear_frames(socket, heard, scope)
                nursery.cancel_scope.cancel()
    except* _Malformed as wrong:
        heard.fault = str(_first(wrong))
    except* ConnectionRejected as group:
        rejected = _first(group)
        assert isinstance(rejected, ConnectionRejected)  # noqa: S101 - as the clause says
        heard.fault = _fault_of(rejected.body) if rejected.body else NOT_OURS.format(asked.url)
    except* (
        HandshakeError,
        ConnectionClosed,
        trio.BrokenResourceError,
        trio.TooSlowError,
        OSError,
        ValueError,
    ) as group:
        heard.fault = _fault_in(_first(group), asked, heard)


@contextlib.asynccontextmanager
async def _open_socket(asked: Asked) -> AsyncIterator[WebSocketConnection]:
    """Not trio-websocket's own way, which waits for a handshake of TLS that has failed."""
    url = urlsplit(asked.url)
    if not url.hostname:
        raise ValueError(f"{asked.url!r} is no URL")
    with trio.fail_after(CONNECT_S) as patience:
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
        stream = await trio.open_tcp_stream(
            url.hostname, url.port or (80 if asked.encryption is None else 443)
        )
        async with stream, trio.open_nursery() as nursery:
            if asked.encryption is not None:
                stream = trio.SSLStream(
                    stream, asked.encryption, server_hostname=url.hostname, https_compatible=True
                )
                await stream.do_handshake()
            socket = await wrap_client_stream(
                nursery,
                stream,
                url.netloc,
                url.path + SOCKET_PATH,
                extra_headers=[(n.encode(), v.encode()) for n, v in asked.key.items()],
            )
            patience.deadline = math.inf
            async with socket:
                yield socket


def _fault_in(error: BaseException, asked: Asked, heard: Heard) -> str:
    if heard.backend:
        return f"the answer broke off: {str(error) or type(error).__name__}"
    if isinstance(error, trio.TooSlowError):
        error = TimeoutError("timed out")
    return unanswered(asked.url, error)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


class _Malformed(Exception):  # noqa: N818 - a sentence for who typed it
    """A flag whose value a message cannot carry."""


def _request(asked: Asked) -> dict[str, object]:
    """The message. Raises _Malformed."""
    wishes: dict[str, object] = {}
    for wish in WISHES:
        given = getattr(asked.wishes, wish)
        try:
            wishes[wish] = float(given) if given is not None and wish in _NUMBERS else given
        except ValueError:
            raise _Malformed(f"{wish}: expected a number, got {given!r}") from None
    return {
        "request_id": _ID,
        "model": asked.model,
        "messages": [{"role": "user", "content": asked.text}],
        "latency_critical": asked.wishes.latency_critical,
        "power_efficient": asked.wishes.power_efficient,
        **wishes,
    }


async def _cancel(socket: WebSocketConnection, interrupted: trio.Event) -> None:
    """Say that nothing more is wanted; the router acknowledges it with the last frame."""
    await interrupted.wait()
    await socket.send_message(json.dumps({"type": "cancel", "request_id": _ID}))


async def _hear_frames(socket: WebSocketConnection, heard: Heard, scope: trio.CancelScope) -> None:
    while True:
        frame = json.loads(await socket.get_message())
        if "error" in frame:
            heard.fault = read_fault(frame)
            return
        heard.backend = frame.get("backend") or heard.backend
        heard.reason = frame.get("routing_reason") or heard.reason
        heard.take(frame.get("token", ""), scope)
        if frame["done"]:
            heard.finish_reason = frame["finish_reason"]
            heard.tokens = frame.get("token_count") or heard.tokens
            heard.joules = frame.get("energy_j")
            heard.joules_source = frame.get("energy_source") or ""
            return
