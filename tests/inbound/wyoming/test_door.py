"""What a voice assistant is promised: raw events over a real socket, to a whole router."""

import json
import logging
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from ollama_proxy.config import Wyoming
from ollama_proxy.inbound.wyoming.connection import WAITING_MAX
from tests.fakes.ollama import Behaviour, Fake, Script
from tests.routers import MODEL, Owner, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")

SLOW = Script(tokens=1000, interval_s=0.01)
DESCRIBE = b'{"type":"describe"}\n'
SILENT = {"type": "not-handled", "text": "Nothing was said."}


def transcript(text: str = "hi", **more: object) -> bytes:
    """A transcript as the protocol's own library writes it."""
    data = json.dumps({"text": text, **more}).encode()
    return b'{"type":"transcript","version":"1.7.1","data_length":%d}\n%b' % (len(data), data)


@attrs.define
class Voice:
    """A client that hears in values."""

    stream: trio.SocketStream
    heard: bytearray = attrs.field(factory=bytearray)
    has_begun: bool = False

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        await self.stream.send_all(data)

    async def hear(self) -> dict[str, Any] | None:
        """The next event with its data in one; None when there is none any more."""
        while (end := self.heard.find(b"\n")) < 0:
            if not await self._more():
                return None
        event = json.loads(self.heard[:end])
        size = event.pop("data_length", 0)
        del self.heard[: end + 1]
        while len(self.heard) < size:
            assert await self._more(), "an event is cut short"
        data = json.loads(self.heard[:size] or b"{}")
        del self.heard[:size]
        self.has_begun = event["type"] == "handled-start" or self.has_begun
        return {**event, **data}

    async def hear_answer(self) -> list[dict[str, Any]]:
        """The events of one answer, to its last."""
        events = []
        while (event := await self.hear()) is not None:
            events.append(event)
            last = {"handled-stop"} if self.has_begun else {"handled", "not-handled", "error"}
            if event["type"] in last:
                self.has_begun = False
                return events
        return events

    async def _more(self) -> bool:
        data = await self.stream.receive_some(65536)
        self.heard += data
        return bool(data)


@attrs.define
class Home:
    """A router that voice assistants may talk to, and what is behind it."""

    owner: Owner
    fake: Fake
    address: tuple[str, int]

    @asynccontextmanager
    async def voice(self) -> AsyncIterator[Voice]:
        """A client's connection."""
        async with await trio.open_tcp_stream(*self.address) as stream:
            yield Voice(stream)

    async def asked(self) -> list[list[dict[str, str]]]:
        """The messages of every chat that came to the backend."""
        async with self.owner.client() as client:
            await idle(client)
        return [entry.body["messages"] for entry in self.fake.log if entry.path == "/api/chat"]


@asynccontextmanager
async def home(
    caplog: pytest.LogCaptureFixture,
    script: Script | None = None,
    *,
    drain_s: float = 5.0,
    **wyoming: Any,
) -> AsyncIterator[Home]:
    """A router with the NPU behind it, one slot."""
    caplog.set_level(logging.INFO, logger="ollama_proxy")
    given = attrs.evolve(Wyoming(enabled=True, port=0, model=MODEL), **wyoming)
    async with fakes("npu", script=script) as fleet:
        made = attrs.evolve(
            configured(backend("npu", fleet["npu"].url, slots=1), drain_s=drain_s), wyoming=given
        )
        async with running(made) as owner:
            told = re.search(r"voice assistants are heard on 127\.0\.0\.1:(\d+)", caplog.text)
            assert told
            yield Home(owner, fleet["npu"], ("127.0.0.1", int(told[1])))


