"""The whole router in one process: fakes behind it, a client before it, real sockets and clock."""

import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio

from ollama_proxy.config import (
    Characteristics,
    Loaded,
    Scheduler,
    Server,
)
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.preempt import Started
from ollama_proxy.rooms import CannotServe
from ollama_proxy.serve import Plan, serve
from tests.fakes.ollama import Behaviour, Fake, Record, Script, open_fake
from tests.routers import (
    CHAT,
    FOUR,
    MODEL,
    Owner,
    ask,
    backend,
    configured,
    fakes,
    idle,
    running,
    until,
)

LONG = Script(tokens=30, interval_s=0.025)
ENDLESS = Script(tokens=100_000, interval_s=0.002)


pytestmark = pytest.mark.usefixtures("in_process")


@asynccontextmanager
async def four() -> AsyncIterator[tuple[dict[str, Fake], Owner, httpx.AsyncClient]]:
    """All four behind a router, and a client."""
    async with fakes(*FOUR) as fleet:
        made = configured(*(backend(name, fake.url) for name, fake in fleet.items()))
        async with running(made) as owner, owner.client() as client:
            yield fleet, owner, client
            await idle(client)


@asynccontextmanager
async def one(
    script: Script, *, drain_s: float = 5.0
) -> AsyncIterator[tuple[Fake, Owner, httpx.AsyncClient]]:
    """The NPU alone behind a router, and a client."""
    async with open_fake(script) as fake:
        made = configured(backend("npu", fake.url), drain_s=drain_s)
        async with running(made) as owner, owner.client() as client:
            yield fake, owner, client


def healthy(*ids: str) -> Callable[[list[dict[str, Any]]], bool]:
    """Whether these and no others are well."""
    return lambda backends: {each["id"] for each in backends if each["healthy"]} == set(ids)


async def inference(fake: Fake) -> int:
    """How many calls the fake was asked to compute."""
    return sum(record.path == CHAT for record in fake.log)


# -- ready -----------------------------------------------------------------------------------------


async def test_it_announces_itself_once_it_serves() -> None:
    """The line names the address at which the first request succeeds."""
    async with one(Script()) as (_, owner, client):
        answer = await client.post(CHAT, json=ask())
        health = (await client.get("/health")).json()

    assert [f"ready {owner.url.replace('http://', 'http=')} grpc=off dbus=off"] == owner.said
    assert (200, "ollama-npu") == (answer.status_code, answer.headers["x-backend-used"])
    assert ("ok", {"ollama-npu": "healthy"}) == (health["status"], health["backends"])


