"""Which of the two ways a connection's requests go, and when the door closes."""

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.inbound.encryption import Encryption
from ollama_proxy.inbound.front import Front, FrontSettings
from ollama_proxy.inbound.guarded import GuardedLimits, GuardedServer
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.inbound.websocket.stream import StreamTalk
from ollama_proxy.policy.refusal import Refusal
from tests.fakes.backend import ScriptedBackend
from tests.inbound.ends import (
    HOST,
    STREAM,
    Client,
    becomes,
    patience,
    post,
    scripted,
    verbatim,
)
from tests.inbound.http.house import House, open_house
from tests.inbound.killers import KILLERS

LIMITS = LaneLimits()
SOCKET_PATH = "/v1/stream/ws"
GET = f"GET /healthz HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()


@attrs.define(eq=False)
class Entrance:
    """A front door on a port of its own, with all that is behind it.

    Attributes:
        front: the door.
        house: what is behind it.
        closed: `serve` has returned.
    """

    front: Front
    house: House
    port: int
    sockets: AsyncExitStack
    closed: trio.Event = attrs.field(factory=trio.Event)

    async def serve(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Open the door, and note when it is closed."""
        await self.front.serve(listeners, task_status=task_status)
        self.closed.set()

    async def dial(self) -> trio.SocketStream:
        """A connection to it."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.sockets.callback(stream.socket.close)
        return stream

    async def connect(self) -> Client:
        """A new client."""
        return Client(await self.dial())

    async def assert_serves_on(self) -> None:
        """Who comes now is served, on both ways."""
        client = await self.connect()
        assert (200, 200) == ((await client.ask(GET)).status, (await client.ask(post())).status)
        client.leave()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        *backends: ScriptedBackend,
        gate: Gate | None = None,
        encryption: Encryption | None = None,
        **settings: Any,
    ) -> AsyncIterator[Self]:
        """Open one, for as long as a test may take."""
        given = FrontSettings(**settings)
        with patience():
            async with (
                AsyncExitStack() as sockets,
                trio.open_nursery() as workers,
                trio.open_nursery() as doors,
            ):
                house = open_house(workers, *(backends or (scripted().say("{}"),)))
                head_s = given.limits.head_timeout_s
                guarded = GuardedServer(
                    house.app, GuardedLimits(head_timeout_s=head_s, linger_s=0.05)
                )
                front = Front(
                    house.dispatcher,
                    gate or Gate(bound_host="127.0.0.1"),
                    guarded,
                    given,
                    {SOCKET_PATH: functools.partial(StreamTalk, dispatcher=house.dispatcher)},
                    encryption=encryption,
                )
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                for listener in listeners:
                    sockets.callback(listener.socket.close)
                entrance = cls(front, house, listeners[0].socket.getsockname()[1], sockets)
                await doors.start(guarded.run)
                await doors.start(entrance.serve, listeners)
                yield entrance
                doors.cancel_scope.cancel()
                workers.cancel_scope.cancel()


