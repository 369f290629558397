"""Both ends of the HTTP door in bytes: a client and a backend that say exactly what they are told."""

import math
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Self

import attrs
import msgspec
import trio
from trio.testing import MockClock

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallerLeft,
    Errand,
    Fault,
    Head,
    Served,
    Sink,
)
from ollama_proxy.inbound.idlers import Idlers
from ollama_proxy.inbound.lane import Lane, LaneLimits
from ollama_proxy.inbound.trust import Gate
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.http.house import House, open_house

HOST = "127.0.0.1:8080"
CHAT = "/v1/chat/completions"
STREAM = {"model": MODEL, "stream": True}
WHOLE = {"model": MODEL, "stream": False}
Pairs = list[tuple[bytes, bytes]]


def post(
    path: str = CHAT,
    json: object = None,
    *,
    body: bytes | None = None,
    version: str = "1.1",
    extra: bytes = b"",
    **headers: str,
) -> bytes:
    """A request in bytes; `x_priority="high"` is a header, `extra` are raw header lines."""
    content = msgspec.json.encode(WHOLE if json is None else json) if body is None else body
    given = {"host": HOST, "content-length": str(len(content))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/{version}\r\n{lines}".encode("latin-1") + extra + b"\r\n" + content


def chunked(content: bytes, *, size: int, trailer: bytes = b"") -> bytes:
    """A body in chunks of `size`."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return framed + b"0\r\n" + trailer + b"\r\n"


def post_chunked(framed: bytes, path: str = CHAT, *, extra: bytes = b"") -> bytes:
    """A request with a body that was framed by `chunked`."""
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n"
    return head.encode() + extra + b"\r\n" + framed


@attrs.frozen
class Answer:
    """One answer, as a strict client reads it; `complete`: its framing says that all is there."""

    status: int
    headers: Pairs
    body: bytes
    complete: bool

    def header(self, name: str) -> str | None:
        """The only header of that name; None where there is none."""
        values = [value.decode() for each, value in self.headers if each == name.encode()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Client:
    """A client with a socket of its own."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Take a connected stream."""
        self.stream = stream
        self.unread = b""

    async def send(self, data: bytes) -> None:
        """Say it."""
        await self.stream.send_all(data)

    async def ask(self, data: bytes) -> Answer:
        """Say it, and read one answer."""
        await self.send(data)
        return await self.read()

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65536)
        self.unread += data
        return bool(data)

    async def read_to(self, mark: bytes) -> bytes:
        """Read up to a mark, which is included; all there is where the server closed before it."""
        while mark not in self.unread:
            if not await self._more():
                break
        before, found, self.unread = self.unread.partition(mark)
        return before + found

    async def read(self) -> Answer:
        """Read one answer; one with neither length nor chunks goes to the connection's end."""
        head = await self.read_to(b"\r\n\r\n")
        assert head.endswith(b"\r\n\r\n"), f"the connection ended after {head!r}"
        status_line, *lines = head[:-4].split(b"\r\n")
        version, status, _ = status_line.split(b" ", 2)
        assert b"HTTP/1.1" == version
        fields = [line.partition(b": ") for line in lines]
        headers = [(name.lower(), value) for name, _, value in fields]
        framing = dict(headers)
        if b"transfer-encoding" in framing:
            assert b"content-length" not in framing
            body, complete = await self._read_chunks()
        elif b"content-length" in framing:
            length = int(framing[b"content-length"])
            while len(self.unread) < length and await self._more():
                continue
            body, self.unread = self.unread[:length], self.unread[length:]
            complete = len(body) == length
        else:
            body, complete = await self.read_all(), True
        return Answer(int(status), headers, body, complete)

    async def _read_chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = await self.read_to(b"\r\n")
            if not line.endswith(b"\r\n"):
                return body, False
            size = int(line, 16)
            while len(self.unread) < size + 2:
                if not await self._more():
                    return body + self.unread[:size], False
            piece, end, self.unread = (
                self.unread[:size],
                self.unread[size : size + 2],
                self.unread[size + 2 :],
            )
            assert b"\r\n" == end
            if not size:
                return body, True
            body += piece

    async def read_all(self) -> bytes:
        """Read to the connection's end."""
        while await self._more():
            continue
        unread, self.unread = self.unread, b""
        return unread

    async def is_let_go(self) -> bool:
        """Wait for the server to say or do something, which must be to close."""
        return not await self.read_all()

    def leave(self) -> None:
        """Close politely."""
        self.stream.socket.close()

    def reset(self) -> None:
        """Close at once, and say so."""
        linger = struct.pack("ii", 1, 0)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.stream.socket.close()


async def read_to_end(stream: trio.SocketStream) -> None:
    """Read all there is, and drop it. Raises trio.BrokenResourceError where the end is a reset."""
    while await stream.receive_some(65536):
        continue


