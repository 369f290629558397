"""What the lane takes for a request, h11 takes for the same one: nothing between them can be smuggled.

The other way round it need not be: the lane refuses more (folds, HTTP/1.2, codings in HTTP/1.0).
"""

import attrs
import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_proxy.inbound.lane import _ChunkedBody, _Fault, _Head, _read_framing, call_of
from tests.fuzz.inputs import Changes, changes, spoilt, tries
from tests.inbound.ends import chunked, post, post_chunked

BODY = b'{"model":"m","stream":false}'
GOOD = [
    post(body=BODY),
    post(body=BODY, x_priority="high", connection="close"),
    post(body=BODY, version="1.0", connection="keep-alive"),
    post(body=b"", upgrade="websocket", connection="upgrade"),
    post_chunked(chunked(BODY, size=7)),
    post_chunked(chunked(BODY, size=9, trailer=b"x-a: b\r\n")),
    post_chunked(b"5;a=b\r\nhello\r\n0\r\n\r\n"),
]
OFTEN = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"\t",
    b"0\r\n\r\n",
    b"content-length: 9\r\n",
    b"Content-Length: 28\r\n",
    b"transfer-encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding:\x0bchunked\r\n",
    b"connection: close\r\n",
    b"host: a\r\n",
    b", chunked",
    b"+",
    b"0x",
    b"_",
    b"HTTP/1.0",
)


@attrs.frozen
class Meaning:
    """What a request is taken for; `rest`: where it ends, as the number of bytes behind it."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    rest: int | None


def without_empty_lines(data: bytes) -> bytes:
    """A server should skip them before a request (RFC 9112, 2.2); h11 does not."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def by_lane(data: bytes) -> Meaning | None:
    """None: refused, not for it, or not whole."""
    line, end, _ = data.partition(b"\r\n")
    if not end or call_of(line) is None or b"\r\n\r\n" not in data:
        return None
    at = data.find(b"\r\n\r\n") + 4
    try:
        head = _Head(data[:at])
        framing = _read_framing(head.headers, http10=head.http10)
        rest = data[at:]
        if framing.chunked:
            body = _ChunkedBody()
            body.feed(rest)
            if not body.complete:
                return None
            # Where it ends the lane does not ask: such a connection serves no other request.
            return Meaning(line.split(b" ")[1], head.headers, bytes(body.take()), None)
    except _Fault:
        return None
    if len(rest) < framing.length:
        return None
    left = len(rest) - framing.length
    return Meaning(line.split(b" ")[1], head.headers, rest[: framing.length], left)


def by_h11(data: bytes, *, knows_rest: bool) -> Meaning:
    """The same request. Raises h11.RemoteProtocolError where it is none."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage), event
    left = len(connection.trailing_data[0]) if knows_rest else None
    return Meaning(request.target, list(request.headers), body, left)


@tries(0.4)
@given(st.sampled_from(GOOD), changes(*OFTEN))
@example(GOOD[0], [])
@example(GOOD[4], [])
@example(GOOD[6], [])
def test_what_the_lane_takes_h11_takes_for_the_same(good: bytes, done: Changes) -> None:
    """Target, headers, body, and where the next request begins."""
    data = without_empty_lines(spoilt(good, done))
    meant = by_lane(data)
    if meant is not None:
        assert by_h11(data, knows_rest=meant.rest is not None) == meant


@pytest.mark.parametrize("good", GOOD)
def test_the_good_ones_are_taken(good: bytes) -> None:
    """Or nothing was compared above."""
    assert by_lane(good) is not None


# One input for each leniency that llhttp documents and that its strict mode, ours, has off.
LENIENT = {
    "headers": post(extra=b"x-a: b\x01c\r\n"),
    "chunked and length": post(extra=b"transfer-encoding: chunked\r\n"),
    "transfer encoding": post_chunked(b"0\r\n\r\n", extra=b"transfer-encoding: gzip\r\n"),
    "version": post(version="1.7"),
    "optional LF after CR": post(extra=b"x-a: b\rx-c: d\r\n"),
    "optional CRLF after a chunk": post_chunked(b"5\r\nhello0\r\n\r\n"),
    "optional CR before LF": post(extra=b"x-a: b\nx-c: d\r\n"),
    "spaces after a chunk's size": post_chunked(b"5 \r\nhello\r\n0\r\n\r\n"),
    "header value relaxed": post(extra=b"x-a: b\x7fc\r\n"),
}


@pytest.mark.parametrize("case", LENIENT)
def test_what_llhttp_rejects_is_rejected(case: str) -> None:
    """Each of its documented leniencies is off."""
    assert by_lane(LENIENT[case]) is None
