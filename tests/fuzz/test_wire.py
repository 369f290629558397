"""Whatever a gRPC client's bytes become on their way, the wire says what it made of them."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.inbound.grpc.messages import Budget, framed
from ollama_proxy.inbound.grpc.metadata import end_of_answer, head_of_answer
from ollama_proxy.inbound.grpc.status import WELL, CallFailed
from ollama_proxy.inbound.grpc.wire import PREFACE, Opened, Wire, WireLimits
from tests.fuzz.inputs import Changes, changes, spoilt, tries
from tests.inbound.grpc.peer import Peer

BUDGET_BYTES = 1 << 20
OFTEN = (
    b"\0\0\0\x04\0\0\0\0\0",  # settings
    b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0",  # a ping
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",  # a call taken back
    b"\0\0\0\x09\x04\0\0\0\x01",  # a continuation of nothing
    b"\xff\xff\xff",
)


def said() -> bytes:
    """A client's greeting and three calls."""
    peer = Peer()
    for _ in range(3):
        peer.call(b"x" * 100, headers=[(b"x-it-bin", b"AAE")])
    return peer.take()


GOOD = said()


@tries(0.15)
@given(changes(*OFTEN), st.lists(st.integers(1, 200), max_size=8))
def test_the_wire_never_raises(done: Changes, sizes: list[int]) -> None:
    """Calls, refusals or a goodbye; and nothing is held of calls that are over."""
    data = PREFACE + spoilt(GOOD[len(PREFACE) :], done)
    budget = Budget(BUDGET_BYTES)
    wire = Wire(WireLimits(), budget)
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        for event in wire.receive(piece, 0.0) if piece else ():
            if not isinstance(event, Opened):
                continue
            try:
                wire.take_message(event.call)
            except CallFailed:
                continue
            wire.begin(event.call, head_of_answer([], gzip=False))
            wire.send(event.call, memoryview(framed(b"y")))
            wire.end(event.call, end_of_answer(WELL, [], is_all=False))
            wire.close(event.call)
    for call in list(wire.calls.values()):
        wire.close(call)

    assert isinstance(wire.take_output(), bytes)
    assert 0 == budget.used
