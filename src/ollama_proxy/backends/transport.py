"""What management calls go over: httpx's own transport, on which an answer's head has an end.

httpx bounds the time to each piece of an answer, and a head's size, but not how many interim answers (1xx)
come before the head: who sends them without end is read without end. The wire counts for itself.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from ollama_proxy.backends.backend import BackendFailed, Fault

HEAD_MAX_BYTES = 16384
# At once, before the head is whole: while a piece is read, all others wait.
_READ_BYTES = 4096


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that counts what is received between a request and its answer's head."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left: int | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        """See `AsyncNetworkStream`. Raises BackendFailed where the head is too long."""
        if self._left is None:
            return await self._stream.read(max_bytes, timeout)
        if self._left <= 0:
            raise BackendFailed(Fault.GARBLED, "its answer's head is too long")
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """See `AsyncNetworkStream`. Whatever comes next is a head."""
        self._left = HEAD_MAX_BYTES
        await self._stream.write(buffer, timeout)

    def head_is_whole(self) -> None:
        """What comes next is a body, whose reader bounds it."""
        self._left = None

    async def aclose(self) -> None:
        """See `AsyncNetworkStream`."""
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> httpcore.AsyncNetworkStream:
        """See `AsyncNetworkStream`."""
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        """See `AsyncNetworkStream`."""
        return self._stream.get_extra_info(info)


class _Network(httpcore.TrioBackend):
    """Trio's, whose connections count."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See `AsyncNetworkBackend`."""
        return _Stream(
            await super().connect_tcp(host, port, timeout, local_address, socket_options)
        )

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See `AsyncNetworkBackend`."""
        return _Stream(await super().connect_unix_socket(path, timeout, socket_options))


class Transport(httpx.AsyncHTTPTransport):
    """HTTP/1.1 to one server."""

    def __init__(self, context: ssl.SSLContext | None, *, unix_path: str | None = None) -> None:
        """Open nothing yet.

        Args:
            context: what TLS is trusted by; None: there is none.
            unix_path: of the socket, where it is one.
        """
        # No limit on connections: cancelling requests while httpcore's pool is full loses its places for
        # ever. httpx has no name for the network that its pool uses, so the pool is made here.
        self._pool = httpcore.AsyncConnectionPool(
            # Else it loads the certificates of the system, which takes longer than a call.
            ssl_context=context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            max_connections=None,
            max_keepalive_connections=2,
            keepalive_expiry=5.0,
            uds=unix_path,
            network_backend=_Network(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `AsyncBaseTransport`. Raises BackendFailed where the head is too long."""
        response = await super().handle_async_request(request)
        stream = response.extensions["network_stream"]
        if isinstance(stream, _Stream):  # else it is one that was switched to something else (101)
            stream.head_is_whole()
        return response
