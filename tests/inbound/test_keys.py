"""Keys and rates at every door of a running router: one mechanism, each door's own words for it."""

import base64
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from ollama_proxy.config import Auth, Config, Loaded, RateLimit, Server
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.ledger import Change
from ollama_proxy.engine.news import News
from ollama_proxy.inbound.grpc.offer import all_methods
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.pb import status_pb2
from ollama_proxy.inbound.http.app import ENDPOINTS
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.observe import LINES_AT_ONCE, ChangeLog
from ollama_proxy.policy.access import NEEDS, OPEN, Key, Permission, digest_of
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.rooms import CannotServe
from ollama_proxy.serve import Plan, serve
from tests.engine.floor import open_floor
from tests.fakes.ollama import Script
from tests.inbound.ends import scripted
from tests.inbound.grpc.peer import Client as GrpcClient
from tests.inbound.grpc.peer import Heard
from tests.routers import CHAT, MODEL, Owner, ask, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")


def made(secret: str, *permissions: str) -> Key:
    """A key that its owner has let in."""
    given = frozenset(map(Permission, permissions))
    return Key(digest=digest_of(secret.encode()), permissions=given, name=f"{secret}-name")


READ, INFER, ADMIN = made("reader", "read"), made("asker", "infer"), made("owner", *Permission)
KEYS = (READ, INFER, ADMIN)
ASKS = Auth(api_keys=("file:keys",))
SERVICE = "/ollama_proxy.OllamaProxy"
REQUEST = pb.GenerateRequest(prompt="hi", model=MODEL).SerializeToString()
UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 16, 7, 8, 12
POLICY_VIOLATION = 1008
DETAILS = "grpc-status-details-bin"


def guarded(config: Config, **changes: Any) -> Config:
    """The same with a gRPC door, and with keys."""
    given: dict[str, Any] = {"grpc": True, "grpc_port": 0, "auth": ASKS} | changes
    return attrs.evolve(config, server=attrs.evolve(config.server, **given))


@asynccontextmanager
async def house(script: Script | None = None, **changes: Any) -> AsyncIterator[Owner]:
    """A router that asks for keys, with the NPU behind it."""
    async with fakes("npu", script=script) as fleet:
        config = guarded(configured(backend("npu", fleet["npu"].url, slots=4)), **changes)
        keys = KEYS if config.server.auth.api_keys else ()
        async with running(config, keys) as owner:
            yield owner
            if not owner.ended.is_set() and not config.server.rate_limit.rate:
                async with owner.client("owner" if keys else "") as client:
                    await idle(client)


