"""What comes on a socket after the router was told to end, while it still owes something."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, TextMessage

from ollama_proxy.inbound.websocket.realtime import RealtimeTalk
from ollama_proxy.inbound.websocket.stream import StreamTalk
from tests.engine.floor import open_floor
from tests.fleet import MODEL
from tests.inbound.ends import scripted
from tests.inbound.websocket.test_socket import Client, met

LINES = [b'{"response":"Hello","done":false}\n', b'{"response":"","done":true}\n']
HELLO = {"role": "user", "content": [{"type": "input_text", "text": "hello"}]}


async def hear_all(client: Client) -> list[dict[str, Any]]:
    """Every message until the socket is closed."""
    heard: list[dict[str, Any]] = []
    while not isinstance(event := await client.hear(), CloseConnection):
        assert isinstance(event, TextMessage)
        heard.append(json.loads(event.data))
    return heard


@pytest.mark.parametrize("running", [True, False], ids=["running", "idle"])
async def test_a_new_request_is_refused_and_the_running_one_finished(
    nursery: trio.Nursery, autojump_clock: MockClock, *, running: bool
) -> None:
    """With the code that the handshake has for it; then the socket is closed."""
    backend = scripted().say(LINES[0].decode(), after=1.0).say(LINES[1].decode(), after=1.0)
    floor = open_floor(nursery, autojump_clock, backend)
    async with met(dialect=lambda socket: StreamTalk(socket, floor.dispatcher)) as client:
        asked = {"model": MODEL, "prompt": "hi"}
        if running:
            await client.say(json.dumps(asked | {"request_id": "old"}))
            await wait_all_tasks_blocked()
        client.is_draining = True
        await client.say(json.dumps(asked | {"request_id": "new"}))
        await wait_all_tasks_blocked()
        client.socket.drain()
        heard = await hear_all(client)

    ends = {frame["request_id"]: frame for frame in heard if frame["done"]}
    assert "shutting_down" == ends["new"]["error"]["code"]
    assert running == ("old" in ends)
    assert all("stop" == frame["finish_reason"] for frame in ends.values() if "error" not in frame)


async def test_a_new_response_is_refused_and_the_running_one_finished(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The Realtime has no code of its own for it: it is the server's error, not the client's."""
    backend = scripted().say('{"message":{"content":"Hello"},"done":true}\n', after=1.0)
    floor = open_floor(nursery, autojump_clock, backend)
    async with met(dialect=lambda socket: RealtimeTalk(socket, floor.dispatcher)) as client:
        create = json.dumps({"type": "conversation.item.create", "item": HELLO})
        respond = json.dumps({"type": "response.create", "response": {"model": MODEL}})
        await client.say(create, respond)
        await wait_all_tasks_blocked()
        client.is_draining = True
        await client.say(respond)
        heard = await hear_all(client)

    (error,) = [event["error"] for event in heard if event["type"] == "error"]
    assert ("server_error", "shutting_down") == (error["type"], error["code"])
    assert "completed" == heard[-1]["response"]["status"]
