"""What sockets hold of what their clients said: it counts with the bodies of all other requests."""

import json
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import TextMessage
from wsproto.frame_protocol import CloseReason

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.inbound.bounds import Bound, Bounds
from ollama_proxy.inbound.websocket.realtime import RealtimeTalk
from ollama_proxy.inbound.websocket.socket import Dialogue, Socket
from ollama_proxy.inbound.websocket.stream import StreamTalk
from tests.engine.floor import open_floor
from tests.fleet import MODEL
from tests.inbound.ends import scripted
from tests.inbound.websocket.test_socket import met

LONG = "x" * 60_000
ITEM = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": LONG}],
}


def asked(request_id: str) -> str:
    """A long request."""
    return json.dumps({"request_id": request_id, "model": MODEL, "prompt": LONG})


async def test_messages_that_do_not_end_are_bounded_together(autojump_clock: MockClock) -> None:
    """A hundred sockets with four MiB each of a message took 450 MiB, and no bound counted them."""
    bounds = Bounds(max_bytes=100_000)
    async with met(bounds=bounds) as first, met(bounds=bounds) as second:
        await first.send(TextMessage(LONG, message_finished=False))
        await wait_all_tasks_blocked()
        assert len(LONG) == bounds.held
        await second.send(TextMessage(LONG, message_finished=False))
        assert CloseReason.TRY_AGAIN_LATER == await second.hear_code()
        await first.send(TextMessage("", message_finished=True))
        await wait_all_tasks_blocked()
        assert [LONG] == first.talk.heard

    assert (0, {Bound.BUFFERED_BYTES: 1}) == (bounds.held, bounds.reached)


async def test_requests_are_held_until_their_job_has_ended(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Sixty of four MiB on one socket took 250 MiB, and no bound counted them."""
    backend = scripted().say('{"response":"","done":true}\n', after=1.0)
    floor = open_floor(nursery, autojump_clock, backend)
    bounds = Bounds()
    async with met(
        dialect=lambda socket: StreamTalk(socket, floor.dispatcher), bounds=bounds
    ) as client:
        await client.say(asked("a"))
        await client.say(json.dumps({"type": "cancel", "request_id": "a"}))
        assert "cancelled" == json.loads(await client.hear_message())["finish_reason"]
        await wait_all_tasks_blocked()
        assert 0 == bounds.held
        await client.say(asked("b"))
        await wait_all_tasks_blocked()
        assert bounds.held > len(LONG)
        assert "stop" == json.loads(await client.hear_message())["finish_reason"]
        await wait_all_tasks_blocked()
        assert 0 == bounds.held


async def test_a_conversation_is_held_as_long_as_it_is_kept(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """And each response has all of it once more; one too many is refused, and the socket stays."""
    floor = open_floor(nursery, autojump_clock, scripted())
    bounds = Bounds(max_bytes=2 * len(LONG))
    async with met(
        dialect=lambda socket: RealtimeTalk(socket, floor.dispatcher), bounds=bounds
    ) as client:
        await client.say(json.dumps({"type": "conversation.item.create", "item": ITEM}))
        await client.say(json.dumps({"type": "response.create", "response": {"model": MODEL}}))
        while (event := json.loads(await client.hear_message()))["type"] != "error":
            continue
        assert len(LONG) == bounds.held

    assert "queue_full" == event["error"]["code"]
    assert 0 == bounds.held


@pytest.mark.parametrize("talk", [StreamTalk, RealtimeTalk])
async def test_who_leaves_leaves_nothing(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    talk: Callable[[Socket, Dispatcher], Dialogue],
) -> None:
    """Whatever was under way."""
    floor = open_floor(nursery, autojump_clock, scripted().hang())
    bounds = Bounds()
    async with met(dialect=lambda socket: talk(socket, floor.dispatcher), bounds=bounds) as client:
        await client.say(
            asked("a"),
            json.dumps({"type": "conversation.item.create", "item": ITEM}),
            json.dumps({"type": "response.create", "response": {"model": MODEL}}),
        )
        await wait_all_tasks_blocked()
        assert bounds.held >= len(LONG)
        await client.stream.aclose()
        await client.ended.wait()
        await wait_all_tasks_blocked()

    assert 0 == bounds.held
