"""What a socket does for and against a client, whatever is spoken on it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import attrs
import pytest
import trio
from trio.testing import (
    MockClock,
    lockstep_stream_one_way_pair,
    memory_stream_one_way_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Ping,
    Pong,
    Request,
    TextMessage,
)

from ollama_proxy.engine.job import CallerLeft
from ollama_proxy.engine.ledger import Ledger, TurnedAway
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.socket import (
    HEAD_MAX_BYTES,
    PENDING_MAX_BYTES,
    Dialogue,
    Socket,
    SocketLimits,
)
from ollama_proxy.policy.refusal import Code, Refusal
from tests.inbound.ends import loopback_pair, read_to_end

GATE = Gate(bound_host="127.0.0.1")
LONG = b"x" * (PENDING_MAX_BYTES + 1)


@attrs.define(eq=False)
class Talk:
    """A dialogue that has an answer for each message.

    Attributes:
        answers: to a message.
        heard: all messages so far.
        left: the socket has told that it is closed.
    """

    socket: Socket
    answers: Callable[[str], bytes]
    heard: list[str] = attrs.field(factory=list)
    left: bool = False

    async def open(self) -> None:
        """See `Dialogue`."""

    async def hear(self, message: str) -> None:
        """See `Dialogue`."""
        self.heard.append(message)
        answer = self.answers(message)
        if answer:
            self.socket.post(answer)

    def refuse(self, message: str, refusal: Refusal) -> None:
        """Nothing is."""
        raise NotImplementedError

    def leave(self) -> None:
        """See `Dialogue`."""
        self.left = True

    @property
    def is_idle(self) -> bool:
        """See `Dialogue`."""
        return True


@attrs.define(eq=False)
class Client:
    """The other end: what it does not read stays with the router.

    Attributes:
        is_draining: the router takes nothing new.
        serving: what the router does for this client.
    """

    stream: trio.abc.Stream
    wire: WSConnection
    is_draining: bool = False
    socket: Socket = attrs.field(init=False)
    talk: Talk = attrs.field(init=False)
    ended: trio.Event = attrs.field(factory=trio.Event)
    serving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _events: list[Event] = attrs.field(factory=list)

    async def send(self, *events: Event) -> None:
        """Send many frames in one write."""
        await self.stream.send_all(b"".join(map(self.wire.send, events)))

    async def say(self, *messages: str) -> None:
        """Send many messages in one write."""
        await self.send(*map(TextMessage, messages))

    async def hear(self) -> Event:
        """Read the next frame, or a piece of it. Raises EndOfChannel at the connection's end."""
        while not self._events:
            data = await self.stream.receive_some(65536)
            if not data:
                raise trio.EndOfChannel
            self.wire.receive_data(bytes(data))
            self._events += self.wire.events()
        return self._events.pop(0)

    async def hear_message(self) -> str:
        """Read a message to its end."""
        pieces: list[str] = []
        while True:
            event = await self.hear()
            assert isinstance(event, TextMessage)
            pieces.append(event.data)
            if event.message_finished:
                return "".join(pieces)

    async def hear_code(self) -> int:
        """Read to the close, and the code of it."""
        while not isinstance(event := await self.hear(), CloseConnection):
            continue
        return event.code


@asynccontextmanager
async def met(
    answers: Callable[[str], bytes] = lambda _: b"",
    limits: SocketLimits | None = None,
    *,
    dialect: Callable[[Socket], Dialogue] | None = None,
    bounds: Bounds | None = None,
) -> AsyncIterator[Client]:
    """A client and its socket, that have shaken hands; without a dialect a `Talk` answers."""
    to_router, from_client = memory_stream_one_way_pair()
    to_client, from_router = lockstep_stream_one_way_pair()
    client = Client(trio.StapledStream(to_router, from_router), WSConnection(ConnectionType.CLIENT))
    stream = trio.StapledStream(to_client, from_client)
    socket = Socket(
        stream,
        limits or SocketLimits(),
        is_draining=lambda: client.is_draining,
        bounds=bounds,
    )
    client.socket = socket

    def begin(socket: Socket) -> Talk:
        client.talk = Talk(socket, answers)
        return client.talk

    hello = client.wire.send(Request(host="127.0.0.1", target="/it"))

    async def serve() -> None:
        with client.serving:
            await socket.serve(hello, GATE, {"/it": dialect or begin})
        await stream.aclose()
        client.ended.set()

    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            assert isinstance(await client.hear(), AcceptConnection)
            yield client
            nursery.cancel_scope.cancel()


