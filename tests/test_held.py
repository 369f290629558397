"""What clients hold of the router's memory, whatever they speak: all of it counts, and is given back."""

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from ollama_proxy.config import Wyoming
from tests.fakes.ollama import Behaviour, Fake, Script
from tests.inbound.wyoming.test_door import Voice, transcript
from tests.metrics.scrapes import read
from tests.routers import MODEL, Owner, backend, configured, fakes, running

MIB = 1 << 20
TRY_AGAIN_LATER = 1013
pytestmark = pytest.mark.usefixtures("in_process")


@attrs.frozen
class House:
    """A router that may hold 1 MiB, and what is behind it: asked for something, it hangs."""

    owner: Owner
    fake: Fake
    voice: tuple[str, int]

    async def held(self) -> int:
        """How much it does hold."""
        async with self.owner.client() as client:
            page = (await client.get("/metrics")).content
        return int(read(page).by("buffered_bytes")[("http",)])

    async def until_held(self, least: int, most: int) -> None:
        """Wait until it holds about so much."""
        while not least <= await self.held() <= most:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.01)

    @asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[WebSocketConnection]:
        """A WebSocket."""
        host, _, port = self.owner.url.removeprefix("http://").partition(":")
        async with (
            await trio.open_tcp_stream(host, int(port)) as stream,
            trio.open_nursery() as nursery,
        ):
            socket = await wrap_client_stream(nursery, stream, f"{host}:{port}", path)
            yield socket
            await socket.aclose()


@asynccontextmanager
async def house(caplog: pytest.LogCaptureFixture) -> AsyncIterator[House]:
    """One with the NPU behind it. In the end it holds nothing."""
    caplog.set_level(logging.INFO, logger="ollama_proxy")
    async with fakes("npu", script=Script(behaviour=Behaviour.HANG)) as fleet:
        made = configured(backend("npu", fleet["npu"].url), drain_s=0.1)
        made = attrs.evolve(
            made,
            server=attrs.evolve(made.server, max_buffered_mib=1),
            wyoming=Wyoming(enabled=True, port=0, model=MODEL),
        )
        async with running(made) as owner:
            told = re.search(r"voice assistants are heard on 127\.0\.0\.1:(\d+)", caplog.text)
            assert told
            it = House(owner, fleet["npu"], ("127.0.0.1", int(told[1])))
            yield it
            await it.until_held(0, 0)


def asked(request_id: str, size: int) -> str:
    """A request in so many bytes, about."""
    return json.dumps({"model": MODEL, "prompt": "x" * size, "request_id": request_id})


async def heard(socket: WebSocketConnection) -> dict[str, Any]:
    """The next message."""
    message: dict[str, Any] = json.loads(await socket.get_message())
    return message


async def test_requests_on_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    """Those that run count; one more is refused by its name, and the socket stays."""
    async with house(caplog) as it, it.socket("/v1/stream/ws") as socket:
        await socket.send_message(asked("a", 1000 << 10))
        await it.until_held(1000 << 10, MIB)
        await socket.send_message(asked("b", 30 << 10))
        refused = await heard(socket)
        await socket.send_message(json.dumps({"type": "cancel", "request_id": "a"}))
        cancelled = await heard(socket)
        await it.until_held(0, 0)
        await socket.send_message(asked("b", 30 << 10))
        await it.until_held(30 << 10, 40 << 10)

    assert ("b", "queue_full") == (refused["request_id"], refused["error"]["code"])
    assert "cancelled" == cancelled["finish_reason"]


async def test_a_message_that_is_not_whole(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows whose it is: the socket is closed as overloaded."""
    async with house(caplog) as it, it.socket("/v1/stream/ws") as socket:
        await socket.send_message(asked("a", 2 * MIB))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.get_message()

    assert closed.value.reason
    assert TRY_AGAIN_LATER == closed.value.reason.code


async def test_what_is_kept_of_a_conversation(caplog: pytest.LogCaptureFixture) -> None:
    """Items count as long as they are kept; one too many is refused, and the conversation stays."""

    def item(name: str) -> str:
        content = [{"type": "input_text", "text": "x" * (400 << 10)}]
        given = {"type": "message", "role": "user", "id": name, "content": content}
        return json.dumps({"type": "conversation.item.create", "item": given, "event_id": name})

    async with house(caplog) as it, it.socket(f"/v1/realtime?model={MODEL}") as socket:
        await heard(socket)
        await socket.send_message(item("a"))
        assert ["conversation.item.added", "conversation.item.done"] == [
            (await heard(socket))["type"] for _ in range(2)
        ]
        await it.until_held(400 << 10, 410 << 10)
        await socket.send_message('{"type":"response.create"}')
        assert "response.created" == (await heard(socket))["type"]
        await it.until_held(800 << 10, 820 << 10)
        await socket.send_message('{"type":"response.cancel"}')
        assert "response.done" == (await heard(socket))["type"]
        await socket.send_message(item("b"))
        for _ in range(2):
            await heard(socket)
        await socket.send_message('{"type":"response.create"}')
        refused = await heard(socket)
        await socket.send_message('{"type":"conversation.item.delete","item_id":"a"}')
        deleted = await heard(socket)
        await it.until_held(400 << 10, 410 << 10)

    assert "queue_full" == refused["error"]["code"]
    assert "conversation.item.deleted" == deleted["type"]


async def test_what_a_voice_says(caplog: pytest.LogCaptureFixture) -> None:
    """Transcripts count until they are answered; one too many is refused, and the connection stays."""
    async with house(caplog) as it, await trio.open_tcp_stream(*it.voice) as stream:
        voice = Voice(stream)
        await voice.say(transcript("x" * (1000 << 10)))
        await it.until_held(1000 << 10, MIB)
        await voice.say(transcript("x" * (26 << 10)))
        refused = await voice.hear()
        await voice.say(b'{"type":"ping"}\n')
        pong = await voice.hear()

    assert refused
    assert ("error", "queue_full") == (refused["type"], refused["code"])
    assert pong
    assert "pong" == pong["type"]


async def test_half_of_what_a_voice_says(caplog: pytest.LogCaptureFixture) -> None:
    """An event that is not whole counts, too; where there is no room the connection ends in words."""
    async with house(caplog) as it, it.socket("/v1/stream/ws") as socket:
        await socket.send_message(asked("a", 1000 << 10))
        await it.until_held(1000 << 10, MIB)
        async with await trio.open_tcp_stream(*it.voice) as stream:
            voice = Voice(stream)
            await voice.say(transcript("x" * (100 << 10))[:-1])
            refused, end = await voice.hear(), await voice.hear()

    assert refused
    assert "queue_full" == refused["code"]
    assert end is None
