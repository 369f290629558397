"""Nodes by Avahi: the real daemon, on loopback and a bus of our own."""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from ollama_proxy.bus.message import Remote
from ollama_proxy.config import Fleet, Pairing, Sensors
from ollama_proxy.discovery.advertising import Announcement, advertise
from ollama_proxy.discovery.avahi import NAME, SERVER, TYPE, watch_avahi
from ollama_proxy.pairing.book import write_down
from ollama_proxy.pinned import server_context
from ollama_proxy.policy.roster import FoundNode, Source
from tests.discovery.heard import Heard
from tests.fakes.ollama import open_fake
from tests.pairing.cards import Box
from tests.real.avahi import avahi, require_avahi
from tests.real.buses import HASTE, PrivateBus
from tests.routers import CHAT, ask, configured, idle, running, until

ID = "0123456789abcdef0123456789abcdef"
HERE = FoundNode(url="http://127.0.0.1:8080", id=ID, machine="nest.local", name="nest.local")


@pytest.fixture
def directory(directory: Path) -> Path:
    """As all real buses have it, where Avahi may run."""
    require_avahi()
    return directory


@asynccontextmanager
async def heard(private: PrivateBus) -> AsyncIterator[Heard]:
    """What is found on a bus, as long as this lasts."""
    hearing = Heard()
    async with trio.open_nursery() as nursery:
        report = hearing.report(Source.AVAHI)
        nursery.start_soon(partial(watch_avahi, private.address, report, pace=HASTE))
        yield hearing
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def announced(
    private: PrivateBus, port: int = 8080, *, node_id: str = ID, tls: bool = False
) -> AsyncIterator[None]:
    """A router that tells of itself, as long as this lasts."""
    announcement = Announcement(node_id=node_id, port=port, tls=tls)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(advertise, private.address, announcement, pace=HASTE))
        yield
        nursery.cancel_scope.cancel()


async def test_who_is_announced_is_found(private: PrivateBus) -> None:
    """With its id; and is gone when it ends."""
    async with avahi(private), heard(private) as hearing:
        await hearing.until()
        async with announced(private):
            assert (HERE,) == await hearing.until(HERE.url)
        await hearing.until()


async def test_who_was_there_before_is_found(private: PrivateBus) -> None:
    """And whether it encrypts."""
    async with avahi(private), announced(private, tls=True), heard(private) as hearing:
        (node,) = await hearing.until("https://127.0.0.1:8080")

    assert ID == node.id


async def test_a_door_for_paired_routers_is_found(private: PrivateBus) -> None:
    """Beside the other."""
    announcement = Announcement(node_id=ID, port=8080, tls=False, paired_port=8443)
    async with (
        avahi(private),
        trio.open_nursery() as nursery,
        heard(private) as hearing,
    ):
        nursery.start_soon(partial(advertise, private.address, announcement, pace=HASTE))
        nodes = await hearing.until(HERE.url, "https://127.0.0.1:8443")
        nursery.cancel_scope.cancel()

    assert [False, True] == [node.is_proved for node in nodes]


