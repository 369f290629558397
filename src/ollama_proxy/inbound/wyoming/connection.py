"""One connection of a voice assistant's: transcripts in, answers out, one after the other.

It is listened to while it is answered, so that a client that leaves is noticed at once. Answers are
streamed; the whole text follows, for those who do not know streams.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import msgspec
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import CallerLeft, Job
from ollama_proxy.inbound.answers import turned_away
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD, Bounds
from ollama_proxy.inbound.reading import make_request_id
from ollama_proxy.inbound.text import End, Sender, Wanted, make_job
from ollama_proxy.inbound.wyoming.event import BadEvent, Event, EventReader, encode_event
from ollama_proxy.inbound.wyoming.memory import Memory
from ollama_proxy.inbound.wyoming.pen import Pen
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

DOOR = "wyoming"
WAITING_MAX = 16  # transcripts on one connection that are not answered yet
FAREWELL_S = 1.0
_READ_BYTES = 65536
_NAME_MAX = 200
_STOPPING = Refusal(Code.SHUTTING_DOWN, "The router is shutting down.")
_SILENCE = Refusal(Code.INVALID_REQUEST, "Nothing was said.")


@attrs.frozen(kw_only=True)
class WyomingSettings:
    """What is answered, and what one client may take.

    Attributes:
        model: who answers.
        instructions: said to it before all else; "" = nothing.
        max_latency_ms: a deadline for its first token; 0 = none.
        version: the router's.
        idle_s: for the next event to come, where nothing is owed.
        write_timeout_s: for the client to take what is sent.
        max_connections: at once.
    """

    model: str
    instructions: str = ""
    max_latency_ms: float = 0.0
    version: str = ""
    idle_s: float = 300.0
    write_timeout_s: float = 30.0
    max_connections: int = 32


class _Transcript(msgspec.Struct):
    text: str
    context: dict[str, Any] | None = None

    @property
    def conversation(self) -> str:
        """The id that Home Assistant gives the conversation; "" where there is none."""
        named = (self.context or {}).get("conversation_id")
        return named if isinstance(named, str) and len(named) <= _NAME_MAX else ""


def describe(settings: WyomingSettings) -> bytes:
    """What is offered here: one program that answers any text in any language."""
    artifact = {
        "attribution": {"name": "ollama-proxy", "url": ""},
        "installed": True,
        "description": "Sends each request to the backend that suits it",
        "version": settings.version or None,
    }
    model = artifact | {"name": settings.model, "languages": [], "version": None}
    program = artifact | {
        "name": "ollama-proxy",
        "models": [model],
        "supports_handled_streaming": True,
        "supports_home_control": False,
    }
    return encode_event("info", {"handle": [program]})


def _error(code: Code, message: str) -> bytes:
    return encode_event("error", {"text": message, "code": code.value})


def _with_context(text: str, conversation: str) -> dict[str, object]:
    context = {"context": {"conversation_id": conversation}} if conversation else {}
    return {"text": text, **context}


@attrs.define(eq=False)
class _Turn:
    """One transcript on its way, as its `Listener`.

    Attributes:
        pen: writes to the client.
        memory: of what was said.
        asked: what it is about.
        is_left: nobody waits for the answer any more.
        over: set when its job is.
    """

    pen: Pen
    memory: Memory
    asked: _Transcript
    is_left: bool = False
    over: trio.Event = attrs.field(factory=trio.Event)
    _pieces: list[str] = attrs.field(factory=list)

    async def token(self, job: Job, text: str) -> None:  # noqa: ARG002 - as `Listener` has it
        """See `Listener`."""
        if self.is_left:
            raise CallerLeft
        start = b"" if self._pieces else encode_event("handled-start")
        self._pieces.append(text)
        await self.pen.send(start + encode_event("handled-chunk", {"text": text}))

    async def end(self, job: Job, end: End) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        if self.is_left:
            raise CallerLeft
        answer, conversation = "".join(self._pieces), self.asked.conversation
        self.memory.keep(conversation, self.asked.text, answer, trio.current_time())
        await self.pen.send(
            encode_event("handled", _with_context(answer, conversation)) + self._stop()
        )

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        self.fail(refusal)

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        self.over.set()

    def fail(self, refusal: Refusal) -> None:
        """Say why there is no answer, or no more of it."""
        if self.is_left:
            return
        told = _with_context(refusal.message, self.asked.conversation)
        self.pen.post(encode_event("not-handled", told) + self._stop())

    def _stop(self) -> bytes:
        """The end of the stream, if one has begun."""
        return encode_event("handled-stop") if self._pieces else b""


@attrs.define(eq=False)
class Connection:
    """One client. The stream is not closed here."""

    stream: trio.abc.HalfCloseableStream
    dispatcher: Dispatcher
    settings: WyomingSettings
    memory: Memory
    is_draining: Callable[[], bool]
    bounds: Bounds = attrs.field(factory=Bounds)
    _pen: Pen = attrs.field(init=False)
    _reader: EventReader = attrs.field(factory=EventReader)
    _talk: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _owed: int = 0
    _half: int = 0  # bytes that count of an event that is not whole
    _whole: int = 0  # the same of transcripts that are not answered

    def __attrs_post_init__(self) -> None:
        self._pen = Pen(self.stream, self.settings.write_timeout_s)

    async def serve(self) -> None:
        """Listen and answer, until the client leaves, must leave, or the door is drained."""
        ask, asked = trio.open_memory_channel[Event](WAITING_MAX)
        async with trio.open_nursery() as writing:
            writing.start_soon(self._write, name="wyoming writer")
            async with trio.open_nursery() as talking:
                talking.start_soon(self._answer, asked, name="wyoming answers")
                with self._talk:
                    await self._listen(ask)
                talking.cancel_scope.cancel()
            self.bounds.free(self._half + self._whole)
            await self._part()
            writing.cancel_scope.cancel()

    def drain(self) -> None:
        """The router takes nothing new: part as soon as nothing is owed."""
        if not self._owed:
            self._talk.cancel()

    async def _write(self) -> None:
        await self._pen.write()
        self._talk.cancel()

    async def _part(self) -> None:
        """Let the client read what was said last: bytes of it that stay unread would reset it."""
        with trio.move_on_after(FAREWELL_S):
            try:
                await self._pen.flushed()
                await self.stream.send_eof()
                while await self.stream.receive_some(_READ_BYTES):
                    continue
            except (CallerLeft, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    # -- listening ---------------------------------------------------------------------------------

    async def _listen(self, ask: trio.MemorySendChannel[Event]) -> None:
        try:
            while True:
                with trio.move_on_after(self.settings.idle_s) as patience:
                    event = await self._next()
                if patience.cancelled_caught:
                    if self._owed:
                        continue
                    return
                if event is None:
                    return
                self._take(event, ask)
                if self._pen.is_behind:
                    await self._pen.flushed()
        except BadEvent as bad:
            self._complain(str(bad))
        except RequestRefused as refused:
            self._complain(refused.refusal.message, refused.refusal.code)
        except (CallerLeft, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _next(self) -> Event | None:
        """The next event; None where there will be none. Raises BadEvent if it cannot go on."""
        while True:
            try:
                event = self._reader.take()
            except BadEvent as bad:
                if bad.is_lost:
                    raise
                self._complain(str(bad))
                continue
            self.bounds.free(self._half)
            self._half = 0
            if event is not None:
                return event
            if not self.bounds.hold(self._reader.size):
                raise RequestRefused(TOO_MUCH_HELD)
            self._half = self._reader.size
            data = await self.stream.receive_some(_READ_BYTES)
            if not data:
                return None
            self._reader.feed(bytes(data))

    def _take(self, event: Event, ask: trio.MemorySendChannel[Event]) -> None:
        """Answer at once, or put it in line. What is not known here is ignored, as the protocol has it."""
        match event.type:
            case "describe":
                self._pen.post(describe(self.settings))
            case "ping":
                text = event.data.get("text")
                told = {"text": text} if isinstance(text, str) else {}
                self._pen.post(encode_event("pong", {**told}))
            case "transcript" if not self.bounds.hold(event.size):
                self._complain(TOO_MUCH_HELD.message, TOO_MUCH_HELD.code)
            case "transcript":
                self._whole += event.size
                try:
                    ask.send_nowait(event)
                except trio.WouldBlock:
                    message = f"More than {WAITING_MAX} transcripts wait on this connection."
                    raise BadEvent(message, is_lost=True) from None
                self._owed += 1
            case _:
                return

    # -- answering ---------------------------------------------------------------------------------

    async def _answer(self, asked: trio.MemoryReceiveChannel[Event]) -> None:
        async for event in asked:
            await self._answer_one(event)
            self._owed -= 1
            self._whole -= event.size
            self.bounds.free(event.size)
            if self.is_draining():
                self.drain()

    async def _answer_one(self, event: Event) -> None:
        try:
            transcript = msgspec.convert(event.data, _Transcript)
        except msgspec.ValidationError as fault:
            self._complain(f"The transcript is not understood: {fault}.")
            return
        turn = _Turn(self._pen, self.memory, transcript)
        if self.is_draining():
            self._turn_away(turn, _STOPPING)
            return
        if not transcript.text.strip():
            self._turn_away(turn, _SILENCE)
            return
        try:
            job = make_job(self._wanted(transcript), self._sender(), turn)
        except RequestRefused as refused:
            self._turn_away(turn, refused.refusal)
            return
        self.dispatcher.submit(job)
        try:
            await turn.over.wait()
        finally:
            turn.is_left = True
            self.dispatcher.withdraw(job)

    def _turn_away(self, turn: _Turn, refusal: Refusal) -> None:
        """End what becomes no job, and book it."""
        turn.fail(refusal)
        self._book(refusal)

    def _complain(self, message: str, code: Code = Code.INVALID_REQUEST) -> None:
        """The same of an event that is none, or not taken."""
        self._pen.post(_error(code, message))
        self._book(Refusal(code, message))

    def _book(self, refusal: Refusal) -> None:
        self.dispatcher.ledger.turn_away(turned_away(DOOR, "", refusal))

    def _wanted(self, transcript: _Transcript) -> Wanted:
        instructions = self.settings.instructions
        messages: list[Mapping[str, Any]] = (
            [{"role": "system", "content": instructions}] if instructions else []
        )
        messages += self.memory.recall(transcript.conversation, trio.current_time())
        messages.append({"role": "user", "content": transcript.text})
        return Wanted(model=self.settings.model, messages=messages)

    def _sender(self) -> Sender:
        wishes = {"media_type": "realtime"}
        if self.settings.max_latency_ms:
            wishes["max_latency_ms"] = str(self.settings.max_latency_ms)
        return Sender(
            request_id=make_request_id(),
            door=DOOR,
            arrived=trio.current_time(),
            wishes=wishes,
        )
