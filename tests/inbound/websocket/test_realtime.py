"""What a client of /v1/realtime is promised: the text part of OpenAI's Realtime."""

from typing import Any

import pytest
from trio_websocket import ConnectionClosed

from tests.fakes.ollama import Behaviour, Script
from tests.inbound.websocket.test_stream import SLOW, Ear, ear

pytestmark = pytest.mark.usefixtures("in_process")

PATH = "/v1/realtime?model=fake:latest"
HELLO = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "hello"}],
}


async def begin(client: Ear, *, item: dict[str, Any] | None = None) -> None:
    """Greet, and say something."""
    assert "session.created" == (await client.hear())["type"]
    await client.say(type="conversation.item.create", item=item or HELLO)
    kinds = [(await client.hear())["type"] for _ in range(2)]
    assert ["conversation.item.added", "conversation.item.done"] == kinds


async def until(client: Ear, kind: str) -> list[dict[str, Any]]:
    """Events up to one of a kind."""
    events = [await client.hear()]
    while events[-1]["type"] != kind:
        events.append(await client.hear())
    return events


async def test_a_response_comes_in_deltas_and_is_remembered() -> None:
    """In OpenAI's order of events; its item is part of what is sent next."""
    async with ear(Script(tokens=2), path=PATH) as client:
        await begin(client)
        await client.say(type="response.create")
        events = await until(client, "response.done")
        await client.say(type="response.create")
        await until(client, "response.done")
        sent = [record.body for record in client.fake.log if record.path == "/api/chat"]

    kinds = [event["type"] for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ] == kinds
    done = events[-1]["response"]
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert ("completed", text) == (done["status"], done["output"][0]["content"][0]["text"])
    assert done["usage"]["output_tokens"] == 2
    assert ["user", "assistant"] == [m["role"] for m in sent[1]["messages"]]
    assert len({event["event_id"] for event in events}) == len(events)


async def test_instructions_come_first() -> None:
    """The session's; a response's own go before them."""
    async with ear(Script(tokens=1), path=PATH) as client:
        await begin(client)
        await client.say(type="session.update", session={"type": "realtime", "instructions": "A"})
        updated = await client.hear()
        await client.say(type="response.create")
        await until(client, "response.done")
        await client.say(type="response.create", response={"instructions": "B"})
        await until(client, "response.done")
        sent = [record.body for record in client.fake.log if record.path == "/api/chat"]

    assert ("session.updated", "A") == (updated["type"], updated["session"]["instructions"])
    assert ["A", "B"] == [body["messages"][0]["content"] for body in sent]


async def test_a_cancel_ends_a_response_at_once() -> None:
    """Nothing of it follows; what was said of it is remembered, and the next is served."""
    async with ear(SLOW, path=PATH, slots=1) as client:
        await begin(client)
        await client.say(type="response.create")
        await until(client, "response.output_text.delta")
        await client.say(type="response.cancel")
        events = await until(client, "response.done")
        await client.say(type="response.create")
        after = await client.hear()
        await client.say(type="response.cancel")
        await until(client, "response.done")

    done = events[-1]["response"]
    assert "cancelled" == done["status"]
    assert {"type": "cancelled", "reason": "client_cancelled"} == done["status_details"]
    assert done["output"][0]["status"] == "incomplete"
    assert "response.created" == after["type"]


async def test_items_are_deleted_and_found() -> None:
    """By the client's ids."""
    async with ear(Script(tokens=1), path=PATH) as client:
        await begin(client, item=HELLO | {"id": "mine"})
        await client.say(type="conversation.item.retrieve", item_id="mine")
        found = await client.hear()
        await client.say(type="conversation.item.delete", item_id="mine")
        gone = await client.hear()
        await client.say(type="response.create")
        refused = await client.hear()

    assert "mine" == found["item"]["id"]
    assert ("conversation.item.deleted", "mine") == (gone["type"], gone["item_id"])
    assert "empty" in refused["error"]["message"]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "dance"},
        {"type": "session.update", "session": {"output_modalities": ["audio"]}},
        {"type": "response.create", "response": {"output_modalities": ["text", "audio"]}},
        {"type": "input_audio_buffer.append", "audio": "AAAA"},
        {"type": "conversation.item.create", "item": {"type": "function_call"}},
        {
            "type": "conversation.item.create",
            "item": {"role": "user", "content": [{"type": "input_audio", "audio": "AA"}]},
        },
        {"type": "conversation.item.create", "item": {"role": "robot", "content": []}},
        {"type": "conversation.item.create", "item": HELLO, "previous_item_id": "nobody"},
        {"type": "conversation.item.delete", "item_id": "nobody"},
        {"type": "conversation.item.truncate", "item_id": "nobody"},
        {"type": "response.cancel"},
        {"type": "response.create", "response": {"metadata": 3}},
        {"no": "type"},
    ],
)
async def test_what_is_not_understood_is_an_error_and_the_socket_stays(
    event: dict[str, Any],
) -> None:
    """It names the client's event; the next one is heard."""
    async with ear(Script(tokens=1), path=PATH) as client:
        await begin(client)
        await client.say(**event, event_id="theirs")
        error = await client.hear()
        await client.say(type="response.create")
        await until(client, "response.done")

    assert "error" == error["type"]
    assert error["error"]["event_id"] in {"theirs", None}
    assert error["error"]["message"]


