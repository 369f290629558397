"""Takes a voice assistant's connections, up to a number, and drains them."""

import functools
import logging

import attrs
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.connections import Connections
from ollama_proxy.inbound.wyoming.connection import Connection, WyomingSettings
from ollama_proxy.inbound.wyoming.memory import Memory

log = logging.getLogger("ollama_proxy.wyoming")


@attrs.define(eq=False)
class WyomingDoor:
    """The Wyoming door. `serve` opens it."""

    dispatcher: Dispatcher
    settings: WyomingSettings
    bounds: Bounds = attrs.field(factory=Bounds)
    is_draining: bool = False
    _memory: Memory = attrs.field(factory=Memory)
    _connections: set[Connection] = attrs.field(factory=set)
    _accepting: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _open: Connections = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._open = Connections(self.settings.max_connections, log)

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `drain` was called and the last connection has ended, or until cancelled.

        The listeners are closed in the end. What breaks a connection stays in it.
        """
        async with trio.open_nursery() as connections:
            with self._accepting:
                await trio.serve_listeners(
                    self._keep, listeners, handler_nursery=connections, task_status=task_status
                )

    def drain(self) -> None:
        """Take no more connections, and close each as soon as it is owed no answer."""
        self.is_draining = True
        self._accepting.cancel()
        for connection in list(self._connections):
            connection.drain()

    async def wait_empty(self) -> None:
        """Wait until no connection is open."""
        await self._open.wait_empty()

    async def _keep(self, stream: trio.SocketStream) -> None:
        await self._open.keep(stream, functools.partial(self._serve, stream))

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self.is_draining:
            return
        connection = Connection(
            stream,
            self.dispatcher,
            self.settings,
            self._memory,
            is_draining=lambda: self.is_draining,
            bounds=self.bounds,
        )
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)
