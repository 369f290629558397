"""What is spoken at /v1/stream/ws: many requests on one socket, interleaved, each by its own id.

A request is a message, and so is every token of its answer. A cancel is acknowledged at once, and
nothing of the request follows: a voice that is interrupted is silent before its backend is.
"""

import json
from typing import Any

import attrs
import msgspec
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import CallerLeft, Job
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD
from ollama_proxy.inbound.reading import ID_EXPECTED, is_request_id, make_request_id
from ollama_proxy.inbound.text import End, Sender, Wanted, make_job
from ollama_proxy.inbound.websocket.socket import DOOR, STOPPING, Socket
from ollama_proxy.policy.ask import WISH_NAMES
from ollama_proxy.policy.lineage import trace_of
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

PATH = "/v1/stream/ws"
RUNNING_MAX = 256  # at once on one socket; more are refused, and the socket stays
_SHOWN = 200


class Message(msgspec.Struct):
    """A message of the client's. What is unknown in it is ignored: it may be of a later version."""

    type: str = "request"
    request_id: str = ""
    model: str = ""
    prompt: str = ""
    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    stream: bool = True
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    priority: str | int | None = None
    max_latency_ms: float | None = None
    latency_critical: bool | None = None
    power_efficient: bool | None = None
    max_power_watts: float | None = None
    target: str | None = None
    media_type: str | None = "realtime"


class _Named(msgspec.Struct):
    """Whose message it is, where the rest is not understood."""

    request_id: str = ""


_message = msgspec.json.Decoder(Message)
_named = msgspec.json.Decoder(_Named)
_encode = msgspec.json.Encoder().encode


def wishes_of(message: Message) -> dict[str, str]:
    """Its wishes, as text: every door has them read by the same policy."""
    given = {wish: getattr(message, wish) for wish in WISH_NAMES}
    return {
        wish: str(value).lower() if isinstance(value, bool) else str(value)
        for wish, value in given.items()
        if value is not None
    }