async def test_a_taken_port_is_told() -> None:
    """The router does not start, and says which address and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = configured()
        config = attrs.evolve(config, server=attrs.evolve(config.server, http_port=port))
        plan = Plan(config=config, reload=lambda: Loaded(config=config), announce=print)
        with pytest.raises(CannotServe) as caught:
            await serve(plan)

    assert f"127.0.0.1:{port}: Address already in use" in str(caught.value)
    assert "--http-port" in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", "127.0.0.1.example.invalid"])
async def test_a_host_that_is_none_is_told(host: str) -> None:
    """A name that cannot be looked up is a sentence, too."""
    config = attrs.evolve(configured(), server=Server(host=host, http_port=0, grpc=False))
    plan = Plan(config=config, reload=lambda: Loaded(config=config), announce=print)
    with pytest.raises(CannotServe, match="cannot listen on"):
        await serve(plan)


# -- choosing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "chosen", "reason"),
    [
        ({"x-latency-critical": "true"}, "ollama-nvidia", "latency-critical"),
        ({"x-power-efficient": "true"}, "ollama-npu", "power-efficient"),
        ({"x-target-backend": "ollama-cpu"}, "ollama-cpu", "explicit-target"),
        ({"x-target-backend": "igpu"}, "ollama-igpu", "explicit-target"),
        ({"x-max-power-watts": "5"}, "ollama-npu", "power-budget"),
        ({"x-max-latency-ms": "390"}, "ollama-nvidia", "deadline"),
        (
            {"x-max-power-watts": "15", "x-latency-critical": "true"},
            "ollama-igpu",
            "latency-critical",
        ),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_wishes_choose(
    wishes: dict[str, str], chosen: str, reason: str, stream: bool
) -> None:
    """Each wish brings the request to the backend that fulfils it, and to no other."""
    async with four() as (fleet, _, client):
        answer = await client.post(CHAT, json=ask(stream=stream), headers=wishes)
        asked = {f"ollama-{name}": await inference(fake) for name, fake in fleet.items()}

    assert (200, chosen, reason) == (
        answer.status_code,
        answer.headers["x-backend-used"],
        answer.headers["x-routing-reason"],
    )
    assert dict.fromkeys(asked, 0) | {chosen: 1} == asked


@pytest.mark.parametrize(
    ("wishes", "status", "code"),
    [
        ({"x-target-backend": "nobody"}, 400, "unknown_backend"),
        ({"x-max-power-watts": "1"}, 503, "no_backend"),
        ({"x-max-latency-ms": "20"}, 503, "deadline_unmeetable"),
        ({"x-max-latency-ms": "soon"}, 400, "invalid_header"),
    ],
)
async def test_wishes_that_cannot_be_fulfilled(
    wishes: dict[str, str], status: int, code: str
) -> None:
    """They are refused with the word for it, and nobody computes."""
    async with four() as (fleet, _, client):
        answer = await client.post(CHAT, json=ask(), headers=wishes)
        asked = [await inference(fake) for fake in fleet.values()]

    assert (status, code) == (answer.status_code, answer.json()["error"]["code"])
    assert [0] * 4 == asked


async def test_an_ollama_call_on_an_openai_backend() -> None:
    """Whoever speaks Ollama is served by a server that does not."""
    async with open_fake(Script(unserved=("/api/*",), models=("fake",), tokens=2)) as fake:
        made = backend("npu", fake.url, type=BackendType.OPENAI)
        async with running(configured(made)) as owner, owner.client() as client:
            answer = await client.post("/api/chat", json=ask())

    said = [json.loads(line) for line in answer.text.splitlines()]
    assert " tok tok" == "".join(line["message"]["content"] for line in said)
    assert said[-1]["done"]


async def test_only_listed_headers_go_further() -> None:
    """A backend gets what it needs to serve and to trace, and none of the caller's secrets."""
    async with one(Script()) as (fake, _, client):
        secret = {"authorization": "Bearer s3cret", "cookie": "s3cret", "x-mine": "s3cret"}
        await client.post(CHAT, json=ask(), headers=secret | {"traceparent": "00-1"})
        passed = dict(next(record.headers for record in fake.log if record.path == CHAT))

    assert "00-1" == passed["traceparent"]
    assert not [name for name, value in passed.items() if "s3cret" in value]


async def test_a_call_that_cannot_be_translated_ends_alone() -> None:
    """A field of the wrong type is answered 400, and the router serves on."""
    async with open_fake(Script(models=("fake",))) as fake:
        made = backend("npu", fake.url, type=BackendType.OPENAI)
        async with running(configured(made)) as owner, owner.client() as client:
            bad = await client.post("/api/chat", json=ask(options="hot"))
            good = await client.post("/api/chat", json=ask(stream=False))

    assert (400, 200) == (bad.status_code, good.status_code)
    assert "options" in bad.json()["error"]


# -- failing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "behaviour",
    [Behaviour.DIE_BEFORE_HEAD, Behaviour.GARBLE, Behaviour.REFUSE, Behaviour.UNSERVED],
)
async def test_another_backend_takes_over(behaviour: Behaviour, stream: bool) -> None:
    """Before the first byte a backend that fails is replaced, and the answer says by whom."""
    async with four() as (fleet, _, client):
        fleet["nvidia"].script = Script(behaviour=behaviour)
        answer = await client.post(
            CHAT, json=ask(stream=stream), headers={"x-latency-critical": "true"}
        )

    assert (200, "ollama-igpu", "failover") == (
        answer.status_code,
        answer.headers["x-backend-used"],
        answer.headers["x-routing-reason"],
    )


