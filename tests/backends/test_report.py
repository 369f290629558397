"""What servers report of their work, out of bodies as they send them, and out of any bytes at all."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.backends.backend import Report
from ollama_proxy.backends.report import (
    LONGEST_BYTES,
    LONGEST_S,
    MOST_TOKENS,
    read_stream,
    read_whole,
)

# As Ollama's documentation has them and as llama-server sends them, shortened elsewhere.
OLLAMA_END = (
    b'{"model":"m","created_at":"2025-01-01T00:00:00Z","message":{"role":"assistant","content":""},'
    b'"done":true,"done_reason":"stop","total_duration":2100000000,"load_duration":1500000000,'
    b'"prompt_eval_count":26,"prompt_eval_duration":250000000,"eval_count":30,'
    b'"eval_duration":500000000}'
)
OLLAMA = Report(prompt_tokens=26, answer_tokens=30, load_s=1.5, prefill_s=0.25, decode_s=0.5)
OLLAMA_LINE = b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":false}\n'
TIMINGS = (
    b'"timings":{"cache_n":10,"prompt_n":5,"prompt_ms":23.0,"prompt_per_token_ms":4.6,'
    b'"predicted_n":3,"predicted_ms":40.0,"predicted_per_second":49.4}'
)
USAGE = (
    b'"usage":{"completion_tokens":3,"prompt_tokens":15,"total_tokens":18,'
    b'"prompt_tokens_details":{"cached_tokens":10}}'
)
LLAMA = Report(prompt_tokens=15, cached_tokens=10, answer_tokens=3, prefill_s=0.023, decode_s=0.04)
COUNTS = Report(prompt_tokens=15, cached_tokens=10, answer_tokens=3)
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":" of"}}],"id":"c","usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
STARTED = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","content":[],'
    b'"usage":{"cache_read_input_tokens":10,"input_tokens":5,"output_tokens":1}}}\n\n'
)
DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" a"}}\n\n'
)
STOPPED = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":3}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
RESPONSE_USAGE = (
    b'"usage":{"input_tokens":15,"output_tokens":3,"total_tokens":18,'
    b'"input_tokens_details":{"cached_tokens":10}}'
)


def completed(kind: bytes = b"completed", more: bytes = b"") -> bytes:
    """The event that ends a stream of OpenAI's Responses."""
    return (
        b'event: response.%b\ndata: {"type":"response.%b","response":{"id":"r","output":[],%b}%b}\n\n'
        % (kind, kind, RESPONSE_USAGE, more)
    )


