"""Who is turned away, at whichever door: one line of the log and one count of the metrics for each."""

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from ollama_proxy.config import Auth, RateLimit, Wyoming
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.policy.access import Key, Permission, digest_of
from tests.inbound.grpc.peer import Client, Heard
from tests.inbound.wyoming.test_door import Voice, transcript
from tests.metrics.scrapes import read
from tests.routers import CHAT, MODEL, Owner, ask, backend, configured, fakes, running

ALL = Key(digest=digest_of(b"owner"), permissions=frozenset(Permission), name="owner-name")
BEARER = (b"authorization", b"Bearer owner")
SAID = pb.GenerateRequest(prompt="hi", model=MODEL).SerializeToString()
pytestmark = pytest.mark.usefixtures("in_process")


@attrs.frozen
class House:
    """A router that asks for keys, and its books."""

    owner: Owner
    caplog: pytest.LogCaptureFixture

    @property
    def lines(self) -> Counter[tuple[str, str]]:
        """Door and code of everybody who has a line in the log."""
        told = [r.__dict__["facts"] for r in self.caplog.records if "facts" in r.__dict__]
        refused = [fact for fact in told if str(fact["outcome"]).startswith("refused:")]
        return Counter((f["door"], f["outcome"].partition(":")[2]) for f in refused)

    async def counts(self) -> Counter[tuple[str, str]]:
        """The same of the metrics."""
        async with self.owner.client("owner") as client:
            page = (await client.get("/metrics")).content
        return Counter({(d, c): int(n) for (c, d), n in read(page).by("turned_away_total").items()})

    async def grpc(self, *headers: tuple[bytes, bytes], message: bytes = SAID, **how: Any) -> Heard:
        """One call."""
        async with (
            await trio.open_tcp_stream("127.0.0.1", self.owner.grpc_port) as stream,
            Client(stream) as client,
        ):
            return await client.call(message, headers=headers, **how)

    @asynccontextmanager
    async def socket(
        self, path: str, *headers: tuple[bytes, bytes]
    ) -> AsyncIterator[WebSocketConnection]:
        """A WebSocket."""
        host, _, port = self.owner.url.removeprefix("http://").partition(":")
        async with (
            await trio.open_tcp_stream(host, int(port)) as stream,
            trio.open_nursery() as nursery,
        ):
            socket = await wrap_client_stream(
                nursery, stream, f"{host}:{port}", path, extra_headers=list(headers)
            )
            yield socket
            await socket.aclose()

    async def no_socket(self, path: str, *headers: tuple[bytes, bytes]) -> None:
        """Shake hands in vain."""
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
            async with self.socket(path, *headers):
                raise AssertionError("it was let in")


@asynccontextmanager
async def house(caplog: pytest.LogCaptureFixture, **changes: Any) -> AsyncIterator[House]:
    """All doors of a router with the NPU behind it."""
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(fakes("npu"))
        made = configured(backend("npu", fleet["npu"].url))
        given: dict[str, Any] = {
            "grpc": True,
            "grpc_port": 0,
            "auth": Auth(api_keys=("file:keys",)),
        }
        made = attrs.evolve(
            made,
            server=attrs.evolve(made.server, **given | changes),
            wyoming=Wyoming(enabled=True, port=0, model=MODEL),
            observability=attrs.evolve(made.observability, access_log=True),
        )
        yield House(await stack.enter_async_context(running(made, [ALL])), caplog)


async def test_over_http(caplog: pytest.LogCaptureFixture) -> None:
    """On the lane, in the app, and where there is no telling what was asked."""
    async with house(caplog) as it, it.owner.client("owner") as client:
        async with it.owner.client() as nobody:
            await nobody.post(CHAT, json=ask())
            await nobody.get("/metrics")
        await client.post(CHAT, content=b"{")
        await client.post("/v1/route", content=b"{")
        await client.post("/efficiency", json={"mode": "loud"})
        await client.get("/nowhere")
        await client.put("/metrics")
        host, _, port = it.owner.url.removeprefix("http://").partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            await stream.receive_some()
        counts = await it.counts()

    assert (
        {
            ("http", "invalid_api_key"): 2,
            ("http", "invalid_request"): 4,
            ("http", "not_found"): 1,
            ("http", "method_not_allowed"): 1,
        }
        == counts
        == it.lines
    )