async def test_a_stream_that_breaks_is_said_to_be_broken() -> None:
    """After the first byte nobody takes over: the stream ends with the dialect's error."""
    script = Script(behaviour=Behaviour.DIE_MID_STREAM)
    async with one(script) as (_, owner, client):
        openai = await client.post(CHAT, json=ask(stream=True))
        async with owner.client() as other:  # the first's connection closes
            ollama = await other.post("/api/chat", json=ask())

    last = openai.text.strip().split("\n\n")[-1]
    assert "backend_failed" == json.loads(last.removeprefix("data: "))["error"]["code"]
    assert "[DONE]" not in openai.text
    assert "error" in json.loads(ollama.text.splitlines()[-1])


async def test_a_backend_that_is_down_at_the_start_joins() -> None:
    """It is served from as soon as it is up, without a restart."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    async with open_fake(Script()) as early:
        made = configured(backend("npu", early.url), backend("nvidia", f"http://127.0.0.1:{port}"))
        async with running(made) as owner, owner.client() as client:
            await until(client, healthy("ollama-npu"))
            async with open_fake(Script(), port=port):
                await until(client, healthy("ollama-npu", "ollama-nvidia"))
                answer = await client.post(CHAT, json=ask(), headers={"x-latency-critical": "1"})
            await until(client, healthy("ollama-npu"))

    assert "ollama-nvidia" == answer.headers["x-backend-used"]


async def test_with_no_backend_up_callers_are_told() -> None:
    """The router runs, says that it is down, and refuses in the caller's dialect."""
    made = configured(backend("npu", "http://127.0.0.1:1"))
    async with running(made) as owner, owner.client() as client:
        refused = await client.post(CHAT, json=ask())
        health = (await client.get("/health")).json()
        ready = await client.get("/readyz")

    assert (503, "no_backend") == (refused.status_code, refused.json()["error"]["code"])
    assert ("down", 503) == (health["status"], ready.status_code)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_missed_deadline(stream: bool) -> None:
    """It is answered 504, and the backend is rid of the work."""
    async with open_fake(Script(behaviour=Behaviour.HANG)) as fake:
        made = configured(
            backend("npu", fake.url, characteristics=Characteristics(avg_latency_ms=1.0))
        )
        async with running(made) as owner, owner.client() as client:
            answer = await client.post(
                CHAT, json=ask(stream=stream), headers={"x-max-latency-ms": "50"}
            )
            await fake.until(lambda log: any(r.path == CHAT and r.client_left_s for r in log))
            await idle(client)

    assert (504, "deadline_exceeded") == (answer.status_code, answer.json()["error"]["code"])


@pytest.mark.parametrize(
    "script", [Script(behaviour=Behaviour.HANG), ENDLESS], ids=["prefill", "stream"]
)
async def test_a_client_that_leaves_frees_its_backend(script: Script) -> None:
    """The upstream connection is closed, and the slot is free."""
    async with one(script) as (fake, _, client):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                async with client.stream("POST", CHAT, json=ask(stream=True)) as answer:
                    async for _ in answer.aiter_raw():
                        nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            await fake.until(lambda log: any(record.path == CHAT for record in log))
            if script is not ENDLESS:
                nursery.cancel_scope.cancel()
        log = await fake.until(lambda log: any(r.client_left_s for r in log if r.path == CHAT))
        await idle(client)

    assert [True] == [record.client_left_s is not None for record in log if record.path == CHAT]


# -- ending ----------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Reader:
    """Somebody who reads a stream to whatever end it has."""

    text: str = ""
    started: trio.Event = attrs.field(factory=trio.Event)
    broken: bool = False

    async def read(self, client: httpx.AsyncClient, path: str = CHAT) -> None:
        """Ask, and read."""
        try:
            async with client.stream("POST", path, json=ask(stream=True)) as answer:
                async for piece in answer.aiter_text():
                    self.text += piece
                    self.started.set()
        except httpx.TransportError:
            self.broken = True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stream_is_finished_before_the_end(number: signal.Signals) -> None:
    """Told to stop, the router takes nothing new and lets what it has begun finish."""
    async with one(LONG) as (_, owner, client):
        reader = Reader()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, client)
            await reader.started.wait()
            owner.signal(number)
        await owner.ended.wait()
        async with owner.client() as late:
            with pytest.raises(httpx.ConnectError):
                await late.post(CHAT, json=ask())

    assert (30, False) == (reader.text.count(" tok"), reader.broken)
    assert reader.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_a_stream_is_ended_when_its_time_is_up(path: str) -> None:
    """After the time to drain a stream is told so in its dialect, and the router ends."""
    async with one(ENDLESS, drain_s=0.1) as (fake, owner, client):
        reader = Reader()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, client, path)
            await reader.started.wait()
            owner.signal(signal.SIGTERM)
        await owner.ended.wait()
        await fake.until(lambda log: any(r.client_left_s for r in log if r.path == path))

    last = json.loads(reader.text.strip().splitlines()[-1].removeprefix("data: "))
    code = last["error"]["code"] if path == CHAT else last["code"]
    assert ("shutting_down", False) == (code, reader.broken)