class TestWays:
    """Each request goes its own."""

    async def test_one_connection_goes_both_ways(self) -> None:
        """Ollama's client asks a question and then something of a model, on one connection."""
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            answers = [await client.ask(request) for request in [GET, post(), GET, post(), post()]]

            assert [200] * 5 == [answer.status for answer in answers]
            # Only Hypercorn tells the time: it shows who answered.
            dates = [answer.header("date") is not None for answer in answers]
            assert [True, False, True, False, False] == dates
            assert 1 == entrance.front.connections

    async def test_pipelined_requests_go_both_ways_in_order(self) -> None:
        """Though all of them came in one piece."""
        async with Entrance.open(scripted().say("lane")) as entrance:
            client = await entrance.connect()
            await client.send((post() + GET) * 5)
            bodies = [(await client.read()).body for _ in range(10)]

        assert [b"lane", b'{"status":"ok"}'] * 5 == bodies

    async def test_the_first_line_may_come_byte_by_byte(self) -> None:
        """It is waited for before the way is chosen."""
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            for byte in post():
                await client.send(bytes([byte]))
                await wait_all_tasks_blocked()
            answer = await client.read()

        assert (200, None) == (answer.status, answer.header("date"))

    @pytest.mark.parametrize(
        ("origin", "status"), [(b"", 404), (b"Origin: https://evil.example\r\n", 403)]
    )
    async def test_a_websocket_nobody_serves_is_refused(self, origin: bytes, status: int) -> None:
        """In words, and not to a page that has no business here."""
        offer = (
            b"GET /nope HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            answer = await client.ask(offer + origin + b"\r\n")

        assert status == answer.status

    async def test_the_lane_can_be_closed(self) -> None:
        """Then Quart serves the same calls."""
        async with Entrance.open(lane=False) as entrance:
            client = await entrance.connect()
            answer = await client.ask(post())

        assert (200, b"{}", True) == (
            answer.status,
            answer.body,
            answer.header("date") is not None,
        )

    @pytest.mark.parametrize("start", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
    async def test_an_empty_line_before_a_request_is_ignored(self, start: bytes) -> None:
        """Whoever then serves it."""
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            answer = await client.ask(start + post())

        assert 200 == answer.status

    async def test_lines_without_CR_are_refused_at_once(self) -> None:  # noqa: N802 - its name
        """Nobody waits for a line's end that will not come."""
        async with Entrance.open(limits=LaneLimits(head_timeout_s=60.0)) as entrance:
            client = await entrance.connect()
            answer = await client.ask(b"POST /api/chat HTTP/1.1\nhost: x\n\n")

        assert 400 == answer.status

    async def test_who_says_nothing_is_let_go(self, mock_clock: MockClock) -> None:
        """A connection has its time to begin."""
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            await becomes(lambda: entrance.front.connections)
            await wait_all_tasks_blocked()
            mock_clock.jump(LIMITS.head_timeout_s)

            assert await client.is_let_go()
            await entrance.front.wait_empty()

    @pytest.mark.parametrize("start", [b"P", b"POST /api/chat HTTP/1.1", b"GET / HTTP/1.1\r\n"])
    async def test_who_does_not_say_enough_is_told(
        self, mock_clock: MockClock, start: bytes
    ) -> None:
        """408, whoever it was that waited."""
        async with Entrance.open() as entrance:
            client = await entrance.connect()
            await client.send(start)
            for _ in range(2):  # half a line is waited for by both
                await wait_all_tasks_blocked()
                mock_clock.jump(LIMITS.head_timeout_s)
            answer = await client.read()

        assert 408 == answer.status


class Stumbling(Gate):
    """A gate with a fault of its own."""

    def judge(self, host: bytes, origin: bytes | None) -> Refusal | None:
        """Stumble over one host."""
        if host == b"stumble":
            raise ZeroDivisionError("a secret")
        return super().judge(host, origin)


class TestConnections:
    """One does not hurt another."""

    async def test_a_fault_ends_its_own_connection_only(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is logged by its kind, since its words may quote the request."""
        async with Entrance.open(gate=Stumbling(bound_host="127.0.0.1")) as entrance:
            client = await entrance.connect()
            with caplog.at_level(logging.ERROR):
                await client.send(post(host="stumble"))
                assert await client.is_let_go()
            await entrance.assert_serves_on()

        assert ["connection dropped: ZeroDivisionError"] == caplog.messages

    async def test_what_once_killed_a_server_does_not(self) -> None:
        """Inputs of one connection, in their pieces."""
        async with Entrance.open() as entrance:
            for pieces in KILLERS.values():
                client = await entrance.connect()
                for piece in pieces:
                    try:
                        await client.send(piece)
                    except trio.BrokenResourceError:
                        break
                    await wait_all_tasks_blocked()
                client.leave()
            await entrance.front.wait_empty()
            await entrance.assert_serves_on()

    async def test_there_are_only_so_many(self) -> None:
        """One more is closed at once; when one ends, there is place for another."""
        async with Entrance.open(max_connections=2) as entrance:
            first, second = await entrance.connect(), await entrance.connect()
            await first.ask(post())
            await second.ask(GET)
            third = await entrance.connect()

            assert await third.is_let_go()
            assert 2 == entrance.front.connections
            first.leave()
            await becomes(lambda: entrance.front.connections == 1)
            fourth = await entrance.connect()
            assert 200 == (await fourth.ask(post())).status

    async def test_cancelling_closes_them_all(self) -> None:
        """Busy and idle ones, on either way."""
        async with Entrance.open(scripted().hang()) as entrance:
            for request in (post(), GET, b""):
                client = await entrance.connect()
                await client.send(request)
            await becomes(lambda: entrance.front.connections == 3)

        assert 0 == entrance.front.connections


class TestDraining:
    """Leaving in good order."""

    async def test_idle_connections_close_at_once(self) -> None:
        """Those that said nothing, those of the lane, those of Hypercorn."""
        async with Entrance.open() as entrance:
            silent, lane, quart = [await entrance.connect() for _ in range(3)]
            await lane.ask(post())
            await quart.ask(GET)
            await becomes(lambda: entrance.front.connections == 3)
            await wait_all_tasks_blocked()
            entrance.front.drain()

            for client in (silent, lane, quart):
                assert await client.is_let_go()
            await entrance.front.wait_empty()
            await entrance.closed.wait()

    @pytest.mark.parametrize(
        "said",
        [b"POS", post()[:60], GET[:20], GET + GET[:20], f"GET {SOCKET_PATH} HTTP/1.1\r\n".encode()],
        ids=["any", "lane", "quart", "quart again", "websocket"],
    )
    async def test_half_a_head_is_not_waited_for(self, said: bytes) -> None:
        """Whoever would have served it: nobody has begun to, and the end waits for its client."""
        async with Entrance.open(limits=LaneLimits(head_timeout_s=3600)) as entrance:
            client = await entrance.connect()
            await client.send(said)
            if said.startswith(GET):
                await client.read()
            await becomes(lambda: entrance.front.connections)
            await wait_all_tasks_blocked(0.01)
            entrance.front.drain()

            assert await client.is_let_go()
            await entrance.closed.wait()

    async def test_busy_connections_close_after_their_answer(self) -> None:
        """Which is whole, whichever way it goes."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Entrance.open(backend) as entrance:
            busy = await entrance.connect()
            await busy.send(post(json=STREAM))
            await becomes(lambda: backend.said)
            entrance.front.drain()
            await wait_all_tasks_blocked()

            assert not entrance.closed.is_set()
            backend.go.set()
            answer = await busy.read()
            assert (b"data: a\n\ndata: b\n\n", True) == (answer.body, answer.complete)
            assert await busy.is_let_go()
            await entrance.closed.wait()

    async def test_a_busy_connection_without_lane_closes_after_its_answer(self) -> None:
        """The same over Quart."""
        backend = verbatim(b"data: a\n\n", b"data: b\n\n", waits=True)
        async with Entrance.open(backend, lane=False) as entrance:
            busy = await entrance.connect()
            await busy.send(post(json=STREAM))
            await becomes(lambda: backend.said)
            entrance.front.drain()
            backend.go.set()
            answer = await busy.read()

            assert (b"data: a\n\ndata: b\n\n", True) == (answer.body, answer.complete)
            assert await busy.is_let_go()
            await entrance.closed.wait()

    async def test_a_waiting_request_is_served_first(self) -> None:
        """Its place in line was given before."""
        backend = verbatim(b"{", b"}", waits=True)
        async with Entrance.open(backend) as entrance:
            first, second = await entrance.connect(), await entrance.connect()
            await first.send(post())
            await becomes(lambda: backend.errands)
            await second.send(post())
            await becomes(lambda: len(entrance.house.station().line))
            entrance.front.drain()
            backend.go.set()
            answers = [await first.read(), await second.read()]

            assert [(200, b"{}"), (200, b"{}")] == [(a.status, a.body) for a in answers]
            assert "close" == answers[1].header("connection")
            assert await second.is_let_go()

    async def test_new_connections_are_refused(self) -> None:
        """There is nobody at the door, even while some are still served."""
        async with Entrance.open(scripted().hang()) as entrance:
            busy = await entrance.connect()
            await busy.send(post())
            await becomes(lambda: entrance.house.station().in_flight)
            entrance.front.drain()
            await wait_all_tasks_blocked()

            with pytest.raises(OSError, match=r"refused|failed"):
                await entrance.connect()
            assert 1 == entrance.front.connections

    async def test_an_empty_house_is_empty(self) -> None:
        """Nobody is waited for who was never there."""
        async with Entrance.open() as entrance:
            entrance.front.drain()

            await entrance.front.wait_empty()
            await entrance.closed.wait()
