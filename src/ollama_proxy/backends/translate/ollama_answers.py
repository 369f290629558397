"""What a backend answers in Ollama's words, in OpenAI's."""

import base64
import struct

import msgspec

from ollama_proxy.backends.translate.openai_words import OpenAIWords, Said
from ollama_proxy.backends.translate.reading import GarbledAnswer, error_in, read_answer
from ollama_proxy.backends.translate.stream import Lines, Stream


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, msgspec.Raw] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Answer(msgspec.Struct):
    """A whole answer, or one line of it, to a chat (`message`) or a generate (`response`)."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]] | None = None
    prompt_eval_count: int | None = None
    error: msgspec.Raw = msgspec.Raw()


_ANSWER = msgspec.json.Decoder(_Answer)
_VECTORS = msgspec.json.Decoder(_Vectors)


def _said(answer: _Answer, words: OpenAIWords, *, calls_before: int, numbered: bool) -> Said:
    """What a line says.

    Args:
        answer: the line.
        words: whose identity the ids of tool calls are made from, where Ollama gave none.
        calls_before: how many tool calls earlier lines had.
        numbered: whether the calls carry their place, as they do in streams only.
    """
    message = answer.message or _Message(content=answer.response, thinking=answer.thinking)
    calls: list[dict[str, object]] = []
    for index, call in enumerate(message.tool_calls or (), start=calls_before):
        arguments = msgspec.json.encode(call.function.arguments or {}).decode()
        place = {"index": index} if numbered else {}
        calls.append({
            **place,
            "id": call.id or f"call_{words.identity}_{index}",
            "type": "function",
            "function": {"name": call.function.name, "arguments": arguments},
        })
    return Said(text=message.content or "", thinking=message.thinking or "", calls=calls)


def _finish_reason(answer: _Answer, *, is_call: bool) -> str:
    if answer.done_reason == "length":
        return "length"
    return "tool_calls" if is_call else "stop"


def _usage(answer: _Answer) -> dict[str, int] | None:
    """OpenAI's figures; None when the server told none, since 0 would be a lie."""
    if answer.prompt_eval_count is None and answer.eval_count is None:
        return None
    # Ollama leaves out the count of a prompt it had in its cache.
    prompt, completion = answer.prompt_eval_count or 0, answer.eval_count or 0
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def read_generated(body: bytes, words: OpenAIWords) -> bytes:
    """A whole chat or generate in OpenAI's words. Raises GarbledAnswer."""
    answer = read_answer(body, _ANSWER)
    error = error_in(answer.error)
    if error is not None:
        raise GarbledAnswer(f"it is an error: {error}")
    if answer.message is None and answer.response is None:
        raise GarbledAnswer("it says nothing")
    if answer.done is False:
        raise GarbledAnswer("it is not whole")
    said = _said(answer, words, calls_before=0, numbered=False)
    reason = _finish_reason(answer, is_call=bool(said.calls))
    return words.whole(said, reason, _usage(answer))


class AnswerLines(Stream):
    """A streamed chat or generate in OpenAI's words; see `Pieces`."""

    def __init__(self, words: OpenAIWords) -> None:
        """Translate into `words`."""
        super().__init__(Lines())
        self._words = words
        self._calls = 0
        self._is_begun = False

    def _piece(self, piece: bytes) -> bytes:
        answer = read_answer(piece, _ANSWER)
        error = error_in(answer.error)
        if error is not None:
            return self._fail(error)
        said = _said(answer, self._words, calls_before=self._calls, numbered=True)
        self._calls += len(said.calls)
        if said.text or said.thinking or said.calls:
            self.tokens += 1
        told = self._words.piece(said)
        if not self._is_begun:
            self._is_begun = True
            told = self._words.opening() + told
        if answer.done:
            self._is_over = True
            reason = _finish_reason(answer, is_call=self._calls > 0)
            told += self._words.closing(reason, _usage(answer))
        return told

    def _close(self) -> bytes:
        raise GarbledAnswer("its stream broke off")


def read_vectors(body: bytes, model: str, expected: int, *, packed: bool) -> bytes:
    """An answer with embeddings as that of `/v1/embeddings`. Raises GarbledAnswer.

    Args:
        body: the backend's answer.
        model: the name the caller used.
        expected: how many inputs there were.
        packed: whether the caller wants base64 of little-endian float32, not numbers.
    """
    answer = read_answer(body, _VECTORS)
    error = error_in(answer.error)
    if error is not None:
        raise GarbledAnswer(f"it is an error: {error}")
    vectors = answer.embeddings or []
    if len(vectors) != expected:
        raise GarbledAnswer(f"it has {len(vectors)} embeddings for {expected} inputs")
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(floats) if packed else floats}
        for index, floats in enumerate(vectors)
    ]
    # Here OpenAI's clients do not take an absent usage, so an unknown count must be a 0.
    tokens = answer.prompt_eval_count or 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _packed(floats: list[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(floats)}f", *floats)).decode()
    except (OverflowError, struct.error) as error:
        raise GarbledAnswer(f"an embedding: {error}") from error
