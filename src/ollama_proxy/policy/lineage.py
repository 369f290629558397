"""Whose child a request is, as W3C's Trace Context tells it (w3.org/TR/trace-context, level 1)."""

import re
from collections.abc import Sequence

import attrs

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
NAMES = frozenset({TRACEPARENT, TRACESTATE})
SAMPLED = 1
STATE_MAX = 8192  # bytes; 512 must be passed on, and more may be
# A later version may have more behind it; 00 may not, and ff is none.
_PARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?\Z"
)
_STATE = re.compile(rb"[\x20-\x7e\t]*\Z")
Headers = Sequence[tuple[bytes, bytes]]


@attrs.frozen
class Parent:
    """The span that a caller made its request in. Ids are as wide as they are written, and not 0.

    Attributes:
        trace: 128 bits.
        span: 64 bits.
        is_sampled: somebody up there keeps it.
        state: what other tracers say, to be passed on as it is.
    """

    trace: int
    span: int
    is_sampled: bool
    state: bytes = b""

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The same for whoever is asked next."""
        line = b"00-%032x-%016x-%02x" % (self.trace, self.span, SAMPLED * self.is_sampled)
        parent = ((TRACEPARENT, line),)
        return (*parent, (TRACESTATE, self.state)) if self.state else parent


def trace_of(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """Those of some headers that say whose child a request is, if they say so in a way that counts."""
    parent = read_parent(headers)
    return () if parent is None else parent.headers()


def read_parent(headers: Headers) -> Parent | None:
    """Whose child it is; None where nobody says so in a way that counts: then it has no parent."""
    lines = [value.strip() for name, value in headers if name == TRACEPARENT]
    parts = _PARENT.match(lines[0]) if len(lines) == 1 else None
    if parts is None or parts[1] == b"ff" or (parts[1] == b"00" and parts[5] is not None):
        return None
    trace, span = int(parts[2], 16), int(parts[3], 16)
    if not trace or not span:
        return None
    state = b",".join([value.strip() for name, value in headers if name == TRACESTATE])
    return Parent(
        trace,
        span,
        is_sampled=bool(int(parts[4], 16) & SAMPLED),
        state=state if len(state) <= STATE_MAX and _STATE.match(state) else b"",
    )
