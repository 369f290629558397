"""A real connection without a port: two ends of a socket pair."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def stream_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two connected streams with file descriptors, closed on leaving."""
    left, right = trio.socket.socketpair()
    ends = trio.SocketStream(left), trio.SocketStream(right)
    try:
        yield ends
    finally:
        for end in ends:
            end.socket.close()