async def test_a_transcript_is_answered_in_pieces_and_then_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The protocol wants the whole for those who do not know pieces."""
    async with home(caplog, Script(tokens=3)) as it, it.voice() as voice:
        await voice.say(transcript())
        start, *chunks, handled, stop = await voice.hear_answer()

    assert ["handled-start", "handled", "handled-stop"] == [
        e["type"] for e in (start, handled, stop)
    ]
    assert ["handled-chunk"] * 3 == [chunk["type"] for chunk in chunks]
    assert handled["text"] == "".join(chunk["text"] for chunk in chunks)
    assert handled["text"]


async def test_what_is_offered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """One program that handles text, in any language, with the model of the configuration."""
    async with home(caplog) as it, it.voice() as voice:
        await voice.say(DESCRIBE)
        info = await voice.hear()

    assert info is not None
    (program,) = info["handle"]
    (model,) = program["models"]
    assert (True, True, []) == (program["installed"], model["installed"], model["languages"])
    assert (MODEL, True) == (model["name"], program["supports_handled_streaming"])


async def test_instructions_and_what_was_said_before_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the conversation's id, over as many connections as there are; without one, nothing is."""
    context = {"conversation_id": "c", "satellite_id": None}
    async with home(caplog, Script(tokens=1, word="yes"), instructions="Be brief.") as it:
        for text, more in (("one", context), ("two", context), ("three", {})):
            async with it.voice() as voice:
                await voice.say(transcript(text, context=more))
                handled = (await voice.hear_answer())[-2]
                assert more.get("conversation_id") == handled.get("context", {}).get(
                    "conversation_id"
                )
        first, second, third = await it.asked()

    system = {"role": "system", "content": "Be brief."}
    assert [system, {"role": "user", "content": "one"}] == first
    assert ["system", "user", "assistant", "user"] == [message["role"] for message in second]
    assert [system, {"role": "user", "content": "three"}] == third


async def test_transcripts_are_answered_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    """One after the other, though all are asked at once."""
    async with home(caplog, Script(tokens=2)) as it, it.voice() as voice:
        await voice.say(b"".join(transcript(text) for text in "abc"))
        for _ in range(3):
            answer = await voice.hear_answer()
            assert "handled" == answer[-2]["type"]
        asked = await it.asked()

    assert ["a", "b", "c"] == [messages[-1]["content"] for messages in asked]


async def test_a_ping_is_answered_while_an_answer_comes(caplog: pytest.LogCaptureFixture) -> None:
    """With its text, between two pieces."""
    async with home(caplog, SLOW) as it, it.voice() as voice:
        await voice.say(transcript() + b'{"type":"ping","data":{"text":"you?"}}\n')
        while (event := await voice.hear()) is not None and event["type"] != "pong":
            continue

    assert {"type": "pong", "text": "you?"} == event


@pytest.mark.parametrize(
    ("wyoming", "text", "said"),
    [
        ({"model": "nothing:1b"}, "hi", "nothing:1b"),
        ({"max_latency_ms": 1}, "hi", "ms"),
        ({}, " ", "Nothing was said."),
    ],
)
async def test_what_cannot_be_answered_is_told_in_words(
    caplog: pytest.LogCaptureFixture, wyoming: dict[str, Any], text: str, said: str
) -> None:
    """Home Assistant speaks them; the connection stays."""
    async with home(caplog, **wyoming) as it, it.voice() as voice:
        await voice.say(transcript(text, context={"conversation_id": "c"}))
        (refused,) = await voice.hear_answer()
        await voice.say(DESCRIBE)
        after = await voice.hear()

    assert "not-handled" == refused["type"]
    assert said in refused["text"]
    assert {"conversation_id": "c"} == refused["context"]
    assert after is not None
    assert "info" == after["type"]


async def test_an_answer_that_breaks_off_ends_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    """After the pieces that there were; nothing of it is remembered."""
    script = Script(behaviour=Behaviour.DIE_MID_STREAM, tokens=5, after_tokens=2)
    async with home(caplog, script) as it, it.voice() as voice:
        await voice.say(transcript())
        answer = await voice.hear_answer()

    assert ["handled-start", "not-handled", "handled-stop"] == [
        answer[0]["type"],
        answer[-2]["type"],
        answer[-1]["type"],
    ]


