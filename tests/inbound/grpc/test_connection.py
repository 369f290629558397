"""One connection on Trio: whose clock, whose fault, and whose patience ends what."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from ollama_proxy.inbound.grpc.connection import Connection, Patience, Terms
from ollama_proxy.inbound.grpc.messages import Budget, framed
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.rpc import Method, Rpc
from ollama_proxy.inbound.grpc.status import CallFailed, Status
from ollama_proxy.inbound.grpc.wire import NOT_HTTP2, PREFACE
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused
from tests.inbound.grpc.peer import Client, framed_request

Serve = Callable[[Rpc], Awaitable[None]]
REQUEST = pb.GenerateRequest(prompt="hi").SerializeToString()
GATE = Gate(
    bound_host="127.0.0.1",
    allowed_hosts=["router.example"],
    allowed_origins=["https://friend.example"],
)


@attrs.define
class Place:
    """A server's end, and what its methods saw."""

    connection: Connection
    budget: Budget
    left: list[str] = attrs.field(factory=list)
    ended: trio.Event = attrs.field(factory=trio.Event)


async def echo(rpc: Rpc) -> None:
    """Say each prompt again."""
    while (request := await rpc.receive()) is not None:
        await rpc.send(pb.GenerateResponse(response=request.prompt))


@asynccontextmanager
async def served(
    methods: dict[str, Serve], *, endless: tuple[str, ...] = (), **patience: float
) -> AsyncIterator[tuple[Client, Place]]:
    """A client and its connection, to the connection's end."""
    async with (
        connected(methods, endless=endless, **patience) as (stream, place),
        Client(stream) as client,
    ):
        yield client, place


@asynccontextmanager
async def connected(
    methods: dict[str, Serve], *, endless: tuple[str, ...] = (), **patience: float
) -> AsyncIterator[tuple[trio.abc.Stream, Place]]:
    """The same for somebody who has not said hello yet."""
    ours, theirs = memory_stream_pair()
    budget = Budget(64 << 20)
    terms = Terms(
        methods={
            f"/it/{name}": Method(
                path=f"/it/{name}",
                takes=pb.GenerateRequest,
                serve=serve,
                is_work=name not in endless,
            )
            for name, serve in methods.items()
        },
        gate=GATE,
        budget=budget,
        patience=attrs.evolve(Patience(), **patience),
    )
    place = Place(Connection(theirs, terms, "here"), budget)

    async def run() -> None:
        await place.connection.run()
        await theirs.aclose()
        place.ended.set()

    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield ours, place
            await place.ended.wait()

    assert 0 == budget.used
    assert not place.connection.wire.calls


def prompts(heard_messages: list[bytes]) -> list[str]:
    return [pb.GenerateResponse.FromString(each).response for each in heard_messages]


async def test_requests_and_answers_alternate() -> None:
    """A stream of requests is answered one by one, as they come."""
    async with served({"Echo": echo}) as (client, _):
        stream_id = client.peer.open(path="/it/Echo")
        heard = client.peer.heard[stream_id]
        for word in ("one", "two"):
            client.peer.say(stream_id, framed_request(word))
            count = len(heard.messages)
            while len(heard.messages) == count:
                await client.listen()
        client.peer.h2.end_stream(stream_id)
        await client.ended(stream_id)

    assert (["one", "two"], 0, None) == (prompts(heard.messages), heard.status, heard.reset)


async def test_a_deadline_ends_its_call(autojump_clock: MockClock) -> None:
    """At its time, whatever the method waits for; others go on."""
    left = []

    async def sleep(rpc: Rpc) -> None:
        try:
            await trio.sleep_forever()
        finally:
            left.append(trio.current_time())

    async with served({"Sleep": sleep, "Echo": echo}) as (client, _):
        began = trio.current_time()
        heard = await client.call(REQUEST, path="/it/Sleep", headers=[(b"grpc-timeout", b"300m")])
        after = await client.call(REQUEST, path="/it/Echo")

    assert (Status.DEADLINE_EXCEEDED, 0) == (heard.status, after.status)
    assert [pytest.approx(0.3)] == [at - began for at in left]


