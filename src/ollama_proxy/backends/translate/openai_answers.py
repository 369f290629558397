"""What a backend answers in OpenAI's words, in Ollama's."""

import base64
import binascii
import math
import struct

import attrs
import msgspec

from ollama_proxy.backends.translate.ollama_words import OllamaWords, Said
from ollama_proxy.backends.translate.reading import GarbledAnswer, error_in, read_answer
from ollama_proxy.backends.translate.stream import LINE_MAX_BYTES, Events, Stream

_Object = dict[str, msgspec.Raw]
_FLOAT_BYTES = 4
_NANOSECONDS_PER_MILLISECOND = 1_000_000
_MILLISECONDS_MAX = 1e12  # beyond it the nanoseconds would not fit where Ollama's clients put them


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | _Object | None = None  # some servers send the object itself


class _ToolCall(msgspec.Struct):
    """A tool call, or in a stream one fragment of it."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(msgspec.Struct):
    content: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: msgspec.Raw = msgspec.Raw()  # read only if asked for: servers differ


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct):
    """llama-server's own; times are milliseconds."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Answer(msgspec.Struct):
    """A whole answer, or one chunk of it, to a chat or a completion."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Vector(msgspec.Struct):
    embedding: list[float] | str
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_ANSWER = msgspec.json.Decoder(_Answer)
_VECTORS = msgspec.json.Decoder(_Vectors)
_LOGPROBS = msgspec.json.Decoder(_Logprobs | None)
_ARGUMENTS = msgspec.json.Decoder(_Object)


@attrs.define
class _GatheredCall:
    """A tool call whose fragments are still coming in."""

    index: int | None
    identity: str
    name: str = ""
    arguments: list[str] = attrs.Factory(list)

    def add(self, function: _Function) -> int:
        """Take a fragment; returns its size in characters."""
        self.name = self.name or function.name or ""
        given = function.arguments or ""
        text = given if isinstance(given, str) else msgspec.json.encode(given).decode()
        self.arguments.append(text)
        return len(text)


class _Calls:
    """Gathers tool calls, as Ollama tells each of them whole."""

    def __init__(self) -> None:
        self._calls: list[_GatheredCall] = []
        self._size = 0

    def add(self, fragment: _ToolCall) -> None:
        """Take one fragment. Raises GarbledAnswer when they grow beyond all measure."""
        call = self._find(fragment)
        if call is None:
            call = _GatheredCall(index=fragment.index, identity=fragment.id or "")
            self._calls.append(call)
        self._size += 1
        if fragment.function is not None:
            self._size += call.add(fragment.function)
        if self._size > LINE_MAX_BYTES:
            raise GarbledAnswer(f"its tool calls are longer than {LINE_MAX_BYTES} characters")

    def _find(self, fragment: _ToolCall) -> _GatheredCall | None:
        """The call a fragment goes on with: some servers number none, some give all the same."""
        for call in reversed(self._calls):
            is_numbered_so = fragment.index is None or fragment.index == call.index
            is_named_so = not fragment.id or fragment.id == call.identity
            if is_numbered_so and is_named_so:
                return call
        return None

    def told(self, finish_reason: str | None) -> list[dict[str, object]]:
        """The calls in Ollama's words. Raises GarbledAnswer."""
        told: list[dict[str, object]] = []
        for call in self._calls:
            text = "".join(call.arguments).strip() or "{}"
            try:
                arguments = read_answer(text.encode(), _ARGUMENTS)
            except GarbledAnswer as error:
                if finish_reason == "length":
                    continue  # cut off by the limit, which the done_reason tells
                raise GarbledAnswer(f"the arguments of a tool call: {error}") from error
            if not call.name:
                raise GarbledAnswer("a tool call without a name")
            identity = {"id": call.identity} if call.identity else {}
            function = {"index": len(told), "name": call.name, "arguments": arguments}
            told.append({**identity, "function": function})
        return told


def _said(choice: _Choice, words: OllamaWords) -> Said:
    """What a choice says, its tool calls aside."""
    message = choice.message or choice.delta or _Message()
    text = message.content or message.refusal or choice.text or ""
    thinking = message.reasoning_content or message.reasoning or ""
    logprobs: list[msgspec.Raw] = []
    if words.logprobs and bytes(choice.logprobs):
        given = read_answer(bytes(choice.logprobs), _LOGPROBS)
        logprobs = (given.content if given is not None else None) or []
    return Said(text=text, thinking=thinking, logprobs=logprobs)


def _done_reason(finish_reason: str | None) -> str:
    """Ollama knows two ends of an answer; a tool call is no reason of its own there."""
    return "length" if finish_reason == "length" else "stop"


def _counts(usage: _Usage | None, timings: _Timings | None) -> dict[str, int]:
    """Ollama's figures, as far as they are known. Durations are nanoseconds.

    The total and the load are never known here, and leaving them out is truer than a 0.
    """
    counts: dict[str, int | None] = {}
    if usage is not None:
        counts["prompt_eval_count"] = usage.prompt_tokens
        counts["eval_count"] = usage.completion_tokens
    if timings is not None:
        counts["prompt_eval_duration"] = _nanoseconds(timings.prompt_ms)
        counts["eval_duration"] = _nanoseconds(timings.predicted_ms)
    return {name: count for name, count in counts.items() if count is not None}


