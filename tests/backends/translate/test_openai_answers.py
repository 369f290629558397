"""OpenAI's answers come out in Ollama's words, whole and in pieces."""

import base64
import struct

import msgspec
import pytest

from ollama_proxy.backends.translate import GarbledAnswer, Translation, translation
from ollama_proxy.policy.ask import Call, Dialect

HEAD = {"model": "mine", "created_at": "2023-11-14T22:13:20.500000000Z"}


def _asked(call: Call, **fields: object) -> Translation:
    body = msgspec.json.encode({"model": "mine", **fields})
    translated = translation(
        call, Dialect.OPENAI, body, model="theirs", now=1_700_000_000.5, identity="identity"
    )
    assert translated is not None
    return translated


CHAT = _asked(Call.OLLAMA_CHAT, messages=[{"role": "user", "content": "hi"}], logprobs=True)
GENERATE = _asked(Call.OLLAMA_GENERATE, prompt="hi")
RAW = _asked(Call.OLLAMA_GENERATE, prompt="hi", raw=True)


def _whole(translated: Translation, answer: dict[str, object] | bytes) -> dict[str, object]:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    told = msgspec.json.decode(translated.whole(body), type=dict[str, object])
    return {name: value for name, value in told.items() if name not in HEAD}


def _choice(message: dict[str, object], finish_reason: str | None = "stop") -> dict[str, object]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


def _sse(*events: object) -> bytes:
    texts = [e.encode() if isinstance(e, str) else msgspec.json.encode(e) for e in events]
    return b"".join(b"data: " + text + b"\n\n" for text in texts)


def _delta(finish_reason: str | None = None, **delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _streamed(translated: Translation, stream: bytes) -> list[dict[str, object]]:
    pieces = translated.pieces()
    out = pieces.feed(stream) + pieces.finish()
    assert pieces.error is None
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in out.splitlines()]
    assert all(line.items() >= HEAD.items() for line in lines)
    return [{k: v for k, v in line.items() if k not in HEAD} for line in lines]


def _line(**message: object) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": "", **message}, "done": False}


def _last(**message: object) -> dict[str, object]:
    return _line(**message) | {"done": True, "done_reason": "stop"}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            _choice({"role": "assistant", "content": "hello"}),
            _last(content="hello"),
        ),
        (
            _choice({"content": "hel"}, "length"),
            _last(content="hel") | {"done_reason": "length"},
        ),
        (_choice({"content": "x"}, None), _last(content="x")),
        (
            _choice({"content": "4", "reasoning_content": "2+2"}),
            _last(content="4", thinking="2+2"),
        ),
        (
            _choice({"content": "4", "reasoning": "2+2"}),
            _last(content="4", thinking="2+2"),
        ),
        (
            _choice({"content": None, "refusal": "no"}),
            _last(content="no"),
        ),
        (
            _choice(
                {
                    "content": None,
                    "tool_calls": [
                        {"id": "x", "function": {"name": "f", "arguments": '{"a": 1}'}},
                        {"function": {"name": "g", "arguments": {"b": 2}}},
                        {"function": {"name": "h", "arguments": ""}},
                    ],
                },
                "tool_calls",
            ),
            _last(
                tool_calls=[
                    {"id": "x", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
                    {"function": {"index": 1, "name": "g", "arguments": {"b": 2}}},
                    {"function": {"index": 2, "name": "h", "arguments": {}}},
                ],
            ),
        ),
        (
            _choice({"content": "a"})
            | {
                "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
                "timings": {"prompt_ms": 1.5, "predicted_ms": 20},
            },
            _last(content="a")
            | {
                "prompt_eval_count": 3,
                "eval_count": 1,
                "prompt_eval_duration": 1_500_000,
                "eval_duration": 20_000_000,
            },
        ),
        (
            {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]},
            _last(content="a") | {"logprobs": [{"token": "a"}]},
        ),
        (
            _choice({"content": "a"}) | {"timings": {"prompt_ms": 1e300}},
            _last(content="a"),
        ),
    ],
)
def test_whole_chats(answer: dict[str, object], told: dict[str, object]) -> None:
    """A whole chat keeps its text, thoughts, tool calls, reason and figures."""
    assert told == _whole(CHAT, answer)


def test_whole_generate() -> None:
    """A generate that was sent as a chat is answered as a generate."""
    assert {
        "response": "4",
        "thinking": "2+2",
        "done": True,
        "done_reason": "stop",
    } == _whole(GENERATE, _choice({"content": "4", "reasoning_content": "2+2"}))