async def test_a_call_taken_back_ends_its_method(autojump_clock: MockClock) -> None:
    """At once, and nothing more is said of it."""
    left = trio.Event()

    async def sleep(rpc: Rpc) -> None:
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    async with served({"Sleep": sleep, "Echo": echo}) as (client, _):
        stream_id = client.peer.call(REQUEST, path="/it/Sleep")
        await client.flush()
        await trio.testing.wait_all_tasks_blocked()
        client.peer.h2.reset_stream(stream_id, 8)
        await client.flush()
        await left.wait()
        after = await client.call(REQUEST, path="/it/Echo")

    assert (None, 0) == (client.peer.heard[stream_id].status, after.status)


async def test_a_lost_connection_ends_its_calls(autojump_clock: MockClock) -> None:
    """All of them."""
    left = []

    async def sleep(rpc: Rpc) -> None:
        try:
            await trio.sleep_forever()
        finally:
            left.append("one")

    async with served({"Sleep": sleep}) as (client, place):
        for _ in range(3):
            client.peer.call(REQUEST, path="/it/Sleep")
        await client.flush()
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await place.ended.wait()

    assert ["one"] * 3 == left


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        (CallFailed(Status.NOT_FOUND, "It is not there."), Status.NOT_FOUND, "It is not there."),
        (
            RequestRefused(Refusal(Code.QUEUE_FULL, "Full.")),
            Status.RESOURCE_EXHAUSTED,
            "Full.",
        ),
        (
            KeyError("a secret prompt"),
            Status.INTERNAL,
            "The router made a mistake; its log says which.",
        ),
    ],
)
async def test_a_calls_fault_is_its_own(
    fault: Exception, status: Status, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told, a fault of ours is logged without what it quotes, and others go on."""

    async def fail(rpc: Rpc) -> None:
        raise fault

    async with served({"Fail": fail, "Echo": echo}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Fail")
        after = await client.call(REQUEST, path="/it/Echo")

    assert (status, message, 0) == (heard.status, heard.header("grpc-message"), after.status)
    assert "secret" not in caplog.text
    assert (status is Status.INTERNAL) is ("KeyError" in caplog.text)


async def test_an_unknown_method() -> None:
    """Is UNIMPLEMENTED, with its name."""
    async with served({}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Nothing")

    assert Status.UNIMPLEMENTED == heard.status
    assert "/it/Nothing" in str(heard.header("grpc-message"))


async def test_a_request_that_is_none() -> None:
    """Bytes that are no protobuf are the caller's fault."""
    async with served({"Echo": echo}) as (client, _):
        heard = await client.call(b"\xff\xff\xff", path="/it/Echo")

    assert Status.INVALID_ARGUMENT == heard.status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"content_type": b"application/json"}, b"415"),
        ({"content_type": b""}, b"415"),
        ({"content_type": b"application/grpc-web"}, b"415"),
        ({"method": b"GET"}, b"405"),
        ({"method": b"HEAD"}, b"405"),
    ],
)
async def test_what_is_no_grpc_is_turned_away(changes: dict[str, bytes], status: bytes) -> None:
    """With a status of HTTP's; the connection goes on."""
    async with served({"Echo": echo}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Echo", **changes)
        after = await client.call(REQUEST, path="/it/Echo")

    assert (status, None) == (dict(heard.headers)[b":status"], heard.status)
    assert 0 == after.status


async def test_what_is_no_grpc_may_finish_its_body() -> None:
    """Its answer comes before that, and is not taken back by a reset; who never finishes is reset."""
    async with served({"Echo": echo}) as (client, _):
        slow, never = (client.peer.open(path="/it/Echo", content_type=b"text/x") for _ in range(2))
        heard = await client.ended(slow)
        client.peer.say(slow, b"{}", end=True)
        left = client.peer.heard[never]
        while left.reset is None:
            await client.listen()

    assert (b"415", None) == (dict(heard.headers)[b":status"], heard.reset)
    assert (b"415", 0) == (dict(left.headers)[b":status"], left.reset)


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        (b"localhost", 0),
        (b"localhost:50051", 0),
        (b"127.0.0.1:1", 0),
        (b"[::1]:50051", 0),
        (b"router.example:50051", 0),
        (b"", 0),
        (b"%2Frun%2Frouter.sock", 0),
        (b"unix:/run/router.sock", 0),
        (b"/run/router.sock", 0),
        (b"evil.example", 7),
        (b"evil.example:50051", 7),
        (b"localhost.evil.example", 7),
        (b"192.0.2.1:50051", 7),
        (b"unix.evil.example", 7),
        (b"[::1]evil", 7),
    ],
)
async def test_the_authority_is_judged_as_a_host_is(authority: bytes, status: int) -> None:
    """Whether an origin comes with it or not; who names a file, or nothing, is no page."""
    none = [] if authority else [(b"host", b"")]
    async with served({"Echo": echo}) as (client, _):
        heard = await client.call(
            REQUEST, path="/it/Echo", headers=none, **{":authority": authority}
        )

    assert status == heard.status


