"""Ollama's answers come out in OpenAI's words, whole and in pieces."""

import base64
import struct

import msgspec
import pytest

from ollama_proxy.backends.translate import GarbledAnswer, Translation, translation
from ollama_proxy.policy.ask import Call, Dialect

HEAD = {
    "id": "chatcmpl-identity",
    "created": 1_700_000_000,
    "model": "mine",
    "system_fingerprint": "fp_ollama",
}


def _asked(call: Call, **fields: object) -> Translation:
    body = msgspec.json.encode({"model": "mine", **fields})
    translated = translation(
        call, Dialect.OLLAMA, body, model="theirs", now=1_700_000_000.5, identity="identity"
    )
    assert translated is not None
    return translated


CHAT = _asked(Call.OPENAI_CHAT, messages=[{"role": "user", "content": "hi"}])
COUNTING = _asked(
    Call.OPENAI_CHAT,
    messages=[{"role": "user", "content": "hi"}],
    stream=True,
    stream_options={"include_usage": True},
)
COMPLETION = _asked(Call.OPENAI_COMPLETION, prompt="hi")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
COUNTS = {"prompt_eval_count": 3, "eval_count": 2}


def _streamed(translated: Translation, *lines: dict[str, object]) -> list[object]:
    pieces = translated.pieces()
    out = pieces.feed(_ndjson(*lines)) + pieces.finish()
    assert pieces.error is None
    *events, done, nothing = out.split(b"\n\n")
    assert (b"data: [DONE]", b"") == (done, nothing)
    decoded = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]
    return [{k: v for k, v in event.items() if k not in HEAD} for event in decoded]


def _ndjson(*lines: dict[str, object]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _line(**message: object) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": "", **message}, "done": False}


def _chunk(finish_reason: str | None = None, **delta: object) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice]}


DONE = _line() | {"done": True, "done_reason": "stop", **COUNTS}
OPENING = _chunk(role="assistant", content="")


@pytest.mark.parametrize(
    ("said", "reason", "message", "finish_reason"),
    [
        ({"content": "hello"}, "stop", {"content": "hello"}, "stop"),
        ({"content": "hel"}, "length", {"content": "hel"}, "length"),
        ({"content": ""}, "load", {"content": ""}, "stop"),
        (
            {"content": "4", "thinking": "2+2"},
            "stop",
            {"content": "4", "reasoning_content": "2+2"},
            "stop",
        ),
        (
            {
                "content": "",
                "tool_calls": [
                    {"function": {"name": "f", "arguments": {"a": 1}}},
                    {"id": "mine", "function": {"name": "g"}},
                ],
            },
            "stop",
            {
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_identity_0",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    },
                    {
                        "id": "mine",
                        "type": "function",
                        "function": {"name": "g", "arguments": "{}"},
                    },
                ],
            },
            "tool_calls",
        ),
    ],
)
def test_whole_chats(
    said: dict[str, object], reason: str, message: dict[str, object], finish_reason: str
) -> None:
    """A whole chat keeps its text, thoughts, tool calls, reason and figures."""
    answer = {"model": "theirs", "message": said, "done": True, "done_reason": reason, **COUNTS}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "refusal": None, **message},
        "logprobs": None,
        "finish_reason": finish_reason,
    }

    assert {
        **HEAD,
        "object": "chat.completion",
        "choices": [choice],
        "usage": USAGE,
    } == msgspec.json.decode(CHAT.whole(msgspec.json.encode(answer)))


def test_whole_completion() -> None:
    """A generate becomes a completion."""
    answer = {"response": "abc", "done": True, "done_reason": "length", **COUNTS}
    choice = {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}

    assert {
        **HEAD,
        "id": "cmpl-identity",
        "object": "text_completion",
        "choices": [choice],
        "usage": USAGE,
    } == msgspec.json.decode(COMPLETION.whole(msgspec.json.encode(answer)))


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({}, None),
        ({"eval_count": 2}, {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}),
    ],
)
def test_usage_is_told_where_it_is_known(counts: dict[str, int], usage: object) -> None:
    """Figures the server did not give are not made up."""
    answer = msgspec.json.encode({"response": "a", "done": True, **counts})

    assert usage == msgspec.json.decode(COMPLETION.whole(answer)).get("usage")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"message":{"content":5}}',
        b'{"message":{"content":"a"},"done":false}',
        b'{"error":"broken"}',
        b'{"x":' + b"[" * 100_000,
        b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}',
    ],
)
def test_whole_garbage(body: bytes) -> None:
    """An answer that makes no sense is the backend's fault."""
    with pytest.raises(GarbledAnswer):
        CHAT.whole(body)


def test_streamed_chat() -> None:
    """The role comes first, then each line at once, then the reason."""
    told = _streamed(CHAT, _line(thinking="2+2"), _line(content="f"), _line(content="our"), DONE)

    assert [
        OPENING,
        _chunk(reasoning_content="2+2"),
        _chunk(content="f"),
        _chunk(content="our"),
        _chunk("stop"),
    ] == told