def _nanoseconds(milliseconds: float | None) -> int | None:
    if milliseconds is None or abs(milliseconds) > _MILLISECONDS_MAX:
        return None
    return round(milliseconds * _NANOSECONDS_PER_MILLISECOND)


def read_generated(body: bytes, words: OllamaWords) -> bytes:
    """A whole chat or completion in Ollama's words. Raises GarbledAnswer."""
    answer = read_answer(body, _ANSWER)
    error = error_in(answer.error)
    if error is not None:
        raise GarbledAnswer(f"it is an error: {error}")
    choice = next((choice for choice in answer.choices or () if choice.index == 0), None)
    if choice is None or (choice.message is None and choice.text is None):
        raise GarbledAnswer("it says nothing")
    calls = _Calls()
    given = (choice.message.tool_calls if choice.message is not None else None) or ()
    for index, call in enumerate(given):
        # Whole calls carry no number of their own; without one they would run together.
        calls.add(msgspec.structs.replace(call, index=index))
    said = attrs.evolve(_said(choice, words), calls=calls.told(choice.finish_reason))
    counts = _counts(answer.usage, answer.timings)
    return words.last(said, _done_reason(choice.finish_reason), counts)


class Chunks(Stream):
    """A streamed chat or completion in Ollama's words; see `Pieces`."""

    def __init__(self, words: OllamaWords) -> None:
        """Translate into `words`."""
        super().__init__(Events())
        self._words = words
        self._calls = _Calls()
        self._finish_reason: str | None = None
        self._usage: _Usage | None = None
        self._timings: _Timings | None = None

    def _piece(self, piece: bytes) -> bytes:
        if piece.strip() == b"[DONE]":
            return self._end()
        chunk = read_answer(piece, _ANSWER)
        error = error_in(chunk.error)
        if error is not None:
            return self._fail(error)
        # The figures come in a chunk of their own, after the one that gives the reason.
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        return b"".join([self._choice(c) for c in chunk.choices or () if c.index == 0])

    def _choice(self, choice: _Choice) -> bytes:
        self._finish_reason = choice.finish_reason or self._finish_reason
        said = _said(choice, self._words)
        message = choice.message or choice.delta
        fragments = (message.tool_calls if message is not None else None) or []
        for fragment in fragments:
            self._calls.add(fragment)
        if said.text or said.thinking or fragments:
            self.tokens += 1
        return self._words.line(said) if said.text or said.thinking else b""

    def _end(self) -> bytes:
        self._is_over = True
        calls = self._calls.told(self._finish_reason)
        told = self._words.line(Said(calls=calls)) if calls else b""
        counts = _counts(self._usage, self._timings)
        return told + self._words.last(Said(), _done_reason(self._finish_reason), counts) + b"\n"

    def _close(self) -> bytes:
        if self._finish_reason is None:
            raise GarbledAnswer("its stream broke off")
        return self._end()


def _read_floats(body: bytes, expected: int) -> tuple[list[list[float]], _Usage | None]:
    answer = read_answer(body, _VECTORS)
    error = error_in(answer.error)
    if error is not None:
        raise GarbledAnswer(f"it is an error: {error}")
    vectors = answer.data or []
    if len(vectors) != expected:
        raise GarbledAnswer(f"it has {len(vectors)} embeddings for {expected} inputs")
    # Sorting is stable: servers that number none keep their order.
    ordered = sorted(vectors, key=lambda vector: vector.index or 0)
    return [_floats(vector.embedding) for vector in ordered], answer.usage


def _floats(embedding: list[float] | str) -> list[float]:
    """A vector as numbers, which some servers send as base64 of little-endian float32."""
    if isinstance(embedding, list):
        return embedding
    try:
        packed = base64.b64decode(embedding, validate=True)
        floats = list(struct.unpack(f"<{len(packed) // _FLOAT_BYTES}f", packed))
    except (binascii.Error, ValueError, struct.error) as error:
        raise GarbledAnswer(f"an embedding: {error}") from error
    if not all(map(math.isfinite, floats)):
        raise GarbledAnswer("an embedding holds what is not a number")
    return floats


def read_vectors(body: bytes, model: str, expected: int) -> bytes:
    """An answer with embeddings as that of `/api/embed`. Raises GarbledAnswer.

    Args:
        body: the backend's answer.
        model: the name the caller used.
        expected: how many inputs there were.
    """
    vectors, usage = _read_floats(body, expected)
    return msgspec.json.encode({"model": model, "embeddings": vectors, **_counts(usage, None)})


def read_single_vector(body: bytes) -> bytes:
    """An answer with one embedding as that of `/api/embeddings`. Raises GarbledAnswer."""
    vectors, _ = _read_floats(body, 1)
    return msgspec.json.encode({"embedding": vectors[0]})
