"""A backend that plays scripts, on Trio's clock: the story of a test, told to the engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import attrs
import trio

from ollama_proxy.backends.backend import (
    Backend,
    BackendFailed,
    CallRejected,
    CallUnserved,
    Errand,
    Fault,
    Head,
    ModelMissing,
    Probe,
    Reply,
    Served,
    Sink,
    Way,
)
from ollama_proxy.policy.ask import Call, Framing
from ollama_proxy.policy.fleet import BackendSpec
from ollama_proxy.policy.refusal import Code


def framed(call: Call, text: str, *, stream: bool = True) -> bytes:
    """What one `say` looks like on the wire: a piece of a stream, or part of a whole answer."""
    if not stream:
        return text.encode()
    return f"data: {text}\n\n".encode() if call.framing is Framing.SSE else f"{text}\n".encode()


@attrs.frozen
class _Say:
    text: str
    after: float


@attrs.frozen
class _Fail:
    failure: Exception


@attrs.frozen
class _Hang:
    pass


@attrs.frozen
class _Pause:
    seconds: float


_Step = _Say | _Fail | _Hang | _Pause


@attrs.frozen
class Scripted:
    """An answer to a management call."""

    status: int
    pieces: tuple[bytes, ...]
    content_type: str
    after: float
    broken: bool


@attrs.frozen
class Called:
    """A management call that was made."""

    method: str
    path: str
    body: bytes


@attrs.define(eq=False)
class ScriptedBackend(Backend):
    """Plays its scripts in turn, the last one ever after; the vocabulary can be chained.

    Attributes:
        spec: what its owner wrote down.
        errands: every exchange that was begun.
        busiest: the most exchanges that were under way at once.
        probed: when it was asked how it is.
        calls: every management call that was made.
        left: exchanges that were cancelled, or whose caller left.
        sets: headers that another proxy must set for it.
        health: what a probe is told, or how it fails; None: it says nothing.
    """

    spec: BackendSpec
    health: Probe | BackendFailed | None = attrs.field(factory=Probe)
    errands: list[Errand] = attrs.field(factory=list)
    probed: list[float] = attrs.field(factory=list)
    busiest: int = 0
    calls: list[Called] = attrs.field(factory=list)
    left: int = 0
    is_closed: bool = False
    sets: tuple[tuple[bytes, bytes], ...] = ()
    _scripts: list[list[_Step]] = attrs.field(factory=lambda: [[]])
    _status: int = 200
    _under_way: int = 0
    _answers: dict[tuple[str, str], Scripted] = attrs.field(factory=dict)

    # -- vocabulary --------------------------------------------------------------------------------

    def say(self, text: str, *, after: float = 0.0) -> Self:
        """Give a piece of the answer, `after` seconds of silence."""
        self._scripts[-1].append(_Say(text, after))
        return self

    def pause(self, seconds: float) -> Self:
        """Be silent for so long, also where no piece follows."""
        self._scripts[-1].append(_Pause(seconds))
        return self

    def hang(self) -> Self:
        """Say nothing any more, for ever."""
        self._scripts[-1].append(_Hang())
        return self

    def then(self) -> Self:
        """Begin the next exchange's script."""
        self._scripts.append([])
        return self

    def with_status(self, status: int) -> Self:
        """Give every answer this status."""
        self._status = status
        return self

    def refuse(self, status: int = 503) -> Self:
        """Answer that it cannot."""
        return self._fail(BackendFailed(Fault.REFUSED, f"it answered {status}", status=status))

    def turn_away(self, code: Code, *, retry_after_s: float | None = None) -> Self:
        """Answer as a router does that is well: that it is full, or cannot serve this one."""
        full = {Code.QUEUE_FULL, Code.RATE_LIMITED, Code.SHUTTING_DOWN}
        fault = Fault.FULL if code in full else Fault.DECLINED
        said = f"it answered 503: {code.value}, in its own words"
        return self._fail(
            BackendFailed(fault, said, status=503, code=code, retry_after_s=retry_after_s)
        )

    def die_mid_stream(self) -> Self:
        """Break the connection off."""
        return self._fail(BackendFailed(Fault.BROKE, "it broke off the answer"))

    def garble(self) -> Self:
        """Give bytes that are no answer."""
        return self._fail(BackendFailed(Fault.GARBLED, "its answer makes no sense"))

    def lack_the_model(self) -> Self:
        """Answer that the model is not there after all."""
        return self._fail(ModelMissing())

    def not_know_the_call(self) -> Self:
        """Answer that there is no such path."""
        return self._fail(CallUnserved())

    def reject(self, status: int = 400) -> Self:
        """Answer that the caller is at fault."""
        return self._fail(CallRejected(status, "it makes no sense"))

    def _fail(self, failure: Exception) -> Self:
        self._scripts[-1].append(_Fail(failure))
        return self

    def answer(
        self,
        method: str,
        path: str,
        *pieces: bytes,
        status: int = 200,
        content_type: str = "application/json",
        after: float = 0.0,
        broken: bool = False,
    ) -> Self:
        """Answer a management call so, each piece after `after` seconds; `broken` breaks it off."""
        self._answers[method, path] = Scripted(status, pieces, content_type, after, broken)
        return self

    # -- Backend -----------------------------------------------------------------------------------

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Play the next script."""
        script = self._scripts[min(len(self.errands), len(self._scripts) - 1)]
        self.errands.append(errand)
        self._under_way += 1
        self.busiest = max(self.busiest, self._under_way)
        sink.asked()
        try:
            return await self._play(script, errand, sink)
        except (BackendFailed, CallUnserved, ModelMissing, CallRejected):
            raise
        except BaseException:
            self.left += 1
            raise
        finally:
            self._under_way -= 1

    async def _play(self, script: list[_Step], errand: Errand, sink: Sink) -> Served:
        said = [
            framed(errand.call, step.text, stream=errand.stream)
            for step in script
            if isinstance(step, _Say)
        ]
        kind = errand.call.framing.value if errand.stream else "application/json"
        cut = any(isinstance(step, (_Fail, _Hang)) for step in script)
        # A whole answer that is cut off had promised more.
        length = None if errand.stream else sum(map(len, said)) + cut
        head = Head(status=self._status, headers=((b"content-type", kind.encode()),), length=length)
        pieces = iter(said)
        begun = False
        for step in script or [_Say("", 0.0)]:
            match step:
                case _Say():
                    await trio.sleep(step.after)
                    data = next(pieces, b"")
                    complete = not cut and step is (script or [step])[-1]
                    if begun:
                        await sink.write(data, complete=complete)
                    else:
                        await sink.begin(head, data, complete=complete)
                    begun = True
                case _Fail():
                    raise step.failure
                case _Pause():
                    await trio.sleep(step.seconds)
                case _Hang():
                    await trio.sleep_forever()
        return Served(status=self._status, tokens=len(said) if errand.stream else None)

    def way(self, errand: Errand) -> Way:
        """To the port of its endpoint."""
        host, _, port = self.spec.endpoint.removeprefix("http://").rpartition(":")
        model = self.spec.real_name(errand.model)

        def renamed() -> bytes:
            return bytes(errand.body.replace(errand.model.encode(), model.encode()))

        return Way(
            host=host,
            port=int(port),
            path=errand.call.path,
            model=model,
            body=None if model == errand.model else renamed,
            headers=self.sets,
        )

    async def probe(self) -> Probe:
        """Tell `health`."""
        self.probed.append(trio.current_time())
        if self.health is None:
            await trio.sleep_forever()
        if isinstance(self.health, BackendFailed):
            raise self.health
        return self.health

    @asynccontextmanager
    async def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AsyncIterator[Reply]:
        """Answer as told by `answer`; a path of which nothing was told fails."""
        if isinstance(body, bytes) or body is None:
            sent = body or b""
        else:
            sent = b"".join([piece async for piece in body])
        self.calls.append(Called(method, path, sent))
        scripted = self._answers.get((method, path))
        if scripted is None:
            raise BackendFailed(Fault.UNREACHABLE, "no connection could be made to it")
        yield Reply(
            status=scripted.status,
            headers=((b"content-type", scripted.content_type.encode()),),
            body=_spoken(scripted),
        )

    async def run(self) -> None:
        """Nothing needs doing."""

    def forget_connections(self) -> None:
        """There are none."""

    async def aclose(self) -> None:
        """Note that it was closed."""
        self.is_closed = True


async def _spoken(scripted: Scripted) -> AsyncIterator[bytes]:
    for piece in scripted.pieces:
        await trio.sleep(scripted.after)
        yield piece
    if scripted.broken:
        raise BackendFailed(Fault.BROKE, "it broke off the answer")
