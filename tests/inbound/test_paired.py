"""The door for paired routers: who gets in, what for, and until when."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.front import Front, FrontSettings
from ollama_proxy.inbound.guarded import GuardedLimits, GuardedServer
from ollama_proxy.inbound.paired import Guest, Guests, PairedDoor, PairedGate, PairedHandshakes
from ollama_proxy.pinned import client_context
from ollama_proxy.policy.access import NEEDS, PAIRED, Permission
from tests.fakes.backend import ScriptedBackend
from tests.inbound.ends import STREAM, Client, becomes, patience, post, scripted
from tests.inbound.http.house import House, open_house
from tests.pairing.cards import Box

TAGS = b"GET /api/tags HTTP/1.1\r\nhost: desktop.lan\r\n\r\n"
Open = Callable[..., AbstractAsyncContextManager["Hall"]]


class Caller(Client):
    """A router that asks, under TLS."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Take a stream whose handshake is done."""
        self.stream = stream  # type: ignore[assignment]
        self.unread = b""


@attrs.define(eq=False)
class Hall:
    """Such a door, in a house of one router."""

    desktop: Box
    guests: Guests
    house: House
    door: PairedDoor
    port: int
    sockets: ExitStack

    def let_in(self, *boxes: Box) -> None:
        """These, and no others."""
        self.guests.follow(
            Guest(name=each.card.name, certificate=each.card.certificate) for each in boxes
        )

    async def open(self) -> None:
        """Wait until it is."""
        await becomes(lambda: self.door._front is not None)

    async def connect(self, box: Box, *, thinks: Box | None = None) -> Caller:
        """A router, which thinks that this one is another."""
        certificate = (thinks or self.desktop).card.certificate
        return await self.connect_by(client_context(box.identity, certificate))

    async def connect_by(self, context: ssl.SSLContext) -> Caller:
        """Whoever encrypts so."""
        plain = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.sockets.callback(plain.socket.close)
        stream = trio.SSLStream(
            plain, context, server_hostname="desktop.lan", https_compatible=True
        )
        await stream.do_handshake()
        return Caller(stream)


@pytest.fixture
def boxes(tmp_path: Path) -> tuple[Box, Box, Box]:
    one, two, three = (Box.new(tmp_path, name) for name in ("desktop", "laptop", "stranger"))
    return one, two, three


@pytest.fixture
def open_hall(boxes: tuple[Box, Box, Box]) -> Open:
    """Makes such doors."""

    @asynccontextmanager
    async def open_it(*backends: ScriptedBackend) -> AsyncIterator[Hall]:
        guests, bounds = Guests(boxes[0].identity), Bounds()
        gate = PairedGate(guests)
        probe = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = probe[0].socket.getsockname()[1]
        await probe[0].aclose()
        with patience(), ExitStack() as sockets:
            async with trio.open_nursery() as workers, trio.open_nursery() as doors:
                served = backends or (scripted().say("{}"),)
                house = open_house(workers, *served, bounds=bounds, gate=gate)

                def new_front() -> tuple[Front, GuardedServer]:
                    guarded = GuardedServer(house.app, GuardedLimits(linger_s=0.05), bounds=bounds)
                    handshakes = PairedHandshakes(guests, timeout_s=5)
                    front = Front(
                        house.dispatcher,
                        gate,
                        guarded,
                        FrontSettings(),
                        bounds=bounds,
                        handshakes=handshakes,
                    )
                    return front, guarded

                door = PairedDoor(guests, new_front, host="127.0.0.1", port=port, bounds=bounds)
                doors.start_soon(door.run)
                yield Hall(boxes[0], guests, house, door, port, sockets)
                doors.cancel_scope.cancel()
                workers.cancel_scope.cancel()

    return open_it


def test_a_paired_router_changes_nothing() -> None:
    """Whatever it may is there, and needs no key that may administer."""
    assert PAIRED <= NEEDS.keys()
    assert [] == [each for each in PAIRED if NEEDS[each] == frozenset({Permission.ADMIN})]


async def test_a_paired_router_asks_by_whatever_name(
    open_hall: Open, boxes: tuple[Box, Box, Box]
) -> None:
    """Both ways, on one connection; the log knows which it is."""
    _, laptop, _ = boxes
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        node = TAGS.replace(b"/api/tags", b"/node")
        answers = [await caller.ask(each) for each in (TAGS, post(), node)]

    assert [200] * 3 == [each.status for each in answers]
    assert ["laptop"] == [fact.key_name for fact in hall.house.facts]


