"""An ollama-proxy on another machine: it speaks every dialect, so nothing is translated for it.

What it chooses among its own backends is its own to decide; here it is one backend like any other.
It tells how it is at `GET /node`; one that is too old for that is asked for its models alone. What
it says of itself is a hint, not a measurement: what was seen from here goes before.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import attrs
import msgspec

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
from ollama_proxy.backends.body import NO_JSON
from ollama_proxy.backends.ollama import names_in
from ollama_proxy.backends.server import Server
from ollama_proxy.policy.fleet import BackendSpec
from ollama_proxy.policy.node import PATH, Node, OtherProtocol, read_node
from ollama_proxy.policy.onward import via_of
from ollama_proxy.policy.refusal import Code

NODE_MAX_BYTES = 1 << 20  # sixteen times what one of this version says at the most

# It takes nobody for now, or nobody of this urgency; or it cannot serve this one as it is wished.
_FULL = {Code.QUEUE_FULL, Code.RATE_LIMITED, Code.SHUTTING_DOWN}
_DECLINED = {
    Code.NO_BACKEND,
    Code.PREEMPTED,
    Code.DEADLINE_UNMEETABLE,
    Code.DEADLINE_EXCEEDED,
}
# A version that does not know the question, or a key that may not ask it.
_DOES_NOT_TELL = {403, 404, 405, 501}


class RouterBackend:
    """Another router."""

    def __init__(self, spec: BackendSpec, server: Server, *, node_id: str = "") -> None:
        """Ask the router at `server`; `node_id` is what this one is called."""
        self._spec = spec
        self._server = server
        self._via = via_of(node_id)

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self._spec

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call in the caller's own words, and say that it was here. See `Backend`."""
        onward = attrs.evolve(errand, headers=(*errand.headers, *self._via))
        try:
            return await self._server.exchange(
                onward,
                sink,
                path=self._at(errand.call.path),
                model=self._spec.real_name(errand.model),
            )
        except BackendFailed as failure:
            raise _as_it_means(failure) from failure

    def way(self, errand: Errand) -> Way:
        """As it comes, saying that it was here. See `Backend`."""
        path, model = self._at(errand.call.path), self._spec.real_name(errand.model)
        way = self._server.way(errand, path=path, model=model)
        return attrs.evolve(way, headers=(*way.headers, *self._via))

    async def probe(self) -> Probe:
        """Ask how it is, and for its models where it does not tell them all. See `Backend`."""
        node = await self._ask()
        models = None if node is None else node.models
        return Probe(
            models=await self._list() if models is None else models,
            loaded=None if node is None else node.loaded,
            version=None if node is None else node.version,
            node=node,
        )

    async def _ask(self) -> Node | None:
        """What it says of itself; None where it does not."""
        try:
            content = await self._fetch(PATH, most_bytes=NODE_MAX_BYTES)
        except BackendFailed as failure:
            if failure.status in _DOES_NOT_TELL:
                return None
            raise
        try:
            return read_node(msgspec.json.decode(content))
        except NO_JSON:
            return None
        except OtherProtocol as other:
            raise BackendFailed(Fault.GARBLED, str(other)) from other

    async def _list(self) -> frozenset[str]:
        return names_in(await self._fetch("/api/tags"))

    async def _fetch(self, path: str, **bounds: int) -> bytes:
        """GET an answer. Raises BackendFailed, with the status where it is another than 200."""
        status, content = await self._server.fetch(self._at(path), headers=self._via, **bounds)
        if status != 200:  # noqa: PLR2004 - RFC 9110: OK
            raise BackendFailed(Fault.REFUSED, f"{path} answered {status}", status=status)
        return content

    def _at(self, path: str) -> str:
        return self._server.endpoint.base_path + path

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call; these may take as long as a download does. See `Backend`."""
        return self._server.call(
            method,
            self._at(path),
            body=body,
            timeout_s=None,
            headers=self._via,
        )

    async def run(self) -> None:
        """The other router looks after itself."""

    def forget_connections(self) -> None:
        """See `Backend`."""
        self._server.forget_connections()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._server.aclose()


def _as_it_means(failure: BackendFailed) -> BackendFailed:
    """A router's refusal for what it is: it answers for its backends, and is well itself."""
    too_many = failure.status == 429  # noqa: PLR2004 - RFC 6585: whoever stands before it may say so
    fault = (
        Fault.FULL
        if failure.code in _FULL or too_many
        else Fault.DECLINED
        if failure.code in _DECLINED
        else failure.fault
    )
    if fault is failure.fault:
        return failure
    return BackendFailed(
        fault,
        str(failure),
        status=failure.status,
        code=failure.code,
        retry_after_s=failure.retry_after_s,
    )
