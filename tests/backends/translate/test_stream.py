"""A stream means the same however its bytes are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.backends.translate import GarbledAnswer, Translation, translation
from ollama_proxy.backends.translate.stream import LINE_MAX_BYTES, Events, Lines
from ollama_proxy.policy.ask import Call, Dialect


def _asked(call: Call, target: Dialect, body: bytes) -> Translation:
    translated = translation(call, target, body, model="m", now=1.25, identity="identity")
    assert translated is not None
    return translated


FROM_OPENAI = _asked(
    Call.OLLAMA_CHAT, Dialect.OPENAI, b'{"model":"m","messages":[{"role":"user"}]}'
)
FROM_OLLAMA = _asked(
    Call.OPENAI_CHAT,
    Dialect.OLLAMA,
    b'{"model":"m","messages":[{"role":"user"}],"stream_options":{"include_usage":true}}',
)
SSE = (
    ": warming up\r\n\r\n"
    'data: {"choices":[{"delta":{"role":"assistant"}}]}\r\n\r\n'
    'event: message\nid: 7\ndata:{"choices":[{"delta":{"content":"é🙂"}}]}\n\n'
    'data: {"choices":\ndata: [{"delta":{"content":"b"}}]}\n\n'
    'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":'
    '{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}\n\n'
    'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    "data: [DONE]"
).encode()
NDJSON = (
    '{"message":{"content":"é🙂"},"done":false}\r\n\n'
    '{"message":{"thinking":"\\n","tool_calls":[{"function":{"name":"f"}}]},"done":false}\n'
    '{"message":{"content":"b"},"done":true,"done_reason":"stop","eval_count":2}'
).encode()
STREAMS = [(FROM_OPENAI, SSE), (FROM_OLLAMA, NDJSON)]
STREAM_IDS = ["sse", "ndjson"]


def _told(translated: Translation, slices: list[bytes]) -> tuple[bytes, int]:
    pieces = translated.pieces()
    told = b"".join([pieces.feed(data) for data in slices]) + pieces.finish()
    assert pieces.error is None
    return told, pieces.tokens


@pytest.mark.parametrize(("translated", "stream"), STREAMS, ids=STREAM_IDS)
def test_cut_anywhere(translated: Translation, stream: bytes) -> None:
    """Cut in two at any byte, a stream is told as if it had come at once."""
    expected = _told(translated, [stream])

    assert 3 == expected[1]
    assert "é🙂".encode() in expected[0]
    for at in range(len(stream) + 1):
        assert expected == _told(translated, [stream[:at], stream[at:]])


@pytest.mark.parametrize(("translated", "stream"), STREAMS, ids=STREAM_IDS)
def test_byte_by_byte(translated: Translation, stream: bytes) -> None:
    """One byte at a time, a stream is told as if it had come at once."""
    slices = [bytes([byte]) for byte in stream]

    assert _told(translated, [stream]) == _told(translated, slices)


@pytest.mark.parametrize(("translated", "stream"), STREAMS, ids=STREAM_IDS)
def test_streams_do_not_share_anything(translated: Translation, stream: bytes) -> None:
    """A second attempt begins afresh, whatever became of the first."""
    translated.pieces().feed(stream[: len(stream) // 2])

    assert _told(translated, [stream]) == _told(translated, [stream])


@given(cuts=st.lists(st.integers(0, len(SSE)), max_size=8), which=st.sampled_from(STREAMS))
def test_cut_many_times(cuts: list[int], which: tuple[Translation, bytes]) -> None:
    """In whatever slices, a stream is told as if it had come at once."""
    translated, stream = which
    bounds = [0, *sorted(cuts), len(SSE)]
    slices = [stream[a:b] for a, b in itertools.pairwise(bounds)]

    assert _told(translated, [stream]) == _told(translated, slices)


@given(data=st.binary(max_size=200), which=st.sampled_from(STREAMS))
def test_noise_is_garbled_or_nothing(data: bytes, which: tuple[Translation, bytes]) -> None:
    """Random bytes never do more than raise GarbledAnswer."""
    with pytest.raises(GarbledAnswer):
        _told(which[0], [data, b"\n\ndata: {"])


@given(at=st.integers(0, len(SSE)), byte=st.integers(0, 255), which=st.sampled_from(STREAMS))
def test_one_wrong_byte(at: int, byte: int, which: tuple[Translation, bytes]) -> None:
    """A damaged stream is told, or garbled, or an error; it breaks nothing."""
    translated, stream = which
    damaged = bytearray(stream)
    damaged[at % len(stream)] = byte
    pieces = translated.pieces()

    try:
        told = pieces.feed(bytes(damaged)) + pieces.finish()
    except GarbledAnswer:
        told = b""
    assert isinstance(told, bytes)


def test_lines_have_a_limit() -> None:
    """A line may be as long as the limit, over any number of slices, and no longer."""
    lines = Lines()
    half = b"x" * (LINE_MAX_BYTES // 2)
    lines.feed(half)

    assert [half * 2] == lines.feed(half + b"\n")
    lines.feed(half * 2)
    with pytest.raises(GarbledAnswer):
        lines.feed(b"x")


def test_many_short_lines_have_none() -> None:
    """The limit is on a line, not on what came in one read."""
    line = b"x" * 1000

    assert [line] * 2000 == Lines().feed((line + b"\n") * 2000)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\r\n\r\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\n\n", []),
        (b"\n\n\n", []),
        (b"data\n\n", []),
        (b"id: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"event: error\ndata: {}\n\ndata: b\n\n", [b'{"error":{}}', b"b"]),
        (b"data: a\n\ndata: b", [b"a", b"b"]),
    ],
)
def test_events(stream: bytes, events: list[bytes]) -> None:
    """Server-sent events are read as their standard says."""
    cutter = Events()

    assert events == cutter.feed(stream) + cutter.finish()
