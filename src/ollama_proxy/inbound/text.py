"""Requests for text, for doors that speak of prompts and tokens rather than of bodies and bytes.

They are put in Ollama's words: its options hold every sampling parameter that any server knows, and
every backend is spoken to in them already, by itself or by translation. What comes back is read into
tokens, one `await` each, so that a slow listener slows its own backend and nobody else.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import msgspec

from ollama_proxy.engine.job import Caller, Errand, Head, Job, Tap
from ollama_proxy.inbound.reading import read_ask
from ollama_proxy.policy.ask import Call, MalformedWish, read_wishes
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

_OPTIONS = {"max_tokens": "num_predict", "max_completion_tokens": "num_predict"}
_ERRORS_FROM = 400
_NOT_UNDERSTOOD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_CALLER_FAULT_BELOW = 500


@attrs.frozen(kw_only=True)
class Wanted:
    """A text that is wanted.

    Attributes:
        model: who is to write it.
        prompt: what to answer; empty where there are messages.
        messages: a conversation, each with `role` and `content` as Ollama has them; none where there
            is a prompt.
        options: by Ollama's names; OpenAI's for the answer's length are known, too.
        stream: each token as it comes.
    """

    model: str
    prompt: str = ""
    messages: Sequence[Mapping[str, object]] = ()
    options: Mapping[str, object] = attrs.field(factory=dict)
    stream: bool = True


@attrs.frozen(kw_only=True)
class End:
    """How an answer ended. Counts are the server's; None where it does not count."""

    finish_reason: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class Listener(Protocol):
    """Who takes an answer. `token` and `end` may raise CallerLeft."""

    async def token(self, job: Job, text: str) -> None:
        """A piece of the answer, all of it where it is not streamed."""

    async def end(self, job: Job, end: End) -> None:
        """The answer is whole."""

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """There is no answer, or no more of it. It must not block."""

    def done(self, job: Job) -> None:
        """The job is over, whichever way: exactly one call, the last."""


class _Message(msgspec.Struct):
    content: str = ""


class _Line(msgspec.Struct):
    """One object of an answer of Ollama's."""

    response: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: str | None = None


_line = msgspec.json.Decoder(_Line)


@attrs.define(eq=False)
class TextCaller(Caller):
    """A job's caller that reads the answer for a listener."""

    listener: Listener
    _rest: bytes = b""
    _status: int = 200
    _is_over: bool = False  # its end, or why there is none, was told
    _job: Job = attrs.field(init=False)

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        self._status = head.status
        await self._read(job, first, complete=complete)

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        await self._read(self._job, data, complete=complete)

    def tap(self) -> Tap | None:
        """See `Caller`. Every byte is read."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Caller`."""
        if not self._is_over:
            self._is_over = True
            self.listener.refuse(job, refusal)

    def done(self, job: Job) -> None:
        """See `Caller`."""
        self.listener.done(job)

    async def _read(self, job: Job, data: bytes, *, complete: bool) -> None:
        self._job = job
        data = self._rest + data
        if self._status >= _ERRORS_FROM:
            self._rest = data
            if complete:
                self.refuse(job, _told(self._status, data))
            return
        *lines, self._rest = data.split(b"\n")
        if complete:
            lines.append(self._rest)
        for line in lines:
            if line.strip() and not self._is_over:
                await self._take(job, line)
        if complete and not self._is_over:
            self.refuse(job, Refusal(Code.BACKEND_FAILED, "The answer has no end."))

    async def _take(self, job: Job, line: bytes) -> None:
        try:
            told = _line.decode(line)
        except _NOT_UNDERSTOOD:
            self.refuse(job, Refusal(Code.BACKEND_FAILED, "The answer is not understood."))
            return
        if told.error is not None:
            self.refuse(job, Refusal(Code.BACKEND_FAILED, told.error))
            return
        text = told.response or (told.message.content if told.message is not None else "")
        if text:
            await self.listener.token(job, text)
        if told.done:
            self._is_over = True
            await self.listener.end(
                job,
                End(
                    finish_reason=told.done_reason or "stop",
                    prompt_tokens=told.prompt_eval_count,
                    answer_tokens=told.eval_count,
                ),
            )


def _told(status: int, body: bytes) -> Refusal:
    """What a backend answered instead of an answer."""
    try:
        error = _line.decode(body).error
    except _NOT_UNDERSTOOD:
        error = None
    code = Code.INVALID_REQUEST if status < _CALLER_FAULT_BELOW else Code.BACKEND_FAILED
    return Refusal(code, error or f"The backend answered with status {status}.")


