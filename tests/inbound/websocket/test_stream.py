"""What a client of /v1/stream/ws is promised; it is trio-websocket's, over a real socket."""

import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from ollama_proxy.inbound.websocket.stream import RUNNING_MAX
from tests.fakes.ollama import Behaviour, Fake, Script
from tests.routers import MODEL, Owner, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")

SLOW = Script(tokens=1000, interval_s=0.01)


@attrs.define
class Ear:
    """A client that speaks in values."""

    socket: WebSocketConnection
    owner: Owner
    fake: Fake

    async def say(self, **message: Any) -> None:
        """Send a message."""
        await self.socket.send_message(json.dumps(message))

    async def ask(self, request_id: str, **message: Any) -> None:
        """Ask for a text."""
        await self.say(request_id=request_id, **({"model": MODEL, "prompt": "hi"} | message))

    async def hear(self) -> dict[str, Any]:
        """The next frame."""
        frame: dict[str, Any] = json.loads(await self.socket.get_message())
        return frame

    async def hear_all(self, request_id: str) -> list[dict[str, Any]]:
        """The frames of one request, to its last; others are an error."""
        frames = [await self.hear()]
        while not frames[-1]["done"]:
            frames.append(await self.hear())
        assert {request_id} == {frame["request_id"] for frame in frames}
        return frames


@asynccontextmanager
async def ear(
    script: Script | None = None,
    *,
    path: str = "/v1/stream/ws",
    slots: int = 2,
    as_host: str = "",
    **extra: Any,
) -> AsyncIterator[Ear]:
    """A socket to a router with the NPU behind it."""
    async with fakes("npu", script=script) as fleet:
        made = attrs.evolve(backend("npu", fleet["npu"].url), slots=slots)
        async with running(configured(made)) as owner:
            host, _, port = owner.url.removeprefix("http://").partition(":")
            # The library leaves the connection open where the other end closes it.
            async with (
                await trio.open_tcp_stream(host, int(port)) as stream,
                trio.open_nursery() as nursery,
            ):
                socket = await wrap_client_stream(
                    nursery, stream, as_host or f"{host}:{port}", path, **extra
                )
                yield Ear(socket, owner, fleet["npu"])
                await socket.aclose()
            if not owner.ended.is_set():
                async with owner.client() as client:
                    await idle(client)


async def test_tokens_come_one_by_one_and_then_the_end() -> None:
    """The first tells who answers and how long it took, the last how much there was."""
    async with ear(Script(tokens=3)) as client:
        await client.ask("a")
        *tokens, end = await client.hear_all("a")

    assert ["ollama-npu", "only-candidate"] == [tokens[0]["backend"], tokens[0]["routing_reason"]]
    assert tokens[0]["ttft_ms"] > 0
    assert [{"request_id", "token", "done"}] * 2 == [set(frame) for frame in tokens[1:]]
    assert ("", True, "stop", 3) == (
        end["token"],
        end["done"],
        end["finish_reason"],
        end["token_count"],
    )
    assert end["total_time_ms"] >= end["ttft_ms"] > 0
    assert {"backend", "tokens_per_second", "energy_j"} <= end.keys()


async def test_a_whole_answer_is_one_frame() -> None:
    """Where no stream is wanted."""
    async with ear(Script(tokens=3)) as client:
        await client.ask("a", stream=False)
        (frame,) = await client.hear_all("a")

    assert frame["token"]
    assert frame["finish_reason"] == "stop"


async def test_requests_are_interleaved() -> None:
    """Two slots work at once on one socket, each under its own id."""
    async with ear(Script(tokens=5, interval_s=0.01)) as client:
        await client.ask("a")
        await client.ask("b")
        order: list[str] = []
        open_ids = {"a", "b"}
        while open_ids:
            frame = await client.hear()
            order.append(frame["request_id"])
            if frame["done"]:
                open_ids.discard(frame["request_id"])

    assert order not in (sorted(order), sorted(order, reverse=True))


async def test_a_cancel_is_acknowledged_and_nothing_follows() -> None:
    """Barge-in: the slot is free for what is asked next, on the same socket."""
    async with ear(SLOW, slots=1) as client:
        await client.ask("a")
        await client.hear()
        await client.say(type="cancel", request_id="a")
        while not (frame := await client.hear())["done"]:
            assert "a" == frame["request_id"]
        await client.ask("b")
        after = await client.hear()
        await client.say(type="cancel", request_id="b")
        while not (last := await client.hear())["done"]:
            assert "b" == last["request_id"]

    assert {"request_id": "a", "done": True, "finish_reason": "cancelled"} == frame
    assert "b" == after["request_id"]