@asynccontextmanager
async def socket_of(
    url: str, path: str = "/v1/stream/ws", **how: Any
) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket; ConnectionRejected: there is none."""
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        async with (
            await trio.open_tcp_stream(host, int(port)) as stream,
            trio.open_nursery() as nursery,
        ):
            socket = await wrap_client_stream(nursery, stream, f"{host}:{port}", path, **how)
            yield socket
            await socket.aclose()
    except BaseExceptionGroup as group:
        rejected, others = group.split(ConnectionRejected)
        if rejected is None or others is not None:
            raise
        leaf: BaseException = rejected
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        raise leaf from None


async def rejection(owner: Owner, path: str = "/v1/stream/ws", **how: Any) -> ConnectionRejected:
    """Why there is no WebSocket."""
    with pytest.raises(ConnectionRejected) as caught:
        async with socket_of(owner.url, path, **how):
            raise AssertionError("it was let in")
    return caught.value


async def grpc_call(owner: Owner, method: str, key: str = "", message: bytes = b"") -> Heard:
    """One call on a connection of its own."""
    headers = [(b"authorization", b"Bearer " + key.encode())] if key else []
    stream = await trio.open_tcp_stream("127.0.0.1", owner.grpc_port)
    async with GrpcClient(stream) as client:
        return await client.call(message, path=method, headers=headers)


# -- nothing is forgotten --------------------------------------------------------------------------


def test_every_endpoint_says_what_it_needs() -> None:
    """One that is added without a thought is closed; here it is noticed."""
    assert set() == {f"{each.method} {each.path}" for each in ENDPOINTS} - NEEDS.keys()


async def test_every_method_says_what_it_needs(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """And there is no word of one that does not exist."""
    floor = open_floor(nursery, autojump_clock, scripted())
    climate = Climate(floor.dispatcher, ClimateSettings(), News(), minute_of_day=lambda: 0)
    methods = {
        each.path
        for each in all_methods(
            floor.dispatcher, climate, News(), gate=Gate(bound_host="127.0.0.1")
        )
    }

    assert methods == {what for what in NEEDS if what.startswith("/")}


async def test_without_a_key_nothing_answers_but_health_and_the_page() -> None:
    """Of everything there is, and of what is not; a wrong key, and one in the address, are none."""
    paths = [(each.method, each.path.replace("{", "").replace("}", "")) for each in ENDPOINTS]
    unknown = [("GET", f"/{'x/' * n}nowhere") for n in range(5)] + [("PUT", "/v1/models")]
    strange = [("OPTIONS", "/metrics"), ("GET", "/./metrics"), ("GET", "/%6detrics?key=owner")]
    async with house() as owner, owner.client() as client:
        answers = {
            (method, path): await client.request(method, path)
            for method, path in [*paths, *unknown, *strange]
            if path not in {"/v1/stream/ws", "/v1/realtime"}
        }

    opened = {path for (_, path), answer in answers.items() if answer.status_code != 401}
    free = {what.partition(" ")[2] for what, need in NEEDS.items() if need == OPEN}
    assert {path.replace("{", "").replace("}", "") for path in free} == opened
    refused = [answer for answer in answers.values() if answer.status_code == 401]
    assert {'Bearer realm="ollama-proxy"'} == {a.headers["www-authenticate"] for a in refused}
    assert not any(MODEL in a.text or "npu" in a.text for a in answers.values())


async def test_every_method_of_grpc_asks_for_a_key() -> None:
    """Health and reflection, too; and one that does not exist says so only to who has one."""
    methods = [what for what in NEEDS if what.startswith("/")]
    async with house() as owner:
        heard = {each: await grpc_call(owner, each) for each in [*methods, "/no.Service/None"]}
        known = await grpc_call(owner, "/no.Service/None", "reader")

    assert {UNAUTHENTICATED} == {each.status for each in heard.values()}
    assert UNIMPLEMENTED == known.status


# -- HTTP ------------------------------------------------------------------------------------------


def words_of(dialect: Dialect, error: Any) -> str:
    """The code in an error's body, which has the dialect's form."""
    if dialect is Dialect.OLLAMA:
        assert isinstance(error["error"], str)
        return str(error["code"])
    assert (dialect is Dialect.ANTHROPIC) == (error.get("type") == "error")
    return str(error["error"]["code"])


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "general"])
async def test_inference_is_refused_in_its_dialect(lane: bool) -> None:
    """401 without a key, 403 with one that is for something else, on both ways through."""
    found = {}
    async with house(lane=lane) as owner, owner.client() as client:
        for call in Call:
            body = ask(prompt="hi", input="hi", max_tokens=1)
            for key in ("", "wrong", "reader"):
                headers = {"authorization": f"Bearer {key}"} if key else {}
                answer = await client.post(call.path, json=body, headers=headers)
                code = words_of(call.dialect, answer.json())
                found[call.path, key] = answer.status_code, code, "x-request-id" in answer.headers

    wanted = {"reader": (403, "permission_denied", True)}
    assert {
        (call.path, key): wanted.get(key, (401, "invalid_api_key", True))
        for call in Call
        for key in ("", "wrong", "reader")
    } == found


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "general"])
@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_a_key_opens(lane: bool, name: str) -> None:
    """And goes no further: the backend never sees it."""
    value = "asker" if name == "x-api-key" else "Bearer asker"
    async with fakes("npu") as fleet:
        config = guarded(configured(backend("npu", fleet["npu"].url)), lane=lane)
        async with running(config, KEYS) as owner, owner.client() as client:
            answer = await client.post(CHAT, json=ask(), headers={name: value})
        seen = [dict(record.headers) for record in fleet["npu"].log]

    assert 200 == answer.status_code
    assert "asker" not in str(seen)


async def test_health_tells_a_stranger_a_word() -> None:
    """And who may read all of it."""
    async with house() as owner, owner.client() as stranger, owner.client("reader") as reader:
        brief = [(await stranger.get(path)).json() for path in ("/health", "/readyz")]
        text = (await stranger.get("/health", headers={"accept": "text/plain"})).text
        full = (await reader.get("/health")).json()

    more = "for an API key that may read"
    assert [{"status": "ok", "more": more}, {"ready": True, "draining": False}] == brief
    assert "Status: healthy\n" == text
    assert {"ollama-npu": "healthy"} == full["backends"]


@pytest.mark.parametrize("path", [CHAT, "/efficiency", "/nowhere"])
async def test_who_is_refused_need_not_send_the_rest(path: str) -> None:
    """The answer comes before the body has, and says that the connection ends with it."""
    async with house() as owner:
        host, _, port = owner.url.removeprefix("http://").partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 9\r\n\r\n"
            await stream.send_all(head.encode())
            answer = b"".join([bytes(piece) async for piece in stream])

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nconnection: close\r\n" in answer


async def test_the_mode_needs_more_than_reading() -> None:
    """Who may not set it does not."""
    async with house() as owner, owner.client("reader") as reader, owner.client("owner") as admin:
        refused = await reader.post("/efficiency", json={"mode": "quiet"})
        before = (await reader.get("/efficiency")).json()["mode"]
        done = await admin.post("/efficiency", json={"mode": "quiet"})

    assert (403, "balanced", 200) == (refused.status_code, before, done.status_code)


async def test_who_comes_too_often_is_told_when_to_come_again() -> None:
    """429 with Retry-After, in the dialect, on both ways; and it is counted."""
    often = RateLimit(rate=0.01, burst=2)
    async with house(rate_limit=often) as owner, owner.client("asker") as client:
        answers = [await client.post(path, json=ask()) for path in (CHAT, "/api/chat", CHAT)]
        listing = await client.get("/api/tags")
        async with owner.client("reader") as reader:
            page = (await reader.get("/metrics")).text

    assert [200, 200, 429, 429] == [each.status_code for each in (*answers, listing)]
    assert 90 <= int(answers[2].headers["retry-after"]) <= 100
    assert "rate_limit_exceeded" == answers[2].json()["error"]["code"]
    assert isinstance(listing.json()["error"], str)
    assert 'ollama_proxy_turned_away_total{code="rate_limit_exceeded",door="http"} 2.0' in page


async def test_an_address_has_the_rate_where_no_keys_are_asked_for() -> None:
    """Whatever it says about itself; health is free."""
    often = RateLimit(rate=0.01, burst=1)
    async with house(auth=Auth(), rate_limit=often) as owner, owner.client() as client:
        statuses = [
            (
                await client.get("/backends", headers={"x-forwarded-for": f"198.51.100.{n}"})
            ).status_code
            for n in range(3)
        ]
        health = await client.get("/health")

    assert ([200, 429, 429], 200) == (statuses, health.status_code)
    assert "backends" in health.json()


# -- WebSocket -------------------------------------------------------------------------------------

BEARER = [(b"authorization", b"Bearer asker")]


@pytest.mark.parametrize("path", ["/v1/stream/ws", "/v1/realtime?model=fake"])
async def test_a_socket_is_refused_in_http(path: str) -> None:
    """Before there is one."""
    async with house() as owner:
        without = await rejection(owner, path)
        wrong = await rejection(owner, path, subprotocols=["openai-insecure-api-key.wrong"])
        denied = await rejection(owner, path, extra_headers=[(b"x-api-key", b"reader")])
        two = await rejection(
            owner, path, extra_headers=BEARER, subprotocols=["openai-insecure-api-key.asker"]
        )

    rejections = (without, wrong, denied, two)
    assert [401, 401, 403, 401] == [each.status_code for each in rejections]
    assert b"www-authenticate" in dict(without.headers)
    assert "invalid_api_key" == json.loads(without.body or b"")["error"]["code"]


@pytest.mark.parametrize(
    "how",
    [
        {"extra_headers": BEARER},
        {"subprotocols": ["realtime", "openai-insecure-api-key.asker", "openai-beta.realtime-v1"]},
        {"subprotocols": ["openai-insecure-api-key.asker"]},
    ],
    ids=["header", "browser", "key alone"],
)
@pytest.mark.parametrize("path", ["/v1/stream/ws", "/v1/realtime?model=fake"])
async def test_a_socket_opens_with_a_key(path: str, how: dict[str, Any]) -> None:
    """In a header, or where a browser's page can say it; it is not said back."""
    async with house() as owner, socket_of(owner.url, path, **how) as socket:
        chosen = socket.subprotocol

    assert chosen in {None, "realtime"}