async def test_two_of_one_machine_have_names_of_their_own(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Avahi gives the second another, as the first's is taken."""
    with caplog.at_level(logging.INFO):
        async with (
            avahi(private),
            announced(private),
            announced(private, 8081, node_id="b"),
            heard(private) as hearing,
        ):
            await hearing.until(HERE.url, "http://127.0.0.1:8081")

    assert "announced in the local network as nest, id" in caplog.text
    assert "announced in the local network as nest #2, id" in caplog.text


async def test_avahi_is_started_again(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Both find it again, whoever announces and whoever looks; and it is said once."""
    with caplog.at_level(logging.INFO):
        async with announced(private), heard(private) as hearing:
            await hearing.until_lost()
            async with avahi(private):
                await hearing.until(HERE.url)
            await hearing.until_lost()
            async with avahi(private):
                await hearing.until(HERE.url)
            await hearing.until_lost()

    assert 3 == caplog.text.count("cannot be looked for by somebody: avahi-daemon does not run")
    assert 2 == caplog.text.count("are told of by somebody again")
    assert 2 == caplog.text.count("announced in the local network as nest, id")


async def test_the_bus_is_started_again(directory: Path) -> None:
    """With another Avahi on it."""
    private = PrivateBus(directory)
    async with announced(private), heard(private) as hearing:
        await hearing.until_lost()
        for _ in range(2):
            async with private.running(), avahi(private):
                await hearing.until(HERE.url)
            await hearing.until_lost()


@pytest.mark.parametrize(
    "txt",
    [
        [],
        [b"id="],
        [b"id=a b"],
        [b"id=" + b"x" * 65],
        [b"v=1"],
        [b"id=" + ID.encode()] + [b"x" * 200] * 7,
    ],
    ids=["none", "empty", "blank", "long", "another", "large"],
)
async def test_who_says_nothing_of_use_is_no_node(private: PrivateBus, txt: list[bytes]) -> None:
    """A service of our type that does not say who it is, or says too much; others are found."""
    async with avahi(private), private.client() as bus:
        (path,) = await bus.call(SERVER, "EntryGroupNew", returns="o")
        group = Remote(NAME, path, NAME + ".EntryGroup")
        service = (-1, -1, 0, "stranger", TYPE, "", "", 9999, txt)
        await bus.call(group, "AddService", "iiussssqaay", service)
        await bus.call(group, "Commit")
        async with announced(private), heard(private) as hearing:
            await hearing.until(HERE.url)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("trusts", [False, True])
async def test_a_router_finds_its_neighbours(
    trusts: bool, private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """And sends prompts to nobody it was not told to trust."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(avahi(private))
        fake = await stack.enter_async_context(open_fake(None))
        port = int(fake.url.rpartition(":")[2])
        await stack.enter_async_context(announced(private, port))
        async with heard(private) as hearing:
            await hearing.until(fake.url)
        config = attrs.evolve(
            configured(),
            fleet=Fleet(node_id="me", avahi=True, trust_found=trusts),
            sensors=attrs.evolve(Sensors(), system_bus=private.address, nvml=False),
        )
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())
        if trusts:
            await until(client, lambda shown: [each["healthy"] for each in shown] == [True])
        else:
            with trio.fail_after(20):
                while "is not used: it is not paired" not in caplog.text:  # noqa: ASYNC110 - nobody tells
                    await trio.sleep(0.01)
        answer = await client.post(CHAT, json=ask())
        shown = (await client.get("/backends")).json()
        await idle(client)

    assert (200 if trusts else 503) == answer.status_code
    assert ([f"node-nest-{port}"] if trusts else []) == [each["id"] for each in shown]


@asynccontextmanager
async def paired_door(own: Box, guest: Box, behind: str) -> AsyncIterator[int]:
    """A door that hears one guest alone, and passes on what it says; its port."""
    host, _, port = behind.removeprefix("http://").rpartition(":")

    async def copy(here: trio.abc.ReceiveStream, there: trio.abc.SendStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in here:
                await there.send_all(data)

    async def pass_on(guests: trio.abc.Stream) -> None:
        ours = await trio.open_tcp_stream(host, int(port))
        async with ours, trio.open_nursery() as nursery:
            nursery.start_soon(copy, ours, guests)
            await copy(guests, ours)
            nursery.cancel_scope.cancel()

    context = server_context(own.identity, [guest.card.certificate])
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, https_compatible=True, host="127.0.0.1")
        (listener, *_) = await nursery.start(serve, pass_on, 0, context)
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("in_process")
async def test_who_is_paired_is_found_where_it_is_now(
    private: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was paired at another address; it is asked as its certificate is known."""
    desktop, laptop = Box.new(tmp_path, "desktop"), Box.new(tmp_path, "ollama-proxy")
    write_down(laptop.directory, desktop.peer(port=1))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(avahi(private))
        fake = await stack.enter_async_context(open_fake(None))
        port = await stack.enter_async_context(paired_door(desktop, laptop, fake.url))
        announcement = Announcement(
            node_id=desktop.card.node_id, port=port, tls=True, paired_port=port
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(partial(advertise, private.address, announcement, pace=HASTE))
        async with heard(private) as hearing:
            await hearing.until(f"https://127.0.0.1:{port}")
        config = attrs.evolve(
            configured(),
            fleet=Fleet(node_id="me", avahi=True),
            pairing=Pairing(door=False),
            sensors=attrs.evolve(Sensors(), system_bus=private.address, nvml=False),
        )
        async with running(config) as owner, owner.client() as client:
            expected = {"paired-desktop": False, f"node-nest-{port}": True}
            await until(
                client,
                lambda shown: {each["id"]: each["healthy"] for each in shown} == expected,
            )
            answer = await client.post(CHAT, json=ask())
            await idle(client)
        nursery.cancel_scope.cancel()

    assert 200 == answer.status_code
