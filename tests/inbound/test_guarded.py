"""What one connection may do to the server, and what the server owes it."""

import inspect
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import attrs
import h11
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.events import RawData, Updated
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake, WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIReceiveEvent, ConnectionState, Scope, TaskGroup
from hypercorn.utils import LifespanFailureError, wrap_app
from quart import Response, request, websocket
from quart_trio import QuartTrio
from wsproto.connection import Connection, ConnectionType
from wsproto.connection import ConnectionState as WebSocketState
from wsproto.events import CloseConnection

from ollama_proxy.inbound.guarded import GuardedLimits, GuardedServer, refusal
from tests.inbound.ends import read_to_end
from tests.inbound.killers import HANDSHAKE, KILLERS, Pieces, websocket_frame

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LANE = b"POST /lane HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
BRIEF = GuardedLimits(
    write_timeout_s=0.3, keep_alive_s=0.3, head_timeout_s=0.3, linger_s=0.3, small_chunks=500
)


@attrs.define
class Witness:
    """What the application saw."""

    started: trio.Event = attrs.field(factory=trio.Event)
    cancelled: trio.Event = attrs.field(factory=trio.Event)
    release: trio.Event = attrs.field(factory=trio.Event)
    lifespan: list[str] = attrs.field(factory=list)
    messages: list[str | bytes] = attrs.field(factory=list)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Note that the application started, and whether it was made to stop."""
        self.started.set()
        try:
            yield
        except trio.Cancelled:
            self.cancelled.set()
            raise


def application(seen: Witness) -> QuartTrio:
    app = QuartTrio(__name__)
    app.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=0.3, MAX_CONTENT_LENGTH=100_000)

    @app.before_serving
    async def before() -> None:
        seen.lifespan.append("started")

    @app.after_serving
    async def after() -> None:
        await trio.lowlevel.checkpoint()
        seen.lifespan.append("stopped")

    @app.get("/")
    async def index() -> str:
        return "ok"

    @app.post("/echo")
    async def echo() -> str | bytes:
        return await request.get_data()

    @app.post("/drop")
    async def drop() -> str:
        return "dropped"

    @app.route("/wait", methods=["GET", "POST"])
    async def wait() -> str:
        async with seen.watching():
            await seen.release.wait()
        return "waited"

    @app.get("/flood")
    async def flood() -> Response:
        async def endless() -> AsyncGenerator[bytes, None]:
            seen.started.set()
            try:
                while True:
                    yield b"x" * 65536
            finally:
                seen.cancelled.set()

        return Response(endless())

    @app.get("/fault")
    async def fault() -> Response:
        secret = request.args["secret"]

        async def broken() -> AsyncGenerator[bytes, None]:
            yield b"x"
            raise ZeroDivisionError(secret)

        return Response(broken())

    @app.websocket("/ws")
    async def echo_messages() -> None:
        async with seen.watching():
            while True:
                message = await websocket.receive()
                seen.messages.append(message)
                await websocket.send(message)

    @app.websocket("/deaf")
    async def deaf() -> None:
        await websocket.accept()
        async with seen.watching():
            await seen.release.wait()

    @app.websocket("/refused")
    async def refused() -> tuple[str, int]:
        return "no", 403

    return app


class Client:
    """One connection to the server, and what came back on it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def ask(self, data: bytes) -> bytes:
        """Send a request, return the head and the body of its answer."""
        await self.stream.send_all(data)
        return await self.answer()

    async def answer(self) -> bytes:
        """Read one answer that states its length."""
        head, _, rest = (await self.until(b"\r\n\r\n")).partition(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        while len(rest) < length:
            data = await self.stream.receive_some()
            assert data
            rest += data
        self.received = rest[length:]
        return head + b"\r\n\r\n" + rest[:length]

    async def until(self, mark: bytes) -> bytes:
        """Read, and take, at least until `mark`."""
        while mark not in self.received:
            data = await self.stream.receive_some()
            assert data, self.received
            self.received += data
        taken, self.received = self.received, b""
        return taken

    async def end(self) -> bytes:
        """Read until the server closes; a reset counts."""
        try:
            async for data in self.stream:
                self.received += data
        except trio.BrokenResourceError:
            self.received += b"<RESET>"
        return self.received


@attrs.define
class Door:
    """The server under test: accepts, and keeps what was taken back."""

    server: GuardedServer
    port: int
    taken: list[bytes]
    connections: set[trio.CancelScope]
    closed: trio.Condition

    @asynccontextmanager
    async def client(self, *, receive_buffer: int = 0) -> AsyncIterator[Client]:
        """Connect, with a receive buffer of so many bytes if given."""
        raw = trio.socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await raw.connect(("127.0.0.1", self.port))
        async with trio.SocketStream(raw) as stream:
            yield Client(stream)

    async def ask_once(self, data: bytes) -> bytes:
        """Send `data` on a fresh connection and read until it closes."""
        async with self.client() as client:
            await client.stream.send_all(data)
            return await client.end()

    async def is_alive(self) -> bool:
        """Is a new connection's request answered?"""
        async with self.client() as client:
            return (await client.ask(GET)).startswith(b"HTTP/1.1 200")

    def cancel(self) -> None:
        """Cancel whoever serves the connections that are open."""
        for scope in self.connections:
            scope.cancel()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        async with self.closed:
            while self.connections:
                await self.closed.wait()


@asynccontextmanager
async def opened(
    seen: Witness,
    limits: GuardedLimits = BRIEF,
    *,
    receive_first: bool = True,
    lingers: bool = False,
) -> AsyncIterator[Door]:
    """Serve the application on loopback; a POST to /lane is taken back and answered here.

    With `lingers`, it returns from an answer only when it is released.
    """
    app = application(seen)

    async def linger(*asked: Any) -> None:
        await app(*asked)
        if asked[0]["type"] == "http":
            await seen.release.wait()

    server = GuardedServer(cast("Any", linger) if lingers else app, limits)
    door = Door(server, 0, [], set(), trio.Condition())

    def is_lane(data: bytes) -> bool:
        return data.startswith(b"POST /lane")

    async def serve(stream: trio.SocketStream) -> None:
        scope = trio.CancelScope()
        door.connections.add(scope)
        try:
            with scope:
                received: bytes | None = await stream.receive_some() if receive_first else b""
                while received is not None:
                    received = await server.serve_connection(stream, received, takes_back=is_lane)
                    if received is not None:
                        door.taken.append(received)
                        await stream.send_all(b"HTTP/1.1 200 \r\ncontent-length: 4\r\n\r\nlane")
                        received = await stream.receive_some()
        finally:
            stream.socket.close()
            door.connections.discard(scope)
            async with door.closed:
                door.closed.notify_all()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            door.port = listener.socket.getsockname()[1]
            yield door
            await door.wait_empty()
            nursery.cancel_scope.cancel()


# 1: one connection's fault stays in it


@pytest.mark.parametrize("pieces", KILLERS.values(), ids=KILLERS.keys())
async def test_no_input_ends_the_server(pieces: Pieces) -> None:
    """Whatever one connection sends, the next request of another is answered."""
    async with opened(Witness()) as door:
        async with door.client() as client:
            await client.stream.send_all(pieces[0])
            try:
                client.received += await client.stream.receive_some()
                await client.stream.send_all(b"".join(pieces[1:]))
                await client.stream.send_eof()
            except trio.BrokenResourceError:
                client.received += b"<RESET>"
            received = await client.end()
        is_alive = await door.is_alive()

    assert is_alive
    assert b"HTTP/1.1 5" not in received.replace(b"HTTP/1.1 505", b"")


async def test_a_fault_is_logged_once_by_its_type(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception drops its connection, and its text is not logged."""

    def explodes(received: bytes) -> bool:
        raise ZeroDivisionError(received.decode())

    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    server = GuardedServer(application(Witness()), BRIEF)
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    with caplog.at_level(logging.INFO, "ollama_proxy.http"), trio.fail_after(5):
        async with client.stream, trio.open_nursery() as nursery:
            nursery.start_soon(
                lambda: server.serve_connection(stream, GET + b"secret\n", takes_back=explodes)
            )
            await client.end()

    assert [record.getMessage() for record in caplog.records] == [
        "connection dropped: ZeroDivisionError"
    ]


async def test_a_client_that_leaves_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A reset in the middle of a head is nobody's fault."""
    with caplog.at_level(logging.INFO, "ollama_proxy.http"):
        async with opened(Witness()) as door, door.client() as client:
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await client.stream.send_all(GET[:-2])

    assert caplog.records == []


async def test_an_answer_that_fails_midway_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A stream whose source fails ends without its last chunk, so that nobody takes it for whole."""
    async with opened(Witness()) as door:
        answer = await door.ask_once(b"GET /fault?secret=s3cret HTTP/1.1\r\nHost: x\r\n\r\n")

    assert answer.endswith(b"1\r\nx\r\n")
    assert [record.getMessage() for record in caplog.records] == [
        "application failed: ZeroDivisionError"
    ]


async def test_cancellation_passes_through() -> None:
    """Who serves a connection can be cancelled, and then the connection is closed."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.started.wait()
        door.cancel()
        received = await client.end()

    assert received in {b"", b"<RESET>"}
    assert seen.cancelled.is_set()


# 2: no cleartext HTTP/2, no compression


async def test_http2_with_prior_knowledge_is_refused() -> None:
    """`PRI *` is answered 505 and the connection closed."""
    async with opened(Witness()) as door:
        answer = await door.ask_once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 505 ")


async def test_upgrade_to_http2_is_ignored() -> None:
    """`Upgrade: h2c` is served as the HTTP/1.1 that it also is, and the connection is kept."""
    asked = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
    async with opened(Witness()) as door, door.client() as client:
        answers = [await client.ask(asked), await client.ask(GET)]

    assert [answer.split(b" ", 2)[1] for answer in answers] == [b"200", b"200"]


async def test_websocket_is_not_compressed() -> None:
    """permessage-deflate is not accepted, however it is offered."""
    async with opened(Witness()) as door, door.client() as client:
        await client.stream.send_all(
            HANDSHAKE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        head = await client.until(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 101")
    assert b"extensions" not in head.lower()


# 3: sending is bounded


async def test_a_client_that_does_not_read_is_cut() -> None:
    """After `write_timeout_s` without progress the application is cancelled, the connection reset."""
    seen = Witness()
    async with opened(seen) as door, door.client(receive_buffer=4096) as client:
        await client.stream.send_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.cancelled.wait()
        await door.wait_empty()
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(client.stream)


async def test_cancellation_does_not_wait_for_a_client_that_does_not_read() -> None:
    """Cancelled from outside, a write that nobody takes ends at once, whatever its limit."""
    seen = Witness()
    limits = attrs.evolve(BRIEF, write_timeout_s=60)
    async with opened(seen, limits) as door, door.client(receive_buffer=4096) as client:
        await client.stream.send_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.started.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        door.cancel()
        await door.wait_empty()

    assert seen.cancelled.is_set()


# 4: connections close when they should


async def test_an_idle_connection_closes() -> None:
    """After `keep_alive_s` without a request, also one that was never used."""
    async with opened(Witness()) as door, door.client() as client:
        await client.ask(GET)
        received = await client.end()

    assert received == b""


async def test_a_slow_head_is_refused() -> None:
    """A head that is not complete within `head_timeout_s` is answered 408."""
    async with opened(Witness()) as door:
        answer = await door.ask_once(GET[:-2])

    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "asked",
    [
        GET[:-2] + b"Connection: close\r\n\r\n",
        GET.replace(b"1.1", b"1.0"),
        HANDSHAKE.replace(b"13", b"8") + b"\r\n",
        HANDSHAKE.replace(b"/ws", b"/refused") + b"\r\n",
        HANDSHAKE.replace(b"/ws", b"/nope") + b"\r\n",
    ],
    ids=["close", "HTTP/1.0", "bad handshake", "refused handshake", "no such websocket"],
)
async def test_the_last_answer_closes(asked: bytes) -> None:
    """Where no request may follow, the answer is whole and the connection ends with it."""
    limits = attrs.evolve(BRIEF, keep_alive_s=60)
    async with opened(Witness(), limits) as door:
        answer = await door.ask_once(asked)

    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    assert isinstance(client.next_event(), h11.Response)
    events = iter(client.next_event, h11.PAUSED)
    assert any(isinstance(event, h11.EndOfMessage) for event in events)


async def test_an_answer_before_the_body_arrives_whole() -> None:
    """Who answers an upload early closes the connection, not before the client could read it."""
    asked = b"POST /drop HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n"
    async with opened(Witness()) as door, door.client() as client:
        await client.stream.send_all(asked)
        answer = await client.answer()
        await client.stream.send_all(bytes(4_000_000))
        rest = await client.end()

    assert answer.endswith(b"dropped")
    assert rest == b""


async def test_draining_closes_the_idle() -> None:
    """`drain` ends a connection that waits for its next request."""
    limits = attrs.evolve(BRIEF, keep_alive_s=60)
    async with opened(Witness(), limits) as door, door.client() as client:
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        door.server.drain()
        received = await client.end()

    assert received == b""


async def test_draining_waits_for_the_busy() -> None:
    """A request under way when `drain` comes is answered, with word that it is the last."""
    seen = Witness()
    limits = attrs.evolve(BRIEF, keep_alive_s=60)
    async with opened(seen, limits) as door, door.client() as client:
        await client.stream.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.started.wait()
        door.server.drain()
        seen.release.set()
        received = await client.end()

    assert received.endswith(b"waited")
    assert b"\r\nconnection: close\r\n" in received.lower()


# 5: a client that leaves is noticed


def open_descriptors() -> int:
    """Count this process's open files."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "extra",
    [b"", b"\r\n", GET, b"x" * 1_000_000],
    ids=["nothing", "CRLF", "pipelined", "1 MB"],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
async def test_leaving_cancels_the_application(extra: bytes, is_reset: bool) -> None:
    """Whatever was sent after the request, the client's leaving is seen; no task or socket stays."""
    seen = Witness()
    limits = GuardedLimits()
    async with opened(seen, limits) as door:
        descriptors = open_descriptors()
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with door.client() as client:
            await client.stream.send_all(
                b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + extra
            )
            await seen.started.wait()
            if is_reset:
                client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await seen.cancelled.wait()
        await door.wait_empty()
        await trio.testing.wait_all_tasks_blocked()
        left = (
            open_descriptors() - descriptors,
            trio.lowlevel.current_statistics().tasks_living - tasks,
        )

    assert left == (0, 0)


async def test_leaving_cancels_an_application_that_ignores_its_websocket() -> None:
    """A handler that reads no messages is still cancelled when its client has gone."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(HANDSHAKE.replace(b"/ws", b"/deaf") + b"\r\n")
        await client.until(b"\r\n\r\n")
        await client.stream.send_all(websocket_frame(1, b"hi") * 10)
        await client.stream.aclose()
        await seen.cancelled.wait()


async def test_messages_that_nobody_reads_end_their_websocket() -> None:
    """Once more are unread than are kept, and for too long, the close code is 1008."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(HANDSHAKE.replace(b"/ws", b"/deaf") + b"\r\n")
        await client.until(b"\r\n\r\n")
        await client.stream.send_all(websocket_frame(1, b"hi") * 100)
        received = await client.end()

    assert close_code(received) == 1008
    assert seen.cancelled.is_set()


async def test_pipelined_requests_are_answered_in_order() -> None:
    """What is sent ahead is answered, each in its turn."""
    post = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    async with opened(Witness()) as door, door.client() as client:
        await client.stream.send_all(post + b"1" + GET + b"\r\n" + post + b"2" + post + b"3")
        answers = [await client.answer() for _ in range(4)]

    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [b"1", b"ok", b"2", b"3"]


async def test_a_request_sent_while_another_runs_is_answered() -> None:
    """A second request that arrives during the first is kept for later."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.started.wait()
        await client.stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked(0.01)
        seen.release.set()
        answers = [await client.answer(), await client.answer()]

    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [b"waited", b"ok"]


async def test_too_much_sent_ahead_ends_the_connection_after_the_answer() -> None:
    """Beyond `early_bytes` the request under way is answered, and nothing after it."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        await seen.started.wait()
        await client.stream.send_all(GET * 20_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        seen.release.set()
        received = await client.end()

    assert received.endswith(b"waited")
    assert b"\r\nconnection: close\r\n" in received.lower()


async def test_a_large_request_may_follow_an_answer_at_once() -> None:
    """Its client has the whole answer; that the application has not returned yet is none of its business."""
    seen = Witness()
    body = b"x" * 90_000
    async with opened(seen, lingers=True) as door, door.client() as client:
        await client.ask(GET)
        await client.stream.send_all(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + body
        )
        await trio.testing.wait_all_tasks_blocked(0.01)
        seen.release.set()
        answer = await client.answer()

    assert body == answer.rpartition(b"\r\n\r\n")[2]


# 6: Quart's limits


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", b"413"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n", b"408"),
        (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"1\r\nx\r\n" * 600,
            b"400",
        ),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
    ],
    ids=["large", "slow", "dust", "bad chunk"],
)
async def test_bodies_out_of_bounds_are_the_clients_fault(asked: bytes, status: bytes) -> None:
    """Too large, slow or small in pieces: 4xx, never 5xx, and the server lives."""
    async with opened(Witness()) as door, door.client() as client:
        await client.stream.send_all(asked)
        head = await client.until(b"\r\n\r\n")
        is_alive = await door.is_alive()

    assert head.split(b" ", 2)[1] == status
    assert is_alive


# 7: heads


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
        (b"GET / HTTP/1.0\r\n\r\n", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Name: caf\xe9\r\n\r\n", None),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ? HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (HANDSHAKE + b"Content-Length: 5\r\n\r\n", 400),
        (HANDSHAKE + b"Sec-WebSocket-Protocol: \xe9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 99 + b"\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 32768 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 32768, 431),
    ],
)
def test_heads_are_judged(head: bytes, status: int | None) -> None:
    """Each ambiguity has its refusal, and what is unambiguous passes."""
    expected = None if status is None else HTTPStatus(status)

    assert expected == refusal(head, GuardedLimits())


