"""Whose child a request is: what W3C's Trace Context wants of who reads it, and of who passes it on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.lineage import Parent, read_parent, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def told(*lines: str, state: tuple[str, ...] = ()) -> list[tuple[bytes, bytes]]:
    """Headers."""
    return [
        *((b"traceparent", line.encode()) for line in lines),
        *((b"tracestate", each.encode()) for each in state),
        (b"accept", b"*/*"),
    ]


@given(
    trace=st.integers(1, (1 << 128) - 1),
    span=st.integers(1, (1 << 64) - 1),
    is_sampled=st.booleans(),
    state=st.sampled_from([b"", b"a=1", b"a=1,b@c=2"]),
)
def test_what_is_passed_on_is_what_was_read(
    trace: int, span: int, is_sampled: bool, state: bytes
) -> None:
    """Both ways."""
    parent = Parent(trace, span, is_sampled, state)

    assert parent == read_parent(parent.headers())


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("",),
        (f"00-{TRACE}-{SPAN}",),
        (f"00-{TRACE.upper()}-{SPAN}-01",),
        (f"00-{'0' * 32}-{SPAN}-01",),
        (f"00-{TRACE}-{'0' * 16}-01",),
        (f"ff-{TRACE}-{SPAN}-01",),
        (f"00-{TRACE}-{SPAN}-01-more",),
        (f"01-{TRACE}-{SPAN}-01more",),
        (f"00-{TRACE}-{SPAN}-01\r\nx-evil: 1",),
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
    ],
)
def test_what_counts_for_nothing(lines: tuple[str, ...]) -> None:
    """Then nothing is passed on either, tracestate included."""
    headers = told(*lines, state=("a=1",))

    assert read_parent(headers) is None
    assert () == trace_of(headers)


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """And passed on in ours; of its flags the one that is known."""
    parent = read_parent(told(f"cc-{TRACE}-{SPAN}-03-what.comes"))

    assert Parent(int(TRACE, 16), int(SPAN, 16), is_sampled=True) == parent
    assert ((b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()),) == parent.headers()


def test_states_are_one_and_have_an_end() -> None:
    """Several lines are one list; what is longer than anybody must take, or no text, is dropped."""
    line = f"00-{TRACE}-{SPAN}-00"
    read = [
        read_parent(told(line, state=state)) for state in (("a=1", " b=2"), ("x" * 9000,), ("ü",))
    ]

    assert [b"a=1,b=2", b"", b""] == [parent.state for parent in read if parent is not None]
