"""The first configuration of a machine: scripted servers and recorded machines in, TOML out."""

import socket
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.server import inference_path
from ollama_proxy.config import Config, Overrides, interpret
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.starter import (
    PORTS,
    Found,
    Kind,
    Survey,
    _free,
    find_devices,
    find_servers,
    write,
)
from tests.fakes.machine import recorded
from tests.fakes.ollama import Behaviour, Script, open_fake
from tests.routers import backend, configured, running

OPENAI_ONLY = ("/api/*",)
LEMONADE = Script(unserved=("/v1/*", "/api/version"), owned_by="lemonade")


def read(text: str) -> Config:
    """What the router makes of it: a fault raises."""
    return interpret(tomllib.loads(text), environ={}, overrides=Overrides()).config


# -- who answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "kind", "base_path"),
    [
        (Script(), Kind.OLLAMA, ""),
        (Script(models=()), Kind.OLLAMA, ""),
        (Script(unserved=OPENAI_ONLY, owned_by="llamacpp"), Kind.LLAMA_SERVER, ""),
        (Script(unserved=OPENAI_ONLY, owned_by="organization_owner"), Kind.LM_STUDIO, ""),
        (Script(unserved=OPENAI_ONLY, owned_by="vllm"), Kind.VLLM, ""),
        (Script(unserved=OPENAI_ONLY, owned_by="somebody"), Kind.OPENAI, ""),
        (LEMONADE, Kind.LEMONADE, "/api/v1"),
    ],
)
async def test_a_server_is_known_by_what_it_says(
    script: Script, kind: Kind, base_path: str
) -> None:
    """Its dialect, its name, and where its API begins; nothing is asked to compute."""
    async with open_fake(script) as fake:
        found = await find_servers([fake.port])
        asked = {record.method for record in fake.log}

    assert [Found(kind, fake.port, base_path)] == found
    assert {"GET"} == asked


async def test_a_server_that_says_nothing_of_use() -> None:
    """One that knows none of these paths, and one that talks no HTTP, are not servers for us."""
    garbling = Script(behaviour=Behaviour.GARBLE, misbehaves_at=("*",))
    async with open_fake(Script(unserved=("*",))) as strange, open_fake(garbling) as garbled:
        found = await find_servers([strange.port, garbled.port, 1])

    assert [] == found


async def _trickle(stream: trio.SocketStream) -> None:
    """An answer that never ends."""
    with suppress(trio.BrokenResourceError):
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while True:
            await stream.send_all(b": keep-alive\n")
            await trio.sleep(0.2)


async def _nest(stream: trio.SocketStream) -> None:
    """JSON that no parser can follow."""
    body = b"[" * 200_000
    with suppress(trio.BrokenResourceError):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("server", [_trickle, _nest])