def test_streamed_usage() -> None:
    """A caller who asks for the figures gets them in a chunk of their own."""
    told = _streamed(COUNTING, _line(content="a"), DONE)

    assert [
        OPENING | {"usage": None},
        _chunk(content="a") | {"usage": None},
        _chunk("stop") | {"usage": None},
        {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
    ] == told


def test_text_in_the_last_line_is_told() -> None:
    """Ollama may say its last word in the line that ends the answer."""
    last = DONE | {"message": {"role": "assistant", "content": "bye"}, "done_reason": "length"}

    assert [OPENING, _chunk(content="bye"), _chunk("length")] == _streamed(CHAT, last)


def test_streamed_tool_calls_are_numbered() -> None:
    """Calls keep counting over the lines they come in."""
    call = {"function": {"name": "f", "arguments": {}}}
    told = _streamed(CHAT, _line(tool_calls=[call]), _line(tool_calls=[call]), DONE)

    def chunk(index: int) -> dict[str, object]:
        function = {"name": "f", "arguments": "{}"}
        identity = f"call_identity_{index}"
        return _chunk(
            tool_calls=[{"index": index, "id": identity, "type": "function", "function": function}]
        )

    assert [OPENING, chunk(0), chunk(1), _chunk("tool_calls")] == told


def test_streamed_completion() -> None:
    """A generate's lines become the texts of a completion."""
    told = _streamed(
        COMPLETION,
        {"response": "a", "done": False},
        {"response": "", "done": True, "done_reason": "stop"},
    )

    def event(text: str, finish_reason: str | None) -> dict[str, object]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {"id": "cmpl-identity", "object": "text_completion", "choices": [choice]}

    identity = {"id": "cmpl-identity"}
    assert [event("a", None), event("", "stop")] == [
        {**identity, **e} for e in told if isinstance(e, dict)
    ]


@pytest.mark.parametrize(
    "line", [b'{"error":"out of memory"}\n', b'{"error":{"message":"out of memory"}}']
)
def test_errors_in_the_stream(line: bytes) -> None:
    """An error is set aside for whoever ends the stream, and nothing follows it."""
    pieces = CHAT.pieces()
    before = pieces.feed(_ndjson(_line(content="a")) + line) + pieces.finish()

    assert 2 == before.count(b"data: ")
    assert "out of memory" == pieces.error
    assert b"" == pieces.feed(_ndjson(DONE)) + pieces.finish()


def test_a_stream_that_breaks_off_is_garbled() -> None:
    """Without `done` the answer is not passed off as whole."""
    pieces = CHAT.pieces()
    pieces.feed(_ndjson(_line(content="a")))

    with pytest.raises(GarbledAnswer):
        pieces.finish()


@pytest.mark.parametrize(
    "stream",
    [b"nonsense\n", b"[1]\n", b"\xff\n", b'{"x":' + b"[" * 100_000 + b"\n", b" " * ((1 << 20) + 1)],
    ids=["text", "array", "encoding", "depth", "line"],
)
def test_streamed_garbage(stream: bytes) -> None:
    """A stream that makes no sense, or has no end of line, is the backend's fault."""
    pieces = CHAT.pieces()

    with pytest.raises(GarbledAnswer):
        pieces.feed(stream)


def test_nothing_follows_the_end() -> None:
    """What a server sends after its last line is not told."""
    pieces = CHAT.pieces()
    pieces.feed(_ndjson(DONE))

    assert b"" == pieces.feed(_ndjson(_line(content="more"))) + pieces.finish()


def test_tokens_are_counted() -> None:
    """Every line with content counts."""
    pieces = CHAT.pieces()
    pieces.feed(_ndjson(_line(), _line(content="a"), _line(thinking="b"), DONE))

    assert 2 == pieces.tokens


@pytest.mark.parametrize(
    ("encoding", "embedding"),
    [
        (None, [0.5, 2.0]),
        ("float", [0.5, 2.0]),
        ("base64", base64.b64encode(struct.pack("<2f", 0.5, 2)).decode()),
    ],
)
def test_embedding(encoding: str | None, embedding: object) -> None:
    """Vectors are told as numbers or as packed floats, as asked."""
    translated = _asked(Call.OPENAI_EMBEDDING, input="a", encoding_format=encoding)

    assert {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
        "model": "mine",
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    } == msgspec.json.decode(translated.whole(b'{"embeddings":[[0.5,2]],"prompt_eval_count":1}'))


@pytest.mark.parametrize(
    "body", [b"{}", b'{"embeddings":[[1],[2]]}', b'{"embeddings":[[1e300]]}', b'{"error":"no"}']
)
def test_garbled_embeddings(body: bytes) -> None:
    """A missing vector, or one that is no vector, is the backend's fault."""
    translated = _asked(Call.OPENAI_EMBEDDING, input="a", encoding_format="base64")

    with pytest.raises(GarbledAnswer):
        translated.whole(body)