@pytest.mark.parametrize(
    "asked",
    [
        *(f"GET {path}" for path in ("/", "/metrics", "/backends", "/thermal", "/events")),
        *(f"GET {path}" for path in ("/efficiency", "/openapi.json", "/nowhere")),
        *(f"POST {path}" for path in ("/efficiency", "/api/pull", "/api/create", "/v1/route")),
        "DELETE /api/delete",
    ],
)
async def test_all_else_is_refused(
    open_hall: Open, boxes: tuple[Box, Box, Box], asked: str
) -> None:
    """Also with a key, which is none here."""
    _, laptop, _ = boxes
    head = f"{asked} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer abc\r\ncontent-length: 0\r\n\r\n"
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        answer = await caller.ask(head.encode())

    assert 403 == answer.status


async def test_a_page_is_not_heard(open_hall: Open, boxes: tuple[Box, Box, Box]) -> None:
    """No browser has the certificate; if one had, its pages would be no router."""
    _, laptop, _ = boxes
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        answer = await caller.ask(post(origin="https://desktop.lan"))

    assert 403 == answer.status


async def test_strangers_do_not_get_through_the_handshake(
    open_hall: Open, boxes: tuple[Box, Box, Box]
) -> None:
    """Neither without a certificate, nor with one of their own."""
    _, laptop, stranger = boxes
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    unlike = client_context(stranger.identity, boxes[0].card.certificate)
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        for context in (bare, unlike):
            caller = await hall.connect_by(context)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await caller.stream.receive_some()

            assert isinstance(caught.value.__cause__, ssl.SSLError)

    assert [] == hall.house.facts


async def test_a_router_speaks_to_no_other_than_it_knows(
    open_hall: Open, boxes: tuple[Box, Box, Box]
) -> None:
    """It ends before anything of its own is shown."""
    _, laptop, stranger = boxes
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await hall.connect(laptop, thinks=stranger)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_who_is_shut_out_is_hung_up_on(open_hall: Open, boxes: tuple[Box, Box, Box]) -> None:
    """In the middle of an answer, whose backend is freed; others stay, and are served."""
    _, laptop, friend = boxes
    backend = scripted().say("data: 1\n\n").hang()
    async with open_hall(backend) as hall:
        hall.let_in(laptop, friend)
        await hall.open()
        caller, other = await hall.connect(laptop), await hall.connect(friend)
        await other.ask(TAGS)
        await caller.send(post(json=STREAM))
        await becomes(lambda: hall.house.dispatcher.jobs)
        hall.let_in(friend)
        with contextlib.suppress(trio.BrokenResourceError):
            await caller.read_all()
        await becomes(lambda: not hall.house.dispatcher.jobs)

        assert 200 == (await other.ask(TAGS)).status
        gone = await hall.connect(laptop)
        with pytest.raises(trio.BrokenResourceError):
            await gone.stream.receive_some()


async def test_no_session_is_taken_up_again(open_hall: Open, boxes: tuple[Box, Box, Box]) -> None:
    """One that was begun with a certificate which is gone would need none."""
    _, laptop, _ = boxes
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        await caller.ask(TAGS)

        assert not caller.stream.session.has_ticket  # type: ignore[attr-defined]


async def test_it_is_there_while_somebody_may_come(
    open_hall: Open, boxes: tuple[Box, Box, Box]
) -> None:
    """Opened with the first, closed with the last, and opened again."""
    _, laptop, _ = boxes
    async with open_hall() as hall:
        with pytest.raises(OSError, match="connect"):
            await hall.connect(laptop)
        for _ in range(2):
            hall.let_in(laptop)
            await hall.open()
            assert 200 == (await (await hall.connect(laptop)).ask(TAGS)).status
            hall.let_in()
            await becomes(lambda: hall.door._front is None)
        with pytest.raises((OSError, trio.BrokenResourceError)):  # as its last socket is closed
            await hall.connect(laptop)


async def test_without_our_certificate_nobody_is_let_in(
    open_hall: Open, boxes: tuple[Box, Box, Box]
) -> None:
    """Whoever was is hung up on."""
    desktop, laptop, _ = boxes
    async with open_hall() as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        await caller.ask(TAGS)
        desktop.identity.unlink()
        with pytest.raises(OSError, match="No such file"):
            hall.let_in(laptop)
        assert not hall.guests
        await becomes(lambda: hall.door._front is None)


async def test_it_drains(open_hall: Open, boxes: tuple[Box, Box, Box]) -> None:
    """What is being answered is finished."""
    _, laptop, _ = boxes
    async with open_hall(scripted().say("{}", after=0.1)) as hall:
        hall.let_in(laptop)
        await hall.open()
        caller = await hall.connect(laptop)
        await caller.send(post())
        await becomes(lambda: hall.house.dispatcher.jobs)
        hall.door.drain()
        answer = await caller.read()
        await hall.door.wait_empty()

    assert 200 == answer.status