async def test_one_response_at_a_time() -> None:
    """A second is refused while the first is under way."""
    async with ear(SLOW, path=PATH) as client:
        await begin(client)
        await client.say(type="response.create")
        await until(client, "response.output_text.delta")
        await client.say(type="response.create")
        error = (await until(client, "error"))[-1]
        await client.say(type="response.cancel")
        await until(client, "response.done")

    assert "is not over yet" in error["error"]["message"]


@pytest.mark.parametrize(
    ("script", "path", "code"),
    [
        (Script(behaviour=Behaviour.DIE_BEFORE_HEAD), PATH, "backend_failed"),
        (Script(), "/v1/realtime?model=nothing:1b", "model_not_found"),
    ],
)
async def test_a_response_that_fails_says_why(script: Script, path: str, code: str) -> None:
    """In `response.done`; the conversation goes on."""
    async with ear(script, path=path) as client:
        await begin(client)
        await client.say(type="response.create")
        events = await until(client, "response.done")

    done = events[-1]["response"]
    assert ("failed", code) == (done["status"], done["status_details"]["error"]["code"])


async def test_without_a_model_a_response_is_refused() -> None:
    """The session may name one later."""
    async with ear(Script(tokens=1), path="/v1/realtime") as client:
        await begin(client)
        await client.say(type="response.create")
        error = await client.hear()
        await client.say(type="session.update", session={"model": "fake:latest"})
        await client.hear()
        await client.say(type="response.create")
        events = await until(client, "response.done")

    assert "model" in error["error"]["message"]
    assert "completed" == events[-1]["response"]["status"]


async def test_bytes_are_not_spoken() -> None:
    """As on every socket here."""
    async with ear(path=PATH) as client:
        await client.hear()
        await client.socket.send_message(b"\x00")
        with pytest.raises(ConnectionClosed) as caught:
            await client.socket.get_message()

    assert 1003 == caught.value.reason.code  # type: ignore[union-attr]  # it was closed with one


@pytest.mark.parametrize("limit", [-5, 0, "abc", "5"])
@pytest.mark.parametrize(
    "event", [{"type": "session.update"}, {"type": "response.create"}], ids=["session", "response"]
)
async def test_a_length_that_is_none_is_refused(event: dict[str, Any], limit: int | str) -> None:
    """By the name of what is wrong; nothing is asked of a backend."""
    field = event["type"].partition(".")[0]
    async with ear(path=PATH) as client:
        await begin(client)
        await client.say(**event, **{field: {"max_output_tokens": limit}})
        heard = await client.hear()
        asked = [record.path for record in client.fake.log if record.path == "/api/chat"]

    assert ("error", "max_output_tokens") == (heard["type"], heard.get("error", {}).get("param"))
    assert not asked


async def test_a_response_may_be_longer_than_its_session_allows() -> None:
    """A limit is a number, or "inf" for none; the response's own holds."""
    async with ear(Script(tokens=1), path=PATH) as client:
        await begin(client)
        await client.say(type="session.update", session={"max_output_tokens": 7})
        await client.hear()
        for response in ({}, {"max_output_tokens": 9}, {"max_output_tokens": "inf"}):
            await client.say(type="response.create", response=response)
            await until(client, "response.done")
        sent = [record.body for record in client.fake.log if record.path == "/api/chat"]

    assert [7, 9, None] == [body.get("options", {}).get("num_predict") for body in sent]
