"""The access log of a whole router: one line for each request, on every door, with every field."""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from ollama_proxy.config import Wyoming
from ollama_proxy.engine.ledger import TurnedAway
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.observe import LINES_AT_ONCE, LINES_PER_S, TurnedAwayLog
from ollama_proxy.policy.refusal import Code
from tests.fakes.ollama import Fake, Script
from tests.inbound.grpc.peer import Client
from tests.inbound.websocket.test_stream import Ear
from tests.inbound.wyoming.test_door import Voice, transcript
from tests.routers import CHAT, MODEL, Owner, ask, backend, configured, fakes, idle, running

TRACED = f"00-{'a' * 32}-{'b' * 16}-01"
FIELDS = {
    *("door", "call", "model", "backend", "reason", "outcome", "status", "queue_ms", "first_ms"),
    *("whole_ms", "tokens", "energy_j", "energy_source", "priority", "request_id", "key_name"),
}


@attrs.frozen
class House:
    """A router with every door open, and what is behind it."""

    owner: Owner
    client: httpx.AsyncClient
    fake: Fake
    grpc: tuple[str, int]
    wyoming: tuple[str, int]
    caplog: pytest.LogCaptureFixture

    async def lines(self) -> list[dict[str, Any]]:
        """The facts of each line, once all is quiet."""
        await idle(self.client)
        return [
            record.__dict__["facts"]
            for record in self.caplog.records
            if record.name == "ollama_proxy.access"
        ]

    @asynccontextmanager
    async def ear(self, path: str) -> AsyncIterator[Ear]:
        """A WebSocket."""
        host, _, port = self.owner.url.removeprefix("http://").partition(":")
        async with (
            await trio.open_tcp_stream(host, int(port)) as stream,
            trio.open_nursery() as nursery,
        ):
            socket: WebSocketConnection = await wrap_client_stream(
                nursery,
                stream,
                f"{host}:{port}",
                path,
                extra_headers=[(b"traceparent", TRACED.encode()), (b"x-request-id", b"mine")],
            )
            yield Ear(socket, self.owner, self.fake)
            await socket.aclose()


@pytest.fixture
async def house(in_process: None, caplog: pytest.LogCaptureFixture) -> AsyncIterator[House]:
    """All doors of a router with the NPU behind it."""
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(fakes("npu", script=Script(tokens=2)))
        made = configured(backend("npu", fleet["npu"].url))
        made = attrs.evolve(
            made,
            server=attrs.evolve(made.server, grpc=True, grpc_port=0),
            wyoming=Wyoming(enabled=True, port=0, model=MODEL),
            observability=attrs.evolve(made.observability, access_log=True),
        )
        owner = await stack.enter_async_context(running(made))
        client = await stack.enter_async_context(owner.client())
        grpc = re.search(r"grpc=127\.0\.0\.1:(\d+)", owner.said[0])
        voice = re.search(r"voice assistants are heard on 127\.0\.0\.1:(\d+)", caplog.text)
        assert grpc
        assert voice
        yield House(
            owner,
            client,
            fleet["npu"],
            ("127.0.0.1", int(grpc[1])),
            ("127.0.0.1", int(voice[1])),
            caplog,
        )


async def by_http(house: House, path: str = CHAT) -> None:
    """A chat in OpenAI's words, or another's."""
    headers = {"x-request-id": "mine", "traceparent": TRACED}
    await house.client.post(path, json=ask(stream=True, max_tokens=5), headers=headers)


async def by_websocket(house: House) -> None:
    """A prompt on a socket."""
    async with house.ear("/v1/stream/ws") as ear:
        await ear.ask("mine")
        await ear.hear_all("mine")


async def by_realtime(house: House) -> None:
    """A response in a conversation."""
    async with house.ear(f"/v1/realtime?model={MODEL}") as ear:
        content = [{"type": "input_text", "text": "hello"}]
        item = {"type": "message", "role": "user", "content": content}
        await ear.say(type="conversation.item.create", item=item)
        await ear.say(type="response.create")
        while (await ear.hear())["type"] != "response.done":
            pass


async def by_grpc(house: House) -> None:
    """A stream of tokens."""
    request = pb.GenerateRequest(
        prompt="hi", model=MODEL, annotations=pb.Annotations(request_id="mine")
    )
    async with await trio.open_tcp_stream(*house.grpc) as stream, Client(stream) as client:
        await client.call(
            request.SerializeToString(),
            path="/ollama_proxy.OllamaProxy/GenerateStream",
            traceparent=TRACED.encode(),
        )


async def by_wyoming(house: House) -> None:
    """A transcript."""
    async with await trio.open_tcp_stream(*house.wyoming) as stream:
        voice = Voice(stream)
        await voice.say(transcript())
        await voice.hear_answer()


DOORS: dict[str, tuple[Callable[[House], Awaitable[None]], str]] = {
    "openai": (by_http, "http"),
    "anthropic": (partial(by_http, path="/v1/messages"), "http"),
    "ollama": (partial(by_http, path="/api/chat"), "http"),
    "websocket": (by_websocket, "websocket"),
    "realtime": (by_realtime, "realtime"),
    "grpc": (by_grpc, "grpc"),
    "wyoming": (by_wyoming, "wyoming"),
}