WHOLES = {
    "ollama": (OLLAMA_END, OLLAMA),
    "ollama, newline": (OLLAMA_END + b"\n", OLLAMA),
    "ollama, prompt in the cache": (
        b'{"response":"Hi","done":true,"eval_count":2,"load_duration":0}',
        Report(answer_tokens=2, load_s=0.0),
    ),
    "ollama embed": (
        b'{"embeddings":[[0.5,1e-3]],"load_duration":1000000000,"prompt_eval_count":4}',
        Report(prompt_tokens=4, load_s=1.0),
    ),
    "openai": (b'{"choices":[],%b}' % USAGE, COUNTS),
    "openai embedding": (
        b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4,"total_tokens":4}}',
        Report(prompt_tokens=4),
    ),
    "llama-server": (b'{"choices":[],%b,%b}' % (USAGE, TIMINGS), LLAMA),
    "llama-server, older": (
        b'{"usage":{"prompt_tokens":15},"timings":{"prompt_n":5,"predicted_n":3}}',
        Report(prompt_tokens=15, answer_tokens=3),
    ),
    "llama-server, part of a prompt": (
        b'{"timings":{"prompt_n":5,"prompt_ms":23.0}}',
        Report(prefill_s=0.023),
    ),
    "responses": (b'{"object":"response","output":[],%b}' % RESPONSE_USAGE, COUNTS),
    "messages": (
        b'{"usage":{"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"input_tokens":10}}',
        Report(prompt_tokens=15, cached_tokens=3),
    ),
    "nothing": (b"{}", None),
    "empty": (b"", None),
    "no object": (b"[1,2]", None),
    "a text": (b'"usage"', None),
    "nulls": (b'{"usage":null,"timings":null,"eval_count":null}', None),
    "half": (OLLAMA_END[:-20], None),
    "more": (OLLAMA_END + OLLAMA_END, None),
    "not UTF-8": (b'{"usage":{"prompt_tokens":5,"x":"\xff\xfe"}}', None),
    "deep": (b'{"usage":' + b"[" * 50_000, None),
    "too long": (b'{"a":"%b",%b}' % (b"x" * LONGEST_BYTES, USAGE), None),
}
STREAMS = {
    "ollama": (OLLAMA_LINE * 3 + OLLAMA_END + b"\n", OLLAMA),
    "ollama, no last newline": (OLLAMA_LINE + OLLAMA_END, OLLAMA),
    "ollama, CRLF": (OLLAMA_LINE + OLLAMA_END + b"\r\n", OLLAMA),
    "ollama, cut in front": (OLLAMA_LINE[20:] + OLLAMA_END + b"\n", OLLAMA),
    "ollama, half an end": (OLLAMA_LINE + OLLAMA_END[:-9], None),
    "openai": (CHUNK * 5 + b'data: {"choices":[],%b}\n\n' % USAGE + DONE, COUNTS),
    "openai, no space": (b'data:{"choices":[],%b}\n\ndata:[DONE]\n\n' % USAGE, COUNTS),
    "openai, no usage": (CHUNK * 5 + DONE, None),
    "openai, usage in every chunk": (
        b'data: {"usage":{"prompt_tokens":15,"completion_tokens":2}}\n\n'
        b'data: {"usage":{"prompt_tokens":15,"completion_tokens":3}}\n\n' + DONE,
        Report(prompt_tokens=15, answer_tokens=3),
    ),
    "llama-server": (CHUNK + b'data: {"choices":[],%b,%b}\n\n' % (USAGE, TIMINGS) + DONE, LLAMA),
    "llama-server, usage not asked for": (CHUNK + b"data: {%b}\n\n" % TIMINGS + DONE, LLAMA),
    "timings before usage": (b"data: {%b}\n\ndata: {%b}\n\n" % (TIMINGS, USAGE) + DONE, LLAMA),
    "responses": (completed(), COUNTS),
    "responses, cut short": (completed(b"incomplete"), COUNTS),
    "responses of llama-server": (completed(more=b"," + TIMINGS), LLAMA),
    "responses, failed": (completed(b"failed"), None),
    "messages": (STARTED + DELTA * 9 + STOPPED, COUNTS),
    "messages, start out of reach": (DELTA * 9 + STOPPED, Report(answer_tokens=3)),
    "messages, all in the end": (
        STARTED + STOPPED.replace(b'{"out', b'{"input_tokens":7,"out'),
        Report(prompt_tokens=7, cached_tokens=None, answer_tokens=3),
    ),
    "a start and nothing else": (STARTED, Report(prompt_tokens=15, cached_tokens=10)),
    "half a start": (STARTED[:20], None),
    "empty": (b"", None),
    "empty lines": (b"\n" * 100_000, None),
    "not UTF-8": (b"\xff\n" * 30, None),
}
INVALID = [
    b"true",
    b'"5"',
    b"[5]",
    b"{}",
    b"-1",
    b"5.5",
    b"1e999",
    b"%d" % (MOST_TOKENS + 1),
    b"9" * 400,
]
BEYOND_BELIEF = [b"true", b'"5"', b"[5]", b"-1", b"-0.5", b"%d" % (LONGEST_S * 1e9 + 1), b"9" * 400]


@pytest.mark.parametrize("name", WHOLES)
def test_a_whole_answer(name: str) -> None:
    """Every dialect's figures are found, in seconds and whole prompts; without any there is none."""
    body, expected = WHOLES[name]

    assert expected == read_whole(body)


@pytest.mark.parametrize("name", STREAMS)
def test_the_end_of_a_stream(name: str) -> None:
    """Every dialect's figures are found in its last events."""
    tail, expected = STREAMS[name]

    assert expected == read_stream(tail)


