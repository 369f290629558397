"""Hypercorn 0.18.0 and Quart-Trio serve one accepted connection here, without their known faults.

Hypercorn's parser, HTTP and WebSocket streams and lifespan are used as they are; its `TCPServer` is
not. One nursery, one reader and one way to close for a whole connection is where its faults sit
(single connections that end the process, connections that never close, writes that never end). So
each request gets an `_Exchange` with a fresh parser, and what lies between two requests (waiting,
refusing, handing back, closing) is a plain loop in `_Connection`.

What is mended, and where:

* an exception of one connection stays in it: `GuardedServer.serve_connection`;
* malformed or ambiguous heads and cleartext HTTP/2 never reach Hypercorn: `refusal`;
* each write is bounded, whatever shields it: `_Wire.send`;
* the reader never pauses, so that a client's leaving is always seen: `_Exchange`;
* the application is cancelled when its client leaves, and is never sent `http.disconnect`: Hypercorn
  sends it after complete answers too, and Quart-Trio then cancels the end of that very answer;
* no permessage-deflate, and a refused or oversized WebSocket closes: `_WebSocket`.

Names of Hypercorn that begin with an underscore are used: it is pinned exactly, and
`tests/inbound/test_guarded.py` fails when one of them moves.
"""

import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast

import attrs
import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.protocol import events as hypercorn
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    LifespanState,
    Scope,
    TaskGroup,
)
from hypercorn.utils import parse_socket_addr, wrap_app
from wsproto.connection import ConnectionState as WebSocketState
from wsproto.events import CloseConnection
from wsproto.frame_protocol import CloseReason

from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.inbound.answers import error_body, turned_away
from ollama_proxy.inbound.bounds import Bound, Bounds
from ollama_proxy.inbound.connections import reset_when_closed
from ollama_proxy.inbound.farewell import part
from ollama_proxy.policy.ask import Dialect
from ollama_proxy.policy.refusal import Code, Refusal

log = logging.getLogger("ollama_proxy.http")

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

READ_BYTES: Final = 65536
# Largest piece whose sending must end within the write limit: about 6 KB/s at the default of 10 s.
_PIECE_BYTES: Final = 65536
# Below this mean size, more chunks than `GuardedLimits.small_chunks` are an attack on the parser.
_SMALL_CHUNK_BYTES: Final = 64
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])")
_FIELD_NAME = re.compile(_TOKEN)
_HOST = re.compile(rb"[0-9A-Za-z._~%\[\]:-]+")
_LENGTH = re.compile(rb"[0-9]{1,18}")
# A line ends in CRLF: a bare LF or CR is a line's end to some parsers and text to others.
_NEVER_IN_HEAD = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Hypercorn decodes these as ASCII, and is not prepared for anything else.
_ASCII_FIELDS = (
    b"connection",
    b"upgrade",
    b"expect",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
)


@attrs.frozen(kw_only=True)
class GuardedLimits:
    """How much, and how long, one connection may take.

    Attributes:
        write_timeout_s: for each 64 KiB that a client has to take off us, and for an application
            to take `unread_messages` off its client.
        keep_alive_s: an idle connection's life.
        head_timeout_s: from a head's first byte to its last.
        head_bytes: request line and headers.
        headers: how many of them.
        early_bytes: kept of what a client sends after a request that is still being answered;
            with more than that, the connection closes after the answer.
        small_chunks: how many chunks of under 64 bytes on average a body may have.
        linger_s: for a client to read our last answer before the socket closes.
        unread_messages: an application's queue.
        websocket_message_bytes: the largest WebSocket message.
        websocket_ping_s: between two pings to a WebSocket.
        lifespan_timeout_s: for the application to start, and again to stop.
    """

    write_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    head_timeout_s: float = 10.0
    head_bytes: int = 32 * 1024
    headers: int = 100
    early_bytes: int = 64 * 1024
    small_chunks: int = 10_000
    linger_s: float = 1.0
    unread_messages: int = 32
    websocket_message_bytes: int = 1 << 20
    websocket_ping_s: float = 20.0
    lifespan_timeout_s: float = 60.0


