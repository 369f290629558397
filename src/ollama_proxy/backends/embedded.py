"""The model server that the router brings along: llama.cpp in a process of its own.

Seen from the engine it is an OpenAI-style backend that is down until its model is loaded, and again
whenever its process has died.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

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
from ollama_proxy.backends.embedded_process import (
    Down,
    EmbeddedState,
    Launch,
    Ready,
    serve_model,
)
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.backends.server import Server
from ollama_proxy.policy.fleet import BackendSpec


class EmbeddedBackend:
    """llama.cpp with one model, supervised."""

    def __init__(self, spec: BackendSpec, open_server: Callable[[str], Server]) -> None:
        """Serve `spec.model_path`, or the default model.

        Args:
            spec: what its owner wrote down.
            open_server: makes a server of the URL that the process will listen at.
        """
        self._spec = spec
        self._open_server = open_server
        self._state: EmbeddedState | None = None
        self._backend: OpenAIBackend | None = None
        self._server: Server | None = None
        self.settled = trio.Event()

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self._spec

    @property
    def is_hopeless(self) -> bool:
        """Whether it is down for a reason that waiting does not mend."""
        return isinstance(self._state, Down) and self._state.permanent

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Make the call. See `Backend`."""
        return await self._present().exchange(errand, sink)

    def way(self, errand: Errand) -> Way:  # noqa: ARG002 - as `Backend` has it
        """It listens for nobody but us. See `Backend`."""
        raise CallUnserved

    async def probe(self) -> Probe:
        """Ask the process, if it is there. See `Backend`."""
        return await self._present().probe()

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """Make a management call. See `Backend`."""
        return self._present().call(method, path, body=body)

    async def run(self) -> None:
        """Keep the process running for as long as it may yet serve. See `Backend`."""
        await serve_model(
            Launch(model_path=self._spec.model_path, slots=self._spec.slots),
            on_state=self._note,
        )

    def forget_connections(self) -> None:
        """See `Backend`."""
        if self._server is not None:
            self._server.forget_connections()

    async def aclose(self) -> None:
        """Close every connection; the process ends with `run`."""
        if self._server is not None:
            await self._server.aclose()

    def _present(self) -> OpenAIBackend:
        if self._backend is None or not isinstance(self._state, Ready):
            why = self._state.why if isinstance(self._state, Down) else "its model is being loaded"
            raise BackendFailed(Fault.UNREACHABLE, why)
        return self._backend

    def _note(self, state: EmbeddedState) -> None:
        """The process has come to another state."""
        self._state = state
        if isinstance(state, Ready) and self._server is None:
            # Once: the endpoint stays the same over restarts, and connections to the process that
            # ended are found dead by whoever takes them from the pool.
            self._server = self._open_server(state.endpoint)
            self._backend = OpenAIBackend(self._spec, self._server)
        if isinstance(state, Ready) or self.is_hopeless:
            self.settled.set()