def test_whole_completion() -> None:
    """A raw generate's text comes from a completion."""
    answer: dict[str, object] = {
        "choices": [{"index": 0, "text": "abc", "finish_reason": "length"}]
    }

    assert {"response": "abc", "done": True, "done_reason": "length"} == _whole(RAW, answer)


def test_answers_carry_the_callers_model() -> None:
    """The caller reads the name it asked for, whatever the backend calls the model."""
    told = msgspec.json.decode(CHAT.whole(msgspec.json.encode(_choice({"content": "a"}))))

    assert HEAD.items() <= told.items()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff",
        b'{"choices":[]}',
        b'{"choices":[{"index":0}]}',
        b'{"choices":[{"message":{"content":5}}]}',
        b'{"error":{"message":"broken"}}',
        b'{"x":' + b"[" * 100_000,
        b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{"}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}',
    ],
)
def test_whole_garbage(body: bytes) -> None:
    """An answer that makes no sense is the backend's fault."""
    with pytest.raises(GarbledAnswer):
        CHAT.whole(body)


def test_streamed_chat() -> None:
    """Each delta is a line at once, and the figures are in the last one."""
    stream = _sse(
        _delta(role="assistant", content=""),
        _delta(reasoning_content="2+2"),
        _delta(content="f"),
        _delta(content="our"),
        _delta("stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 3}},
        "[DONE]",
    )

    assert [
        _line(thinking="2+2"),
        _line(content="f"),
        _line(content="our"),
        _last() | {"prompt_eval_count": 3, "eval_count": 3},
    ] == _streamed(CHAT, stream)


def test_streamed_generate() -> None:
    """A chat's deltas become the lines of a generate."""
    stream = _sse(_delta(content="a"), _delta("length"), "[DONE]")

    assert [
        {"response": "a", "done": False},
        {"response": "", "done": True, "done_reason": "length"},
    ] == _streamed(GENERATE, stream)


def test_streamed_completion() -> None:
    """A completion's texts become the lines of a generate."""
    stream = _sse(
        {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
        "[DONE]",
    )

    assert [
        {"response": "a", "done": False},
        {"response": "b", "done": False},
        {"response": "", "done": True, "done_reason": "stop"},
    ] == _streamed(RAW, stream)


@pytest.mark.parametrize(
    "fragments",
    [
        [
            {"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"a"'}},
            {"index": 1, "id": "y", "function": {"name": "g", "arguments": "{}"}},
            {"index": 0, "function": {"arguments": ":1}"}},
        ],
        [
            {"id": "x", "function": {"name": "f", "arguments": '{"a"'}},
            {"function": {"arguments": ":1}"}},
            {"id": "y", "function": {"name": "g"}},
        ],
        [
            {"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"index": 0, "id": "y", "function": {"name": "g", "arguments": "{}"}},
        ],
    ],
    ids=["numbered", "without-numbers", "all-numbered-alike"],
)
def test_tool_calls_are_gathered(fragments: list[dict[str, object]]) -> None:
    """Fragments of tool calls are told as whole calls, before the last line."""
    stream = _sse(
        *[_delta(tool_calls=[fragment]) for fragment in fragments], _delta("tool_calls"), "[DONE]"
    )

    assert [
        _line(
            tool_calls=[
                {"id": "x", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
                {"id": "y", "function": {"index": 1, "name": "g", "arguments": {}}},
            ]
        ),
        _last(),
    ] == _streamed(CHAT, stream)


def test_a_tool_call_cut_off_by_the_limit_is_left_out() -> None:
    """Half of a call's arguments is no call, and the reason says why."""
    stream = _sse(
        _delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": '{"a'}}]),
        _delta("length"),
        "[DONE]",
    )

    assert [_last() | {"done_reason": "length"}] == _streamed(CHAT, stream)


def test_tool_calls_without_end_are_garbled() -> None:
    """A server cannot fill our memory with the arguments of one call."""
    fragment = _sse(_delta(tool_calls=[{"index": 0, "function": {"arguments": "x" * 500_000}}]))
    pieces = CHAT.pieces()
    pieces.feed(fragment)
    pieces.feed(fragment)

    with pytest.raises(GarbledAnswer):
        pieces.feed(fragment)


def test_a_stream_without_done_is_whole_once_it_gave_its_reason() -> None:
    """Some servers close without `[DONE]`; the finish reason is end enough."""
    stream = _sse(_delta(content="a"), _delta("stop"))

    assert [_line(content="a"), _last()] == _streamed(CHAT, stream)


def test_a_stream_that_breaks_off_is_garbled() -> None:
    """Without an end the answer is not passed off as whole."""
    pieces = CHAT.pieces()
    pieces.feed(_sse(_delta(content="a")))

    with pytest.raises(GarbledAnswer):
        pieces.finish()


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":{"message":"out of memory","code":500}}\n\n',
        b'data: {"error":"out of memory"}\n\n',
        b'event: error\ndata: {"message":"out of memory"}\n\n',
        b'event: error\ndata: {"error":{"message":"out of memory"}}\n\n',
        b'error: {"code":500,"message":"out of memory"}\n\n',
    ],
)
def test_errors_in_the_stream(event: bytes) -> None:
    """An error is set aside for whoever ends the stream, and nothing follows it."""
    pieces = CHAT.pieces()
    before = pieces.feed(_sse(_delta(content="a")) + event + _sse(_delta(content="b")))

    assert 1 == before.count(b"\n")
    assert "out of memory" == pieces.error
    assert b"" == pieces.feed(_sse(_delta(content="c"), "[DONE]")) + pieces.finish()
    assert 1 == pieces.tokens


@pytest.mark.parametrize("error", ['{"what":1}', "[1]", "500"])
def test_an_error_in_no_known_shape_is_told_as_it_stands(error: str) -> None:
    """Whatever the error holds, it is told."""
    pieces = CHAT.pieces()
    pieces.feed(_sse(f'{{"error":{error}}}'))

    assert error == pieces.error


@pytest.mark.parametrize(
    "stream",
    [
        b"data: nonsense\n\n",
        b"data: [1]\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":[{"delta":{"content":1}}]}\n\n',
        b'data: {"x":' + b"[" * 100_000 + b"\n\n",
        b"data: " + b" " * (1 << 20),
        b"data: \n" + (b"data: " + b" " * 100_000 + b"\n") * 11,
    ],
    ids=["text", "array", "encoding", "type", "depth", "line", "event"],
)
def test_streamed_garbage(stream: bytes) -> None:
    """A stream that makes no sense, or has no end of line, is the backend's fault."""
    pieces = CHAT.pieces()

    with pytest.raises(GarbledAnswer):
        pieces.feed(stream)


def test_tokens_are_counted() -> None:
    """Every delta with content counts, be it text, thought or part of a tool call."""
    pieces = CHAT.pieces()
    pieces.feed(
        _sse(
            _delta(role="assistant"),
            _delta(reasoning="a"),
            _delta(content="b"),
            _delta(tool_calls=[{"index": 0, "function": {"name": "f"}}]),
            _delta("stop"),
        )
    )

    assert 3 == pieces.tokens


EMBED = _asked(Call.OLLAMA_EMBED, input=["a", "b"])


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [0.5]}],
        [{"embedding": [0.5]}, {"embedding": [2.0]}],
        [
            {"embedding": base64.b64encode(struct.pack("<f", 0.5)).decode()},
            {"embedding": base64.b64encode(struct.pack("<f", 2)).decode()},
        ],
    ],
    ids=["numbered", "in-order", "base64"],
)
def test_embed(data: object) -> None:
    """Vectors come in the order of their inputs, with the count of tokens."""
    body = msgspec.json.encode({"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}})

    assert b'{"model":"mine","embeddings":[[0.5],[2.0]],"prompt_eval_count":2}' == EMBED.whole(body)


def test_embeddings() -> None:
    """The older call has one vector."""
    answer = _asked(Call.OLLAMA_EMBEDDINGS, prompt="a").whole(b'{"data":[{"embedding":[0.5]}]}')

    assert b'{"embedding":[0.5]}' == answer


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data":[{"embedding":[1]}]}',
        b'{"data":[{"embedding":[1]},{"embedding":[null]}]}',
        b'{"data":[{"embedding":[1]},{"embedding":"%"}]}',
        b'{"data":[{"embedding":[1]},{"embedding":"AAA="}]}',
        b'{"data":[{"embedding":[1]},{"embedding":"AADAfw=="}]}',
        b'{"error":"no"}',
    ],
)
def test_garbled_embeddings(body: bytes) -> None:
    """A missing vector, or one that is no vector, is the backend's fault."""
    with pytest.raises(GarbledAnswer):
        EMBED.whole(body)


def test_vectors_never_stream() -> None:
    """A stream where vectors should come makes no sense."""
    with pytest.raises(GarbledAnswer):
        EMBED.pieces().feed(b"data: {}\n\n")
    with pytest.raises(GarbledAnswer):
        EMBED.pieces().finish()
