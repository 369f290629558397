"""The connections of one door: how many there are, and that what breaks one of them stays in it."""

import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

import trio


def reset_when_closed(stream: trio.abc.Stream) -> None:
    """Have a connection's end be a reset.

    So its client cannot take what it got for all there is, and the kernel keeps none of what it has
    not read: megabytes, for as long as a client likes that reads a byte now and then.
    """
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Connections:
    """All that are open on one door."""

    def __init__(self, most: int, log: logging.Logger) -> None:
        """None yet.

        Args:
            most: more are closed unheard.
            log: where it is told that one was dropped.
        """
        self.count = 0
        self._most = most
        self._log = log
        self._empty = trio.Event()
        self._empty.set()

    async def keep(self, stream: trio.SocketStream, serve: Callable[[], Awaitable[None]]) -> None:
        """Serve one to its end, and close it. Nothing that happens to it goes further than here."""
        if self.count >= self._most:
            stream.socket.close()
            return
        self.count += 1
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
            if not self.count:
                self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until none is open."""
        await self._empty.wait()
