"""What is spoken at /v1/realtime: the text part of OpenAI's Realtime.

The conversation is kept here, and each `response.create` is one request of all that was said. Wishes
come with the handshake's headers; without them a response is as urgent as speech. Whatever is of audio
is refused in words: nothing here would hear it.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import attrs
import msgspec
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import CallerLeft, Job
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD
from ollama_proxy.inbound.reading import RoutingHeaders
from ollama_proxy.inbound.text import End, Sender, Wanted, make_job
from ollama_proxy.inbound.websocket.conversation import (
    Conversation,
    Item,
    make_id,
    read_item,
    refused,
)
from ollama_proxy.inbound.websocket.socket import DOORS, STOPPING, Socket
from ollama_proxy.policy.lineage import trace_of
from ollama_proxy.policy.refusal import Refusal, RequestRefused

PATH = "/v1/realtime"
DOOR = DOORS[PATH]
_encode = msgspec.json.Encoder().encode
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _Asked(msgspec.Struct):
    """What a response is asked with; the session's where it does not say."""

    instructions: str | None = None
    output_modalities: list[str] | None = None
    modalities: list[str] | None = None  # as it was called before
    max_output_tokens: int | str | None = None
    conversation: str = "auto"
    input: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    model: str | None = None


class _Event(msgspec.Struct):
    """An event of the client's. What is unknown in it is ignored."""

    type: str
    event_id: str | None = None
    session: _Asked | None = None
    response: _Asked | None = None
    item: dict[str, Any] | None = None
    item_id: str = ""
    previous_item_id: str | None = None
    response_id: str | None = None
    content_index: int = 0
    audio_end_ms: int = 0


_event = msgspec.json.Decoder(_Event)


def _check_modalities(asked: _Asked) -> None:
    wanted = asked.output_modalities or asked.modalities or ["text"]
    if wanted != ["text"]:
        raise refused(
            f'output_modalities: only ["text"] is spoken here, not {wanted}.',
            "output_modalities",
        )


def _check_length(asked: _Asked) -> None:
    limit = asked.max_output_tokens
    # Passed on, a server would read what is below 1 as "no end", or as nothing at all.
    if limit not in {None, "inf"} and not (isinstance(limit, int) and limit > 0):
        raise refused(
            f'max_output_tokens: expected a number from 1, or "inf", got {limit!r:.100}.',
            "max_output_tokens",
        )


@attrs.define(eq=False)
class _Response:
    """One response on its way, as its request's `Listener`."""

    talk: "RealtimeTalk"
    asked: _Asked
    id: str = attrs.field(factory=lambda: make_id("resp"))
    item: Item = attrs.field(
        factory=lambda: Item(make_id("item"), "assistant", "", status="in_progress")
    )
    is_over: bool = False
    _pieces: list[str] = attrs.field(factory=list)
    _before: str | None = None

    @property
    def _place(self) -> dict[str, object]:
        return {"response_id": self.id, "output_index": 0}

    @property
    def _part(self) -> dict[str, object]:
        return {**self._place, "item_id": self.item.id, "content_index": 0}

    def shown(self, status: str, **more: object) -> dict[str, object]:
        """As it stands in events."""
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": None,
            "output": [self.item.shown()] if status != "in_progress" else [],
            "output_modalities": ["text"],
            "conversation_id": None if self.asked.conversation == "none" else self.talk.id,
            "metadata": self.asked.metadata,
            "usage": None,
        } | more

    async def token(self, job: Job, text: str) -> None:  # noqa: ARG002 - as `Listener` has it
        """See `Listener`."""
        if self.is_over:
            raise CallerLeft
        if not self._pieces:
            self._begin()
        self._pieces.append(text)
        await self.talk.send("response.output_text.delta", delta=text, **self._part)

    def _begin(self) -> None:
        post = self.talk.post
        post("response.output_item.added", item=self.item.shown(), **self._place)
        if self.asked.conversation != "none":
            self._before = self.talk.conversation.append(self.item)
            post("conversation.item.added", item=self.item.shown(), previous_item_id=self._before)
        part = {"type": "output_text", "text": ""}
        post("response.content_part.added", part=part, **self._part)

    async def end(self, job: Job, end: End) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        if self.is_over:
            raise CallerLeft
        usage = {
            "input_tokens": end.prompt_tokens,
            "output_tokens": end.answer_tokens or len(self._pieces),
            "total_tokens": (end.prompt_tokens or 0) + (end.answer_tokens or len(self._pieces)),
        }
        why = _INCOMPLETE.get(end.finish_reason)
        if why is None:
            self._finish("completed", usage=usage)
        else:
            details = {"type": "incomplete", "reason": why}
            self._finish("incomplete", usage=usage, status_details=details)

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        if not self.is_over:
            error = {"type": "server_error", "code": refusal.code.value}
            details = {"type": "failed", "error": error | {"message": refusal.message}}
            self._finish("failed", status_details=details)

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """See `Listener`."""
        self.talk.forget(self)

    def interrupt(self) -> None:
        """The client cancelled it."""
        details = {"type": "cancelled", "reason": "client_cancelled"}
        self._finish("cancelled", status_details=details)

    def _finish(self, status: str, **more: object) -> None:
        """Its last events: after them nothing of it follows, and the next may be asked for."""
        self.is_over = True
        self.talk.forget(self)
        self.item.text = "".join(self._pieces)
        self.talk.keep(self.item)
        self.item.status = "completed" if status == "completed" else "incomplete"
        post = self.talk.post
        if self._pieces:
            part = {"type": "output_text", "text": self.item.text}
            post("response.output_text.done", text=self.item.text, **self._part)
            post("response.content_part.done", part=part, **self._part)
            post("response.output_item.done", item=self.item.shown(), **self._place)
            if self.asked.conversation != "none":
                post(
                    "conversation.item.done", item=self.item.shown(), previous_item_id=self._before
                )
        post("response.done", response=self.shown(status, **more))


