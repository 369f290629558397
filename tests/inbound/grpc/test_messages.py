"""Messages with their length before them."""

import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.inbound.grpc.messages import Budget, Inbox, framed
from ollama_proxy.inbound.grpc.status import CallFailed, Status

LIMIT = 1 << 20


def inbox(*, zipped: bool = True, limit: int = LIMIT, budget: Budget | None = None) -> Inbox:
    return Inbox(budget or Budget(64 << 20), limit, zipped)


def failure(box: Inbox, data: bytes) -> Status:
    """How a call ends that sends these bytes and no more."""
    try:
        box.feed(data)
        box.has_ended = True
        while box.take() is not None:
            continue
    except CallFailed as failed:
        return failed.ended.status
    pytest.fail("it does not fail")


@given(
    st.lists(st.tuples(st.binary(max_size=3000), st.booleans()), max_size=6),
    st.data(),
)
def test_messages_come_out_as_they_went_in(
    messages: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    """However the bytes are cut, compressed or not; and in the end nothing is kept."""
    stream = b"".join(framed(message, compress=zipped) for message, zipped in messages)
    budget = Budget(64 << 20)
    box = inbox(budget=budget)
    found = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        box.feed(stream[:cut])
        stream = stream[cut:]
        while (message := box.take()) is not None:
            found.append(message)
    box.close()

    assert [message for message, _ in messages] == found
    assert 0 == budget.used


def test_small_messages_are_not_compressed() -> None:
    """They would hardly become less; large ones do."""
    assert b"\x00" == framed(b"x" * 100, compress=True)[:1]
    assert len(framed(b"x" * 100_000, compress=True)) < 1000


def test_a_large_message_is_refused_by_its_length() -> None:
    """Before it has come."""
    box = inbox()
    with pytest.raises(CallFailed, match=r"larger than max \(1048577 vs. 1048576\)") as caught:
        box.feed(b"\x00" + (LIMIT + 1).to_bytes(4, "big"))

    assert Status.RESOURCE_EXHAUSTED is caught.value.ended.status


def test_a_second_message_is_held_to_the_same() -> None:
    """Though it came behind another."""
    assert Status.RESOURCE_EXHAUSTED is failure(
        inbox(), framed(b"a") + b"\x00" + (LIMIT + 1).to_bytes(4, "big")
    )


def test_a_bomb_does_not_go_off() -> None:
    """Thirty megabytes in thirty kilobytes are inflated up to the limit, and no further."""
    bomb = gzip.compress(bytes(30 << 20), 9)

    data = b"\x01" + len(bomb).to_bytes(4, "big") + bomb
    tracemalloc.start()
    status = failure(inbox(), data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(bomb) < 40_000
    assert Status.RESOURCE_EXHAUSTED is status
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    ("data", "zipped"),
    [
        (b"\x01\x00\x00\x00\x03abc", True),  # no gzip
        (framed(b"x" * 2000, compress=True), False),  # nobody said that it would be
        (b"\x02\x00\x00\x00\x00", True),  # a flag that is none
        (b"\x00\x00\x00\x00\x05abc", True),  # cut off
        (b"\x00\x00", True),
        (b"\x01\x00\x00\x00\x14" + gzip.compress(b"x" * 2000)[:20], True),  # cut off within
        (b"\x01\x00\x00\x00\x16" + gzip.compress(b"x") + b"y", True),  # more than one
    ],
)
def test_what_is_no_message_ends_its_call(data: bytes, zipped: bool) -> None:
    """As the sender's fault in framing, which no request can mend."""
    assert Status.INTERNAL is failure(inbox(zipped=zipped), data)


def test_all_calls_share_one_budget() -> None:
    """Who would go beyond it is refused; what was taken or given up makes room."""
    budget = Budget(100)
    one, two = inbox(budget=budget), inbox(budget=budget)
    one.feed(framed(b"x" * 80))
    with pytest.raises(CallFailed) as caught:
        two.feed(framed(b"y" * 20))
    one.take()
    kept = budget.used
    one.take()
    one.close()
    two.feed(framed(b"y" * 20))

    assert Status.RESOURCE_EXHAUSTED is caught.value.ended.status
    assert (85, 25) == (kept, budget.used)


def test_what_a_message_inflates_to_counts() -> None:
    """A budget that only saw compressed bytes would see nothing."""
    budget = Budget(500_000)
    box = inbox(budget=budget)
    box.feed(framed(bytes(1_000_000), compress=True))

    with pytest.raises(CallFailed):
        box.take()