async def test_what_is_asked_on_a_socket_has_the_keys_rate() -> None:
    """The refusal says when to ask again, and the socket stays."""
    asked = json.dumps({"request_id": "a", "model": MODEL, "prompt": "hi", "stream": False})
    often = RateLimit(rate=0.01, burst=2)
    async with (
        house(rate_limit=often) as owner,
        socket_of(owner.url, extra_headers=BEARER) as socket,
    ):
        frames = []
        for _ in range(3):
            await socket.send_message(asked)
            frames.append(json.loads(await socket.get_message()))

    assert "error" not in frames[0]
    for frame in frames[1:]:
        assert "rate_limit_exceeded" == frame["error"]["code"]
        assert 90 < frame["error"]["retry_after_s"] <= 100


async def test_a_socket_whose_key_was_withdrawn_is_closed() -> None:
    """At what it asks next, after the keys were read again."""
    async with house() as owner, owner.client("reader") as reader:
        async with socket_of(owner.url, extra_headers=BEARER) as socket:
            owner.keys = (READ, ADMIN)
            owner.signal(signal.SIGHUP)
            async with owner.client("asker") as client:
                while (await client.get("/v1/models")).status_code != 401:  # noqa: ASYNC110 - it tells when asked
                    await trio.sleep(0.01)
            await socket.send_message('{"request_id": "a", "model": "fake", "prompt": "hi"}')
            with pytest.raises(ConnectionClosed) as caught:
                await socket.get_message()
        still = await reader.get("/backends")

    assert caught.value.reason is not None
    assert (POLICY_VIOLATION, 200) == (caught.value.reason.code, still.status_code)