async def test_a_second_signal_ends_at_once() -> None:
    """Who insists is not kept waiting for the time to drain."""
    async with one(ENDLESS, drain_s=1000.0) as (fake, owner, client):
        reader = Reader()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.read, client)
            await reader.started.wait()
            owner.signal(signal.SIGTERM)
            while "ended" not in await door(owner):  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
            owner.signal(signal.SIGTERM)
        await owner.ended.wait()
        await fake.until(lambda log: any(r.client_left_s for r in log if r.path == CHAT))

    assert "[DONE]" not in reader.text


async def door(owner: Owner) -> str:
    """Whether the door is `open`, or has `ended`."""
    try:
        async with owner.client() as late:
            await late.get("/healthz")
    except httpx.TransportError:
        return "ended"
    return "open"


async def test_an_idle_connection_does_not_hold_up_the_end() -> None:
    """Connections that owe no answer are closed, whatever they were used for."""
    async with one(Script(), drain_s=1000.0) as (_, owner, client):
        await client.post(CHAT, json=ask())
        async with (
            owner.client() as other,
            await trio.open_tcp_stream("127.0.0.1", int(owner.url.rpartition(":")[2])),
        ):
            await other.get("/health")
            owner.signal(signal.SIGTERM)
            await owner.ended.wait()

    assert owner.ended.is_set()


async def test_who_watches_does_not_hold_up_the_end() -> None:
    """The dashboard's stream ends with the router: it would never end by itself."""
    async with (
        one(LONG, drain_s=60.0) as (_, owner, client),
        client.stream("GET", "/events") as watched,
    ):
        pieces = watched.aiter_raw()
        assert b"event: snapshot" in await anext(pieces)
        owner.signal(signal.SIGTERM)
        async for _ in pieces:
            continue
        await owner.ended.wait()


# -- reloading -------------------------------------------------------------------------------------


async def test_backends_come_and_go() -> None:
    """A good file is applied: what is new joins, what is gone leaves, what stays is untouched."""
    async with fakes("npu", "igpu", "cpu") as fleet:
        made = {name: backend(name, fake.url) for name, fake in fleet.items()}
        config = configured(made["npu"], made["igpu"])
        async with running(config) as owner, owner.client() as client:
            await until(client, healthy("ollama-npu", "ollama-igpu"))
            await client.post(CHAT, json=ask(), headers={"x-target-backend": "npu"})
            owner.config = configured(made["npu"], made["cpu"])
            owner.signal(signal.SIGHUP)
            await until(client, healthy("ollama-npu", "ollama-cpu"))
            listed = (await client.get("/backends")).json()

    assert {"ollama-npu": 1, "ollama-cpu": 0} == {b["id"]: b["requests_total"] for b in listed}


@pytest.mark.parametrize("change", ["removed", "changed"])
async def test_a_stream_survives_the_change_of_its_backend(change: str) -> None:
    """A request in flight finishes on the backend that it began on."""
    async with fakes("npu", "cpu", script=LONG) as fleet:
        npu, cpu = (backend(name, fake.url) for name, fake in fleet.items())
        async with running(configured(npu)) as owner, owner.client() as client:
            reader = Reader()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.read, client)
                await reader.started.wait()
                after = [cpu] if change == "removed" else [attrs.evolve(npu, slots=7)]
                owner.config = configured(*after)
                owner.signal(signal.SIGHUP)
                await until(
                    client,
                    lambda b: (
                        [(each["id"], each["slots"]) for each in b]
                        == [(each.id, each.slots) for each in after]
                    ),
                )

                assert not reader.text.endswith("data: [DONE]\n\n")
            again = await client.post(CHAT, json=ask())
            asked = await inference(fleet["npu"])

    assert (30, False) == (reader.text.count(" tok"), reader.broken)
    assert after[0].id == again.headers["x-backend-used"]
    assert (1 if change == "removed" else 2) == asked


