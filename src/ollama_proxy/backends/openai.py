"""A server that speaks OpenAI's calls: llama-server, vLLM, OpenVINO Model Server, LM Studio, clouds.

Ollama's own calls are always translated for it.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import attrs
import msgspec
import trio

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
from ollama_proxy.backends.server import Server, inference_path, translated
from ollama_proxy.policy.ask import Dialect
from ollama_proxy.policy.fleet import BackendSpec

# Seconds that a probe waits for the slots, and that it has left then.
SLOTS_PATIENCE_S = 0.5
_SPARE_S = 0.1


class _Model(msgspec.Struct):
    id: str = ""


class _Models(msgspec.Struct):
    data: list[_Model] | None = None


class _Slot(msgspec.Struct):
    is_processing: bool


_SLOTS = msgspec.json.Decoder(list[_Slot])


class OpenAIBackend:
    """An OpenAI-style server."""

    def __init__(self, spec: BackendSpec, server: Server) -> None:
        """Speak OpenAI to `server`."""
        self._spec = spec
        self._server = server
        self._has_slots = True  # until it is seen not to

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self._spec

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call, translated if it is one of Ollama's. See `Backend`."""
        # `latest` is Ollama's word; these servers list their models without a tag.
        model = self._spec.real_name(errand.model).removesuffix(":latest")
        if errand.call.dialect is not Dialect.OLLAMA:
            path = inference_path(self._server.endpoint, errand.call)
            return await self._server.exchange(errand, sink, path=path, model=model)
        translation = translated(errand, Dialect.OPENAI, model=model)
        return await self._server.exchange(
            errand,
            sink,
            path=inference_path(self._server.endpoint, translation.call),
            model=model,
            translation=translation,
        )

    def way(self, errand: Errand) -> Way:
        """None for Ollama's calls, which are translated. See `Backend`."""
        if errand.call.dialect is Dialect.OLLAMA:
            raise CallUnserved
        model = self._spec.real_name(errand.model).removesuffix(":latest")
        path = inference_path(self._server.endpoint, errand.call)
        return self._server.way(errand, path=path, model=model)

    async def probe(self) -> Probe:
        """Ask for the list of models, and for what is being computed. See `Backend`."""
        try:
            probe = await self._list()
        except BackendFailed:
            # It may be another version when it is back: what it did not know is asked again.
            self._has_slots = True
            raise
        return attrs.evolve(probe, computing=await self._computing())

    async def _list(self) -> Probe:
        """Ask for the models; a server without a list is trusted to have what it may serve."""
        base = self._server.endpoint.base_path or "/v1"
        status, content = await self._server.fetch(base + "/models")
        if status in {404, 405, 501}:
            return Probe()
        if status != 200:  # noqa: PLR2004 - RFC 9110: OK
            raise BackendFailed(Fault.REFUSED, f"{base}/models answered {status}", status=status)
        try:
            listed = msgspec.json.decode(content, type=_Models).data or []
        except NO_JSON as error:
            raise BackendFailed(Fault.GARBLED, "its list of models makes no sense") from error
        return Probe(models=frozenset(m.id for m in listed if m.id))

    async def _computing(self) -> int | None:
        """How many of llama-server's slots are at work; None of a server that is no llama-server.

        Only it can tell: it computes on for callers who left, a prefill or a whole answer to its
        end. Versions that answer between two batches may be silent for long, so silence says
        nothing of the server, and must not use up the time that the probe has.
        """
        if not self._has_slots:
            return None
        latest = trio.current_effective_deadline() - _SPARE_S
        patience = trio.move_on_at(min(trio.current_time() + SLOTS_PATIENCE_S, latest))
        try:
            with patience:
                status, content = await self._server.fetch("/slots")
        except BackendFailed:
            return None
        if patience.cancelled_caught:
            return None
        try:
            slots = _SLOTS.decode(content) if status == 200 else []  # noqa: PLR2004 - RFC 9110: OK
        except NO_JSON:
            slots = []
        self._has_slots = bool(slots)
        return sum(slot.is_processing for slot in slots) if slots else None

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call, where the server knows one. See `Backend`."""
        return self._server.call(method, path, body=body, timeout_s=None)

    async def run(self) -> None:
        """The server looks after itself."""

    def forget_connections(self) -> None:
        """See `Backend`."""
        self._server.forget_connections()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._server.aclose()
