"""One exchange with a scripted server: who makes it, who takes its answer, and byte for byte what came."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import httpx
import msgspec
import trio

from ollama_proxy.backends.backend import Errand, Head, Sink, Tap
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.pump import Pump
from ollama_proxy.backends.server import Server, ServerSettings
from ollama_proxy.policy.ask import Call
from tests.fakes.ollama import Fake

MODEL = "fake:latest"
LIMIT_S = 20.0


def errand(call: Call, *, stream: bool, **fields: object) -> Errand:
    """A call as its caller writes it; `fields` go into its body."""
    said: dict[str, object] = {"prompt": "hi"}
    if call.embeds:
        said = {"prompt" if call is Call.OLLAMA_EMBEDDINGS else "input": "hi"}
    elif call in {Call.OPENAI_CHAT, Call.OLLAMA_CHAT, Call.ANTHROPIC_MESSAGES}:
        said = {"messages": [{"role": "user", "content": "hi"}]}
    body: dict[str, object] = {"model": MODEL, **said, "stream": stream, **fields}
    return Errand(
        call=call, model=str(body["model"]), body=msgspec.json.encode(body), stream=stream
    )


@attrs.define(eq=False)
class Recording(Sink, Tap):
    """Takes one answer and keeps it. With `is_pumped` the pump writes, past an open /dev/null."""

    is_pumped: bool = False
    head: Head | None = None
    begun: int = 0
    parts: list[bytes] = attrs.field(factory=list)
    complete: bool = False
    descriptor: int = -1
    connections: list[bool] = attrs.field(factory=list)  # whether each was fresh
    requests: int = 0
    on_begin: Callable[[], None] = lambda: None

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(self.parts)

    def connected(self, *, is_fresh: bool) -> None:
        """See `Sink`."""
        self.connections.append(is_fresh)

    def asked(self) -> None:
        """See `Sink`."""
        self.requests += 1

    async def begin(self, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Sink`."""
        self.head = head
        self.begun += 1
        self._keep(first, complete=complete)
        self.on_begin()

    async def write(self, data: bytes, *, complete: bool = False) -> None:
        """See `Sink`."""
        self._keep(data, complete=complete)

    def tap(self) -> Tap | None:
        """See `Sink`."""
        return self if self.is_pumped else None

    def frame(self, chunks: list[bytes], *, complete: bool) -> bytes:
        """See `Tap`."""
        data = b"".join(chunks)
        self._keep(data, complete=complete)
        return data

    async def flush(self, rest: bytes) -> None:
        """See `Tap`."""
        raise AssertionError(f"/dev/null did not take {len(rest)} bytes")

    def _keep(self, data: bytes, *, complete: bool) -> None:
        assert not self.complete, "bytes came after the end"
        self.parts.append(data)
        self.complete = complete


@asynccontextmanager
async def recording(*, is_pumped: bool = False) -> AsyncIterator[Recording]:
    """A sink, with its way for the pump open meanwhile."""
    sink = Recording(is_pumped=is_pumped)
    sink.descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield sink
    finally:
        os.close(sink.descriptor)


@asynccontextmanager
async def reaching(url: str, settings: ServerSettings | None = None) -> AsyncIterator[Server]:
    """A server at `url`, with a running pump, all of it within a backstop of time."""
    pump = Pump(stall_timeout_s=LIMIT_S)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pump.run)
            server = Server(Endpoint.parse(url), settings or ServerSettings(), pump)
            try:
                yield server
            finally:
                with trio.CancelScope(shield=True):
                    await server.aclose()
            nursery.cancel_scope.cancel()
        assert 0 == len(pump)


async def direct(fake: Fake, made: Errand) -> bytes:
    """The body that the fake answers to somebody who asks without a router."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(fake.url + made.call.path, content=bytes(made.body))
    return answer.content


def paths(fake: Fake) -> list[str]:
    """Where the fake was asked, in order."""
    return [record.path for record in fake.log]


def deltas(body: bytes) -> str:
    """The text that a streamed chat completion says."""
    events = [e.removeprefix(b"data: ") for e in body.split(b"\n\n") if e]
    assert b"[DONE]" == events[-1]
    choices = [msgspec.json.decode(event)["choices"] for event in events[:-1]]
    return "".join(c[0]["delta"].get("content") or "" for c in choices if c)


def lines(body: bytes) -> list[dict[str, object]]:
    """The pieces of one of Ollama's streams."""
    return [msgspec.json.decode(line) for line in body.splitlines() if line]


@asynccontextmanager
async def byte_server(*answers: bytes) -> AsyncIterator[str]:
    """Answers the n-th request of its life with the n-th bytes; after an empty answer it closes.

    Each request is taken to come in one piece, as small ones do over loopback.
    """
    rest = list(answers)

    async def serve(stream: trio.SocketStream) -> None:
        # Who has had enough of an answer leaves in the middle of it.
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                while await stream.receive_some() and rest:
                    answer = rest.pop(0)
                    await stream.send_all(answer)
                    if not answer.endswith(b"\n\n"):
                        return

    async with trio.open_nursery() as nursery:
        listener = (await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1")))[0]
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