async def test_who_reads_nothing_is_not_listened_to(autojump_clock: MockClock) -> None:
    """After one long answer nothing more is made for the client, though it was all asked in one write."""
    async with met(lambda _: LONG) as client:
        await client.say(*["again"] * 10)
        await wait_all_tasks_blocked()
        heard_unread = len(client.talk.heard)
        for _ in range(10):
            await client.hear_message()
        await wait_all_tasks_blocked()
        heard_read = len(client.talk.heard)

    assert (1, 10) == (heard_unread, heard_read)


async def test_a_messages_length_is_that_of_its_bytes(autojump_clock: MockClock) -> None:
    """As many bytes as are allowed are heard; one character more is too big, in any alphabet."""
    async with met(limits=SocketLimits(message_bytes=300)) as client:
        await client.say("漢" * 100)
        await wait_all_tasks_blocked()
        await client.say("漢" * 101)
        code = await client.hear_code()

    assert (["漢" * 100], 1009) == (client.talk.heard, code)


async def test_a_message_may_be_cut_anywhere(autojump_clock: MockClock) -> None:
    """Into frames, and these into packets, within a character too."""
    async with met() as client:
        frames = b"".join(
            client.wire.send(TextMessage(data, message_finished=is_last))
            for data, is_last in (("", False), ("漢é", False), ("", False), ("x", True))
        )
        for at in range(len(frames)):
            await client.stream.send_all(frames[at : at + 1])
            await wait_all_tasks_blocked()

    assert ["漢éx"] == client.talk.heard


CHEAP = {
    "ping": [Ping()],
    "pong": [Pong()],
    "empty fragment": [TextMessage("", message_finished=False)],
    "short fragment": [TextMessage("漢", message_finished=False)],
    "ping amid a message": [TextMessage("x", message_finished=False), Ping()],
}


@pytest.mark.parametrize("frames", CHEAP.values(), ids=CHEAP)
async def test_a_flood_of_cheap_frames_ends_the_socket(
    frames: list[Event], autojump_clock: MockClock
) -> None:
    """Whatever they are, and however many come in one read: with the code that says to come later."""
    async with met(limits=SocketLimits(burst=100)) as client:
        await client.send(*frames * 101)
        code = await client.hear_code()
        await client.ended.wait()

    assert 1013 == code


@pytest.mark.parametrize("frames", CHEAP.values(), ids=CHEAP)
async def test_frames_at_an_even_pace_are_no_flood(
    frames: list[Event], autojump_clock: MockClock
) -> None:
    """Ten times the burst in all, and the message that they are part of is heard."""
    limits = SocketLimits(burst=10, messages_per_s=10.0)
    async with met(limits=limits) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.hear_code)
        for _ in range(100):
            await client.send(*frames)
            await trio.sleep(0.2)
        await client.send(TextMessage("end"))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert ["end"] == [message[-3:] for message in client.talk.heard]


@pytest.mark.parametrize("frames", CHEAP.values(), ids=CHEAP)
async def test_others_have_their_turn_between_two_frames(
    frames: list[Event], autojump_clock: MockClock
) -> None:
    """A hundred that were read at once take about as many turns."""
    async with met() as client, trio.open_nursery() as nursery:
        turns = 0

        async def take_turns() -> NoReturn:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        await client.send(*frames * 100, TextMessage("end"))
        nursery.start_soon(client.hear_code)
        nursery.start_soon(take_turns)
        while not client.talk.heard:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    assert turns > 90


ANSWER = b"x" * (1 << 20)


async def test_what_is_said_last_is_read_to_its_end(autojump_clock: MockClock) -> None:
    """While the router drains, too: however slowly, if some of it is taken in each `write_timeout_s`."""
    async with met(lambda _: ANSWER) as client:
        await client.say("all of it")
        await wait_all_tasks_blocked()
        client.is_draining = True
        client.socket.drain()
        size = 0
        while not isinstance(event := await client.hear(), CloseConnection):
            assert isinstance(event, TextMessage)
            size += len(event.data)
            await trio.sleep(25)
        await client.ended.wait()

    assert (len(ANSWER), 1001) == (size, event.code)


async def test_who_takes_nothing_of_what_is_said_last_is_left(autojump_clock: MockClock) -> None:
    """After `write_timeout_s`."""
    async with met(lambda _: ANSWER, SocketLimits(write_timeout_s=30.0)) as client:
        await client.say("all of it")
        await wait_all_tasks_blocked()
        client.socket.drain()
        await client.ended.wait()
        took = trio.current_time()

    assert 30.0 == pytest.approx(took)