async def test_a_strange_server_is_none(
    server: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    """One that never ends what it says, and one that nests it too deep, hold nothing up."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server, [listener])
            found = await find_servers([listener.socket.getsockname()[1]])
            nursery.cancel_scope.cancel()

    assert [] == found


@pytest.mark.usefixtures("in_process")
async def test_the_router_is_no_backend_of_its_own() -> None:
    """One that runs already is known, although it speaks as Ollama does."""
    async with open_fake() as fake, running(configured(backend("npu", fake.url))) as owner:
        port = int(owner.url.rpartition(":")[2])
        found = await find_servers([port])

    assert [Found(Kind.ROUTER, port)] == found


# -- what could compute ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "devices"),
    [
        ("thinkpad-p1-gen4i-intel-nvidia-optimus", {Hardware.NVIDIA}),
        ("desktop-amd-rx7900xtx", {Hardware.AMD}),
        ("thinkpad-p14s-gen6-amd-strix", {Hardware.IGPU, Hardware.NPU}),
        ("raspberrypi5", set()),
    ],
)
def test_devices_are_found(machine: str, devices: set[Hardware]) -> None:
    """By the kernel's files; a processor is there in any case and not told."""
    assert devices == set(find_devices(recorded(machine)))


# -- what is written -------------------------------------------------------------------------------


def test_each_server_is_a_backend() -> None:
    """With the dialect and the address that were found, and on the best card that there is."""
    seen = Survey(
        devices={Hardware.NPU: "amdxdna", Hardware.NVIDIA: "NVIDIA graphics"},
        servers=[
            Found(Kind.OLLAMA, 11434),
            Found(Kind.OLLAMA, 11435),
            Found(Kind.VLLM, 8001),
            Found(Kind.LEMONADE, 8000, "/api/v1"),
        ],
    )
    backends = read(write(seen)).backends

    assert [
        ("ollama", BackendType.OLLAMA, Hardware.NVIDIA, "http://127.0.0.1:11434", 1),
        ("ollama-11435", BackendType.OLLAMA, Hardware.NVIDIA, "http://127.0.0.1:11435", 1),
        ("vllm", BackendType.OPENAI, Hardware.NVIDIA, "http://127.0.0.1:8001", 16),
        ("lemonade", BackendType.OPENAI, Hardware.NPU, "http://127.0.0.1:8000/api/v1", 1),
    ] == [(b.id, b.type, b.hardware, b.endpoint, b.slots) for b in backends]
    assert 55.0 == backends[0].characteristics.power_watts


async def test_a_server_is_asked_where_its_models_are_listed() -> None:
    """Below the same path: where a list is found at /api/v1/models, chats are not at /api/chat."""
    async with open_fake(LEMONADE) as fake:
        found = await find_servers([fake.port])
    (backend,) = read(write(Survey(devices={}, servers=found))).backends

    asked = inference_path(Endpoint.parse(backend.endpoint), Call.OPENAI_CHAT)
    assert "/api/v1/chat/completions" == asked


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.ROUTER])
@pytest.mark.parametrize("device", [None, Hardware.AMD, Hardware.NPU, Hardware.IGPU])
def test_whatever_is_written_is_good(kind: Kind, device: Hardware | None) -> None:
    """No fault in it, for any server on any machine."""
    devices = {} if device is None else {device: "a device"}
    config = read(write(Survey(devices=devices, servers=[Found(kind, port) for port in PORTS])))

    assert len(PORTS) == len(config.backends)


def test_what_was_seen_is_said() -> None:
    """In comments, of which no name can break out."""
    seen = Survey(devices={Hardware.NPU: "x\n[server]\nhost = '0.0.0.0'"})
    text = write(seen)

    assert "# seen: npu (x[server]host = '0.0.0.0')" in text
    assert "127.0.0.1" == read(text).server.host


def test_nobody_answers() -> None:
    """The model that comes along takes over where it is installed; else an Ollama may come later."""
    with_model = read(write(Survey(has_embedded=True)))
    without = read(write(Survey()))

    assert [BackendType.EMBEDDED] == [each.type for each in with_model.backends]
    assert ["http://127.0.0.1:11434"] == [each.endpoint for each in without.backends]


def test_a_router_alone_is_nobody() -> None:
    """It is no reason to leave the embedded model out, and no backend."""
    seen = Survey(servers=[Found(Kind.ROUTER, 8080)], has_embedded=True)

    assert ["embedded"] == [each.id for each in read(write(seen)).backends]


def test_taken_ports_are_left() -> None:
    """Where a server listens at our usual port, ours is another, and the file says why."""
    text = write(Survey(servers=[Found(Kind.LLAMA_SERVER, 8080)], http_port=8090))

    assert 8090 == read(text).server.http_port
    assert "# 8080 is taken" in text


def test_a_port_is_free_or_ours() -> None:
    """What is bound is passed over, unless it is the router's own."""
    with socket.socket() as taken, socket.socket() as other:
        for each in (taken, other):
            each.bind(("127.0.0.1", 0))
        other_port = other.getsockname()[1]
        other.close()
        taken.listen()
        port = taken.getsockname()[1]

        assert other_port == _free([port, other_port])
        assert port == _free([port, other_port], ours=[port])
        assert 0 == _free([port])