async def test_one_that_waits_in_line_can_be_cancelled() -> None:
    """It never comes to its backend."""
    async with ear(SLOW, slots=1) as client:
        await client.ask("a")
        await client.hear()
        await client.ask("b")
        await client.say(type="cancel", request_id="b")
        while (frame := await client.hear())["request_id"] != "b":
            continue

    assert frame["finish_reason"] == "cancelled"


@pytest.mark.parametrize(
    ("message", "named", "code"),
    [
        ("{", None, "invalid_request"),
        ("[]", None, "invalid_request"),
        ('{"request_id":"a","model":3}', "a", "invalid_request"),
        ('{"request_id":"a"}', "a", "invalid_request"),
        ('{"request_id":"a","model":"nothing:1b","prompt":"p"}', "a", "model_not_found"),
        ('{"request_id":"a","model":"fake:latest","priority":"soon"}', "a", "invalid_request"),
        ('{"request_id":"a","model":"fake:latest","max_latency_ms":0}', "a", "invalid_request"),
        ('{"request_id":"a","model":"fake:latest","target":"tpu"}', "a", "unknown_backend"),
        (
            r'{"request_id":"a\r\nb: c","model":"fake:latest","prompt":"p"}',
            "a\r\nb: c",
            "invalid_request",
        ),
        ('{"request_id":"a","prompt":"\\ud800"}', "a", "invalid_request"),
        ('{"prompt":"\\ud800","request_id":"a"}', "a", "invalid_request"),
        ('{"request_id":"\\ud800"}', None, "invalid_request"),
        ('{"request_id":7,"prompt":"\\ud800"}', None, "invalid_request"),
        ('["\\ud800"]', None, "invalid_request"),
        ('{"type":"dance","request_id":"a"}', "a", "invalid_request"),
        ('{"type":"cancel","request_id":"a"}', "a", "not_found"),
        ('{"request_id":"a","messages":' + "[" * 5000 + "]" * 5000 + "}", None, "invalid_request"),
        ('{"request_id":"a","model":"fake:latest","max_power_watts":0.5}', "a", "no_backend"),
        ('{"request_id":"a","model":"fake:latest","max_latency_ms":1}', "a", "deadline_unmeetable"),
    ],
)
async def test_what_cannot_be_done_is_an_error_and_the_socket_stays(
    message: str, named: str | None, code: str
) -> None:
    """With whose it is, where that can be told; the next request is served."""
    async with ear(Script(tokens=2)) as client:
        await client.socket.send_message(message)
        frame = await client.hear()
        await client.ask("next")
        await client.hear_all("next")

    assert (named, True, code) == (frame["request_id"], frame["done"], frame["error"]["code"])
    assert frame["error"]["message"]


async def test_an_id_is_no_way_into_the_backend_s_headers() -> None:
    """One that is no token, or too long, goes to no backend, and is not said again whole."""
    async with ear(Script(tokens=2)) as client:
        for bad in ("a\r\nauthorization: Bearer evil", "x" * 100_000, "\u00fc", "a b"):
            await client.ask(bad)
            frame = await client.hear()
            assert "invalid_request" == frame["error"]["code"]
            assert len(frame["request_id"]) <= 200
        await client.ask("good")
        await client.hear_all("good")


async def test_an_id_that_is_running_is_taken() -> None:
    """And free again when its request is over."""
    async with ear(Script(tokens=2, first_token_s=0.2)) as client:
        await client.ask("a")
        await client.ask("a")
        refused = await client.hear()
        await client.hear_all("a")
        await client.ask("a")
        await client.hear_all("a")

    assert "running already" in refused["error"]["message"]


async def test_without_an_id_one_is_made_up() -> None:
    """It is in every frame."""
    async with ear(Script(tokens=2)) as client:
        await client.say(model=MODEL, prompt="hi")
        first = await client.hear()
        await client.hear_all(first["request_id"])

    assert first["request_id"]


async def test_a_backend_that_fails_before_its_answer_is_told() -> None:
    """There is no other: an error frame, and the socket stays."""
    script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD)
    async with ear(script) as client:
        await client.ask("a")
        (frame,) = await client.hear_all("a")

    assert "backend_failed" == frame["error"]["code"]


async def test_an_answer_that_breaks_off_ends_with_an_error() -> None:
    """After the tokens that there were."""
    async with ear(Script(behaviour=Behaviour.DIE_MID_STREAM, tokens=5, after_tokens=2)) as client:
        await client.ask("a")
        *tokens, end = await client.hear_all("a")

    assert tokens
    assert "backend_failed" == end["error"]["code"]


