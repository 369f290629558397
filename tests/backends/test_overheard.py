"""An answer that somebody else carries, read as it passes."""

import json

from ollama_proxy.backends.backend import Report
from ollama_proxy.backends.overheard import TAIL_BYTES, Overheard

USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}


def test_a_stream_of_events() -> None:
    """Its pieces are counted, and its end read, wherever it was cut."""
    overheard = Overheard(b"text/event-stream; charset=utf-8")
    for piece in (b"data: 1\n\nda", b"ta: 2\n\n", f"data: {json.dumps(USAGE)}\n\n".encode()):
        overheard.feed(piece)

    assert 3 == overheard.pieces
    assert Report(prompt_tokens=5, answer_tokens=2) == overheard.report()


def test_a_stream_of_lines() -> None:
    """As Ollama writes them."""
    overheard = Overheard(b"application/x-ndjson")
    overheard.feed(b'{"response":"a"}\n')
    overheard.feed(b'{"done":true,"prompt_eval_count":5,"eval_count":1}\n')

    assert 2 == overheard.pieces
    assert Report(prompt_tokens=5, answer_tokens=1) == overheard.report()


def test_a_whole_answer() -> None:
    """It has no pieces; one that is too long to be kept is not read in part."""
    overheard, long = Overheard(b"application/json"), Overheard(b"")
    overheard.feed(json.dumps(USAGE).encode())
    for _ in range(4):
        long.feed(b"{" * TAIL_BYTES)

    assert (None, 5) == (overheard.pieces, getattr(overheard.report(), "prompt_tokens", None))
    assert (None, None) == (long.pieces, long.report())


def test_no_more_is_kept_than_its_end() -> None:
    """However long it is."""
    overheard = Overheard(b"text/event-stream")
    for _ in range(1000):
        overheard.feed(b"data: " + b"x" * 10_000 + b"\n\n")
    overheard.feed(f"data: {json.dumps(USAGE)}\n\n".encode())

    assert 1001 == overheard.pieces
    assert Report(prompt_tokens=5, answer_tokens=2) == overheard.report()
    assert len(overheard._tail) <= 2 * TAIL_BYTES + 10_008
