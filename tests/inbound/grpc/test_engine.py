"""What is mended of h2, and what is made quicker, means the same."""

import hpack
import pytest

from ollama_proxy.inbound.grpc.engine import HeadDecoder

# RFC 7541: the newest entry of the table; an entry that is added to it; one that is not.
NEWEST = b"\xbe"


def added(name: bytes, value: bytes) -> bytes:
    """A header that is kept for those that come."""
    return b"\x40" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_the_same_bytes_are_read_anew_when_others_came_between() -> None:
    """They name a place in a table, and there stands something else now."""
    decoder = HeadDecoder()
    decoder.decode(added(b"a", b"1"), raw=True)
    first, again = decoder.decode(NEWEST, raw=True), decoder.decode(NEWEST, raw=True)
    decoder.decode(added(b"b", b"2"), raw=True)

    assert [(b"a", b"1")] == first == again
    assert [(b"b", b"2")] == decoder.decode(NEWEST, raw=True)


def test_bytes_that_change_the_table_change_it_each_time() -> None:
    """Each adds an entry, and moves what stood there before."""
    decoder = HeadDecoder()
    decoder.decode(added(b"a", b"1"), raw=True)
    for _ in range(2):
        decoder.decode(added(b"b", b"2"), raw=True)

    assert [(b"a", b"1")] == decoder.decode(b"\xc0", raw=True)


def test_an_emptied_table_is_noticed() -> None:
    """What the bytes named is there no longer."""
    decoder = HeadDecoder()
    decoder.decode(added(b"a", b"1"), raw=True)
    decoder.decode(NEWEST, raw=True)
    decoder.decode(b"\x20", raw=True)

    with pytest.raises(hpack.InvalidTableIndexError):
        decoder.decode(NEWEST, raw=True)