async def test_a_thousand_requests_are_served_or_refused_each() -> None:
    """At once on one socket: every one of them ends, and the socket stays."""
    async with ear(Script(tokens=1)) as client:
        ids = {str(number) for number in range(1000)}

        async def ask_all() -> None:
            for request_id in sorted(ids):
                await client.ask(request_id)

        open_ids, codes = set(ids), set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_all)
            while open_ids:
                frame = await client.hear()
                if frame["done"]:
                    open_ids.discard(frame["request_id"])
                    codes.add(frame.get("error", {}).get("code", "served"))
        await client.ask("next")
        await client.hear_all("next")

    assert {"served"} <= codes <= {"served", "queue_full"}
    assert RUNNING_MAX < len(ids)


@pytest.mark.parametrize(
    ("message", "code"), [(b"\x00\x01", 1003), ("x" * (5 << 20), 1009)], ids=["bytes", "too long"]
)
async def test_what_is_not_spoken_here_closes_the_socket(message: str | bytes, code: int) -> None:
    """With the code that says why."""
    async with ear() as client:
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send_message(message)
        with pytest.raises(ConnectionClosed) as caught:
            await client.socket.get_message()

    assert code == caught.value.reason.code  # type: ignore[union-attr]  # it was closed with one


async def test_a_client_that_leaves_frees_its_backend() -> None:
    """All that ran for it, and what waited, too."""
    async with ear(SLOW) as client:
        for request_id in "abcd":
            await client.ask(request_id)
        await client.hear()
        await client.socket.aclose()
        async with client.owner.client() as http:
            await idle(http)
            listed = (await http.get("/backends")).json()

    assert [0] == [sum(each["queued"].values()) for each in listed]


@pytest.mark.parametrize(
    "how",
    [{"extra_headers": [("origin", "https://evil.example")]}, {"as_host": "evil.example"}],
    ids=["origin", "host"],
)
async def test_a_page_of_another_origin_is_not_let_in(how: dict[str, Any]) -> None:
    """It is told in HTTP, before there is a socket."""
    with pytest.raises((ConnectionRejected, BaseExceptionGroup)) as caught:
        async with ear(**how):
            raise AssertionError("it was let in")

    rejected = caught.value
    while isinstance(rejected, BaseExceptionGroup):
        rejected = rejected.exceptions[0]
    assert isinstance(rejected, ConnectionRejected)
    assert 403 == rejected.status_code


async def test_a_plain_get_is_told_what_is_spoken_there() -> None:
    """In HTTP, as JSON."""
    async with fakes("npu") as fleet:  # noqa: SIM117 - the router ends before its backend
        async with running(configured(backend("npu", fleet["npu"].url))) as owner:
            async with owner.client() as client:
                answer = await client.get("/v1/stream/ws")

    assert 400 == answer.status_code
    assert "WebSocket" in answer.json()["error"]["message"]


async def test_a_drain_says_goodbye_when_nothing_is_owed() -> None:
    """The answer in flight is finished first; the code is that of a server that goes."""
    async with ear(Script(tokens=5, interval_s=0.02)) as client:
        await client.ask("a")
        await client.hear()
        client.owner.signal(signal.SIGTERM)
        while not (await client.hear())["done"]:
            continue
        with pytest.raises(ConnectionClosed) as caught:
            await client.socket.get_message()
        await client.owner.ended.wait()

    assert 1001 == caught.value.reason.code  # type: ignore[union-attr]  # it was closed with one


async def test_the_router_closes_the_connection_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have said goodbye; a browser waits for this before its page hears of it."""
    monkeypatch.setattr("ollama_proxy.inbound.websocket.socket.FAREWELL_S", float("inf"))
    async with (
        fakes("npu") as fleet,
        running(configured(backend("npu", fleet["npu"].url))) as owner,
    ):
        host, _, port = owner.url.removeprefix("http://").partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(
                b"GET /v1/stream/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            agreed = bytes(await stream.receive_some())
            await stream.send_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8")  # 1000, masked by zeros
            heard = b"".join([bytes(data) async for data in stream])

    assert agreed.startswith(b"HTTP/1.1 101 ")
    assert b"\x88\x02\x03\xe8" == heard


async def test_pings_are_answered() -> None:
    """By the socket itself."""
    async with ear() as client:
        with trio.fail_after(5):
            await client.socket.ping(b"are you there")


async def test_a_slow_reader_slows_its_own_backend_alone() -> None:
    """Another client is served meanwhile, and nothing of the slow one's answer is lost."""
    script = Script(tokens=400, token_bytes=8192)
    async with ear(script) as client:
        await client.ask("slow")
        async with client.owner.client() as http:
            answer = await http.post(
                "/api/generate", json={"model": MODEL, "prompt": "hi", "stream": False}
            )
        frames = await client.hear_all("slow")

    assert isinstance(answer, httpx.Response)
    assert 200 == answer.status_code
    assert 400 == len(frames) - 1