@pytest.mark.parametrize("size", [1, 7, 40000])
async def test_a_refused_head_closes_however_it_is_cut(size: int) -> None:
    """A refusal comes as soon as it is certain, and ends the connection."""
    head = b"GET / HTTP/1.1\r\nA: b\nHost: x\r\n\r\n" + GET
    limits = attrs.evolve(BRIEF, head_timeout_s=60)
    async with opened(Witness(), limits) as door, door.client() as client:
        for start in range(0, len(head), size):
            await client.stream.send_all(head[start : start + size])
        received = await client.end()

    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


# 8: taking back


async def test_a_request_is_taken_back_and_given_again() -> None:
    """One connection goes from Hypercorn to the lane and back, with no byte lost."""
    async with opened(Witness()) as door, door.client() as client:
        answers = [await client.ask(asked) for asked in (GET, LANE, GET)]

    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [b"ok", b"lane", b"ok"]
    assert door.taken == [LANE]


async def test_a_pipelined_request_is_taken_back() -> None:
    """What was received ahead of its turn is handed over all the same."""
    async with opened(Witness()) as door, door.client() as client:
        answers = [await client.ask(GET + LANE), await client.answer()]

    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [b"ok", b"lane"]
    assert door.taken == [LANE]


async def test_a_request_line_in_pieces_is_taken_back_whole() -> None:
    """The question is asked once the request line is complete."""
    async with opened(Witness()) as door, door.client() as client:
        await client.ask(GET)
        for piece in (LANE[:3], LANE[3:15], LANE[15:40]):
            await client.stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await client.answer()

    assert answer.endswith(b"lane")
    assert door.taken == [LANE[:40]]


