"""A server that speaks Ollama's own calls, as Ollama itself and Lemonade do.

Such servers mostly know OpenAI's calls too, under `/v1`. Those are passed on unchanged until the
server is seen not to know one; from then on that call is translated.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import msgspec

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallUnserved,
    Errand,
    Fault,
    Probe,
    Reply,
    Served,
    Sink,
    Way,
)
from ollama_proxy.backends.body import NO_JSON
from ollama_proxy.backends.server import Server, translated
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.fleet import BackendSpec, canonical_model


class _Model(msgspec.Struct):
    name: str = ""
    model: str = ""


class _Models(msgspec.Struct):
    models: list[_Model] | None = None


def names_in(content: bytes) -> frozenset[str]:
    """The models that an answer of `/api/tags` or `/api/ps` lists. Raises BackendFailed."""
    try:
        listed = msgspec.json.decode(content, type=_Models).models or []
    except NO_JSON as error:
        raise BackendFailed(Fault.GARBLED, "its list of models makes no sense") from error
    return frozenset(canonical_model(m.name or m.model) for m in listed if m.name or m.model)


class OllamaBackend:
    """An Ollama server."""

    def __init__(self, spec: BackendSpec, server: Server) -> None:
        """Speak Ollama to `server`."""
        self._spec = spec
        self._server = server
        self._unknown: set[Call] = set()

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self._spec

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call, translated only where the server does not know it. See `Backend`."""
        model = self._spec.real_name(errand.model)
        if errand.call not in self._unknown:
            path = self._server.endpoint.base_path + errand.call.path
            try:
                return await self._server.exchange(errand, sink, path=path, model=model)
            except CallUnserved:
                if errand.call.dialect is Dialect.OLLAMA:
                    raise
                self._unknown.add(errand.call)
        translation = translated(errand, Dialect.OLLAMA, model=model)
        return await self._server.exchange(
            errand,
            sink,
            path=self._server.endpoint.base_path + translation.call.path,
            model=model,
            translation=translation,
        )

    def way(self, errand: Errand) -> Way:
        """Not for a call that is translated by now. See `Backend`."""
        if errand.call in self._unknown:
            raise CallUnserved
        path = self._server.endpoint.base_path + errand.call.path
        return self._server.way(errand, path=path, model=self._spec.real_name(errand.model))

    async def probe(self) -> Probe:
        """Ask for the installed models, and for those in memory. See `Backend`."""
        try:
            return await self._list()
        except BackendFailed:
            # It may be another version when it is back: what it did not know is asked again.
            self._unknown.clear()
            raise

    async def _list(self) -> Probe:
        base = self._server.endpoint.base_path
        status, tags = await self._server.fetch(base + "/api/tags")
        if status != 200:  # noqa: PLR2004 - RFC 9110: OK
            raise BackendFailed(Fault.REFUSED, f"/api/tags answered {status}", status=status)
        status, running = await self._server.fetch(base + "/api/ps")
        loaded = names_in(running) if status == 200 else None  # noqa: PLR2004 - older servers: 404
        return Probe(models=names_in(tags), loaded=loaded)

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call; these may take as long as a download does. See `Backend`."""
        return self._server.call(
            method, self._server.endpoint.base_path + path, body=body, timeout_s=None
        )

    async def run(self) -> None:
        """An Ollama server looks after itself."""

    def forget_connections(self) -> None:
        """See `Backend`."""
        self._server.forget_connections()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._server.aclose()