async def test_a_page_names_a_host() -> None:
    """With an origin, none is as good as a wrong one."""
    headers = [(b"origin", b"https://friend.example"), (b"host", b"")]
    async with served({"Echo": echo}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Echo", headers=headers, **{":authority": b""})

    assert Status.PERMISSION_DENIED == heard.status


async def test_a_page_of_another_origin_is_not_heard() -> None:
    """As on the other doors; programs send no origin."""
    async with served({"Echo": echo}) as (client, _):
        stranger = await client.call(
            REQUEST, path="/it/Echo", headers=[(b"origin", b"https://evil.example")]
        )
        friend = await client.call(
            REQUEST, path="/it/Echo", headers=[(b"origin", b"https://friend.example")]
        )

    assert (Status.PERMISSION_DENIED, 0) == (stranger.status, friend.status)


async def test_a_slow_reader_slows_its_own_call_alone(autojump_clock: MockClock) -> None:
    """What it does not take waits at its method; another call is answered beside it."""
    sent = 0

    async def pour(rpc: Rpc) -> None:
        nonlocal sent
        for _ in range(1000):
            await rpc.send(pb.GenerateResponse(response="x" * 10_000))
            sent += 1

    async with served({"Pour": pour, "Echo": echo}) as (client, place):
        client.peer.h2.increment_flow_control_window(1 << 24)  # of the connection
        slow = client.peer.open(path="/it/Pour", end=False)
        client.peer.reads = False
        await _hear_all(client)
        taken = sent
        client.peer.reads = True
        beside = await client.call(REQUEST, path="/it/Echo")
        pending = place.connection.wire.pending_bytes
        client.peer.h2.increment_flow_control_window(1 << 24, slow)
        client.peer.h2.end_stream(slow)
        heard = await client.ended(slow)

    assert (0, 0) == (beside.status, pending)
    assert taken < 10
    assert (1000, 0) == (len(heard.messages), heard.status)


async def test_a_message_is_sent_at_once_whole_or_not_at_all() -> None:
    """Nothing of one that does not fit, so that its own task may send it; and nothing to who has left."""
    told: list[bool] = []

    async def try_(rpc: Rpc) -> None:
        sizes = (10, 17_000, *[10_000] * 7)
        told.extend(rpc.send_at_once(pb.GenerateResponse(response="x" * size)) for size in sizes)
        await rpc.send(pb.GenerateResponse(response="last"))

    async with served({"Try": try_}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Try")

    assert [True, False] + [True] * 6 + [False] == told
    assert (8, 0) == (len(heard.messages), heard.status)


@pytest.mark.parametrize("is_own", [True, False], ids=["stream", "connection"])
async def test_who_takes_nothing_is_not_waited_for(
    autojump_clock: MockClock, *, is_own: bool
) -> None:
    """Its call is ended after `unread_s`, whichever window is shut, and however many pings it sends."""
    left = []

    async def pour(rpc: Rpc) -> None:
        try:
            while True:
                await rpc.send(pb.GenerateResponse(response="x" * 10_000))
        finally:
            left.append(trio.current_time())

    async with served({"Pour": pour, "Echo": echo}, unread_s=30.0) as (client, _):
        began = trio.current_time()
        client.peer.reads = False
        stream_id = client.peer.call(REQUEST, path="/it/Pour")
        client.peer.h2.increment_flow_control_window(1 << 24, None if is_own else stream_id)
        heard = client.peer.heard[stream_id]
        while not heard.ended and trio.current_time() < began + 60:
            client.peer.h2.ping(b"i m here")
            await _hear_all(client)
            await trio.sleep(1)
        took = trio.current_time() - began
        client.peer.reads = True
        client.peer.h2.increment_flow_control_window(1 << 24)
        beside = await client.call(REQUEST, path="/it/Echo")

    assert Status.CANCELLED == heard.status
    assert 30 <= took < 33
    assert [pytest.approx(30.0)] == [at - began for at in left]
    assert 0 == beside.status


@pytest.mark.parametrize("is_own", [True, False], ids=["stream", "connection"])
async def test_a_slow_but_steady_reader_is_kept(autojump_clock: MockClock, *, is_own: bool) -> None:
    """However long the whole takes: a little, taken within `unread_s`, is enough."""

    async def give(rpc: Rpc) -> None:
        await rpc.send(pb.GenerateResponse(response="x" * 70_000))

    async with served({"Give": give}, unread_s=30.0) as (client, _):
        began = trio.current_time()
        client.peer.reads = False
        stream_id = client.peer.call(REQUEST, path="/it/Give")
        client.peer.h2.increment_flow_control_window(1 << 24, None if is_own else stream_id)
        heard = client.peer.heard[stream_id]
        await _hear_all(client)
        while not heard.ended:
            await trio.sleep(20)
            client.peer.h2.increment_flow_control_window(1000, stream_id if is_own else None)
            await _hear_all(client)
        took = trio.current_time() - began

    assert (0, 1) == (heard.status, len(heard.messages))
    assert took > 90


async def test_who_waits_for_others_turns_is_kept(autojump_clock: MockClock) -> None:
    """While a connection gets on slowly, no call of it is ended because others were quicker."""

    async def give(rpc: Rpc) -> None:
        await rpc.send(pb.GenerateResponse(response="x" * 100_000))

    async with served({"Give": give}, unread_s=30.0) as (client, _):
        client.peer.reads = False
        calls = [client.peer.call(REQUEST, path="/it/Give") for _ in range(20)]
        for stream_id in calls:
            client.peer.h2.increment_flow_control_window(1 << 20, stream_id)
        ends = [client.peer.heard[stream_id] for stream_id in calls]
        await _hear_all(client)
        while not all(heard.ended for heard in ends):
            await trio.sleep(20)
            client.peer.h2.increment_flow_control_window(16_384)
            await _hear_all(client)

    assert [(0, 1)] * 20 == [(heard.status, len(heard.messages)) for heard in ends]


async def _hear_all(client: Client) -> None:
    """Read until the server has nothing more to say for now."""
    with trio.move_on_after(0.1) as scope:
        while await client.listen():
            scope.deadline = trio.current_time() + 0.1


async def test_compression_is_answered_in_kind() -> None:
    """Who compresses and takes it gets large messages compressed, nobody else."""
    text = "x" * 5000
    request = pb.GenerateRequest(prompt=text).SerializeToString()
    async with served({"Echo": echo}) as (client, _):
        both = [(b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip")]
        stream_id = client.peer.open(*both, path="/it/Echo")
        client.peer.say(stream_id, framed(request, compress=True), end=True)
        zipped = await client.ended(stream_id)
        plain = await client.call(request, path="/it/Echo", headers=both[1:])

    assert ("gzip", None) == (zipped.header("grpc-encoding"), plain.header("grpc-encoding"))
    assert (1, 0) == (zipped.data[0], plain.data[0])
    assert len(zipped.data) < 100


async def test_too_large_a_message_ends_its_call() -> None:
    """Its method is stopped, its sender told, and the connection goes on."""
    async with served({"Echo": echo}) as (client, _):
        stream_id = client.peer.open(path="/it/Echo")
        client.peer.say(stream_id, b"\x00\x7f\xff\xff\xff")
        heard = await client.ended(stream_id)
        after = await client.call(REQUEST, path="/it/Echo")

    assert (Status.RESOURCE_EXHAUSTED, 0) == (heard.status, after.status)


# -- patience --------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", PREFACE, PREFACE[:10]])
async def test_who_does_not_say_hello_is_cut_off(autojump_clock: MockClock, said: bytes) -> None:
    """A connection that was only opened holds nothing for long."""
    async with connected({}, greeting_s=10.0) as (stream, place):
        if said:
            await stream.send_all(said)
        began = trio.current_time()
        await place.ended.wait()

    assert pytest.approx(10.0) == trio.current_time() - began


async def test_what_is_no_http2_is_answered_and_closed(autojump_clock: MockClock) -> None:
    """With a sentence."""
    async with connected({}) as (stream, place):
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while data := await stream.receive_some(1000):
            said += data
        await place.ended.wait()

    assert said.startswith(b"HTTP/1.1 505 ")
    assert said.endswith(NOT_HTTP2)


async def test_a_dead_peer_is_noticed(autojump_clock: MockClock) -> None:
    """Silent too long, it is asked; without an answer it is taken for dead, its calls with it."""
    left = []

    async def sleep(rpc: Rpc) -> None:
        try:
            await trio.sleep_forever()
        finally:
            left.append(trio.current_time())

    async with served({"Sleep": sleep}, silence_s=60.0, answer_s=20.0) as (client, place):
        client.peer.call(REQUEST, path="/it/Sleep")
        await client.flush()
        began = trio.current_time()
        await place.ended.wait()

    assert [pytest.approx(80.0)] == [at - began for at in left]


async def test_a_silent_peer_that_answers_is_kept(autojump_clock: MockClock) -> None:
    """However long its call takes."""

    async def sleep(rpc: Rpc) -> None:
        await trio.sleep(1000)

    async with served({"Sleep": sleep}) as (client, _):
        heard = await client.call(REQUEST, path="/it/Sleep")

    assert 0 == heard.status
    assert client.peer.pinged > 10


async def test_an_idle_connection_is_closed_in_time(autojump_clock: MockClock) -> None:
    """With a goodbye, so that its client opens another when it has a call."""
    async with served({"Echo": echo}, idle_s=900.0) as (client, _):
        await client.call(REQUEST, path="/it/Echo")
        began = trio.current_time()
        await client.closed()

    assert 900 <= trio.current_time() - began < 930
    assert 0 == client.peer.goodbye


# -- goodbye ---------------------------------------------------------------------------------------


async def test_a_drain_lets_calls_finish(autojump_clock: MockClock) -> None:
    """Then the connection closes."""

    async def count(rpc: Rpc) -> None:
        for number in range(5):
            await trio.sleep(1)
            await rpc.send(pb.GenerateResponse(response=str(number)))

    async with served({"Count": count}) as (client, place):
        stream_id = client.peer.call(REQUEST, path="/it/Count")
        await client.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.connection.drain)
            heard = await client.ended(stream_id)
        await client.closed()

    assert (list("01234"), 0) == (prompts(heard.messages), heard.status)
    assert (0, stream_id) == (client.peer.goodbye, client.peer.last_id)


async def test_a_drain_ends_who_would_watch_for_ever(autojump_clock: MockClock) -> None:
    """With UNAVAILABLE: its client may ask elsewhere."""

    async def watch(rpc: Rpc) -> None:
        await trio.sleep_forever()

    async with served({"Watch": watch}, endless=("Watch",)) as (client, place):
        stream_id = client.peer.call(REQUEST, path="/it/Watch")
        await client.listen()
        await trio.testing.wait_all_tasks_blocked()
        await place.connection.drain()
        heard = await client.ended(stream_id)
        await client.closed()

    assert Status.UNAVAILABLE == heard.status
