"""One connection without I/O: what it takes, what it refuses, and what it cuts off."""

import itertools
import random
from collections.abc import Callable, Sequence

import attrs
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_proxy.inbound.grpc.messages import Budget, framed
from ollama_proxy.inbound.grpc.metadata import end_of_answer, head_of_answer
from ollama_proxy.inbound.grpc.status import WELL, CallFailed, Status
from ollama_proxy.inbound.grpc.wire import (
    PREFACE,
    Call,
    Fed,
    Opened,
    TakenBack,
    Widened,
    Wire,
    WireLimits,
)
from tests.inbound.grpc.peer import Peer, talk

CALM = 11
REFUSED = 7


def pair(**limits: int) -> tuple[Peer, Wire]:
    """A client and a server that have said hello."""
    peer = Peer()
    wire = Wire(attrs.evolve(WireLimits(), **limits), Budget(64 << 20))
    talk(peer, wire)
    return peer, wire


def opened(events: Sequence[object]) -> list[Call]:
    return [event.call for event in events if isinstance(event, Opened)]


def answer(wire: Wire, call: Call, *messages: bytes) -> None:
    """Answer a call whole, as far as there is room."""
    wire.begin(call, head_of_answer([], gzip=False))
    for message in messages:
        rest = memoryview(framed(message))
        while rest and (sent := wire.send(call, rest)):
            rest = rest[sent:]
    wire.end(call, end_of_answer(WELL, [], is_all=False))
    wire.close(call)


# -- calls -----------------------------------------------------------------------------------------


def test_a_call_and_its_answer() -> None:
    """Head, message and end come; so do ours."""
    peer, wire = pair()
    stream_id = peer.call(b"question")
    [call] = opened(talk(peer, wire))
    question = wire.take_message(call)
    answer(wire, call, b"answer")
    talk(peer, wire)
    heard = peer.heard[stream_id]

    assert (b"question", True) == (question, call.inbox.has_ended)
    assert ([b"answer"], 0, True, None) == (heard.messages, heard.status, heard.ended, heard.reset)
    assert not wire.calls


def test_an_answer_before_the_question_is_whole() -> None:
    """Its client is told to stop, without an error."""
    peer, wire = pair()
    stream_id = peer.open()
    [call] = opened(talk(peer, wire))
    answer(wire, call)
    talk(peer, wire)

    assert (0, 0) == (peer.heard[stream_id].status, peer.heard[stream_id].reset)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_bytes_may_come_in_any_pieces(pieces: list[int]) -> None:
    """One by one or all at once, the same calls come of them."""
    peer = Peer()
    wire = Wire(WireLimits(), Budget(64 << 20))
    peer.call(b"one", path="/a/One")
    peer.call(b"two" * 9000, path="/a/Two")
    said, calls = peer.take(), []
    sizes = itertools.cycle(pieces)
    while said:
        cut = next(sizes)
        calls += opened(wire.receive(said[:cut], 0.0))
        said = said[cut:]

    assert ["/a/One", "/a/Two"] == [call.head.path for call in calls]
    assert [b"one", b"two" * 9000] == [wire.take_message(call) for call in calls]


