"""How a connection ends so that the other end can read what was said last.

A socket that is closed while bytes are unread takes back what it has sent (RFC 9112, 9.6). So we say
that nothing more comes, and read on for a while. Under TLS that is a message of its own, without which
an answer that goes to the connection's end looks cut short.
"""

import contextlib

import trio

_READ_BYTES = 65536


async def part(stream: trio.abc.Stream, patience_s: float) -> None:
    """Say that nothing more comes, and wait until the other end has gone. It is not closed here.

    Nobody else may use the stream any more. It is unusable afterwards if it was encrypted.

    Args:
        stream: the connection.
        patience_s: how long is waited.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: it has gone already.
    """
    with trio.move_on_after(patience_s):
        if isinstance(stream, trio.SSLStream):
            transport = stream.transport_stream
            # It breaks where the other end says something still, or leaves without a word.
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.unwrap()
            stream = transport
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
        while await stream.receive_some(_READ_BYTES):
            continue