@attrs.frozen(kw_only=True)
class Sender:
    """Who asks, and how it should be served.

    Attributes:
        request_id: comes back with the answer, and stands in the log.
        door: which door it came through.
        arrived: when it was read, in seconds.
        client: whose turns in line it takes.
        key_name: of the API key that they came with.
        wishes: by the names of `policy.ask.WISH_NAMES`, as text.
        trace: headers that say whose child the request is; they go to the backend.
    """

    request_id: str
    door: str
    arrived: float
    client: str = ""
    key_name: str = ""
    wishes: Mapping[str, str] = attrs.field(factory=dict)
    trace: Sequence[tuple[bytes, bytes]] = ()


def make_job(wanted: Wanted, sender: Sender, listener: Listener) -> Job:
    """Make a job of a text that is wanted.

    Raises:
        RequestRefused: something of it cannot be understood.
    """
    body: dict[str, object] = {"model": wanted.model, "stream": wanted.stream}
    if wanted.messages:
        call = Call.OLLAMA_CHAT
        body["messages"] = list(wanted.messages)
    else:
        call = Call.OLLAMA_GENERATE
        body["prompt"] = wanted.prompt
    if wanted.options:
        body["options"] = {_OPTIONS.get(k, k): v for k, v in wanted.options.items()}
    return _job(call, body, sender, TextCaller(listener))


def _job(call: Call, body: Mapping[str, object], sender: Sender, caller: Caller) -> Job:
    content = msgspec.json.encode(body)
    ask = read_ask(call, content)
    try:
        wishes = read_wishes(sender.wishes)
    except MalformedWish as wish:
        message = f"{wish.wish}: expected {wish.expected}, got {wish.value!r}."
        raise RequestRefused(Refusal(Code.INVALID_REQUEST, message, param=wish.wish)) from None
    return Job(
        errand=Errand(
            call=call,
            model=ask.model,
            body=content,
            stream=ask.stream,
            headers=(
                (b"content-type", b"application/json"),
                (b"x-request-id", sender.request_id.encode()),
                *sender.trace,
            ),
        ),
        ask=ask,
        wishes=wishes,
        caller=caller,
        request_id=sender.request_id,
        door=sender.door,
        arrived=sender.arrived,
        client=sender.client,
        key_name=sender.key_name,
    )


# -- vectors -----------------------------------------------------------------------------------


class VectorListener(Protocol):
    """Who takes vectors. As `Listener`."""

    async def vectors(self, job: Job, vectors: Sequence[Sequence[float]]) -> None:
        """One for each input, in their order."""

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Listener`."""

    def done(self, job: Job) -> None:
        """See `Listener`."""


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]


_vectors = msgspec.json.Decoder(_Vectors)


@attrs.define(eq=False)
class VectorCaller(Caller):
    """A job's caller that reads vectors for a listener."""

    listener: VectorListener
    _pieces: list[bytes] = attrs.field(factory=list)
    _status: int = 200
    _is_over: bool = False
    _job: Job = attrs.field(init=False)

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        self._status, self._job = head.status, job
        await self.write(first, complete=complete)

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        self._pieces.append(data)
        if not complete:
            return
        body = b"".join(self._pieces)
        if self._status >= _ERRORS_FROM:
            self.refuse(self._job, _told(self._status, body))
            return
        try:
            vectors = _vectors.decode(body).embeddings
        except _NOT_UNDERSTOOD:
            self.refuse(self._job, Refusal(Code.BACKEND_FAILED, "The answer is not understood."))
            return
        self._is_over = True
        await self.listener.vectors(self._job, vectors)

    def tap(self) -> Tap | None:
        """See `Caller`."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Caller`."""
        if not self._is_over:
            self._is_over = True
            self.listener.refuse(job, refusal)

    def done(self, job: Job) -> None:
        """See `Caller`."""
        self.listener.done(job)


def make_vector_job(
    model: str, inputs: Sequence[str], sender: Sender, listener: VectorListener
) -> Job:
    """Make a job of texts whose vectors are wanted.

    Raises:
        RequestRefused: something of it cannot be understood.
    """
    body = {"model": model, "input": list(inputs)}
    return _job(Call.OLLAMA_EMBED, body, sender, VectorCaller(listener))
