"""Wyoming's events in bytes, in whatever pieces they come."""

import json
from typing import Any

import pytest

from ollama_proxy.inbound.wyoming.event import (
    DATA_MAX_BYTES,
    LINE_MAX_BYTES,
    PAYLOAD_MAX_BYTES,
    BadEvent,
    Event,
    EventReader,
    encode_event,
)

SPOKEN = (
    b'{"type":"transcript","version":"1.7.1","data":{"text":"old","language":"en"},"data_length":18,'
    b'"payload_length":4}\n{"text":"so\\nnew"}\n{}\x00{"type":"ping"}\n'
)


def take_all(reader: EventReader) -> list[Event]:
    taken = []
    while (event := reader.take()) is not None:
        taken.append(event)
    return taken


@pytest.mark.parametrize("size", [1, 7, len(SPOKEN)])
def test_events_come_whole_in_pieces_of_any_size(size: int) -> None:
    """Data win over those of the line, and a payload is skipped, whatever it looks like."""
    reader, taken = EventReader(), []
    for at in range(0, len(SPOKEN), size):
        reader.feed(SPOKEN[at : at + size])
        taken += take_all(reader)

    assert [Event("transcript", {"text": "so\nnew", "language": "en"}), Event("ping")] == taken


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"POST /v1/chat/completions HTTP/1.1\r",
        b"\x16\x03\x01",
        b"{",
        b"[]",
        b"{}",
        b'{"type":3}',
        b'{"type":"\xff"}',
        b'{"type":"ping","data":[]}',
        b'{"type":"ping","data":' + b"[" * 5000,
        b'{"type":"ping","data_length":-1}',
        b'{"type":"ping","data_length":1.5}',
        b'{"type":"ping","data_length":%d}' % (DATA_MAX_BYTES + 1),
        b'{"type":"ping","payload_length":-1}',
        b'{"type":"ping","payload_length":%d}' % (PAYLOAD_MAX_BYTES + 1),
    ],
)
def test_a_line_that_is_no_event_ends_the_stream(line: bytes) -> None:
    """Nobody knows how long it would have been."""
    reader = EventReader()
    reader.feed(line + b"\n")

    with pytest.raises(BadEvent) as caught:
        reader.take()
    assert caught.value.is_lost


def test_a_line_that_does_not_end_is_not_waited_for() -> None:
    """Beyond its bound."""
    reader = EventReader()
    reader.feed(b"{" * (LINE_MAX_BYTES - 1))
    assert reader.take() is None

    reader.feed(b"{")
    with pytest.raises(BadEvent, match="at most 64 KiB"):
        reader.take()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"text":"\xff"}', b'{"a":' + b"[" * 5000])
def test_data_that_are_not_understood_cost_their_event_alone(content: bytes) -> None:
    """Its length is known, so the next one is."""
    reader = EventReader()
    reader.feed(
        b'{"type":"transcript","data_length":%d}\n%b{"type":"ping"}\n' % (len(content), content)
    )

    with pytest.raises(BadEvent) as caught:
        reader.take()
    assert not caught.value.is_lost
    assert [Event("ping")] == take_all(reader)


@pytest.mark.parametrize("data", [{}, {"text": "a\n" * 100_000}])
def test_what_is_written_can_be_read(data: dict[str, Any]) -> None:
    """The line stays short, however long the text: asyncio's clients read 64 KiB at most."""
    written = encode_event("handled", data)
    line, _, rest = written.partition(b"\n")
    told = json.loads(line)

    assert len(line) < 100
    assert told.get("data_length", 0) == len(rest)
    reader = EventReader()
    reader.feed(written)
    assert [Event("handled", data)] == take_all(reader)
