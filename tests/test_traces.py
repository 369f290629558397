"""Traces of a whole router, told to a collector: whose child each span is, and what it says."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import httpx
import pytest
import trio

from ollama_proxy import aside
from ollama_proxy.config import Config
from tests.fakes.collector import Collector, Span, open_collector
from tests.fakes.ollama import Behaviour, Fake, Script
from tests.routers import CHAT, ask, backend, configured, fakes, running

pytestmark = pytest.mark.usefixtures("in_process")

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "shop=cart"}
INTERNAL, SERVER, CLIENT = 1, 2, 3
OK_STATUSES, ERROR = {0, 1}, 2


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered for long."""
    monkeypatch.setattr(aside, "GATHER_S", 0.01)


@attrs.frozen
class Traced:
    """A router that tells a collector, and a client."""

    collector: Collector
    fleet: dict[str, Fake]
    client: httpx.AsyncClient


def traced_to(config: Config, url: str) -> Config:
    """The same, told to a collector."""
    return attrs.evolve(config, observability=attrs.evolve(config.observability, otlp_endpoint=url))


@asynccontextmanager
async def traced(*names: str, script: Script | None = None) -> AsyncIterator[Traced]:
    """Some backends behind such a router."""
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(open_collector())
        fleet = await stack.enter_async_context(fakes(*names, script=script))
        made = configured(*(backend(name, fake.url) for name, fake in fleet.items()))
        owner = await stack.enter_async_context(running(traced_to(made, collector.url)))
        client = await stack.enter_async_context(owner.client())
        yield Traced(collector, fleet, client)


def by_kind(spans: list[Span], kind: int) -> list[Span]:
    return [span for span in spans if span.kind == kind]


async def test_a_request_is_a_child_and_the_backends_work_is_its_grandchild() -> None:
    """Context comes in, and goes on: the backend is told the attempt's own span."""
    async with traced("npu", script=Script(tokens=3)) as router:
        answer = await router.client.post(
            CHAT, json=ask(stream=True, max_tokens=9), headers=TRACED | {"x-request-id": "mine"}
        )
        spans = await router.collector.wait(3)
        sent = dict(next(r for r in router.fleet["npu"].log if r.path == CHAT).headers)

    assert 200 == answer.status_code
    assert {TRACE} == {span.trace for span in spans}
    (server,), (client,), (queue,) = (by_kind(spans, kind) for kind in (SERVER, CLIENT, INTERNAL))
    assert [CALLER, server.span, server.span] == [server.parent, client.parent, queue.parent]
    assert (f"00-{TRACE}-{client.span}-01", "shop=cart") == (
        sent["traceparent"],
        sent["tracestate"],
    )
    assert ["route", "first token", "end"] == server.event_names
    assert ["connect", "first token"] == client.event_names
    assert "queue" == queue.name
    assert server.seconds >= client.seconds > 0
    assert "ollama-proxy" == server.resource["service.name"]
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "fake:latest",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "http.response.status_code": 200,
        "ollama_proxy.backend": "ollama-npu",
        "ollama_proxy.door": "http",
        "ollama_proxy.outcome": "served",
        "ollama_proxy.priority": "normal",
        "ollama_proxy.reason": "only-candidate",
        "ollama_proxy.request_id": "mine",
    }.items() <= server.attributes.items()
    assert server.attributes["gen_ai.usage.output_tokens"] == 5
    assert {
        "gen_ai.response.time_to_first_chunk",
        "ollama_proxy.energy_j",
    } <= server.attributes.keys()
    assert {server.name, client.name} == {"chat fake:latest"}
    assert {server.status, client.status} <= OK_STATUSES


async def test_who_has_no_parent_begins_a_trace() -> None:
    """Also one whose parent cannot be read: what it said is not passed on."""
    async with traced("npu") as router:
        await router.client.post(CHAT, json=ask(), headers=TRACED | {"traceparent": "00-0-0-01"})
        spans = await router.collector.wait(3)
        sent = dict(next(r for r in router.fleet["npu"].log if r.path == CHAT).headers)

    (server,), (client,) = by_kind(spans, SERVER), by_kind(spans, CLIENT)
    assert ("", server.span) == (server.parent, client.parent)
    assert f"00-{server.trace}-{client.span}-01" == sent["traceparent"]
    assert "tracestate" not in sent


async def test_what_the_caller_does_not_keep_is_not_kept() -> None:
    """It is passed on as such, and the collector hears of others alone."""
    async with traced("npu") as router:
        unkept = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
        await router.client.post(CHAT, json=ask(), headers=unkept)
        await router.client.post(CHAT, json=ask())
        spans = await router.collector.wait(3)
        sent = dict(next(r for r in router.fleet["npu"].log if r.path == CHAT).headers)

    assert TRACE not in {span.trace for span in spans}
    assert sent["traceparent"].startswith(f"00-{TRACE}-")
    assert sent["traceparent"].endswith("-00")