# 9: WebSockets


def close_code(received: bytes) -> int | None:
    """Find the close frame at the end of what a server sent."""
    frames = Connection(ConnectionType.CLIENT)
    frames.receive_data(received)
    return next(
        (event.code for event in frames.events() if isinstance(event, CloseConnection)), None
    )


async def test_a_websocket_echoes() -> None:
    """Text, binary and empty messages arrive as what they are."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(HANDSHAKE + b"\r\n")
        await client.until(b"\r\n\r\n")
        for frame in (
            websocket_frame(1, b"hi"),
            websocket_frame(2, b"\0"),
            websocket_frame(2, b""),
            websocket_frame(1, b""),
        ):
            await client.stream.send_all(frame)
            await client.until(frame[:1] + bytes([frame[1] & 0x7F]) + frame[6:])
        await client.stream.send_all(websocket_frame(8, b"\x03\xe8"))
        received = await client.end()

    assert seen.messages == ["hi", b"\0", b"", ""]
    assert close_code(received) == 1000


async def test_a_large_message_ends_its_websocket() -> None:
    """Beyond the limit: close code 1009, and the connection ends."""
    limits = attrs.evolve(BRIEF, websocket_message_bytes=1 << 20)
    async with opened(Witness(), limits) as door, door.client() as client:
        await client.stream.send_all(HANDSHAKE + b"\r\n")
        await client.until(b"\r\n\r\n")
        await client.stream.send_all(websocket_frame(2, bytes((1 << 20) + 1)))
        received = await client.end()

    assert close_code(received) == 1009


async def test_a_websocket_is_told_that_the_server_ends() -> None:
    """Cancelled from outside, an open WebSocket closes with 1001."""
    seen = Witness()
    async with opened(seen) as door, door.client() as client:
        await client.stream.send_all(HANDSHAKE + b"\r\n")
        await client.until(b"\r\n\r\n")
        door.cancel()
        received = await client.end()

    assert close_code(received) == 1001


# TLS


async def test_all_of_it_works_under_tls() -> None:
    """An encrypted connection is served, taken back, given again and closed with a notice."""

    def context(purpose: ssl.Purpose) -> ssl.SSLContext:
        anonymous = ssl.create_default_context(purpose)
        anonymous.check_hostname = False
        anonymous.verify_mode = ssl.CERT_NONE
        anonymous.maximum_version = ssl.TLSVersion.TLSv1_2
        anonymous.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
        return anonymous

    server = GuardedServer(application(Witness()), BRIEF)
    near, far = (
        trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()
    )
    ours = trio.SSLStream(near, context(ssl.Purpose.SERVER_AUTH))
    theirs = trio.SSLStream(far, context(ssl.Purpose.CLIENT_AUTH), server_side=True)
    taken: list[bytes | None] = []

    async def serve() -> None:
        for _ in range(2):
            received = bytes(await theirs.receive_some())
            taken.append(
                await server.serve_connection(
                    theirs, received, takes_back=lambda data: data.startswith(b"POST")
                )
            )

    answers = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for asked in (GET + LANE, GET):
                await ours.send_all(asked)
                answers.append(bytes(await ours.receive_some()))
                await trio.testing.wait_all_tasks_blocked(0.02)
            answers.extend([bytes(data) async for data in ours])
        await ours.aclose()

    assert b"".join(answers).count(b"HTTP/1.1 200") == 2
    assert taken == [LANE, None]


# The lifespan


async def test_the_application_starts_before_ready_and_stops_when_cancelled() -> None:
    """The lifespan encloses the serving."""
    seen = Witness()
    async with opened(seen) as door:
        before = list(seen.lifespan)
        await door.is_alive()

    assert before == ["started"]
    assert seen.lifespan == ["started", "stopped"]


async def test_an_application_that_cannot_start_ends_the_server() -> None:
    """A failure to start goes up: nothing is served by halves."""
    app = application(Witness())

    @app.before_serving
    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(LifespanFailureError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(GuardedServer(app, BRIEF).run)


# What we rely on upstream: a test that fails here asks for the mend to be read again


def test_upstream_is_the_one_we_know() -> None:
    """Hypercorn and Quart-Trio are the releases whose faults are mended here."""
    expected = ("0.18.0", "0.12.0")

    assert expected == (version("hypercorn"), version("quart-trio"))


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (H11Protocol.handle, "self event"),
        (H11Protocol.stream_send, "self event"),
        (H11Protocol._handle_events, "self"),
        (H11Protocol._create_stream, "self request"),
        (H11Protocol._maybe_recycle, "self"),
        (H11Protocol._send_h11_event, "self event"),
        (H11Protocol._send_error_response, "self status_code"),
        (
            H11Protocol.__init__,
            "self app config context task_group connection_state ssl client server send",
        ),
        (
            HTTPStream.__init__,
            "self app config context task_group ssl client server send stream_id",
        ),
        (WSStream.__init__, "self app config context task_group ssl client server send stream_id"),
        (WSStream.handle, "self event"),
        (WSStream._handle_events, "self"),
        (WSStream._send_wsproto_event, "self event"),
        (Lifespan.handle_lifespan, "self task_status"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_upstream_names_are_where_they_were(
    function: Callable[..., object], parameters: str
) -> None:
    """What is called or overridden here has kept its name and its arguments."""
    expected = parameters.split()

    assert expected == list(inspect.signature(function).parameters)


class Upstream:
    """The server, as stock Hypercorn sees it: it notes what it is asked to send or to tell."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.told: list[str] = []

    async def send(self, event: object) -> None:
        """Note what would go to the socket or the connection."""
        self.sent.append(event)

    async def spawn_app(self, *_: object) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start nothing; note what the application would be told."""

        async def tell(message: ASGIReceiveEvent) -> None:
            self.told.append(message["type"])

        return tell

    def spawn(self, *_: object) -> None:
        """Pings are not sent."""

    def protocol(self, kind: type[H11Protocol] = H11Protocol) -> H11Protocol:
        """Make a connection's protocol."""
        state = ConnectionState({})
        config = Config()
        config.websocket_max_message_size = 10
        return kind(
            wrap_app(QuartTrio(__name__), 0, "asgi"),
            config,
            WorkerContext(None),
            cast("TaskGroup", self),
            state,
            False,  # noqa: FBT003 - Hypercorn's signature
            None,
            None,
            self.send,
        )