def patience() -> AbstractContextManager[trio.CancelScope]:
    """For as long as a test may take: no limit where it is the test that moves the clock."""
    is_real = not isinstance(trio.lowlevel.current_clock(), MockClock)
    return trio.fail_after(10.0 if is_real else math.inf)


async def becomes(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; the test's own time limit is the backstop."""
    while not condition():
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Verbatim(ScriptedBackend):
    """Gives these pieces under this head, and fails after them where `failure` is set.

    Attributes:
        pieces: of the body; where the last is not known to be it, an empty one completes the body.
        length: told in the head.
        waits: after the first piece the rest waits for `go`.
        stubborn: cancelling has no effect on it.
    """

    pieces: tuple[bytes, ...] = (b"{}",)
    kind: bytes = b"application/json"
    length: int | None = None
    failure: BackendFailed | None = None
    waits: bool = False
    stubborn: bool = False
    go: trio.Event = attrs.field(factory=trio.Event)
    said: int = 0

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Give the pieces."""
        self.errands.append(errand)
        with trio.CancelScope(shield=self.stubborn):
            try:
                return await self._give(sink)
            except (trio.Cancelled, CallerLeft):
                self.left += 1
                raise
        raise AssertionError("unreachable: nobody cancels that scope")

    async def _give(self, sink: Sink) -> Served:
        head = Head(
            status=self._status, headers=((b"content-type", self.kind),), length=self.length
        )
        first, *rest = self.pieces
        await sink.begin(head, first, complete=False)
        self.said = 1
        if self.waits:
            await self.go.wait()
        for piece in rest:
            await sink.write(piece, complete=False)
            self.said += 1
        if self.failure is not None:
            raise self.failure
        await sink.write(b"", complete=True)
        return Served(status=self._status)


BROKEN = BackendFailed(Fault.BROKE, "it broke off the answer")


def verbatim(*pieces: bytes, **given: Any) -> Verbatim:
    """Such a backend, with the figures of the fleet's thriftiest."""
    return Verbatim(spec("npu"), pieces=pieces, **given)


def scripted(name: str = "npu", **changes: Any) -> ScriptedBackend:
    """A backend of the fleet with nothing to say yet."""
    return ScriptedBackend(spec(name, **changes))


@asynccontextmanager
async def loopback_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a TCP connection, which unlike a socket pair can be reset."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        host, port = listener.socket.getsockname()
        near = await trio.open_tcp_stream(host, port)
        far = await listener.accept()
    try:
        yield near, far
    finally:
        near.socket.close()
        far.socket.close()


@attrs.define(eq=False)
class Connection(Client):
    """A client whose server is a lane.

    Attributes:
        lane: the server's end.
        ended: the lane has returned.
        rest: what it returned.
    """

    stream: trio.SocketStream
    lane: Lane
    unread: bytes = b""
    rest: bytes | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, far: trio.SocketStream) -> None:
        """Be the front door's part: serve, and close what is at its end."""
        try:
            self.rest = await self.lane.serve(b"")
        finally:
            if self.rest is None:
                far.socket.close()
            self.ended.set()


@attrs.define(eq=False)
class Door:
    """A house whose only door are lanes.

    Attributes:
        house: what is behind it.
        lanes: holds one task a connection.
        is_draining: what the lanes are told when they ask.
    """

    house: House
    limits: LaneLimits
    idlers: Idlers
    lanes: trio.Nursery
    sockets: AsyncExitStack
    is_draining: bool = False

    async def connect(self) -> Connection:
        """A new client."""
        near, far = await self.sockets.enter_async_context(loopback_pair())
        lane = Lane(
            far,
            self.house.dispatcher,
            Gate(bound_host="127.0.0.1", allowed_origins=["https://friend.example"]),
            self.limits,
            idlers=self.idlers,
            is_draining=lambda: self.is_draining,
        )
        connection = Connection(near, lane)
        self.lanes.start_soon(connection.serve, far)
        return connection

    async def assert_nothing_is_left(self) -> None:
        """Every connection has ended, every slot is free; and who comes now is served."""
        station = self.house.station()
        await becomes(lambda: not self.lanes.child_tasks and not station.in_flight)
        assert (0, set()) == (len(station.line), self.house.dispatcher.jobs)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *backends: ScriptedBackend, limits: LaneLimits | None = None
    ) -> AsyncIterator[Self]:
        """Open one, for as long as a test may take."""
        with patience():
            async with (
                AsyncExitStack() as sockets,
                trio.open_nursery() as workers,
                trio.open_nursery() as lanes,
            ):
                house = open_house(workers, *(backends or (scripted().say("{}"),)))
                limits = limits or LaneLimits()
                idlers = Idlers(limits.idle_timeout_s)
                workers.start_soon(idlers.run)
                yield cls(house, limits, idlers, lanes, sockets)
                lanes.cancel_scope.cancel()
                workers.cancel_scope.cancel()
