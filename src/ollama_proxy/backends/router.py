"""An ollama-proxy on another machine: it speaks every dialect, so nothing is translated for it.

What it chooses among its own backends is its own to decide; here it is one backend like any other.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

from ollama_proxy.backends.backend import (
    BackendFailed,
    Errand,
    Fault,
    Probe,
    Reply,
    Served,
    Sink,
    Way,
)
from ollama_proxy.backends.ollama import names_in
from ollama_proxy.backends.server import Server
from ollama_proxy.policy.fleet import BackendSpec


class RouterBackend:
    """Another router."""

    def __init__(self, spec: BackendSpec, server: Server) -> None:
        """Ask the router at `server`."""
        self._spec = spec
        self._server = server

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self._spec

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call in the caller's own words. See `Backend`."""
        return await self._server.exchange(
            errand,
            sink,
            path=self._server.endpoint.base_path + errand.call.path,
            model=self._spec.real_name(errand.model),
        )

    def way(self, errand: Errand) -> Way:
        """As it comes. See `Backend`."""
        path = self._server.endpoint.base_path + errand.call.path
        return self._server.way(errand, path=path, model=self._spec.real_name(errand.model))

    async def probe(self) -> Probe:
        """Ask for the models. See `Backend`."""
        base = self._server.endpoint.base_path
        status, tags = await self._server.fetch(base + "/api/tags")
        if status != 200:  # noqa: PLR2004 - RFC 9110: OK
            raise BackendFailed(Fault.REFUSED, f"/api/tags answered {status}", status=status)
        return Probe(models=names_in(tags))

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call; these may take as long as a download does. See `Backend`."""
        return self._server.call(
            method, self._server.endpoint.base_path + path, body=body, timeout_s=None
        )

    async def run(self) -> None:
        """The other router looks after itself."""

    def forget_connections(self) -> None:
        """See `Backend`."""
        self._server.forget_connections()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._server.aclose()