async def test_a_failover_is_two_attempts() -> None:
    """The first is at fault, and the request is not."""
    async with traced("npu", "igpu") as router:
        router.fleet["npu"].script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD)
        await router.client.post(CHAT, json=ask(), headers={"x-power-efficient": "true"})
        spans = await router.collector.wait(5)

    (server,), legs = by_kind(spans, SERVER), by_kind(spans, CLIENT)
    assert [("ollama-npu", "broke", ERROR), ("ollama-igpu", None, 0)] == [
        (
            leg.attributes["ollama_proxy.backend"],
            leg.attributes.get("error.type"),
            leg.status,
        )
        for leg in legs
    ]
    assert ["route", "route", "first token", "end"] == server.event_names
    assert server.status in OK_STATUSES


async def test_a_refusal_says_why() -> None:
    """The caller's fault is no error of the router's; that nobody can serve it is one."""
    async with traced("npu") as router:
        await router.client.post(CHAT, json=ask(model="nobody-has-it"))
        await router.client.post(CHAT, json=ask(), headers={"x-max-power-watts": "1"})
        spans = await router.collector.wait(2)

    assert [("model_not_found", 404, 0), ("no_backend", 503, ERROR)] == [
        (
            span.attributes["error.type"],
            span.attributes["http.response.status_code"],
            span.status,
        )
        for span in spans
    ]


async def test_no_prompt_leaves_the_house() -> None:
    """Nor an answer, a key, the client's name, or a backend's address."""
    async with traced("npu", script=Script(word="pl4nted", tokens=2)) as router:
        said = ask(messages=[{"role": "user", "content": "pl4nted"}])
        named = {"x-client-id": "pl4nted", "authorization": "Bearer pl4nted"}
        await router.client.post(CHAT, json=said, headers=named)
        await router.collector.wait(3)

    told = b"".join(router.collector.bodies)
    assert b"pl4nted" not in told
    assert b"127.0.0.1" not in told


async def test_the_last_ones_are_told_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent yet when the router ends."""
    monkeypatch.setattr(aside, "GATHER_S", 60.0)
    async with open_collector() as collector:
        async with fakes("npu") as fleet:
            made = traced_to(configured(backend("npu", fleet["npu"].url)), collector.url)
            async with running(made) as owner, owner.client() as client:
                await client.post(CHAT, json=ask())
                assert [] == collector.spans
        assert 3 == len(collector.spans)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_collector_in_trouble_hurts_no_request(
    is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """One that takes nothing, or is not there: it is said once, and what is lost is counted."""
    async with open_collector() as collector, fakes("npu") as fleet:
        collector.status = 400
        url = collector.url if is_there else "http://127.0.0.1:1"
        made = traced_to(configured(backend("npu", fleet["npu"].url)), url)
        async with running(made) as owner, owner.client() as client:
            for _ in range(5):
                assert 200 == (await client.post(CHAT, json=ask())).status_code

    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert 1 == sum("the exporter of traces loses traces" in line for line in warnings)
    assert not any(r.name.startswith(("opentelemetry", "urllib3")) for r in caplog.records)


async def test_a_collector_that_hangs_is_not_waited_for() -> None:
    """Requests go on, and are told of when it has come to itself."""
    async with traced("npu") as router:
        router.collector.answers = trio.Event()
        for number in range(1, 6):
            assert 200 == (await router.client.post(CHAT, json=ask())).status_code
            while not router.collector.asked:  # noqa: ASYNC110 - a thread of another library asks
                await trio.sleep(0.01)
            assert 1 == router.collector.asked, f"request {number}"
        router.collector.answers.set()
        spans = await router.collector.wait(15)

    assert 5 == len({span.trace for span in spans})


def test_nothing_is_imported_for_who_keeps_no_traces() -> None:
    """Neither by the command line nor by a router without a collector."""
    code = (
        "import sys, ollama_proxy.cli, ollama_proxy.serve, ollama_proxy.rooms as s\n"
        "from ollama_proxy.config import Config\n"
        "assert s._open_traces(Config()) is None\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'ollama_proxy.traces'))])\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert "[]\n" == told.stdout


def test_a_missing_extra_is_named() -> None:
    """With what to install, instead of a traceback."""
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import ollama_proxy.rooms as s\n"
        "from ollama_proxy.config import Config, Observability\n"
        "try:\n"
        "    s._open_traces(Config(observability=Observability(otlp_endpoint='http://127.0.0.1:1')))\n"
        "except s.CannotServe as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert "Install ollama-proxy-router[otel]" in told.stdout