async def test_a_bad_file_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is reported; the next good one is applied."""
    async with fakes("npu", "cpu") as fleet:
        npu, cpu = (backend(name, fake.url) for name, fake in fleet.items())
        async with running(configured(npu)) as owner, owner.client() as client:
            before = (await client.get("/backends")).json()
            owner.config = None
            owner.signal(signal.SIGHUP)
            await owner.read.wait()
            served = await client.post(CHAT, json=ask())
            after = (await client.get("/backends")).json()
            owner.config = configured(npu, cpu)
            owner.signal(signal.SIGHUP)
            await until(client, healthy("ollama-npu", "ollama-cpu"))

    assert (200, [b["id"] for b in before]) == (served.status_code, [b["id"] for b in after])
    assert "backends[0].slots: must be 1 to 1024 (got 0)" in caplog.text


async def test_those_in_line_move_to_the_successor() -> None:
    """Requests that wait for a backend are served by what takes its place."""
    async with fakes("npu", "cpu") as fleet:
        fleet["npu"].script = Script(behaviour=Behaviour.HANG)
        npu = backend("npu", fleet["npu"].url, slots=1)
        cpu = backend("cpu", fleet["cpu"].url)
        answers: list[httpx.Response] = []
        answered = trio.Event()
        async with running(configured(npu, drain_s=0.0)) as owner, owner.client() as client:

            async def call() -> None:
                answers.append(await client.post(CHAT, json=ask()))
                answered.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await fleet["npu"].until(lambda log: any(r.path == CHAT for r in log))
                nursery.start_soon(call)
                await until(client, lambda backends: backends[0]["queued"]["normal"])
                owner.config = configured(cpu, drain_s=0.0)
                owner.signal(signal.SIGHUP)
                await answered.wait()
                nursery.cancel_scope.cancel()

    assert ["ollama-cpu"] == [answer.headers["x-backend-used"] for answer in answers]


def asked(stream: bool, tokens: int = 100_000) -> dict[str, Any]:
    """A chat's body."""
    message = {"role": "user", "content": "hello"}
    return {"model": MODEL, "stream": stream, "max_tokens": tokens, "messages": [message]}


def inferences(log: list[Record]) -> list[Record]:
    """What was asked of a fake, without the probes."""
    return [record for record in log if record.method == "POST"]