async def test_who_waits_for_a_slow_client_does_not_outlive_the_socket(
    autojump_clock: MockClock,
) -> None:
    """The router may end it at any moment: whoever sends is told that the client left."""
    async with met() as client, trio.open_nursery() as nursery:
        told = trio.Event()

        async def send() -> None:
            with pytest.raises(CallerLeft):
                await client.socket.send(ANSWER)
            told.set()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        client.serving.cancel()
        await told.wait()


async def test_a_client_that_is_silent_is_let_go(autojump_clock: MockClock) -> None:
    """Between the second ping that it does not answer and the third."""
    async with met(limits=SocketLimits(ping_s=20.0)) as client:
        await client.hear()
        await client.ended.wait()

    assert 40.0 == pytest.approx(trio.current_time())


async def test_a_client_that_reads_slowly_lives(autojump_clock: MockClock) -> None:
    """Pings come behind what it has not read: what it reads, piece by piece, counts as an answer."""
    async with (
        met(lambda _: ANSWER, SocketLimits(ping_s=20.0)) as client,
        trio.open_nursery() as nursery,
    ):
        await client.say("all of it")
        size = 0
        while size < len(ANSWER):
            await trio.sleep(29)
            event = await client.hear()
            assert isinstance(event, TextMessage)
            size += len(event.data)
        nursery.start_soon(client.hear_code)
        await client.say("and again")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert ["all of it", "and again"] == client.talk.heard


async def test_what_the_kernel_holds_is_not_read_yet(autojump_clock: MockClock) -> None:
    """A client has as long for it as for what we hold, since no pong can come before; then no longer."""
    limits = SocketLimits(ping_s=20.0, write_timeout_s=30.0)
    async with met(lambda _: ANSWER, limits) as client, trio.open_nursery() as nursery:
        pings: list[Ping] = []

        async def be_kernel() -> None:
            with suppress(trio.EndOfChannel):
                while True:
                    event = await client.hear()
                    if isinstance(event, Ping):
                        pings.append(event)

        await client.say("all of it")
        nursery.start_soon(be_kernel)
        await trio.sleep(30 * (len(ANSWER) >> 16) - 10)
        await client.send(pings[-1].response())
        await client.ended.wait()
        took = trio.current_time()

    assert 500.0 == pytest.approx(took)


async def test_who_takes_nothing_is_reset(mock_clock: MockClock) -> None:
    """The kernel keeps none of what it was sent and has not taken."""
    async with loopback_pair() as (near, far), trio.open_nursery() as nursery:
        socket = Socket(far, SocketLimits(), is_draining=lambda: False)

        async def serve() -> None:
            received = bytes(await far.receive_some())
            await socket.serve(received, GATE, {"/": lambda socket: Talk(socket, lambda _: b"")})
            far.socket.close()

        nursery.start_soon(serve)
        wire = WSConnection(ConnectionType.CLIENT)
        await near.send_all(wire.send(Request(host="127.0.0.1", target="/")))
        await near.receive_some()
        socket.post(b"x" * (64 << 20))
        await wait_all_tasks_blocked()
        mock_clock.jump(SocketLimits().write_timeout_s)
        await wait_all_tasks_blocked()  # what is read before that makes room to write
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(near)


async def test_a_handshake_has_its_time(autojump_clock: MockClock) -> None:
    """Who does not finish it is let go, without a word: it may be none."""
    ours, theirs = memory_stream_pair()
    socket = Socket(theirs, SocketLimits(head_timeout_s=10.0), is_draining=lambda: False)
    began = trio.current_time()
    await socket.serve(b"GET /it HTTP/1.1\r\nhost:", GATE, {})
    await theirs.aclose()

    assert 10 <= trio.current_time() - began < 11
    assert b"" == bytes(await ours.receive_some())


async def test_a_handshake_has_its_length(autojump_clock: MockClock) -> None:
    """More of it is refused in HTTP, and booked."""
    ours, theirs = memory_stream_pair()
    ledger = Ledger()
    booked: list[TurnedAway] = []
    ledger.door_read_by(booked.append)
    socket = Socket(theirs, SocketLimits(), is_draining=lambda: False, ledger=ledger)
    begin = b"GET /it HTTP/1.1\r\nx: " + b"x" * (HEAD_MAX_BYTES + 1)
    await socket.serve(begin, GATE, {})

    assert bytes(await ours.receive_some()).startswith(b"HTTP/1.1 431 ")
    assert [Code.HEADERS_TOO_LARGE] == [each.code for each in booked]