@pytest.mark.parametrize("name", DOORS)
async def test_every_door_has_every_field(house: House, name: str) -> None:
    """Who asked for what by which door, who answered and why, how long it took and what it cost."""
    use, door = DOORS[name]
    await use(house)
    (line,) = await house.lines()

    assert FIELDS == line.keys()
    # No key was asked for.
    assert ["key_name"] == [field for field, fact in line.items() if fact is None]
    assert (door, MODEL, "ollama-npu", "only-candidate", "served", 200) == (
        line["door"],
        line["model"],
        line["backend"],
        line["reason"],
        line["outcome"],
        line["status"],
    )
    assert 0 <= line["queue_ms"] <= line["first_ms"] <= line["whole_ms"]
    assert line["tokens"] >= 2
    assert line["energy_j"] >= 0
    assert ("critical" if door in {"realtime", "websocket", "wyoming"} else "normal") == line[
        "priority"
    ]
    if door in {"http", "grpc", "websocket"}:
        assert "mine" == line["request_id"]


async def test_tokens_are_those_of_the_answer(house: House) -> None:
    """As its backend counts them, whether it came in pieces or whole: what metrics count, too."""
    for stream in (True, False):
        await house.client.post("/api/chat", json=ask(stream=stream))
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        await house.client.post(CHAT, json=ask(stream=stream, **usage))

    assert [2] * 4 == [line["tokens"] for line in await house.lines()]


async def test_a_refusal_has_its_status(house: House) -> None:
    """The one that the caller was told, also where it was no backend's."""
    answer = await house.client.post(CHAT, json=ask(), headers={"x-max-power-watts": "0.001"})
    (line,) = await house.lines()

    assert (503, "refused:no_backend") == (answer.status_code, line["outcome"])
    assert answer.status_code == line["status"]


@pytest.mark.parametrize("name", set(DOORS) - {"wyoming"})
async def test_whose_child_it_is_goes_on_to_the_backend(house: House, name: str) -> None:
    """A header, gRPC metadata, or what a WebSocket's handshake said; with no collector, as it came."""
    await DOORS[name][0](house)
    await house.lines()
    (sent,) = [dict(record.headers) for record in house.fake.log if record.method == "POST"]

    assert TRACED == sent["traceparent"]


# -- requests that became no job -------------------------------------------------------------------


async def test_who_is_turned_away_has_a_line(house: House) -> None:
    """What cannot be read, is too large, or is not let in: by which door, and why."""
    post = house.client.post
    await post(CHAT, content=b"{", headers={"x-request-id": "a"})
    await post(CHAT, json=ask(), headers={"x-request-id": "b", "x-priority": "sooner"})
    await post(
        "/api/chat", json=ask(), headers={"x-request-id": "c", "origin": "http://evil.example"}
    )
    await post("/v1/route", json=ask(), headers={"origin": "http://evil.example"})
    async with house.ear("/v1/stream/ws") as ear:
        await ear.ask("d", max_latency_ms=-1)
        await ear.hear_all("d")
    request = pb.GenerateRequest(prompt="hi", model="", annotations=pb.Annotations(request_id="e"))
    async with await trio.open_tcp_stream(*house.grpc) as stream, Client(stream) as client:
        await client.call(request.SerializeToString())
    lines = await house.lines()

    assert [
        ("http", CHAT, "refused:invalid_request", 400, "a"),
        ("http", CHAT, "refused:invalid_header", 400, "b"),
        ("http", "/api/chat", "refused:forbidden", 403, "c"),
        ("http", "/v1/route", "refused:forbidden", 403, None),
        ("websocket", "/v1/stream/ws", "refused:invalid_request", 400, "d"),
        ("grpc", "/ollama_proxy.OllamaProxy/Generate", "refused:invalid_request", 400, "e"),
    ] == [(x["door"], x["call"], x["outcome"], x["status"], x["request_id"]) for x in lines]
    assert all(FIELDS == line.keys() for line in lines)


async def test_a_path_that_is_none_of_ours_is_not_repeated(house: House) -> None:
    """Whoever pastes a key into the wrong field asks for it as a path."""
    evil = {"origin": "http://evil.example"}
    for path in ("/sk-secret", "/v1/models/sk-secret", "/dashboard/sk-secret/x.js"):
        await house.client.get(path, headers=evil)

    assert ["elsewhere", "/v1/models/{model}", "/dashboard/{digest}/{file}"] == [
        line["call"] for line in await house.lines()
    ]
    assert "sk-secret" not in "".join(
        each.getMessage() for each in house.caplog.records if each.name.startswith("ollama_proxy")
    )


def test_a_flood_of_them_fills_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    """What is beyond the rate is counted, and told with the next line."""
    caplog.set_level(logging.INFO, logger="ollama_proxy.access")
    now = 100.0
    book = TurnedAwayLog(now=lambda: now)
    request = TurnedAway(
        request_id="x\ny", door="http", path=CHAT, code=Code.INVALID_REQUEST, status=400
    )
    for _ in range(1000):
        book.write(request)
    now += 1 / LINES_PER_S
    book.write(request)

    said = [record.getMessage() for record in caplog.records]
    left_out = 1000 - int(LINES_AT_ONCE)
    assert int(LINES_AT_ONCE) + 1 == len(said)
    assert f"({left_out} more were turned away since the last such line)" in said[-1]
    assert left_out == caplog.records[-1].__dict__["facts"]["unsaid"]
    assert "x\\ny" in said[0]