async def test_who_watches_with_a_key_that_was_withdrawn_is_told_no_more() -> None:
    """On HTTP and gRPC, though they ask for nothing any more, and nothing is owed to them."""
    watched = "/ollama_proxy.OllamaProxy/WatchState"
    async with house() as owner, owner.client("owner") as admin, trio.open_nursery() as nursery:
        heard: list[Heard] = []

        async def watch() -> None:
            heard.append(await grpc_call(owner, watched, "reader"))

        async with owner.client("reader") as reader, reader.stream("GET", "/events") as events:
            lines = events.aiter_lines()
            while "event: snapshot" != await anext(lines):
                continue
            await anext(lines)  # its data, in which all modes are named
            nursery.start_soon(watch)
            owner.keys = (INFER, ADMIN)
            owner.signal(signal.SIGHUP)
            async with owner.client("reader") as again:
                while (await again.get("/thermal")).status_code != 401:  # noqa: ASYNC110 - it tells when asked
                    await trio.sleep(0.01)
            assert 200 == (await admin.post("/efficiency", json={"mode": "quiet"})).status_code
            rest = [line async for line in lines]

    assert "quiet" not in str(rest)
    assert [UNAUTHENTICATED] == [each.status for each in heard]


# -- gRPC ------------------------------------------------------------------------------------------


async def test_grpc_goes_by_the_same_keys() -> None:
    """Each end says why, for people and for machines."""
    async with house() as owner:
        heard = {
            key: await grpc_call(owner, f"{SERVICE}/Generate", key, REQUEST)
            for key in ("", "wrong", "reader", "asker")
        }
        denied = await grpc_call(owner, f"{SERVICE}/SetEfficiency", "asker")

    assert [UNAUTHENTICATED, UNAUTHENTICATED, PERMISSION_DENIED, 0] == [
        each.status for each in heard.values()
    ]
    assert PERMISSION_DENIED == denied.status
    assert "API%20key" in (heard[""].header("grpc-message") or "").replace(" ", "%20")


async def test_grpc_has_the_same_rate() -> None:
    """With the wait as metadata, and the code in the details."""
    async with house(rate_limit=RateLimit(rate=0.01, burst=1)) as owner:
        first, second = [
            await grpc_call(owner, f"{SERVICE}/Generate", "asker", REQUEST) for _ in range(2)
        ]
        over_http = await http_status(owner)

    assert (0, RESOURCE_EXHAUSTED) == (first.status, second.status)
    assert 90 <= int(second.header("retry-after") or 0) <= 100
    details = status_pb2.Status.FromString(base64.b64decode(f"{second.header(DETAILS)}=="))
    info = status_pb2.ErrorInfo.FromString(details.details[0].value)
    assert (RESOURCE_EXHAUSTED, "rate_limit_exceeded") == (details.code, info.reason)
    assert 429 == over_http