async def test_on_websockets(caplog: pytest.LogCaptureFixture) -> None:
    """Handshakes, messages, and what ends a socket."""
    async with house(caplog) as it:
        await it.no_socket("/v1/stream/ws")
        await it.no_socket("/v1/stream/ws", BEARER, (b"origin", b"http://evil.example"))
        async with it.socket("/v1/stream/ws", BEARER) as socket:
            for message in ("{", '{"type":"what"}', '{"request_id":"?!"}', '{"max_latency_ms":-1}'):
                await socket.send_message(message)
                await socket.get_message()
            await socket.send_message(b"bytes")
        counts = await it.counts()

    assert (
        {
            ("websocket", "invalid_api_key"): 1,
            ("websocket", "forbidden"): 1,
            ("websocket", "invalid_request"): 4,
            ("websocket", "unsupported_media_type"): 1,
        }
        == counts
        == it.lines
    )


async def test_on_realtime(caplog: pytest.LogCaptureFixture) -> None:
    """The same; the door has its own name."""
    async with house(caplog) as it:
        await it.no_socket("/v1/realtime")
        async with it.socket("/v1/realtime", BEARER) as socket:
            await socket.get_message()
            for message in ("{", '{"type":"what"}', '{"type":"response.create"}'):
                await socket.send_message(message)
                await socket.get_message()
        counts = await it.counts()

    assert {("realtime", "invalid_api_key"): 1, ("realtime", "invalid_request"): 3} == counts
    assert counts == it.lines


async def test_over_grpc(caplog: pytest.LogCaptureFixture) -> None:
    """By key, by origin; what is no call, no message, no method; and what no sender could be read of."""
    async with house(caplog) as it:
        await it.grpc()
        await it.grpc(BEARER, (b"origin", b"http://evil.example"))
        await it.grpc(BEARER, (b"x-request-id", b"?!"))
        await it.grpc(BEARER, (b"grpc-timeout", b"soon"))
        await it.grpc(BEARER, message=b"\xff")
        await it.grpc(BEARER, path="/no.Service/None")
        await it.grpc(BEARER, path="/ollama_proxy.OllamaProxy/SetEfficiency")
        await it.grpc(BEARER, content_type=b"text/html")
        await it.grpc(BEARER, message=b"")
        well = await it.grpc(BEARER)
        counts = await it.counts()

    assert 0 == well.status
    assert (
        {
            ("grpc", "invalid_api_key"): 1,
            ("grpc", "forbidden"): 1,
            ("grpc", "invalid_header"): 1,
            ("grpc", "invalid_request"): 4,
            ("grpc", "not_implemented"): 1,
            ("grpc", "unsupported_media_type"): 1,
        }
        == counts
        == it.lines
    )


async def test_who_comes_too_often(caplog: pytest.LogCaptureFixture) -> None:
    """Over gRPC, too."""
    async with house(caplog, rate_limit=RateLimit(rate=0.01, burst=2)) as it:
        for _ in range(3):
            await it.grpc(BEARER, message=b"", path="/ollama_proxy.OllamaProxy/ListModels")
        lines = it.lines

    assert {("grpc", "rate_limit_exceeded"): 1} == lines


async def test_a_refused_job_is_not_counted_twice(caplog: pytest.LogCaptureFixture) -> None:
    """What became a job is in the other book alone: by every door."""
    none = pb.GenerateRequest(prompt="hi", model="none").SerializeToString()
    async with house(caplog) as it, it.owner.client("owner") as client:
        await client.post(CHAT, json=ask(model="none"))
        heard = await it.grpc(BEARER, message=none)
        counts = await it.counts()

    assert 5 == heard.status
    assert {} == counts
    assert {("http", "model_not_found"): 1, ("grpc", "model_not_found"): 1} == it.lines


async def test_a_voice(caplog: pytest.LogCaptureFixture) -> None:
    """Transcripts that are none, or say nothing; and lines that are no events."""
    async with house(caplog) as it:
        where = re.search(r"voice assistants are heard on 127\.0\.0\.1:(\d+)", caplog.text)
        assert where
        async with await trio.open_tcp_stream("127.0.0.1", int(where[1])) as stream:
            voice = Voice(stream)
            await voice.say(transcript(" "))
            await voice.hear_answer()
            await voice.say(b'{"type":"transcript","data":{"text":1}}\n')
            await voice.hear()
            await voice.say(b"{\n")
            await voice.hear()
        counts = await it.counts()

    assert {("wyoming", "invalid_request"): 3} == counts == it.lines