def refusal(buffer: bytes, limits: GuardedLimits) -> HTTPStatus | None:
    """Say why the request at the start of `buffer` is not served; None when it may be.

    1. The head is complete and within its size (431), its lines are lines (400).
    2. The request line is one (400), of HTTP/1.0 or 1.1 (505), and its method is one we know how
       to frame (405) and spelt in capitals (501).
    3. The target is a path, or `*` for OPTIONS (400): absolute forms carry a second host.
    4. Headers are few enough (431), none is folded or malformed (400).
    5. There is one Host (400), which HTTP/1.0 may leave out.
    6. The body's end is unambiguous (400), its coding is one we know (501).
    7. What asks for a WebSocket brings no body (400).
    """
    end = buffer.find(b"\r\n\r\n")
    if end > limits.head_bytes or (end < 0 and len(buffer) > limits.head_bytes):
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if end < 0 or _NEVER_IN_HEAD.search(buffer, 0, end + 4):
        return HTTPStatus.BAD_REQUEST
    request_line, *lines = buffer[:end].split(b"\r\n")

    parts = _REQUEST_LINE.fullmatch(request_line)
    if parts is None:
        return HTTPStatus.BAD_REQUEST
    method, target, http = parts.groups()
    if http not in {b"1.0", b"1.1"}:
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    if method in {b"CONNECT", b"TRACE"}:
        return HTTPStatus.METHOD_NOT_ALLOWED
    if method != method.upper():
        return HTTPStatus.NOT_IMPLEMENTED

    if not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")):
        return HTTPStatus.BAD_REQUEST

    if len(lines) > limits.headers:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            return HTTPStatus.BAD_REQUEST
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    if not all(value.isascii() for name in _ASCII_FIELDS for value in fields.get(name, ())):
        return HTTPStatus.BAD_REQUEST

    hosts = fields.get(b"host", [])
    if len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)) or (not hosts and http == b"1.1"):
        return HTTPStatus.BAD_REQUEST

    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return HTTPStatus.BAD_REQUEST
    if codings and (lengths or http == b"1.0"):
        return HTTPStatus.BAD_REQUEST
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        return HTTPStatus.NOT_IMPLEMENTED

    has_body = bool(codings) or lengths not in ([], [b"0"])
    if has_body and b"websocket" in [value.lower() for value in fields.get(b"upgrade", ())]:
        return HTTPStatus.BAD_REQUEST
    return None


