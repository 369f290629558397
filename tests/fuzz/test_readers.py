"""What backends say, whatever it is, is read to its end or refused in words: never an exception else."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.backends.report import read_stream, read_whole
from ollama_proxy.backends.translate.reading import GarbledAnswer
from ollama_proxy.backends.translate.stream import Cutter, Events, Lines
from tests.fuzz.inputs import Changes, changes, spoilt, tries

SSE = (
    b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    b": ping\r\n\r\n"
    b'event: error\ndata: {"message":"no"}\n\n'
    b'data: {"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\ndata: [DONE]\n\n'
)
NDJSON = (
    b'{"model":"m","message":{"role":"assistant","content":"hi"},"done":false}\n'
    b'{"model":"m","done":true,"eval_count":5,"eval_duration":1000000}\r\n'
)
OFTEN = (
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\0",
    b'"',
    b"{",
    b"[" * 2000,
    b"data:",
    b"1e999",
    b"-1",
    b"\xff",
)
CUTTERS: list[Callable[[], Cutter]] = [Lines, Events]


def cut(make: Callable[[], Cutter], data: bytes, sizes: list[int]) -> list[bytes] | None:
    """All pieces of a stream that comes in slices; None where it is refused."""
    cutter, found = make(), []
    try:
        for size in sizes:
            found += cutter.feed(data[:size])
            data = data[size:]
        return found + cutter.feed(data) + cutter.finish()
    except GarbledAnswer:
        return None


@tries(0.2)
@given(
    st.sampled_from(CUTTERS),
    st.sampled_from([SSE, NDJSON]),
    changes(*OFTEN),
    st.lists(st.integers(1, 60), max_size=12),
)
def test_a_stream_is_cut_the_same_however_it_comes(
    make: Callable[[], Cutter], good: bytes, done: Changes, sizes: list[int]
) -> None:
    """Its pieces do not depend on the network's; none has a line's end of its own form in it."""
    data = spoilt(good, done)

    assert cut(make, data, []) == cut(make, data, sizes)


@tries(0.1)
@given(st.sampled_from([SSE, NDJSON, NDJSON.splitlines()[1]]), changes(*OFTEN))
def test_figures_are_read_or_left_out(good: bytes, done: Changes) -> None:
    """Whatever stands where they should."""
    data = spoilt(good, done)
    for report in (read_whole(data), read_stream(data)):
        assert report is None or report.answer_tokens is None or report.answer_tokens >= 0