async def test_upstream_ends_an_answer_by_recycling() -> None:
    """The end of an answer arrives as `_maybe_recycle`, and with `http.disconnect` to follow."""
    upstream = Upstream()
    ends: list[h11.Connection | H11WSConnection] = []

    class Noting(H11Protocol):
        async def _maybe_recycle(self) -> None:
            ends.append(self.connection)
            await super()._maybe_recycle()

    protocol = upstream.protocol(Noting)
    await protocol.handle(RawData(GET))
    stream = protocol.stream
    assert isinstance(stream, HTTPStream)
    await stream.app_send({"type": "http.response.start", "status": 200, "headers": []})
    await stream.app_send({"type": "http.response.body", "body": b"", "more_body": False})

    assert ends == [protocol.connection]
    assert upstream.told == ["http.request", "http.disconnect"]


async def test_upstream_forgets_to_end_a_refused_handshake() -> None:
    """The stream only says that it is closed, which is what our mend looks at."""
    upstream = Upstream()
    protocol = upstream.protocol()
    await protocol.handle(RawData(HANDSHAKE.replace(b"13", b"8") + b"\r\n"))

    assert protocol.stream is not None
    assert protocol.stream.closed
    assert {type(event) for event in upstream.sent} == {RawData, Updated}


async def test_upstream_forgets_to_end_after_a_message_too_large() -> None:
    """The frames' state is what tells us."""
    upstream = Upstream()
    protocol = upstream.protocol()
    await protocol.handle(RawData(HANDSHAKE + b"\r\n"))
    stream = protocol.stream
    assert isinstance(stream, WSStream)
    await stream.app_send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    await protocol.handle(RawData(websocket_frame(2, bytes(11))))

    assert stream.connection.state is WebSocketState.LOCAL_CLOSING
    assert (stream.state, stream.closed) == (ASGIWebsocketState.CONNECTED, False)


def test_upstream_compresses_only_what_asks_for_it() -> None:
    """Without the header there is no extension, so taking the header away is enough."""
    headers = [(b"sec-websocket-key", b"x")]
    accepted = [
        dict(Handshake([*headers, *more], "1.1").accept(None, [])[1]).get(
            b"sec-websocket-extensions"
        )
        for more in ([], [(b"sec-websocket-extensions", b"permessage-deflate")])
    ]

    assert accepted == [None, b"permessage-deflate"]


async def test_upstream_reads_bytes_or_text() -> None:
    """Quart-Trio takes an empty binary message for none and reads its text instead."""
    app = QuartTrio(__name__)
    messages = []

    @app.websocket("/")
    async def take() -> None:
        messages.append(await websocket.receive())

    incoming = iter([
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "bytes": b"", "text": "instead"},
    ])

    async def receive() -> object:
        message = next(incoming, None)
        if message is None:
            await trio.sleep_forever()
        return message

    async def send(_: object) -> None:
        await trio.lowlevel.checkpoint()

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "scheme": "ws"}
    await app(cast("Scope", scope), cast("Any", receive), cast("Any", send))

    assert messages == ["instead"]