class GuardedServer:
    """One application, and what its connections share."""

    def __init__(
        self,
        app: ASGIFramework,
        limits: GuardedLimits | None = None,
        *,
        bounds: Bounds | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Make ready to serve `app`, a Quart-Trio application.

        `bounds` are told what was reached, the `ledger` who never came as far as the application.
        """
        self.bounds = bounds or Bounds()
        self.ledger = ledger or Ledger()
        self.limits = limits or GuardedLimits()
        self.is_draining = False
        self._idle: set[trio.CancelScope] = set()
        self._state: LifespanState = {}
        self._app = wrap_app(app, 0, "asgi")
        self._context = WorkerContext(None)
        self._config = _configuration(self.limits)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the application's lifespan: started before ready, stopped when cancelled.

        Raises:
            hypercorn.utils.LifespanFailureError: in a group, when the application cannot start.
            hypercorn.utils.LifespanTimeoutError: in a group, when it does not within its time.
        """
        lifespan = Lifespan(self._app, self._config, self._state)
        # Shielded: the application must live on to be stopped properly when all else is cancelled.
        living = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(_live, lifespan, living)
            try:
                await lifespan.wait_for_startup()
                # A failed start sets both events, and is raised by the task itself.
                if not (lifespan.supported and lifespan.shutdown.is_set()):
                    task_status.started()
                    await self._stop_when_cancelled(lifespan)
            finally:
                living.shield = False

    async def _stop_when_cancelled(self, lifespan: Lifespan) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # bounded by Hypercorn
                await lifespan.wait_for_shutdown()

    def drain(self) -> None:
        """Close idle connections now, and busy ones after their answer. For good.

        Idle is, too, whose request's head is not whole yet: nothing was begun for it.

        A WebSocket is left to its handler; one that is still open when its connection is cancelled
        is closed with 1001.
        """
        self.is_draining = True
        for scope in list(self._idle):
            scope.cancel()

    async def serve_connection(
        self, stream: Stream, received: bytes, *, takes_back: Callable[[bytes], bool]
    ) -> bytes | None:
        """Serve the requests of one connection, until it ends or `takes_back` wants one.

        Args:
            stream: the connection, after its TLS handshake if it has one.
            received: what was read of it already; its first request is served here in any case.
            takes_back: asked, about each later request, with bytes that hold its request line at
                least; must not block.

        Returns:
            The bytes received of a request that was taken back, the connection being idle and
            open; None when the connection is finished and closed.

        Raises:
            Nothing but `trio.Cancelled`, after which the connection is closed.
        """
        wire = _Wire(stream, self.limits, self.bounds)
        taken: bytes | None = None
        try:
            taken = await _Connection(self, wire, received, takes_back).serve()
        except* _GONE:
            log.debug("a client left")
        except* Exception as faults:  # noqa: BLE001 - one connection's fault must not end the others
            log.error("connection dropped: %s", _names(faults))  # noqa: TRY400 - the traceback may show payload
        finally:
            if taken is None:
                wire.cut()
        return taken


def _configuration(limits: GuardedLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.head_bytes
    config.max_app_queue_size = limits.unread_messages
    config.websocket_max_message_size = limits.websocket_message_bytes
    config.websocket_ping_interval = limits.websocket_ping_s
    config.startup_timeout = config.shutdown_timeout = limits.lifespan_timeout_s
    return config


async def _live(
    lifespan: Lifespan, living: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    with living:
        await lifespan.handle_lifespan(task_status=task_status)


def _names(faults: BaseExceptionGroup[BaseException]) -> str:
    """Name the types only: an exception's text may quote the request."""
    return ", ".join(sorted({type(fault).__name__ for fault in _leaves(faults)}))


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for fault in group.exceptions:
        if isinstance(fault, BaseExceptionGroup):
            yield from _leaves(fault)
        else:
            yield fault


class _Wire:
    """One connection's socket; every write on it is bounded, and it is broken after one that failed."""

    def __init__(self, stream: Stream, limits: GuardedLimits, bounds: Bounds) -> None:
        self._stream = stream
        self._bounds = bounds
        self._limits = limits
        self._turn = trio.Lock()
        self._is_broken = False
        self.is_tls = isinstance(stream, trio.SSLStream)
        transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        self.socket = transport.socket

    async def receive(self) -> bytes:
        return bytes(await self._stream.receive_some(READ_BYTES))

    async def send(self, data: bytes) -> None:
        """Send all of `data`, uncancelled, since a parser counts bytes as sent once they are made.

        Raises:
            OSError, trio.BrokenResourceError, trio.ClosedResourceError: the client is gone, or took
                longer than the write limit over a piece.
        """
        with trio.CancelScope(shield=True):
            async with self._turn:
                for start in range(0, len(data), _PIECE_BYTES):
                    await self._send_piece(data[start : start + _PIECE_BYTES])

    async def _send_piece(self, piece: bytes) -> None:
        if self._is_broken:
            raise trio.BrokenResourceError
        self._is_broken = True
        with trio.move_on_after(self._limits.write_timeout_s) as patience:
            await self._stream.send_all(piece)
        if patience.cancelled_caught:
            self._bounds.reach(Bound.WRITE_TIME)
            reset_when_closed(self._stream)
            self.cut()
            raise trio.BrokenResourceError
        self._is_broken = False

    async def part(self) -> None:
        """Close so that the client can read our last answer: unread bytes would make it a reset."""
        await part(self._stream, self._limits.linger_s)

    def cut(self) -> None:
        """Close at once. Whoever waits on the socket gets `trio.ClosedResourceError`."""
        self.socket.close()


class _Connection:
    """What lies between two requests of a connection: waiting, refusing, handing back, closing."""

    def __init__(
        self,
        server: GuardedServer,
        wire: _Wire,
        received: bytes,
        takes_back: Callable[[bytes], bool],
    ) -> None:
        self._server = server
        self._limits = server.limits
        self._wire = wire
        self._buffer = received
        self._takes_back = takes_back

    async def serve(self) -> bytes | None:
        """Serve until the end, or until a request is taken back: then return its bytes."""
        is_first = True
        while await self._is_spoken_to():
            with self._waiting(self._limits.head_timeout_s) as patience:
                if not is_first:
                    await self._read_to(b"\n")
                    if self._takes_back(self._buffer):
                        return self._buffer
                await self._read_to(b"\r\n\r\n")
            if patience.cancelled_caught and self._server.is_draining:
                break
            if patience.cancelled_caught:
                status: HTTPStatus | None = HTTPStatus.REQUEST_TIMEOUT
            else:
                status = refusal(self._buffer, self._limits)
            if status in _BOUNDS:
                self._server.bounds.reach(_BOUNDS[status])
            if status is not None:
                why = _refusal(status)
                # What it asked for is not known for sure.
                self._server.ledger.turn_away(turned_away("http", "", why))
                is_head = self._buffer.startswith(b"HEAD ")
                await self._wire.send(_answer(status, why, is_head=is_head))
                break
            rest = await _Exchange(self._server, self._wire).run(self._buffer)
            if rest is None:
                break
            self._buffer, is_first = rest, False
        await self._wire.part()
        return None

    async def _is_spoken_to(self) -> bool:
        """Wait for a request's first byte, past empty lines (RFC 9112, 2.2)."""
        self._buffer = self._buffer.lstrip(b"\r\n")
        if self._buffer:
            return True
        with self._waiting(self._limits.keep_alive_s) as patience:
            while not self._buffer:
                data = await self._wire.receive()
                if not data:
                    return False
                self._buffer = data.lstrip(b"\r\n")
        if patience.cancelled_caught and not self._server.is_draining:
            self._server.bounds.reach(Bound.IDLE_TIME)
        return bool(self._buffer)

    @contextlib.contextmanager
    def _waiting(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Wait for a request so long at most, and no longer than until `drain`: nothing is owed yet."""
        with trio.move_on_after(seconds) as patience:
            if self._server.is_draining:
                patience.cancel()
            self._server._idle.add(patience)  # noqa: SLF001 - one room: `drain` cancels it
            try:
                yield patience
            finally:
                self._server._idle.discard(patience)  # noqa: SLF001 - as above

    async def _read_to(self, mark: bytes) -> None:
        """Read until the head holds `mark`, or cannot become a head that is served."""
        seen = 0
        while (
            self._buffer.find(mark, seen) < 0
            and len(self._buffer) <= self._limits.head_bytes
            and not _NEVER_IN_HEAD.search(self._buffer, seen)
        ):
            seen = max(0, len(self._buffer) - 3)
            data = await self._wire.receive()
            if not data:
                raise trio.BrokenResourceError
            self._buffer += data


_BOUNDS: Final[dict[HTTPStatus | None, Bound]] = {
    HTTPStatus.REQUEST_TIMEOUT: Bound.HEAD_TIME,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Bound.HEAD_BYTES,
}
_REFUSALS: Final = {
    HTTPStatus.REQUEST_TIMEOUT: (Code.REQUEST_TIMEOUT, "The request's head took too long."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
        Code.HEADERS_TOO_LARGE,
        "The request's head is too long, or has too many headers.",
    ),
    HTTPStatus.METHOD_NOT_ALLOWED: (Code.METHOD_NOT_ALLOWED, "This method is not served."),
    HTTPStatus.NOT_IMPLEMENTED: (
        Code.NOT_IMPLEMENTED,
        "This method or transfer coding is not understood.",
    ),
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: (
        Code.HTTP_VERSION,
        "Only HTTP/1.1 and HTTP/1.0 are served here.",
    ),
}


def _refusal(status: HTTPStatus) -> Refusal:
    return Refusal(
        *_REFUSALS.get(
            status, (Code.INVALID_REQUEST, "The request is malformed or ambiguous HTTP.")
        )
    )


def _answer(status: HTTPStatus, why: Refusal, *, is_head: bool) -> bytes:
    """Say no, and close. What was asked is not known for sure, so the words are OpenAI's."""
    body = error_body(Dialect.OPENAI, why)
    allow = "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"{allow if status is HTTPStatus.METHOD_NOT_ALLOWED else ''}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode()
    return head if is_head else head + body


class _Exchange:
    """One request and its answer, or one WebSocket: the application in a task, this one reading.

    Hypercorn knows it as the task group and as the function to send with. It ends in two ways:
    `finish` lets the application return in peace, `abandon` cancels it.
    """

    def __init__(self, server: GuardedServer, wire: _Wire) -> None:
        self.server = server
        self.limits = server.limits
        self.config = server._config  # noqa: SLF001 - one room
        self._wire = wire
        self._nursery: trio.Nursery
        self._reading = trio.CancelScope()
        self._early = b""
        self._is_flooded = False
        self._is_ended = False
        self._is_reusable = False
        address = wire.socket.family
        self._protocol = _Protocol(
            server._app,  # noqa: SLF001 - one room
            self.config,
            server._context,  # noqa: SLF001 - one room
            cast("TaskGroup", self),  # of which only `spawn` and `spawn_app` are called
            ConnectionState(server._state.copy()),  # noqa: SLF001 - one room
            wire.is_tls,
            parse_socket_addr(address, wire.socket.getpeername()),
            parse_socket_addr(address, wire.socket.getsockname()),
            self.send,
        )
        self._protocol.exchange = self

    async def run(self, received: bytes) -> bytes | None:
        """Serve one request, whose head is complete in `received`.

        Returns:
            What was received after it, if another request may follow on this connection.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                with self._reading:
                    await self._read(received)
            except trio.Cancelled:
                if not self._is_ended:
                    with trio.move_on_after(self.server.limits.write_timeout_s, shield=True):
                        await self._protocol.go_away()
                    self._wire.cut()  # also ends a write that a client is not taking
                raise
        if not self._is_reusable or self.must_close:
            return None
        return self._protocol.trailing + self._early

    @property
    def must_close(self) -> bool:
        """Is this the last request of its connection, as far as we are concerned?"""
        return self._is_flooded or self.server.is_draining

    def finish(self, *, is_reusable: bool) -> None:
        """The answer is complete. The first of several calls counts."""
        if not self._is_ended:
            self._is_ended = True
            self._is_reusable = is_reusable
            self._reading.cancel()

    def abandon(self) -> None:
        """There is nobody to answer any more: cancel the application."""
        self.finish(is_reusable=False)
        self._nursery.cancel_scope.cancel()

    async def _read(self, data: bytes) -> None:
        while data:
            if not self._protocol.is_fed:
                await self._protocol.handle(RawData(data))
            elif self._protocol.is_answered:
                # The next request, and not too early: its client cannot see that ours is still to return.
                self._early += data
                await trio.sleep_forever()
            else:
                self._keep(data)
            data = await self._wire.receive()
        self._wire.cut()
        self.abandon()

    def _keep(self, data: bytes) -> None:
        """Keep what comes too early; too much of it is read all the same, to see the client leave."""
        if len(self._early) + len(data) > self.limits.early_bytes:
            self._is_flooded = True
            self.server.bounds.reach(Bound.EARLY_BYTES)
            self._early = b""
        elif not self._is_flooded:
            self._early += data

    async def send(self, event: Event) -> None:
        """Do what Hypercorn's protocol asks of its server."""
        if not isinstance(event, RawData):
            self.abandon()
            return
        try:
            await self._wire.send(event.data)
        except _GONE:
            self.abandon()
            # So that an application ends as cancelled, whichever way its client left.
            await trio.lowlevel.checkpoint_if_cancelled()

    def spawn(self, work: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Run what Hypercorn wants beside the application: a WebSocket's pings."""
        self._nursery.start_soon(work, *args)

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application on one request; return how to give it messages."""
        put, take = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)
        self._nursery.start_soon(self._run_app, app, scope, take, send)

        async def give(message: ASGIReceiveEvent) -> None:
            with trio.move_on_after(self.limits.write_timeout_s) as patience:
                await put.send(_mended(message))
            if patience.cancelled_caught:
                # Waiting longer would blind us: the client's leaving comes after what is unread.
                await self._protocol.go_away(CloseReason.POLICY_VIOLATION)
                self.abandon()

        return give

    async def _run_app(
        self,
        app: AppWrapper,
        scope: Scope,
        take: trio.MemoryReceiveChannel[ASGIReceiveEvent],
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        try:
            await app(scope, take.receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* Exception as faults:  # noqa: BLE001 - Hypercorn answers 500, or cuts the answer short
            log.error("application failed: %s", _names(faults))  # noqa: TRY400 - the traceback may show payload
        await send(None)


def _mended(message: ASGIReceiveEvent) -> ASGIReceiveEvent:
    """Quart reads `bytes or text`: an empty binary message would reach its handlers as None."""
    if message["type"] == "websocket.receive" and message["bytes"] == b"":
        return cast("ASGIReceiveEvent", {**message, "text": b""})
    return message


class _Protocol(H11Protocol):
    """Hypercorn's HTTP/1.1 for a single request: no recycling, no pausing, no way to HTTP/2."""

    exchange: _Exchange

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - Hypercorn's nine
        super().__init__(*args)
        self._chunks = 0
        self._chunk_bytes = 0

    @property
    def is_fed(self) -> bool:
        """Has the request come to its end, so that what follows belongs to another?"""
        return isinstance(self.connection, h11.Connection) and (
            self.connection.their_state not in {h11.IDLE, h11.SEND_BODY}
        )

    @property
    def is_answered(self) -> bool:
        """Is its answer whole?"""
        return isinstance(self.connection, h11.Connection) and (
            self.connection.our_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}
        )

    @property
    def trailing(self) -> bytes:
        """What was fed beyond the request's end."""
        return self.connection.trailing_data[0]

    async def go_away(self, reason: CloseReason = CloseReason.GOING_AWAY) -> None:
        """Tell a WebSocket's client why we close; HTTP has no words for it."""
        if isinstance(self.stream, _WebSocket):
            await self.stream.go_away(reason)

    async def stream_send(self, event: hypercorn.Event) -> None:
        if (
            isinstance(event, hypercorn.Response)
            and event.status_code != HTTPStatus.SWITCHING_PROTOCOLS
            and (self.exchange.must_close or not self.is_fed)
        ):
            # Also where an answer does not wait for the body: what is left of it makes it the last.
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _handle_events(self) -> None:
        """Pass on what is complete. Unlike Hypercorn's, it returns when the request is."""
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                event = self.connection.next_event()
                self._check_chunks(event)
            except h11.RemoteProtocolError as error:
                if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._send_error_response(error.error_status_hint)
                self.exchange.abandon()
                return
            match event:
                case h11.Request():
                    await self._create_stream(event)
                case h11.Data() if self.stream is not None:
                    await self.stream.handle(hypercorn.Body(STREAM_ID, bytes(event.data)))
                case h11.EndOfMessage() if self.stream is not None:
                    await self.stream.handle(hypercorn.EndBody(STREAM_ID))
                case hypercorn.Data() if self.stream is not None:
                    await self.stream.handle(event)
                case _:
                    return

    def _check_chunks(self, event: object) -> None:
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._chunk_bytes += len(event.data)
            is_dust = self._chunk_bytes < self._chunks * _SMALL_CHUNK_BYTES
            if is_dust and self._chunks > self.exchange.limits.small_chunks:
                self.exchange.server.bounds.reach(Bound.SMALL_CHUNKS)
                raise h11.RemoteProtocolError("too many small chunks")

    async def _create_stream(self, request: h11.Request) -> None:
        fields = {name: value.lower() for name, value in request.headers}
        options = [option.strip() for option in fields.get(b"connection", b"").split(b",")]
        is_websocket = (
            request.method == b"GET"
            and b"upgrade" in options
            and fields.get(b"upgrade") == b"websocket"
        )
        self.stream = (_WebSocket if is_websocket else HTTPStream)(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        if is_websocket:
            self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        await self.stream.handle(
            hypercorn.Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )

    async def _maybe_recycle(self) -> None:
        """End the exchange: the stream has nothing more to say."""
        if self.stream is not None:
            self.stream.closed = True
        if isinstance(self.stream, _WebSocket):
            self.exchange.abandon()
        else:
            ours, theirs = self.connection.our_state, self.connection.their_state
            self.exchange.finish(is_reusable=ours is h11.DONE and theirs is h11.DONE)


class _WebSocket(WSStream):
    """Hypercorn's WebSocket, without compression, and closed when it is over."""

    async def handle(self, event: hypercorn.Event) -> None:
        if isinstance(event, hypercorn.Request):
            # Inflating has no bound: 261 KB became 445 MB. Unasked for, it is not offered.
            headers = [pair for pair in event.headers if pair[0] != b"sec-websocket-extensions"]
            event = replace(event, headers=headers)
        was_closed = self.closed
        await super().handle(event)
        if self.closed and not was_closed:
            # Refused: Hypercorn answers and forgets to end.
            await self.send(hypercorn.StreamClosed(self.stream_id))

    async def go_away(self, reason: CloseReason) -> None:
        """Send a close frame, if the WebSocket is open."""
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._send_wsproto_event(CloseConnection(code=reason))

    async def _handle_events(self) -> None:
        await super()._handle_events()
        is_ours = self.state is ASGIWebsocketState.CONNECTED and not self.closed
        if is_ours and self.connection.state is WebSocketState.LOCAL_CLOSING:
            # We refused a message that is too large, which Hypercorn leaves at that.
            await self.send(hypercorn.StreamClosed(self.stream_id))
