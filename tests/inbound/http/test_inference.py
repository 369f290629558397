"""The inference calls over ASGI: answers, errors, and clients that leave, in virtual time."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Errand, Served, Sink
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.http.pipe import AnswerCut
from ollama_proxy.policy.ask import Call
from tests.fakes.asgi import Exchange, begin, fetch
from tests.fakes.backend import ScriptedBackend, framed
from tests.fleet import MODEL, spec
from tests.inbound.http.house import House, open_house

STREAM = {"model": MODEL, "stream": True}
WHOLE = {"model": MODEL, "stream": False}
CHAT = "/v1/chat/completions"


def sse(*texts: str) -> bytes:
    """What a scripted stream looks like."""
    return b"".join(framed(Call.OPENAI_CHAT, text) for text in texts)


def a_backend(**changes: Any) -> ScriptedBackend:
    """The fleet's thriftiest, with one slot."""
    return ScriptedBackend(spec("npu", **changes))


def assert_free(house: House, outcome: Outcome) -> None:
    """The station is idle, the dispatcher knows of no job, and the books say how one ended."""
    station = house.station()
    assert (0, 0, set()) == (station.in_flight, len(station.line), house.dispatcher.jobs)
    assert [outcome] == [fact.outcome for fact in house.facts]


class TestAnswers:
    """Those that are served."""

    @pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
    async def test_each_call_is_served_whole(
        self, nursery: trio.Nursery, autojump_clock: MockClock, call: Call
    ) -> None:
        """A whole answer has its length, its bytes and what was decided."""
        backend = a_backend().say('{"text":"hello"}')
        house = open_house(nursery, backend)
        sent = msgspec.json.encode(WHOLE)

        answer = await fetch(house.app, "POST", call.path, body=sent, x_request_id="mine")
        await wait_all_tasks_blocked()

        assert (200, b'{"text":"hello"}', True) == (answer.status, answer.content, answer.ended)
        expected = {
            "content-type": "application/json",
            "content-length": "16",
            "x-request-id": "mine",
            "x-queue-ms": "0.000",
            "x-backend-used": "npu",
            "x-routing-reason": "only-candidate",
            "x-estimated-latency-ms": "800",
            "x-estimated-power-w": "3.0",
            "x-alternatives": "",
            "x-energy-j": "0.000",
            "x-energy-source": "estimated",
        }
        assert expected == answer.headers
        assert 0.0 == autojump_clock.current_time()
        assert [sent] == [errand.body for errand in backend.errands]
        assert_free(house, Outcome.SERVED)

    async def test_a_stream_comes_as_it_is_said(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Each piece is there the moment it was said, and no length is told."""
        backend = a_backend().say("hel", after=0.5).say("lo", after=0.25)
        house = open_house(nursery, backend)

        answer = await fetch(house.app, "POST", CHAT, json=STREAM)
        await wait_all_tasks_blocked()

        assert 0.75 == autojump_clock.current_time()
        assert [(0.5, sse("hel")), (0.75, sse("lo"))] == answer.pieces
        assert ("text/event-stream", "no") == (
            answer.headers["content-type"],
            answer.headers["x-accel-buffering"],
        )
        assert "content-length" not in answer.headers
        assert answer.ended
        assert_free(house, Outcome.SERVED)

    async def test_a_long_silence_does_not_end_a_stream(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Ninety seconds between two pieces are no reason to cut a stream."""
        backend = a_backend().say("one").say("two", after=90.0).say("three", after=90.0)
        house = open_house(nursery, backend)

        answer = await fetch(house.app, "POST", CHAT, json=STREAM)

        assert (180.0, sse("one", "two", "three")) == (
            autojump_clock.current_time(),
            answer.content,
        )
        assert answer.ended

    async def test_a_stream_has_as_many_pieces_as_it_likes(self, nursery: trio.Nursery) -> None:
        """Nothing between backend and client counts pieces."""
        backend = a_backend()
        for number in range(200):
            backend.say(str(number))

        answer = await fetch(open_house(nursery, backend).app, "POST", CHAT, json=STREAM)

        assert sse(*map(str, range(200))) == answer.content

    async def test_an_answer_in_parts_has_its_length(self, nursery: trio.Nursery) -> None:
        """A whole answer that comes in parts announces the length that its backend told."""
        backend = a_backend().say('{"text":').say('"hello"}')

        answer = await fetch(open_house(nursery, backend).app, "POST", CHAT, json=WHOLE)

        assert ("16", b'{"text":"hello"}') == (answer.headers["content-length"], answer.content)

    async def test_an_empty_answer_is_an_answer(self, nursery: trio.Nursery) -> None:
        """A backend may have nothing to say."""
        answer = await fetch(open_house(nursery, a_backend()).app, "POST", CHAT, json=STREAM)

        assert (200, b"", True) == (answer.status, answer.content, answer.ended)


class Tidying(ScriptedBackend):
    """Has something to put away after its last byte."""

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """Play the script, and take a second longer."""
        served = await super().exchange(errand, sink)
        await trio.sleep(1.0)
        return served


@pytest.mark.parametrize("asked", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_who_has_its_answer_has_not_left(
    nursery: trio.Nursery, autojump_clock: MockClock, asked: object
) -> None:
    """A request that ends with its answer is booked as served, though its backend tidies up."""
    house = open_house(nursery, Tidying(spec("npu")).say("hello"))

    answer = await fetch(house.app, "POST", CHAT, json=asked)
    answered_at = trio.current_time()
    await trio.sleep(2.0)

    assert (True, 0.0) == (answer.ended, answered_at)
    assert_free(house, Outcome.SERVED)


class TestErrors:
    """Those that are not, or not to the end."""

    async def test_a_body_that_is_not_understood_has_its_id(self, nursery: trio.Nursery) -> None:
        """Where there is no job yet, the answer still has the request's id."""
        house = open_house(nursery, a_backend())

        answer = await fetch(house.app, "POST", "/api/chat", body=b"{", x_request_id="mine")

        assert (400, "mine") == (answer.status, answer.headers["x-request-id"])
        assert "not valid JSON" in answer.json["error"]

    async def test_an_encoded_body_is_not_guessed_at(self, nursery: trio.Nursery) -> None:
        """As on the lane, a compressed body is 415."""
        house = open_house(nursery, a_backend())

        answer = await fetch(house.app, "POST", CHAT, body=b"\x1f\x8b", content_encoding="gzip")

        assert (415, "unsupported_media_type") == (answer.status, answer.json["error"]["code"])

    @pytest.mark.parametrize(
        ("path", "read"),
        [
            ("/api/chat", lambda error: error["code"]),
            (CHAT, lambda error: error["error"]["code"]),
            ("/v1/messages", lambda error: error["error"]["code"]),
        ],
    )
    async def test_an_unknown_model_is_told_in_the_dialect(
        self, nursery: trio.Nursery, path: str, read: Callable[[Any], str]
    ) -> None:
        """A refusal of the dispatcher's comes as the call's own SDK expects it."""
        house = open_house(nursery, a_backend())

        answer = await fetch(house.app, "POST", path, json={"model": "nobody-has-it"})

        assert (404, "model_not_found") == (answer.status, read(answer.json))

    async def test_a_failure_before_the_first_byte_tells_what_was_decided(
        self, nursery: trio.Nursery
    ) -> None:
        """An error has the routing headers too."""
        house = open_house(nursery, a_backend().refuse(500))

        answer = await fetch(house.app, "POST", CHAT, json=STREAM)
        await wait_all_tasks_blocked()

        assert (502, "backend_failed") == (answer.status, answer.json["error"]["code"])
        assert "npu" == answer.headers["x-backend-used"]
        assert_free(house, Outcome.REFUSED)

    @pytest.mark.parametrize(
        ("path", "start"),
        [(CHAT, b'data: {"error":{'), ("/api/chat", b'{"error":"')],
        ids=["sse", "ndjson"],
    )
    async def test_a_stream_that_breaks_off_says_so(
        self, nursery: trio.Nursery, path: str, start: bytes
    ) -> None:
        """The error is the stream's last piece."""
        house = open_house(nursery, a_backend().say("hel").die_mid_stream())

        answer = await fetch(house.app, "POST", path, json=STREAM)
        await wait_all_tasks_blocked()

        (_, first), (_, last) = answer.pieces
        assert b"hel" in first
        assert last.startswith(start)
        assert b"backend_failed" in last
        assert answer.ended
        assert_free(house, Outcome.BROKEN)

    async def test_a_whole_answer_that_breaks_off_is_not_finished(
        self, nursery: trio.Nursery
    ) -> None:
        """The server is made to hang up, since nothing else says that bytes are missing."""
        house = open_house(nursery, a_backend().say('{"te').die_mid_stream())
        exchange = begin(house.app, "POST", CHAT, json=WHOLE)

        with pytest.RaisesGroup(AnswerCut, flatten_subgroups=True):
            await exchange.run()
        await wait_all_tasks_blocked()

        assert (b'{"te', False) == (exchange.content, exchange.ended)
        assert_free(house, Outcome.BROKEN)

    async def test_a_deadline_ends_a_silent_backend(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The caller hears at its deadline that it has passed."""
        house = open_house(nursery, a_backend(avg_latency_s=0.1).hang())

        answer = await fetch(house.app, "POST", CHAT, json=STREAM, x_max_latency_ms="1500")

        assert (504, "deadline_exceeded", 1.5) == (
            answer.status,
            answer.json["error"]["code"],
            autojump_clock.current_time(),
        )


async def _hang_up(exchange: Exchange, *, after_pieces: int) -> None:
    """Let a client leave once it has so much of its answer; return when the app has ended."""
    async with trio.open_nursery() as client:
        client.start_soon(exchange.run)
        await exchange.wait_for_pieces(after_pieces)
        await wait_all_tasks_blocked()
        exchange.leave.set()


class TestLeaving:
    """A client that leaves frees its backend, wherever its request is."""

    async def test_in_mid_stream(self, nursery: trio.Nursery) -> None:
        """The backend is freed at once, not at its next token."""
        backend = a_backend().say("hel").hang()
        house = open_house(nursery, backend)

        await _hang_up(begin(house.app, "POST", CHAT, json=STREAM), after_pieces=1)
        await wait_all_tasks_blocked()

        assert 1 == backend.left
        assert_free(house, Outcome.LEFT)

    async def test_before_the_first_token(self, nursery: trio.Nursery) -> None:
        """So it is during a long prefill."""
        backend = a_backend().hang()
        house = open_house(nursery, backend)

        await _hang_up(begin(house.app, "POST", CHAT, json=STREAM), after_pieces=0)
        await wait_all_tasks_blocked()

        assert 1 == backend.left
        assert_free(house, Outcome.LEFT)

    async def test_in_line(self, nursery: trio.Nursery) -> None:
        """One that waits leaves the line, and the one at work is not disturbed."""
        house = open_house(nursery, a_backend().hang())
        nursery.start_soon(begin(house.app, "POST", CHAT, json=STREAM).run)
        await wait_all_tasks_blocked()

        await _hang_up(begin(house.app, "POST", CHAT, json=STREAM), after_pieces=0)

        station = house.station()
        assert (1, 0) == (station.in_flight, len(station.line))
        assert [Outcome.LEFT] == [fact.outcome for fact in house.facts]

    async def test_while_the_head_is_sent(self, nursery: trio.Nursery) -> None:
        """So it is when the client leaves before it has taken so much as the head."""
        backend = a_backend().say("hel").say("lo")
        house = open_house(nursery, backend)
        exchange = begin(house.app, "POST", CHAT, json=STREAM, is_reading=False)

        await _hang_up(exchange, after_pieces=0)
        await wait_all_tasks_blocked()

        assert (0, 1) == (exchange.status, backend.left)
        assert_free(house, Outcome.LEFT)

    async def test_by_the_server_that_cancels_the_app(self, nursery: trio.Nursery) -> None:
        """A server may cancel the app instead of telling it."""
        backend = a_backend().say("hel").hang()
        house = open_house(nursery, backend)
        exchange = begin(house.app, "POST", CHAT, json=STREAM)

        async with trio.open_nursery() as server:
            server.start_soon(exchange.run)
            await exchange.wait_for_pieces(1)
            server.cancel_scope.cancel()
        await wait_all_tasks_blocked()

        assert 1 == backend.left
        assert_free(house, Outcome.LEFT)


async def test_a_slow_reader_slows_its_backend(nursery: trio.Nursery) -> None:
    """Nothing is piled up for a client that does not read."""
    said = 200
    backend = a_backend()
    for number in range(said):
        backend.say(str(number))
    house = open_house(nursery, backend)
    exchange = begin(house.app, "POST", CHAT, json=STREAM, is_reading=False)

    nursery.start_soon(exchange.run)
    await wait_all_tasks_blocked()

    assert 1 == house.station().in_flight
    exchange.reading.set()
    await exchange.wait_for_pieces(said)
