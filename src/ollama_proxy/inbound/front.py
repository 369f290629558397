"""Takes connections, and gives each of their requests to whoever serves its kind.

Inference goes to the lane, WebSockets to their dialects, everything else to Hypercorn with the Quart app. The first line of each
request decides, not of each connection: Ollama's client asks `HEAD /` and `POST /api/chat` on one.
"""

import errno
import functools
import logging
from collections.abc import Callable, Mapping
from typing import NoReturn

import attrs
import trio

from ollama_proxy.certificates import HTTP1
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.inbound.answers import STATUS, error_body, error_headers
from ollama_proxy.inbound.bounds import Bound, Bounds
from ollama_proxy.inbound.connections import Connections
from ollama_proxy.inbound.encryption import Encryption, Handshakes
from ollama_proxy.inbound.guarded import GuardedServer
from ollama_proxy.inbound.idlers import Idlers
from ollama_proxy.inbound.lane import ByteStream, Lane, LaneLimits, is_inference
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.socket import Dialogue, Socket, SocketLimits
from ollama_proxy.policy.ask import Dialect
from ollama_proxy.policy.refusal import Code, Refusal

log = logging.getLogger("ollama_proxy.http")
_READ_BYTES = 65536


@attrs.frozen(kw_only=True)
class FrontSettings:
    """What the front door needs to know beyond the lane's limits."""

    limits: LaneLimits = attrs.field(factory=LaneLimits)
    max_connections: int = 4096
    max_connections_per_peer: int = 2048
    lane: bool = True


def _too_many() -> bytes:
    """What one connection too many is told, before it has said what it wants: in OpenAI's words."""
    refusal = Refusal(
        Code.QUEUE_FULL, "Too many connections are open; close some and try again.", retry_after_s=1
    )
    body = error_body(Dialect.OPENAI, refusal)
    headers = [*error_headers(refusal), (b"connection", b"close")]
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    status = b"HTTP/1.1 %d Service Unavailable\r\n" % STATUS[refusal.code]
    return status + lines + b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Front:
    """The HTTP door: one port, two ways behind it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        gate: Gate,
        guarded: GuardedServer,
        settings: FrontSettings,
        dialects: Mapping[str, Callable[[Socket], Dialogue]] | None = None,
        *,
        bounds: Bounds | None = None,
        encryption: Encryption | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        """Make ready; `serve` opens the door.

        Args:
            dispatcher: takes the lane's jobs.
            gate: who may ask.
            guarded: serves what is neither inference nor a WebSocket.
            settings: limits.
            dialects: what is spoken on WebSockets, by path.
            bounds: of all connections together.
            encryption: with it, the door is for TLS alone.
            handshakes: in place of those that `encryption` calls for.
        """
        dialects = dialects or {}
        self._socket_lines = tuple(
            b"GET %b%b" % (path.encode(), end) for path in dialects for end in (b" ", b"?")
        )
        self._dispatcher = dispatcher
        self._gate = gate
        self._guarded = guarded
        self._settings = settings
        self._dialects = dialects
        self._lanes: set[Lane] = set()
        self._sockets: set[Socket] = set()
        self._waiting: set[trio.CancelScope] = set()
        self._bounds = bounds or Bounds()
        self._open = Connections(
            settings.max_connections,
            log,
            most_per_peer=settings.max_connections_per_peer,
            bounds=self._bounds,
            farewell=_too_many() if encryption is None and handshakes is None else b"",
        )
        self._handshakes = handshakes or Handshakes(
            encryption, protocol=HTTP1, timeout_s=settings.limits.head_timeout_s
        )
        self._idlers = Idlers(settings.limits.idle_timeout_s)
        self._accepting = trio.CancelScope()
        self.is_draining = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._open.count

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `drain` was called and the last connection has ended, or until cancelled."""
        async with trio.open_nursery() as waiting:
            waiting.start_soon(self._idlers.run, name="idlers")
            async with trio.open_nursery() as connections:
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for listener in listeners:
                            acceptors.start_soon(self._accept, listener, connections)
                        task_status.started()
                for listener in listeners:
                    listener.socket.close()
            waiting.cancel_scope.cancel()

    def drain(self) -> None:
        """Take no more connections, and close each as soon as it owes no answer."""
        self.is_draining = True
        self._accepting.cancel()
        self._handshakes.drain()
        self._guarded.drain()
        for lane in list(self._lanes):
            lane.close_when_idle()
        for socket in list(self._sockets):
            socket.drain()
        for scope in list(self._waiting):
            scope.cancel()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        await self._open.wait_empty()

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> NoReturn:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                # Out of descriptors or memory: those who are served will free some.
                log.error("cannot accept connections: %s", error.strerror)  # noqa: TRY400 - the errno says it all
                await trio.sleep(0.1)
                continue
            serve = functools.partial(self._serve_connection, stream)
            connections.start_soon(self._open.keep, stream, serve, name="connection")

    async def _serve_connection(self, connected: trio.SocketStream) -> None:
        stream = None if self.is_draining else await self._handshakes.shake(connected)
        if stream is None or self.is_draining:
            return
        received = await self._read_first(stream)
        while received and not self.is_draining:
            if self._settings.lane and is_inference(received):
                received = await self._serve_lane(stream, received)
            elif received.startswith(self._socket_lines):
                await self._serve_socket(stream, received)
                return
            else:
                received = await self._guarded.serve_connection(
                    stream, received, takes_back=self._takes_back
                )

    async def _read_first(self, stream: ByteStream) -> bytes | None:
        """Read until the first request's line is there, or is long enough to be judged by others."""
        received = b""
        with trio.move_on_after(self._settings.limits.head_timeout_s) as scope:
            self._waiting.add(scope)
            try:
                while b"\n" not in received and len(received) < _READ_BYTES:
                    data = await stream.receive_some(_READ_BYTES)
                    if not data:
                        break
                    received += data
                    if not self._may_be_ours(received):
                        break
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught and not self.is_draining:
            self._bounds.reach(Bound.HEAD_TIME)
        return received or None

    def _may_be_ours(self, received: bytes) -> bool:
        """Whether what begins so may be a request that Hypercorn does not serve."""
        return any(
            line.startswith(received[: len(line)]) for line in (b"POST /", *self._socket_lines)
        )

    def _takes_back(self, received: bytes) -> bool:
        is_ours = self._settings.lane and is_inference(received)
        return is_ours or received.startswith(self._socket_lines)

    async def _serve_socket(self, stream: ByteStream, received: bytes) -> None:
        limits = self._settings.limits
        socket = Socket(
            stream,
            SocketLimits(
                head_timeout_s=limits.head_timeout_s, write_timeout_s=limits.write_timeout_s
            ),
            is_draining=lambda: self.is_draining,
            ledger=self._dispatcher.ledger,
            bounds=self._bounds,
        )
        self._sockets.add(socket)
        try:
            await socket.serve(received, self._gate, self._dialects)
        finally:
            self._sockets.discard(socket)

    async def _serve_lane(self, stream: ByteStream, received: bytes) -> bytes | None:
        lane = Lane(
            stream,
            self._dispatcher,
            self._gate,
            self._settings.limits,
            idlers=self._idlers,
            is_draining=lambda: self.is_draining,
            bounds=self._bounds,
        )
        self._lanes.add(lane)
        try:
            return await lane.serve(received)
        finally:
            self._lanes.discard(lane)
