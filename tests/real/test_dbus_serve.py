"""The whole router on a bus of our own: what the desktop does there is seen over HTTP, and back."""

import signal
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import DAEMON, Remote
from ollama_proxy.config import Config, Dbus
from ollama_proxy.inbound.dbus.tree import NAME, PROPERTIES
from tests.fakes.ollama import Script
from tests.real.buses import SOON_S, PrivateBus
from tests.routers import CHAT, Owner, ask, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")

SLOW = Script(tokens=60, interval_s=0.02)
EFFICIENCY = Remote(NAME, "/ie/fio/OllamaProxy/Efficiency", f"{NAME}.Efficiency")


def on_bus(private: PrivateBus, servers: dict[str, Any]) -> Config:
    """The four at their fakes, and a bus."""
    made = configured(*(backend(name, fake.url) for name, fake in servers.items()))
    return attrs.evolve(made, dbus=Dbus(bus=private.address))


async def chosen(client: httpx.AsyncClient) -> str:
    answer = await client.post(CHAT, json=ask())
    assert 200 == answer.status_code, answer.text
    await idle(client)
    return answer.headers["x-backend-used"]


def name_of(owner: Owner) -> str:
    """What the ready line says of the bus."""
    (said,) = owner.said
    return said.rpartition("dbus=")[2]


async def test_a_mode_set_on_the_bus_decides_about_the_next_request(private: PrivateBus) -> None:
    """HTTP tells the same mode, and the request goes where that mode sends it."""
    async with (
        fakes("npu", "nvidia") as servers,
        running(on_bus(private, servers)) as owner,
        owner.client() as client,
        private.client() as bus,
    ):
        assert NAME == name_of(owner)
        assert "ollama-npu" == await chosen(client)
        await bus.call(EFFICIENCY, "SetMode", "s", ("performance",), returns="s")
        told = (await client.get("/efficiency")).json()
        assert ("performance", "performance") == (told["mode"], told["effective_mode"])
        assert "ollama-nvidia" == await chosen(client)
        await client.post("/efficiency", json={"mode": "quiet"})
        assert ("quiet",) == await bus.call(EFFICIENCY, "GetMode", returns="s")


async def test_the_bus_tells_of_backends_what_http_tells(private: PrivateBus) -> None:
    """Every field that is known, by the same name and value."""
    async with (
        fakes("npu") as servers,
        running(on_bus(private, servers)) as owner,
        owner.client() as client,
        private.client() as bus,
    ):
        await chosen(client)
        await bus.call(Remote(NAME, "/ie/fio/OllamaProxy/Backends", f"{NAME}.Backends"), "Refresh")
        (over_http,) = (await client.get("/backends")).json()
        properties = Remote(NAME, "/ie/fio/OllamaProxy/Backends", PROPERTIES.name)
        ((_, (over_bus,)),) = await bus.call(
            properties, "Get", "ss", (f"{NAME}.Backends", "Backends"), returns="v"
        )

    assert over_http["models"] == over_bus["models"][1]
    known = {name for name, value in over_http.items() if value is not None}
    assert known == over_bus.keys()
    simple = {n for n in known if isinstance(over_http[n], str | bool | int)}
    assert {n: over_http[n] for n in simple} == {n: over_bus[n][1] for n in simple}


async def test_without_a_bus_everything_else_works(directory: Path) -> None:
    """The router is ready within its second, says so, and is on the bus once there is one."""
    private = PrivateBus(directory)
    async with (
        fakes("npu") as servers,
        running(on_bus(private, servers)) as owner,
        owner.client() as client,
    ):
        assert "off" == name_of(owner)
        assert "ollama-npu" == await chosen(client)


async def test_a_second_router_serves_http_without_the_names(
    private: PrivateBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever was there first keeps them."""
    async with (
        private.serving(NAME),
        fakes("npu") as servers,
        running(on_bus(private, servers)) as owner,
        owner.client() as client,
    ):
        assert "off" == name_of(owner)
        assert "ollama-npu" == await chosen(client)

    assert 1 == caplog.text.count("another router runs")


async def test_the_names_are_given_back_before_the_drain(private: PrivateBus) -> None:
    """A new router may have them while the old one still finishes an answer."""
    text = b""
    async with (
        fakes("npu", script=SLOW) as servers,
        private.client() as bus,
        running(on_bus(private, servers)) as owner,
        owner.client() as client,
        client.stream("POST", CHAT, json=ask(stream=True)) as answer,
    ):
        pieces = answer.aiter_bytes()
        text += await anext(pieces)
        owner.signal(signal.SIGTERM)
        while await has_owner(bus):  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.005)
        assert not owner.ended.is_set()
        async for piece in pieces:
            text += piece

    assert text.endswith(b"data: [DONE]\n\n")


async def has_owner(bus: Bus) -> bool:
    (answer,) = await bus.call(DAEMON, "NameHasOwner", "s", (NAME,), returns="b", timeout_s=SOON_S)
    return bool(answer)