@attrs.define(eq=False)
class RealtimeTalk:
    """One socket's conversation. See `Dialogue`."""

    socket: Socket
    dispatcher: Dispatcher
    id: str = attrs.field(factory=lambda: make_id("conv"))
    conversation: Conversation = attrs.field(factory=Conversation)
    _session: _Asked = attrs.field(factory=_Asked)
    _model: str = ""
    _headers: RoutingHeaders = attrs.field(init=False)
    _running: tuple[_Response, Job] | None = None
    _kept: dict[str, int] = attrs.field(factory=dict)  # bytes that count, by what they are of
    _numbers: "itertools.count[int]" = attrs.field(factory=lambda: itertools.count(1))

    # -- Dialogue ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Dialogue`."""
        query = parse_qs(self.socket.target.partition("?")[2])
        self._model = query.get("model", [""])[0]
        self._headers = RoutingHeaders(self.socket.headers)
        self.post("session.created", session=self._shown())

    async def hear(self, message: str) -> None:
        """See `Dialogue`."""
        event_id: str | None = None
        try:
            try:
                event = _event.decode(message.encode())
            except (msgspec.DecodeError, RecursionError) as error:
                raise refused(f"The event is not understood: {error}.") from None
            event_id = event.event_id
            self._do(event)
        except RequestRefused as refusal:
            self._complain(refusal.refusal, event_id)
        await trio.lowlevel.checkpoint()

    def refuse(self, message: str, refusal: Refusal) -> None:
        """See `Dialogue`."""
        try:
            event_id = _event.decode(message.encode()).event_id
        except (msgspec.DecodeError, RecursionError):
            event_id = None
        self._complain(refusal, event_id)

    def leave(self) -> None:
        """See `Dialogue`."""
        if self._running is not None:
            response, job = self._running
            response.is_over = True
            self.dispatcher.withdraw(job)
            self.forget(response)
        for what in list(self._kept):
            self._drop(what)

    @property
    def is_idle(self) -> bool:
        """See `Dialogue`."""
        return self._running is None

    # -- saying ------------------------------------------------------------------------------------

    def post(self, kind: str, **fields: object) -> None:
        """Say something, whole and in its turn."""
        self.socket.post(self._frame(kind, fields))

    async def send(self, kind: str, **fields: object) -> None:
        """The same, and wait for a slow client. Raises CallerLeft."""
        await self.socket.send(self._frame(kind, fields))

    def _frame(self, kind: str, fields: Mapping[str, object]) -> bytes:
        return _encode({"type": kind, "event_id": f"event_{next(self._numbers)}"} | dict(fields))

    def _complain(self, refusal: Refusal, event_id: str | None) -> None:
        self.socket.turn_away(refusal)
        self.post(
            "error",
            error={
                "type": "server_error" if refusal is STOPPING else "invalid_request_error",
                "code": refusal.code.value,
                "message": refusal.message,
                "param": refusal.param,
                "event_id": event_id,
            },
        )

    def _shown(self) -> dict[str, object]:
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": self.id.replace("conv", "sess"),
            "model": self._model,
            "output_modalities": ["text"],
            "instructions": self._session.instructions or "",
            "max_output_tokens": self._session.max_output_tokens or "inf",
            "tools": [],
            "tool_choice": "none",
        }

    # -- doing -------------------------------------------------------------------------------------

    def _do(self, event: _Event) -> None:
        match event.type:
            case "session.update":
                self._update(event.session or _Asked())
            case "conversation.item.create":
                self._create(event)
            case "conversation.item.retrieve":
                item = self.conversation.find(event.item_id)
                self.post("conversation.item.retrieved", item=item.shown())
            case "conversation.item.delete":
                self.conversation.delete(event.item_id)
                self._drop(event.item_id)
                self.post("conversation.item.deleted", item_id=event.item_id)
            case "conversation.item.truncate":
                self._truncate(event)
            case "response.create":
                self._respond(event.response or _Asked())
            case "response.cancel":
                self._cancel(event.response_id)
            case kind if "audio" in kind:
                raise refused(f"{kind}: this router speaks text alone.", "type")
            case kind:
                raise refused(f"type: {kind[:100]!r} is not understood.", "type")

    def _hold(self, what: str, size: int) -> None:
        """Count bytes that are kept, in place of what was of the same. Raises RequestRefused."""
        before = self._kept.get(what, 0)
        if size > before and not self.socket.bounds.hold(size - before):
            raise RequestRefused(TOO_MUCH_HELD)
        self.socket.bounds.free(max(0, before - size))
        self._kept[what] = size

    def _drop(self, what: str) -> None:
        self.socket.bounds.free(self._kept.pop(what, 0))

    def keep(self, item: Item) -> None:
        """Count an answer. It is there, and there is nobody who could be refused for it."""
        if any(each is item for each in self.conversation.items):
            with contextlib.suppress(RequestRefused):
                self._hold(item.id, item.size)

    def _update(self, wanted: _Asked) -> None:
        _check_modalities(wanted)
        _check_length(wanted)
        if wanted.instructions is not None:
            self._hold("instructions", len(wanted.instructions.encode()))
        given = {
            field.name: value
            for field in msgspec.structs.fields(_Asked)
            if (value := getattr(wanted, field.name)) is not None
        }
        self._session = msgspec.structs.replace(self._session, **given)
        self._model = wanted.model or self._model
        self.post("session.updated", session=self._shown())

    def _create(self, event: _Event) -> None:
        item = read_item(event.item or {})
        before = self.conversation.add(item, event.previous_item_id)
        try:
            self._hold(item.id, item.size)
        except RequestRefused:
            self.conversation.delete(item.id)
            raise
        for kind in ("conversation.item.added", "conversation.item.done"):
            self.post(kind, item=item.shown(), previous_item_id=before)

    def _truncate(self, event: _Event) -> None:
        """What is of audio is cut there; of text nothing is said that was not heard."""
        item = self.conversation.find(event.item_id)
        if item.role != "assistant":
            raise refused("item_id: only the assistant's items are truncated.", "item_id")
        self.post(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=event.content_index,
            audio_end_ms=event.audio_end_ms,
        )

    def _respond(self, asked: _Asked) -> None:
        _check_modalities(asked)
        _check_length(asked)
        if self.socket.is_draining:
            # Also where one runs: to ask again when it is over would be in vain.
            raise RequestRefused(STOPPING)
        if self._running is not None:
            raise refused(f"The response {self._running[0].id} is not over yet.")
        self.socket.readmit()
        response = _Response(self, asked)
        job = make_job(self._wanted(asked), self._sender(response), response)
        self._hold(response.id, len(job.errand.body))
        self._running = response, job
        self.post("response.created", response=response.shown("in_progress"))
        self.dispatcher.submit(job)

    def _wanted(self, asked: _Asked) -> Wanted:
        instructions = asked.instructions
        if instructions is None:
            instructions = self._session.instructions or ""
        limit = asked.max_output_tokens or self._session.max_output_tokens
        items: Sequence[Item] | None = None
        if asked.input is not None:
            items = [self._item(raw) for raw in asked.input]
        messages = self.conversation.messages(instructions, items)
        if not messages:
            raise refused("There is nothing to respond to: the conversation is empty.")
        return Wanted(
            model=asked.model or self._model,
            messages=messages,
            options={"num_predict": limit} if isinstance(limit, int) else {},
        )

    def _item(self, raw: Mapping[str, Any]) -> Item:
        if raw.get("type") == "item_reference":
            return self.conversation.find(str(raw.get("id")))
        return read_item(raw)

    def _sender(self, response: _Response) -> Sender:
        if self._headers.fault is not None:
            raise RequestRefused(self._headers.fault)
        return Sender(
            request_id=response.id,
            door=DOOR,
            arrived=trio.current_time(),
            client=self._headers.client,
            key_name=self.socket.visitor.name,
            wishes={"media_type": "realtime"} | self._headers.given,
            trace=trace_of(self.socket.headers),
        )

    def _cancel(self, response_id: str | None) -> None:
        if self._running is None or response_id not in {None, "", self._running[0].id}:
            raise refused("response_id: no such response is under way.", "response_id")
        response, job = self._running
        response.interrupt()
        self.dispatcher.withdraw(job)

    def forget(self, response: _Response) -> None:
        """A response is over."""
        if self._running is not None and self._running[0] is response:
            self._running = None
            self._drop(response.id)
            self.socket.settled()
