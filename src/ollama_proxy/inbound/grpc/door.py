"""The gRPC door: takes connections, and sees each to its end."""

import functools
import logging
from collections.abc import Iterable

import attrs
import trio

from ollama_proxy.certificates import HTTP2
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.connections import Connections
from ollama_proxy.inbound.encryption import Encryption, Handshakes
from ollama_proxy.inbound.grpc.connection import Connection, Patience, Terms
from ollama_proxy.inbound.grpc.messages import Budget
from ollama_proxy.inbound.grpc.rpc import Method
from ollama_proxy.inbound.grpc.wire import WireLimits
from ollama_proxy.inbound.trust import Gate

log = logging.getLogger("ollama_proxy.grpc")


@attrs.frozen(kw_only=True)
class GrpcSettings:
    """What the door needs to know. `unread_bytes`: requests that all connections may keep unread."""

    limits: WireLimits = attrs.field(factory=WireLimits)
    patience: Patience = attrs.field(factory=Patience)
    max_connections: int = 4096
    max_connections_per_peer: int = 2048
    unread_bytes: int = 256 << 20


class GrpcDoor:
    """One port, and everybody who is connected to it."""

    def __init__(
        self,
        methods: Iterable[Method],
        gate: Gate,
        settings: GrpcSettings,
        *,
        bounds: Bounds | None = None,
        ledger: Ledger | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """Make ready; `serve` opens the door. With `encryption`, it is for TLS alone.

        `bounds` are told what was reached, the `ledger` who is turned away.
        """
        self._terms = Terms(
            methods={method.path: method for method in methods},
            gate=gate,
            budget=Budget(settings.unread_bytes),
            limits=settings.limits,
            patience=settings.patience,
            ledger=ledger or Ledger(),
        )
        self._connections: set[Connection] = set()
        self._open = Connections(
            settings.max_connections,
            log,
            most_per_peer=settings.max_connections_per_peer,
            bounds=bounds,
        )
        self._handshakes = Handshakes(
            encryption, protocol=HTTP2, timeout_s=settings.patience.greeting_s
        )
        self._accepting = trio.CancelScope()
        self._draining: trio.Nursery | None = None
        self.is_draining = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open.count

    @property
    def unread_bytes(self) -> int:
        """How much of requests is kept that nobody has read."""
        return self._terms.budget.used

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `drain` was called and the last connection has ended, or until cancelled.

        Args:
            listeners: are closed when no more connections are taken.
            task_status: told when connections are taken.
        """
        async with trio.open_nursery() as connections:
            self._draining = connections

            async def keep(stream: trio.SocketStream) -> None:
                serve = functools.partial(self._serve_connection, stream)
                await self._open.keep(stream, serve)

            with self._accepting:
                task_status.started()
                await trio.serve_listeners(keep, listeners, handler_nursery=connections)
            for listener in listeners:
                listener.socket.close()

    def drain(self) -> None:
        """Take no more connections nor calls; each connection is closed when its last call ends."""
        self.is_draining = True
        self._accepting.cancel()
        self._handshakes.drain()
        if self._draining is not None:
            for connection in self._connections:
                self._draining.start_soon(connection.drain)

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        await self._open.wait_empty()

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        peer = _name(stream.socket.getpeername())
        served = None if self.is_draining else await self._handshakes.shake(stream)
        if served is None or self.is_draining:
            return
        if isinstance(served, trio.SSLStream) and served.selected_alpn_protocol() != HTTP2:
            return
        connection = Connection(served, self._terms, peer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


def _name(address: object) -> str:
    """A peer's address for people."""
    return str(address[0]) if isinstance(address, tuple) else str(address)