@attrs.define(eq=False)
class _Turn:
    """One request on its way, as its `Listener`.

    Attributes:
        talk: the dialogue that it belongs to.
        id: the client's.
        id_json: the same, as it stands in each frame.
        streams: each token is told as it comes.
        first_s: from arrival to the first token.
        pieces: tokens so far.
        size: of what was asked, in bytes, which count until it is over.
        is_over: its last frame is out: nothing may follow.
    """

    talk: "StreamTalk"
    id: str
    id_json: bytes
    streams: bool
    size: int
    first_s: float | None = None
    pieces: int = 0
    is_over: bool = False
    _whole: list[str] = attrs.field(factory=list)

    async def token(self, job: Job, text: str) -> None:
        """See `Listener`."""
        if self.is_over:
            raise CallerLeft
        self.pieces += 1
        if self.first_s is None:
            self.first_s = trio.current_time() - job.arrived
            if self.streams:
                await self.talk.socket.send(_encode(self._first(job, text)))
                return
        if self.streams:
            # Made of bytes: this is the hot path, and the frame is the same but for the token.
            await self.talk.socket.send(
                b'{"request_id":%b,"token":%b,"done":false}' % (self.id_json, _encode(text))
            )
        else:
            self._whole.append(text)

    def _first(self, job: Job, text: str) -> dict[str, object]:
        decision = job.decision
        return {
            "request_id": self.id,
            "token": text,
            "done": False,
            "ttft_ms": round((self.first_s or 0.0) * 1000, 3),
            "backend": decision.backend if decision is not None else None,
            "routing_reason": decision.reason.value if decision is not None else None,
        }

    async def end(self, job: Job, end: End) -> None:
        """See `Listener`."""
        if self.is_over:
            raise CallerLeft
        total_s = trio.current_time() - job.arrived
        tokens = end.answer_tokens or self.pieces
        decode_s = total_s - (self.first_s or 0.0)
        decision = job.decision
        frame: dict[str, object] = {
            "request_id": self.id,
            "token": "".join(self._whole),
            "done": True,
            "finish_reason": end.finish_reason,
            "ttft_ms": None if self.first_s is None else round(self.first_s * 1000, 3),
            "total_time_ms": round(total_s * 1000, 3),
            "token_count": tokens,
            "tokens_per_second": round((tokens - 1) / decode_s, 2)
            if tokens > 1 and decode_s > 0
            else None,
            "backend": decision.backend if decision is not None else None,
            "routing_reason": decision.reason.value if decision is not None else None,
        }
        bill = job.billed(trio.current_time())
        if bill is not None:
            frame |= {"energy_j": round(bill.joules, 3), "energy_source": bill.grade.value}
        self.is_over = True
        # Before the frame is out: whoever has it may use the id again at once.
        self.talk.forget(self)
        await self.talk.socket.send(_encode(frame))

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Listener` has it
        """See `Listener`."""
        self.fail(refusal)

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        self.talk.forget(self)

    def fail(self, refusal: Refusal) -> None:
        """Its last frame: why there is no answer, or no more of it."""
        if not self.is_over:
            self.is_over = True
            self.talk.forget(self)
            self.talk.socket.post(_encode(_error(self.id, refusal)))

    def interrupt(self) -> None:
        """Its last frame: the client cancelled it."""
        if not self.is_over:
            self.is_over = True
            self.talk.socket.post(
                b'{"request_id":%b,"done":true,"finish_reason":"cancelled"}' % self.id_json
            )


def _error(request_id: str, refusal: Refusal) -> dict[str, object]:
    error: dict[str, object] = {"code": refusal.code.value, "message": refusal.message}
    if refusal.param is not None:
        error["param"] = refusal.param
    if refusal.retry_after_s is not None:
        error["retry_after_s"] = refusal.retry_after_s
    return {"request_id": request_id or None, "done": True, "error": error}


@attrs.define(eq=False)
class StreamTalk:
    """One socket's requests. See `Dialogue`."""

    socket: Socket
    dispatcher: Dispatcher
    _running: dict[str, tuple[_Turn, Job]] = attrs.field(factory=dict)

    async def open(self) -> None:
        """Nothing is said before the client speaks."""

    async def hear(self, message: str) -> None:
        """Do what a message asks for."""
        content = message.encode()
        try:
            asked = _message.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            self._refuse(_name(content), _not_understood(error))
            return
        match asked.type:
            case "request":
                self._start(asked, len(content))
            case "cancel":
                self._cancel(asked.request_id)
            case other:
                refusal = Refusal(
                    Code.INVALID_REQUEST,
                    f"type: expected request or cancel, got {other[:_SHOWN]!r}.",
                    param="type",
                )
                self._refuse(asked.request_id, refusal)
        # Who sends many at once lets those who work have their turn, and waits for a slow reader.
        await trio.lowlevel.checkpoint()

    def _start(self, asked: Message, size: int) -> None:
        request_id = asked.request_id or make_request_id()
        if not is_request_id(request_id.encode()):
            refusal = Refusal(
                Code.INVALID_REQUEST,
                f"request_id: expected {ID_EXPECTED}, got {request_id[:_SHOWN]!r}.",
                param="request_id",
            )
            self._refuse(request_id[:_SHOWN], refusal)
            return
        if request_id in self._running:
            refusal = Refusal(
                Code.INVALID_REQUEST,
                f"request_id: {request_id[:_SHOWN]!r} is running already.",
                param="request_id",
            )
            self._refuse(request_id, refusal)
            return
        turn = _Turn(self, request_id, _encode(request_id), asked.stream, size)
        if self.socket.is_draining:
            # What is new would be cut off with what runs, or keep the router from its end.
            self._turn_away(turn, STOPPING)
            return
        if len(self._running) >= RUNNING_MAX:
            self._turn_away(
                turn,
                Refusal(
                    Code.QUEUE_FULL,
                    f"More than {RUNNING_MAX} requests run on this socket already.",
                    retry_after_s=1.0,
                ),
            )
            return
        try:
            self.socket.readmit()
            job = make_job(
                Wanted(
                    model=asked.model,
                    prompt=asked.prompt,
                    messages=asked.messages,
                    options=asked.options,
                    stream=asked.stream,
                ),
                Sender(
                    request_id=request_id,
                    door=DOOR,
                    arrived=trio.current_time(),
                    key_name=self.socket.visitor.name,
                    wishes=wishes_of(asked),
                    trace=trace_of(self.socket.headers),
                ),
                turn,
            )
        except RequestRefused as refused:
            self._turn_away(turn, refused.refusal)
            return
        if not self.socket.bounds.hold(size):
            self._turn_away(turn, TOO_MUCH_HELD)
            return
        self._running[request_id] = turn, job
        self.dispatcher.submit(job)

    def _turn_away(self, turn: _Turn, refusal: Refusal) -> None:
        """End what becomes no job, and book it."""
        turn.fail(refusal)
        self.socket.turn_away(refusal, turn.id)

    def _refuse(self, request_id: str, refusal: Refusal) -> None:
        """The same of a message that is no request of its own."""
        self.socket.post(_encode(_error(request_id, refusal)))
        self.socket.turn_away(refusal, request_id)

    def _cancel(self, request_id: str) -> None:
        found = self._running.get(request_id)
        if found is None:
            refusal = Refusal(
                Code.NOT_FOUND,
                f"request_id: nothing that runs is named {request_id[:_SHOWN]!r}.",
                param="request_id",
            )
            self._refuse(request_id, refusal)
            return
        turn, job = found
        turn.interrupt()
        # Free for another request of the same name, though its backend may still be on its way out.
        self.forget(turn)
        self.dispatcher.withdraw(job)

    def forget(self, turn: _Turn) -> None:
        """A turn is over."""
        found = self._running.get(turn.id)
        if found is not None and found[0] is turn:
            del self._running[turn.id]
            self.socket.bounds.free(turn.size)
            self.socket.settled()

    def refuse(self, message: str, refusal: Refusal) -> None:
        """See `Dialogue`."""
        self._refuse(_name(message.encode()), refusal)

    def leave(self) -> None:
        """See `Dialogue`."""
        for turn, job in list(self._running.values()):
            turn.is_over = True
            self.dispatcher.withdraw(job)

    @property
    def is_idle(self) -> bool:
        """See `Dialogue`."""
        return not self._running


def _name(content: bytes) -> str:
    try:
        return _named.decode(content).request_id
    except (msgspec.DecodeError, RecursionError):
        return _name_amid_surrogates(content)


def _name_amid_surrogates(content: bytes) -> str:
    """The same where half a character stands elsewhere, which only the standard library reads."""
    try:
        told = json.loads(content)
        name = told.get("request_id") if isinstance(told, dict) else None
        # It goes back as UTF-8, which has no such thing.
        return name.encode().decode() if isinstance(name, str) else ""
    except (ValueError, RecursionError):
        return ""


def _not_understood(error: Exception) -> Refusal:
    if isinstance(error, RecursionError):
        return Refusal(Code.INVALID_REQUEST, "The message's JSON is nested too deeply.")
    if isinstance(error, msgspec.ValidationError):
        return Refusal(Code.INVALID_REQUEST, f"The message is not understood: {error}.")
    return Refusal(Code.INVALID_REQUEST, f"The message is not valid JSON: {error}.")