async def http_status(owner: Owner) -> int:
    """What the same key is told at another door."""
    async with owner.client("asker") as client:
        return (await client.post(CHAT, json=ask())).status_code


# -- who changes something -------------------------------------------------------------------------


async def test_who_changes_something_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    """By which door, from where, with which key, and what; refused, they change nothing."""
    caplog.set_level(logging.INFO, logger="ollama_proxy.audit")
    message = pb.SetEfficiencyRequest(mode="balanced").SerializeToString()
    async with (
        house() as owner,
        owner.client("owner") as admin,
        owner.client("reader") as reader,
    ):
        await reader.post("/efficiency", json={"mode": "quiet"})
        await admin.post("/efficiency", json={"mode": "loud"})
        await admin.post("/efficiency", json={"mode": "quiet"})
        await admin.post("/api/pull", json={"model": "some\nmodel"})
        await admin.request("DELETE", "/api/delete", json={"model": MODEL})
        await grpc_call(owner, f"{SERVICE}/SetEfficiency", "owner", message)

    told = [r.__dict__["facts"] for r in caplog.records if r.name == "ollama_proxy.audit"]
    assert [
        ("http", "mode quiet"),
        ("http", "pull some\\nmodel on ollama-npu"),
        ("http", f"delete {MODEL} on ollama-npu"),
        ("grpc", "mode balanced"),
    ] == [(fact["door"], fact["change"]) for fact in told]
    assert {("127.0.0.1", "owner-name")} == {(f["address"], f["key_name"]) for f in told}


def test_a_flood_of_changes_fills_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    """As with who is turned away: the rest is counted, and told with the next line."""
    caplog.set_level(logging.INFO, logger="ollama_proxy.audit")
    now = 100.0
    book = ChangeLog(now=lambda: now)
    change = Change(door="http", address="", key_name="", what="mode quiet")
    for _ in range(100):
        book.write(change)
    now += 1.0
    book.write(change)

    left_out = 100 - int(LINES_AT_ONCE)
    assert int(LINES_AT_ONCE) + 1 == len(caplog.records)
    assert f"({left_out} more changes were made" in caplog.records[-1].getMessage()
    assert caplog.records[0].getMessage() == "mode quiet by http from - key=-"


# -- who stays -----------------------------------------------------------------------------------


async def withdraw(owner: Owner, *left: Key) -> None:
    """Have the file read again, in which only these are left, and see it heeded."""
    owner.keys = left
    owner.signal(signal.SIGHUP)
    async with owner.client("asker") as client:
        while (await client.get("/v1/models")).status_code != 401:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.01)


async def test_who_watches_and_whose_key_was_withdrawn_is_told_no_more() -> None:
    """The stream ends; another's goes on."""
    async with (
        house() as owner,
        owner.client("reader") as gone,
        owner.client("owner") as other,
        gone.stream("GET", "/events") as ended,
        other.stream("GET", "/events") as going_on,
    ):
        await withdraw(owner, ADMIN)
        told = [piece async for piece in ended.aiter_raw()]
        await other.post("/efficiency", json={"mode": "quiet"})
        async for piece in going_on.aiter_raw():
            if b"event: change" in piece and not owner.ended.is_set():
                owner.signal(signal.SIGTERM)
        await owner.ended.wait()

    assert told[0].startswith(b"retry:")


async def test_a_grpc_stream_whose_key_was_withdrawn_ends() -> None:
    """One that only tells; and one that waits with its request cannot bring it any more."""
    reader, asker = ([(b"authorization", b"Bearer " + key)] for key in (b"reader", b"asker"))
    async with house() as owner:
        stream = await trio.open_tcp_stream("127.0.0.1", owner.grpc_port)
        async with GrpcClient(stream) as client:
            watch = client.peer.call(b"", path=f"{SERVICE}/WatchState", headers=reader)
            while not client.peer.heard[watch].messages:
                await client.listen()
            late = client.peer.open(path=f"{SERVICE}/Generate", headers=asker)
            await client.call(b"", path=f"{SERVICE}/ListModels", headers=reader)
            await withdraw(owner, ADMIN)
            ends = [(await client.ended(each)).status for each in (watch, late)]
            again = await client.call(b"", path=f"{SERVICE}/ListModels", headers=reader)

    assert [UNAUTHENTICATED] * 3 == [*ends, again.status]