async def test_a_critical_request_takes_a_batch_jobs_slot() -> None:
    """The batch job's connection is closed, and it is answered after all when the voice is done."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(Script(first_token_s=0.3, tokens=3)))
        config = configured(backend("npu", fake.url, slots=1))
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())
        answers: list[tuple[str, int]] = []

        async def ask(priority: str) -> None:
            headers = {"X-Priority": priority}
            answer = await client.post(CHAT, json=asked(stream=False), headers=headers)
            answers.append((priority, answer.status_code))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "best-effort")
            await fake.until(inferences)
            nursery.start_soon(ask, "critical")
        log = inferences(fake.log)

    assert [("critical", 200), ("best-effort", 200)] == answers
    assert [True, False, False] == [record.client_left_s is not None for record in log]


@pytest.mark.parametrize("started", [Started.KEEP, Started.STOP], ids=str)
async def test_a_started_stream_is_the_owners_to_break(started: Started) -> None:
    """Kept, it ends as it would have; stopped, it ends with the error of the contract, at once."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(LONG))
        config = attrs.evolve(
            configured(backend("npu", fake.url, slots=1)),
            scheduler=Scheduler(preempt_started=started),
        )
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())
        heard: list[bytes] = []

        async def listen() -> None:
            headers = {"X-Priority": "best-effort"}
            body = asked(stream=True)
            async with client.stream("POST", CHAT, json=body, headers=headers) as answer:
                heard.extend([piece async for piece in answer.aiter_raw()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await fake.until(lambda log: any(r.tokens_sent > 2 for r in log))
            headers = {"X-Priority": "critical"}
            voice = await client.post(CHAT, json=asked(stream=False, tokens=1), headers=headers)
        text = b"".join(heard)

    assert 200 == voice.status_code
    stopped = started is Started.STOP
    assert (stopped, not stopped) == (b'"preempted"' in text, b"[DONE]" in text)


@pytest.mark.parametrize("wish", ["0", "-5", "nan", "inf", "-inf", "1e999", "soon", "", "1_000"])
async def test_a_deadline_that_is_none_is_refused(wish: str) -> None:
    """Before anything is sent anywhere, naming header and value."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(Script()))
        owner = await stack.enter_async_context(running(configured(backend("npu", fake.url))))
        client = await stack.enter_async_context(owner.client())
        answer = await client.post(
            CHAT, json=asked(stream=False), headers={"X-Max-Latency-Ms": wish}
        )
        seen = inferences(fake.log)

    assert (400, "invalid_header", []) == (
        answer.status_code,
        answer.json()["error"]["code"],
        seen,
    )
    assert "X-Max-Latency-Ms" in answer.json()["error"]["message"]


async def test_an_absurd_deadline_is_as_good_as_none() -> None:
    """A number beyond all ages is still a number."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(Script(tokens=2)))
        owner = await stack.enter_async_context(running(configured(backend("npu", fake.url))))
        client = await stack.enter_async_context(owner.client())
        answer = await client.post(
            CHAT, json=asked(stream=False), headers={"X-Max-Latency-Ms": "1e300"}
        )

    assert 200 == answer.status_code


async def note_status(client: httpx.AsyncClient, statuses: list[int]) -> None:
    """Ask once, and note how it was answered."""
    answer = await client.post(CHAT, json=asked(stream=False))
    statuses.append(answer.status_code)


async def test_a_backend_joins_while_others_wait() -> None:
    """Whoever is in line when a file names another backend is served, there or where it waits."""
    async with AsyncExitStack() as stack:
        slow = Script(first_token_s=0.3, tokens=1)
        first = await stack.enter_async_context(open_fake(slow))
        second = await stack.enter_async_context(open_fake(slow))
        config = configured(backend("npu", first.url, slots=1))
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())
        statuses: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(note_status, client, statuses)
            await first.until(inferences)
            joined = backend("igpu", second.url, slots=1)
            owner.config = attrs.evolve(config, backends=(*config.backends, joined))
            owner.signal(signal.SIGHUP)
        seen = inferences(second.log)

    assert ([200] * 4, True) == (statuses, bool(seen))


async def test_a_renamed_backend_keeps_its_line() -> None:
    """Its server answers no probe in time; it was well a moment ago, and it is the same server."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(Script(first_token_s=0.5, tokens=1)))
        config = configured(backend("npu", fake.url, slots=1))
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())
        statuses: list[int] = []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(note_status, client, statuses)
            await fake.until(inferences)
            fake.script = attrs.evolve(
                fake.script, behaviour=Behaviour.SLOW, misbehaves_at=("/api/tags",), delay_s=1.0
            )
            owner.config = attrs.evolve(
                config, backends=(attrs.evolve(config.backends[0], name="Other"),)
            )
            owner.signal(signal.SIGHUP)

    assert [200] * 3 == statuses


async def test_a_lowered_reserve_lets_the_next_one_start() -> None:
    """Whoever waited for a slot that is kept no longer has it at once."""
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(open_fake(ENDLESS))
        config = attrs.evolve(
            configured(backend("npu", fake.url, slots=2)),
            scheduler=Scheduler(reserve_critical_slots=1),
        )
        owner = await stack.enter_async_context(running(config))
        client = await stack.enter_async_context(owner.client())

        async def listen() -> None:
            async with client.stream("POST", CHAT, json=asked(stream=True)) as answer:
                [_ async for _ in answer.aiter_raw()]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await fake.until(inferences)
            nursery.start_soon(listen)
            queued = 0
            while not queued:
                queued = (await client.get("/backends")).json()[0]["queued"]["normal"]
            owner.config = attrs.evolve(config, scheduler=Scheduler())
            owner.signal(signal.SIGHUP)
            await fake.until(lambda log: len(inferences(log)) == 2)
            nursery.cancel_scope.cancel()