@pytest.mark.parametrize("value", INVALID, ids=lambda value: str(value)[:12])
def test_a_count_that_is_none_is_left_out(value: bytes) -> None:
    """What is no number of tokens spoils no other figure."""
    ollama = b'{"prompt_eval_count":%b,"eval_count":3}' % value
    openai = b'{"usage":{"prompt_tokens":%b,"completion_tokens":3}}' % value

    # A number that no float can hold makes the whole of it no JSON for its reader.
    assert read_whole(ollama) in {None, Report(answer_tokens=3)}
    assert read_whole(ollama) == read_whole(openai)


@pytest.mark.parametrize("value", BEYOND_BELIEF, ids=lambda value: str(value)[:12])
def test_a_time_that_is_none_is_left_out(value: bytes) -> None:
    """What is no span of time, or longer than a day, spoils no other figure."""
    expected = Report(answer_tokens=3)

    assert expected == read_whole(b'{"eval_count":3,"eval_duration":%b}' % value)
    assert expected == read_whole(b'{"timings":{"predicted_n":3,"predicted_ms":%b}}' % value)


def test_more_cached_than_there_was_is_left_out() -> None:
    """A count that contradicts another is no count."""
    body = b'{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":6}}}'

    assert Report(prompt_tokens=5) == read_whole(body)


@pytest.mark.parametrize(
    "words",
    [
        b'{"message":{"content":"{\\"usage\\":{\\"prompt_tokens\\":9}}"}}',
        b'{"message":{"usage":{"prompt_tokens":9}}}',
        b'{"response":{"usage":{"prompt_tokens":9}}}',
        b'{"choices":[{"message":{"tool_calls":[{"usage":{"prompt_tokens":9}}]}}]}',
    ],
)
def test_a_models_words_are_no_report(words: bytes) -> None:
    """What looks like figures is none in a place where an answer stands."""
    assert read_whole(words) is None
    assert read_stream(b"data: " + words + b"\n\n") is None


@given(st.binary(max_size=400))
def test_any_bytes_are_borne(data: bytes) -> None:
    """Nothing that a server sends raises, alone or around a sound report."""
    read_whole(data)
    read_stream(data)
    read_stream(data + OLLAMA_END + data)

    assert OLLAMA == read_stream(data + b"\n" + OLLAMA_END + b"\n")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([
                "type",
                "usage",
                "timings",
                "message",
                "response",
                "prompt_tokens",
                "prompt_tokens_details",
                "cached_tokens",
                "input_tokens",
                "cache_read_input_tokens",
                "output_tokens",
                "prompt_n",
                "cache_n",
                "prompt_ms",
                "eval_count",
                "eval_duration",
            ]),
            inner
            | st.sampled_from(["message_start", "response.completed"])
            | st.integers(-1, MOST_TOKENS + 1),
            max_size=5,
        )
    ),
)


@given(JSON)
def test_any_json_gives_sane_figures(said: object) -> None:
    """Whatever is in the places of figures, what comes out is counts and spans of time."""
    body = msgspec.json.encode(said)
    for report in (read_whole(body), read_stream(b"data: " + body + b"\n\n")):
        if report is None:
            continue
        counts = [report.prompt_tokens, report.cached_tokens, report.answer_tokens]
        times = [report.load_s, report.prefill_s, report.decode_s]

        assert Report() != report
        assert all(count is None or 0 <= count <= MOST_TOKENS for count in counts)
        assert all(time is None or 0 <= time <= LONGEST_S * 1.000001 for time in times)


@given(st.integers(0, 2000))
def test_a_cut_stream_never_misreads(cut: int) -> None:
    """A tail that begins or ends anywhere gives the report, some of it, or none."""
    stream = CHUNK * 3 + b'data: {"choices":[],%b,%b}\n\n' % (USAGE, TIMINGS) + DONE
    at = cut % len(stream)

    assert read_stream(stream[at:]) in {None, LLAMA}
    assert read_stream(stream[:at]) in {None, LLAMA}
