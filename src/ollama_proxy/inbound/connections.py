"""The connections of one door: how many there are, and that what breaks one of them stays in it."""

import contextlib
import logging
import os
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from ollama_proxy.inbound.admission import peer_of
from ollama_proxy.inbound.bounds import Bound, Bounds
from ollama_proxy.policy.peers import household


def reset_when_closed(stream: trio.abc.Stream) -> None:
    """Have a connection's end be a reset.

    So its client cannot take what it got for all there is, and the kernel keeps none of what it has
    not read: megabytes, for as long as a client likes that reads a byte now and then.
    """
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def read_when_there(descriptor: int, most: int) -> bytes:
    """What a plain socket's peer sends next, of so many bytes at most; empty at its end.

    Straight to the poller, without trying first as Trio does: there is nearly always nothing yet.

    Raises:
        OSError, trio.ClosedResourceError: the connection is lost.
    """
    while True:
        await trio.lowlevel.wait_readable(descriptor)
        try:
            return os.read(descriptor, most)
        except BlockingIOError:
            continue


class Connections:
    """All that are open on one door."""

    def __init__(
        self,
        most: int,
        log: logging.Logger,
        *,
        most_per_peer: int | None = None,
        bounds: Bounds | None = None,
        farewell: bytes = b"",
    ) -> None:
        """None yet.

        Args:
            most: more are closed unheard.
            log: where it is told that one was dropped.
            most_per_peer: of one address, the same; None for no bound but `most`.
            bounds: are told when there are too many.
            farewell: what one too many is told, if it can be told so without waiting.
        """
        self.count = 0
        self._most = most
        self._most_per_peer = most if most_per_peer is None else most_per_peer
        self._peers: Counter[str] = Counter()
        self._bounds = bounds or Bounds()
        self._farewell = farewell
        self._log = log
        self._empty = trio.Event()
        self._empty.set()

    async def keep(self, stream: trio.SocketStream, serve: Callable[[], Awaitable[None]]) -> None:
        """Serve one to its end, and close it. Nothing that happens to it goes further than here."""
        peer = household(peer_of(stream))
        bound = self._bound_reached(peer)
        if bound is not None:
            self._bounds.reach(bound)
            self._turn_away(stream)
            return
        self.count += 1
        self._peers[peer] += 1
        if self._empty.is_set():
            self._empty = trio.Event()
        try:
            await serve()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self._log.debug("a connection broke")
        except Exception as fault:  # noqa: BLE001 - one connection's fault must not end the others
            self._log.error("connection dropped: %s", type(fault).__name__)
        finally:
            stream.socket.close()
            self.count -= 1
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
            if not self.count:
                self._empty.set()

    def _bound_reached(self, peer: str) -> Bound | None:
        if self.count >= self._most:
            return Bound.CONNECTIONS
        if self._peers[peer] >= self._most_per_peer:
            return Bound.CONNECTIONS_PER_PEER
        return None

    def _turn_away(self, stream: trio.SocketStream) -> None:
        """Say so if the kernel takes it at once: who is one too many is not waited for."""
        with contextlib.suppress(OSError):
            os.write(stream.socket.fileno(), self._farewell)
            stream.socket.shutdown(socket.SHUT_WR)
        stream.socket.close()

    async def wait_empty(self) -> None:
        """Wait until none is open."""
        await self._empty.wait()