@pytest.mark.parametrize(
    "said",
    [
        b'{"type":"transcript"}\n',
        b'{"type":"transcript","data":{"text":null}}\n',
        b'{"type":"transcript","data":{"text":"a","context":"b"}}\n',
        b'{"type":"transcript","data_length":1}\n{',
        b'{"type":"transcript","data_length":3}\n"\xff"',
    ],
)
async def test_a_transcript_that_is_not_understood_is_an_error(
    caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    """The connection stays."""
    async with home(caplog) as it, it.voice() as voice:
        await voice.say(said)
        error = await voice.hear()
        await voice.say(transcript(""))
        after = await voice.hear()

    assert error is not None
    assert ("error", "invalid_request") == (error["type"], error["code"])
    assert SILENT == after


@pytest.mark.parametrize(
    "said",
    [
        b'{"type":"recognize","data":{"text":"a"}}\n',
        b'{"type":"select-program","data":{"name":"ollama-proxy"}}\n',
        b'{"type":"audio-chunk","data":{"rate":1},"payload_length":70000}\n' + b"{" * 70000,
        b'{"type":"pong","data_length":2}\n{}',
    ],
)
async def test_what_is_not_known_here_is_ignored(
    caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    """As the protocol has it, payloads and all."""
    async with home(caplog) as it, it.voice() as voice:
        await voice.say(said + transcript(""))
        after = await voice.hear()

    assert SILENT == after


async def test_a_browser_that_posts_is_told_and_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    """Any page can have one sent to loopback: its body, however well formed, is never read."""
    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n"
    async with home(caplog) as it, it.voice() as voice:
        await voice.say(request + transcript())
        error, end = await voice.hear(), await voice.hear()
        asked = await it.asked()

    assert error is not None
    assert "error" == error["type"]
    assert (None, []) == (end, asked)


async def test_more_transcripts_than_can_wait_end_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In words, and its backend is free."""
    async with home(caplog, SLOW) as it, it.voice() as voice:
        await voice.say(transcript() * (WAITING_MAX + 2))
        events = []
        while (event := await voice.hear()) is not None:
            events.append(event)
        async with it.owner.client() as client:
            await idle(client)

    assert "error" == events[-1]["type"]
    assert "wait" in events[-1]["text"]


async def test_a_client_that_leaves_frees_its_backend(caplog: pytest.LogCaptureFixture) -> None:
    """What runs is ended, though it is silent, and what waits behind it is never asked."""
    silent = Script(behaviour=Behaviour.HANG_MID_STREAM, tokens=5, after_tokens=1)
    async with home(caplog, silent) as it:
        async with it.voice() as voice:
            await voice.say(transcript("a") + transcript("b"))
            await voice.hear()
        asked = await it.asked()

    assert ["a"] == [messages[-1]["content"] for messages in asked]


async def test_a_slow_reader_slows_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Others are heard meanwhile, and every piece arrives in the end, whole."""
    async with home(caplog, Script(tokens=400, token_bytes=8192)) as it, it.voice() as slow:
        async with it.voice() as other:
            await slow.say(transcript())
            await slow.hear()
            await other.say(DESCRIBE)
            info = await other.hear()
        answer = await slow.hear_answer()

    assert info is not None
    assert 400 == sum(event["type"] == "handled-chunk" for event in answer)
    assert "handled-stop" == answer[-1]["type"]


async def test_one_too_many_is_closed_unheard(caplog: pytest.LogCaptureFixture) -> None:
    """And heard again once another has left."""
    async with home(caplog) as it, trio.open_nursery() as nursery:
        held = trio.Event()
        held_count = 0
        leave = trio.Event()

        async def hold() -> None:
            nonlocal held_count
            async with it.voice() as voice:
                await voice.say(DESCRIBE)
                assert await voice.hear()
                held_count += 1
                if held_count == 32:
                    held.set()
                await leave.wait()

        for _ in range(32):
            nursery.start_soon(hold)
        await held.wait()
        async with it.voice() as voice:
            refused = await voice.hear()
        leave.set()
        told = None
        while told is None:
            async with it.voice() as voice:
                await voice.say(DESCRIBE)
                with trio.move_on_after(1):
                    told = await voice.hear()

    assert refused is None
    assert "info" == told["type"]


async def test_a_drain_lets_an_answer_finish(caplog: pytest.LogCaptureFixture) -> None:
    """What waits behind it is told that it comes too late; who waits for nothing is let go."""
    async with home(caplog, Script(tokens=5, interval_s=0.02)) as it:
        async with it.voice() as voice, it.voice() as idler:
            await idler.say(DESCRIBE)
            await idler.hear()
            await voice.say(transcript() * 2)
            await voice.hear()
            it.owner.signal(signal.SIGTERM)
            first = await voice.hear_answer()
            late = await voice.hear_answer()
            ends = await voice.hear(), await idler.hear()
        await it.owner.ended.wait()

    assert "handled" in {event["type"] for event in first}
    assert "shutting down" in late[0]["text"]
    assert (None, None) == ends


async def test_a_drain_that_lasts_too_long_ends_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Its client is told."""
    async with home(caplog, SLOW, drain_s=0.1) as it:
        async with it.voice() as voice:
            await voice.say(transcript())
            await voice.hear()
            it.owner.signal(signal.SIGTERM)
            while (event := await voice.hear()) is not None and event["type"] != "not-handled":
                continue
        await it.owner.ended.wait()

    assert event is not None