async def test_an_answer_whose_key_was_withdrawn_is_finished() -> None:
    """It was begun for a good one: on every door."""
    script = Script(tokens=20, interval_s=0.02)
    headers = [(b"authorization", b"Bearer asker")]
    async with house(script=script) as owner, owner.client("asker") as client:
        stream = await trio.open_tcp_stream("127.0.0.1", owner.grpc_port)
        async with (
            GrpcClient(stream) as grpc,
            socket_of(owner.url, extra_headers=BEARER) as socket,
            client.stream("POST", CHAT, json=ask(stream=True)) as answer,
        ):
            call = grpc.peer.call(REQUEST, path=f"{SERVICE}/GenerateStream", headers=headers)
            while not grpc.peer.heard[call].messages:
                await grpc.listen()
            await socket.send_message(json.dumps({"model": MODEL, "prompt": "hi"}))
            frame = json.loads(await socket.get_message())
            await withdraw(owner, READ, ADMIN)
            while not frame["done"]:
                frame = json.loads(await socket.get_message())
            whole = b"".join([piece async for piece in answer.aiter_raw()])
            ended = await grpc.ended(call)

    assert 0 == ended.status
    assert 20 == frame["token_count"]
    assert b"[DONE]" in whole


# -- the file is read again, and the open door -----------------------------------------------------


async def test_keys_are_read_again() -> None:
    """New ones are good, old ones not, rates are the new ones, and no request was lost for it."""
    async with house() as owner, owner.client("late") as late, owner.client("asker") as asker:
        before = (await late.get("/v1/models")).status_code
        owner.keys = (made("late", *Permission), READ)
        owner.signal(signal.SIGHUP)
        while (await late.get("/v1/models")).status_code != 200:  # noqa: ASYNC110 - it tells when asked
            await trio.sleep(0.01)
        old = (await asker.get("/v1/models")).status_code
        await idle(late)
        owner.signal(signal.SIGTERM)
        await owner.ended.wait()

    assert (401, 401) == (before, old)


# Other machines could be meant by it, so it takes a key; where it leads is loopback all the same.
OPEN_HOST = "127.1"


async def test_a_new_file_does_not_open_what_is_bound(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever host it names: a file without keys is not applied, and says why."""
    async with house(host=OPEN_HOST) as owner, owner.client() as stranger:
        assert owner.config is not None
        owner.keys = ()
        owner.config = attrs.evolve(
            owner.config, server=Server(http_port=0, grpc=True, grpc_port=0)
        )
        owner.signal(signal.SIGHUP)
        while "not reloaded" not in caplog.text:  # noqa: ASYNC110 - the log tells nobody
            await trio.sleep(0.01)
        status = (await stranger.get("/backends")).status_code

    assert f"it would open {OPEN_HOST} to everybody" in caplog.text
    assert 401 == status


async def test_keys_that_were_not_read_are_no_open_door() -> None:
    """A mistake of ours does not let everybody in."""
    config = guarded(configured())
    plan = Plan(config=config, reload=lambda: Loaded(config=config), announce=print)

    with pytest.raises(CannotServe, match="none was read"):
        await serve(plan)


@pytest.mark.parametrize("header", ["", "owner"])
async def test_a_foreign_page_is_refused_before_its_key_is_looked_at(header: str) -> None:
    """It learns nothing about keys."""
    async with house() as owner, owner.client(header) as client:
        answers: list[httpx.Response] = [
            await client.post(CHAT, json=ask(), headers={"origin": "https://evil.example"}),
            await client.post(
                "/efficiency",
                content=b'{"mode":"quiet"}',
                headers={"origin": "https://evil.example", "content-type": "text/plain"},
            ),
            await client.get("/backends", headers={"host": "evil.example"}),
        ]

    assert [(403, "forbidden")] * 3 == [
        (each.status_code, each.json()["error"]["code"]) for each in answers
    ]