@given(st.integers(0, 2**32), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_garbage_is_never_an_exception(seed: int, changes: int) -> None:
    """Whatever bytes are changed on their way, they are a call, a refusal or a goodbye."""
    chance = random.Random(seed)  # noqa: S311 - it makes weather
    peer = Peer()
    for _ in range(3):
        peer.call(b"x" * 100, headers=[(b"x-it-bin", b"AAE")])
    said = bytearray(peer.take())
    for _ in range(changes):
        said[chance.randrange(len(PREFACE), len(said))] = chance.randrange(256)
    wire = Wire(WireLimits(), Budget(64 << 20))
    for event in wire.receive(bytes(said), 0.0):
        if isinstance(event, Opened):
            try:
                wire.take_message(event.call)
            except CallFailed:
                continue
            answer(wire, event.call, b"y")
    for call in list(wire.calls.values()):
        wire.close(call)

    assert isinstance(wire.take_output(), bytes)


def test_a_taken_back_call_is_told_once() -> None:
    """And what is done for it afterwards is nothing."""
    peer, wire = pair()
    stream_id = peer.call(b"question")
    [call] = opened(talk(peer, wire))
    peer.h2.reset_stream(stream_id, 8)
    events = talk(peer, wire)
    wire.end(call, end_of_answer(WELL, [], is_all=True))
    wire.close(call)

    assert [TakenBack(call)] == events
    assert (True, True, b"") == (call.was_reset, call.is_over, wire.take_output())


def test_begun_and_taken_back_in_one_read() -> None:
    """h2 has forgotten the stream before we have heard of it."""
    peer, wire = pair()
    stream_id = peer.call(b"question")
    peer.h2.reset_stream(stream_id, 8)
    [call] = opened(talk(peer, wire))
    answer(wire, call, b"answer")

    assert not wire.is_over
    assert call.was_reset


def test_one_call_too_many_is_refused_alone() -> None:
    """It may be tried again; those that are there go on, and an ended one makes room."""
    peer, wire = pair(streams=2)
    ids = [peer.call(b"") for _ in range(3)]
    calls = opened(talk(peer, wire))
    answer(wire, calls[0])
    talk(peer, wire)
    later = peer.call(b"")
    [call] = opened(talk(peer, wire))

    assert [None, None, REFUSED] == [peer.heard[each].reset for each in ids]
    assert (0, later) == (peer.heard[ids[0]].status, call.id)
    assert not wire.is_over


def test_metadata_beyond_the_soft_limit_is_its_calls_fault() -> None:
    """The connection goes on."""
    peer, wire = pair()
    peer.call(b"", more=b"x" * 20_000)
    peer.call(b"")
    calls = opened(talk(peer, wire))

    assert [Status.RESOURCE_EXHAUSTED, None] == [
        call.head.fault and call.head.fault.status for call in calls
    ]


def test_metadata_beyond_the_hard_limit_ends_the_connection() -> None:
    """Only so far is it read at all."""
    peer, wire = pair()
    # After the first, each is a reference to it of a single byte.
    peer.open(*[(b"x-it", b"y" * 3000)] * 60)
    talk(peer, wire)

    assert wire.is_over


# -- messages and windows --------------------------------------------------------------------------


def test_too_large_a_message_is_its_calls_fault() -> None:
    """It is told with the bytes that tell it; the connection goes on."""
    peer, wire = pair(message_bytes=1000)
    stream_id = peer.open()
    peer.say(stream_id, b"\x00\x00\x00\x10\x00xxxx")
    events = talk(peer, wire)

    [failed] = [event.failed for event in events if isinstance(event, Fed)]
    assert failed is not None
    assert Status.RESOURCE_EXHAUSTED is failed.status


def test_the_window_opens_as_messages_are_taken() -> None:
    """What comes after a whole message waits at its sender until that was taken."""
    peer, wire = pair(stream_window=65535)
    stream_id = peer.open()
    [call] = opened(talk(peer, wire))
    peer.say(stream_id, framed(b"one") + framed(b"x" * 60_000))
    talk(peer, wire)
    before = peer.h2.local_flow_control_window(stream_id)
    for _ in range(2):
        wire.take_message(call)
    talk(peer, wire)

    assert before < 6000
    assert peer.h2.local_flow_control_window(stream_id) > 60_000


def test_many_that_go_on_leave_room_for_another() -> None:
    """What each has sent was taken: all of them together must not have used up the connection's window."""
    peer, wire = pair(streams=100, stream_window=256 << 10, connection_window=1 << 20)
    for _ in range(100):
        stream_id = peer.open()
        peer.say(stream_id, framed(b"x" * 12_000))
        [call] = opened(talk(peer, wire))
        wire.take_message(call)
        talk(peer, wire)

    assert peer.h2.local_flow_control_window(peer.open()) >= 256 << 10


def test_a_message_larger_than_the_window_comes_whole() -> None:
    """While one is not whole, the window opens as it comes."""
    peer, wire = pair(stream_window=65535)
    stream_id, calls = peer.open(), []
    rest = framed(b"x" * 300_000)
    while rest:
        room = peer.h2.local_flow_control_window(stream_id)
        peer.say(stream_id, rest[:room])
        rest = rest[room:]
        calls += opened(talk(peer, wire))

    assert b"x" * 300_000 == wire.take_message(calls[0])


def test_an_answer_goes_as_far_as_its_reader_lets_it() -> None:
    """And on, when there is room again."""
    peer, wire = pair()
    peer.reads = False
    stream_id = peer.call(b"")
    [call] = opened(talk(peer, wire))
    wire.begin(call, head_of_answer([], gzip=False))
    rest = memoryview(bytes(200_000))
    while (sent := wire.send(call, rest)) or wire.pending_bytes:
        rest = rest[sent:]
        talk(peer, wire)
    peer.h2.increment_flow_control_window(10_000, stream_id)
    peer.h2.increment_flow_control_window(10_000)
    events = talk(peer, wire)

    assert 200_000 - 65535 == len(rest)
    assert [Widened(call), Widened(None)] == events
    assert 10_000 == wire.send(call, rest)


def test_one_calls_answers_do_not_pile_up() -> None:
    """What nobody has sent yet is bounded for the connection, however wide the windows are."""
    peer, wire = pair()
    peer.h2.increment_flow_control_window(1 << 24)
    stream_id = peer.call(b"")
    peer.h2.increment_flow_control_window(1 << 24, stream_id)
    [call] = opened(talk(peer, wire))
    wire.begin(call, head_of_answer([], gzip=False))
    rest = memoryview(bytes(1 << 20))
    while sent := wire.send(call, rest):
        rest = rest[sent:]

    assert wire.pending_bytes <= wire.limits.unsent_bytes + 1000


# -- floods ----------------------------------------------------------------------------------------


def raw(frame: Frame) -> bytes:
    return bytes(frame.serialize())


def resets(peer: Peer) -> bytes:
    stream_id = peer.open()
    peer.h2.reset_stream(stream_id, 8)
    return peer.take()


def too_many_opened(peer: Peer) -> bytes:
    peer.open()
    return peer.take()


FLOODS: dict[str, tuple[Callable[[Peer], bytes], int, bytes]] = {
    "rapid resets": (resets, 250, b"too_many_resets"),
    "streams": (too_many_opened, 400, b"too_many_streams"),
    "pings": (lambda _: raw(PingFrame(0, opaque_data=b"12345678")), 150, b"too_many_pings"),
    "settings": (lambda _: raw(SettingsFrame(0, settings={4: 70000})), 150, b"too_many_settings"),
    "priorities": (
        lambda _: raw(PriorityFrame(1, depends_on=3, stream_weight=1)),
        20_100,
        b"too_many_idle_frames",
    ),
    "windows": (
        lambda _: raw(WindowUpdateFrame(0, window_increment=1)),
        20_100,
        b"too_many_windows",
    ),
    "unknown": (lambda _: b"\x00\x00\x00\xf0\x00\x00\x00\x00\x01", 20_100, b"too_many_idle_frames"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_cut_off(flood: str) -> None:
    """With ENHANCE_YOUR_CALM, and after that nothing is read any more."""
    one, count, why = FLOODS[flood]
    peer, wire = pair()
    for _ in range(count):
        wire.receive(one(peer), 1.0)
        if wire.is_over:
            break
        for call in [call for call in wire.calls.values() if call.was_reset]:
            wire.close(call)
    peer.hear(wire.take_output())

    assert wire.is_over
    assert (CALM, why) == (peer.goodbye, peer.why)
    assert [] == wire.receive(b"more", 1.0)


def test_empty_data_is_a_flood_too() -> None:
    """Frames that carry nothing and do not end anything."""
    peer, wire = pair()
    stream_id = peer.open()
    talk(peer, wire)
    for _ in range(20_100):
        wire.receive(b"\x00\x00\x00\x00\x00" + stream_id.to_bytes(4, "big"), 1.0)

    assert wire.is_over


def test_endless_continuations_are_cut_off() -> None:
    """A head that never ends is not kept for ever."""
    peer, wire = pair()
    stream_id = peer.h2.get_next_available_stream_id()
    wire.receive(raw(HeadersFrame(stream_id, data=b"\x00\x01a\x01b")), 0.0)
    for _ in range(100):
        wire.receive(raw(ContinuationFrame(stream_id, data=b"\x00\x01a\x01b")), 0.0)

    assert wire.is_over


def test_bad_header_compression_ends_its_connection() -> None:
    """Its state is lost, and with it every later head."""
    peer, wire = pair()
    wire.receive(raw(HeadersFrame(1, data=b"\xff\xff\xff\xff", flags=["END_HEADERS"])), 0.0)
    peer.hear(wire.take_output())

    assert wire.is_over
    assert peer.goodbye not in {None, 0}


def test_what_is_slow_is_no_flood() -> None:
    """Each ration is new after a while."""
    peer, wire = pair()
    for at in range(500):
        wire.receive(resets(peer), at * 0.2)
        for call in list(wire.calls.values()):
            wire.close(call)

    assert not wire.is_over


def test_calls_taken_back_after_their_answer_began_are_no_flood() -> None:
    """Who has heard enough of an answer may say so, as often as it likes."""
    peer, wire = pair()
    for _ in range(500):
        stream_id = peer.call(b"")
        [call] = opened(talk(peer, wire))
        wire.begin(call, head_of_answer([], gzip=False))
        peer.h2.reset_stream(stream_id, 8)
        talk(peer, wire)
        wire.close(call)

    assert not wire.is_over


def test_calls_that_were_waited_for_are_no_flood() -> None:
    """Under load every deadline may pass in line: their callers take them back, one like the other."""
    peer, wire = pair()
    for at in range(500):
        stream_id = peer.call(b"")
        [call] = opened(talk(peer, wire, at * 0.05))
        peer.h2.reset_stream(stream_id, 8)
        talk(peer, wire, at * 0.05 + 2)
        wire.close(call)

    assert not wire.is_over


def test_windows_for_data_are_no_flood() -> None:
    """Who reads much opens its windows often."""
    peer, wire = pair()
    stream_id = peer.call(b"")
    [call] = opened(talk(peer, wire))
    wire.begin(call, head_of_answer([], gzip=False))
    windows = b"".join(raw(WindowUpdateFrame(i, window_increment=1)) for i in (0, stream_id))
    for _ in range(12_000):
        wire.send(call, memoryview(b"x"))
        wire.take_output()
        wire.receive(windows, 1.0)

    assert not wire.is_over


def test_pings_for_data_are_no_flood() -> None:
    """Some clients measure by them how far away we are."""
    peer, wire = pair()
    peer.call(b"")
    [call] = opened(talk(peer, wire))
    wire.begin(call, head_of_answer([], gzip=False))
    for _ in range(500):
        wire.send(call, memoryview(b"x"))
        peer.h2.ping(b"12345678")
        talk(peer, wire)

    assert (500, False) == (peer.acked, wire.is_over)


def test_a_ping_each_second_is_no_flood() -> None:
    """So a proxy sees that we are there, while calls wait and others' bytes pass elsewhere: for an hour."""
    peer, wire = pair()
    peer.call(b"")
    for at in range(3600):
        peer.h2.ping(b"12345678")
        talk(peer, wire, float(at))

    assert (3600, False) == (peer.acked, wire.is_over)


def test_who_does_not_read_its_pongs_is_not_read() -> None:
    """What it has called forth is bounded."""
    _, wire = pair(pings=10**9)
    while not wire.is_flooded:
        wire.receive(raw(PingFrame(0, opaque_data=b"12345678")), 0.0)

    assert wire.pending_bytes < wire.limits.replies_bytes + 100


def test_a_reset_of_nothing_is_a_fault_of_the_peers() -> None:
    """Of a stream that never was."""
    _, wire = pair()
    wire.receive(raw(RstStreamFrame(99, error_code=8)), 0.0)

    assert wire.is_over


# -- hello and goodbye -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/1", b"\x00"],
)
def test_what_is_no_http2_is_told_so(said: bytes) -> None:
    """In words of HTTP/1.1, which people's tools show."""
    wire = Wire(WireLimits(), Budget(1))
    wire.receive(said, 0.0)

    assert wire.is_over
    assert wire.take_output().startswith(b"HTTP/1.1 505 ")


def test_a_goodbye_lets_calls_finish() -> None:
    """At first all that are on their way are taken, then no more; those there are go on."""
    peer, wire = pair()
    peer.call(b"")
    [call] = opened(talk(peer, wire))
    wire.warn()
    late = peer.call(b"")  # it was on its way
    calls = opened(talk(peer, wire))
    was_heard, first = wire.drain_was_heard, peer.last_id
    wire.drain()
    wire.drain()
    peer.hear(wire.take_output())
    answer(wire, call, b"answer")
    peer.hear(wire.take_output())

    assert (True, 2**31 - 1, late) == (was_heard, first, calls[0].id)
    assert (late, 0) == (peer.last_id, peer.goodbye)


def test_the_peers_goodbye_lets_calls_finish_too() -> None:
    """h2 by itself would end them."""
    peer, wire = pair()
    stream_id = peer.call(b"")
    [call] = opened(talk(peer, wire))
    wire.receive(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8), 0.0)
    answer(wire, call, b"answer")
    talk(peer, wire)

    assert ([b"answer"], 0) == (peer.heard[stream_id].messages, peer.heard[stream_id].status)


def test_a_drained_connection_refuses_what_comes_late() -> None:
    """As something that may be tried elsewhere."""
    peer, wire = pair()
    wire.drain()
    wire.take_output()  # it is still on its way
    stream_id = peer.call(b"")
    events = talk(peer, wire)

    assert ([], REFUSED) == (opened(events), peer.heard[stream_id].reset)
