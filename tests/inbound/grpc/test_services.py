"""From a call to a job and back, over scripted backends and Trio's clock."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.engine.news import BackendChanged, News
from ollama_proxy.inbound.grpc.connection import Connection, Patience, Terms
from ollama_proxy.inbound.grpc.messages import Budget
from ollama_proxy.inbound.grpc.offer import all_methods
from ollama_proxy.inbound.grpc.pb import health_v1_pb2
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.services.asking import _nearer
from ollama_proxy.inbound.grpc.services.changes import EVERY_S
from ollama_proxy.inbound.grpc.status import Status
from ollama_proxy.inbound.trust import Gate
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.grpc.peer import Client
from tests.inbound.http.house import House, open_house

STREAM = "/ollama_proxy.OllamaProxy/GenerateStream"
WHOLE = "/ollama_proxy.OllamaProxy/Generate"
WATCH = "/grpc.health.v1.Health/Watch"


def line(**fields: object) -> str:
    """A piece of an answer in Ollama's words."""
    return json.dumps(fields)


def writer(*texts: str, after: float = 0.0) -> ScriptedBackend:
    """A backend that says each, and then how much that was."""
    backend = ScriptedBackend(spec("npu"))
    for text in texts:
        backend.say(line(response=text), after=after)
    end = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=len(texts))
    return backend.say(end)


@attrs.frozen
class Home:
    """A client, and what is behind the door."""

    client: Client
    house: House
    news: News


@asynccontextmanager
async def at_home(*backends: ScriptedBackend) -> AsyncIterator[Home]:
    """A router with these backends, and a client at its door."""
    ours, theirs = memory_stream_pair()
    news = News()
    async with trio.open_nursery() as nursery:
        house = open_house(nursery, *backends)
        dispatcher = house.dispatcher
        nursery.start_soon(dispatcher.keep_time)
        climate = Climate(dispatcher, ClimateSettings(), news, minute_of_day=lambda: 0)
        methods = all_methods(dispatcher, climate, news, gate=Gate(bound_host="127.0.0.1"))
        terms = Terms(
            methods={method.path: method for method in methods},
            gate=Gate(bound_host="127.0.0.1"),
            budget=Budget(64 << 20),
        )
        nursery.start_soon(Connection(theirs, terms, "here").run)
        async with Client(ours) as client:
            yield Home(client, house, news)
        nursery.cancel_scope.cancel()


def request() -> bytes:
    """A prompt."""
    made = pb.GenerateRequest(prompt="hi", model=MODEL)
    return bytes(made.SerializeToString())


def answers(messages: list[bytes]) -> list[pb.GenerateResponse]:
    return [pb.GenerateResponse.FromString(each) for each in messages]


async def test_what_an_answer_took(autojump_clock: MockClock) -> None:
    """Time to the first token, all of it, tokens and their speed, joules and how they were found."""
    async with at_home(writer("a", "b", "c", after=0.5)) as home:
        heard = await home.client.call(request(), path=STREAM)
    *pieces, last = answers(heard.messages)
    stats = last.stats

    assert ["a", "b", "c"] == [piece.response for piece in pieces]
    assert [500, 1500, 3.0, 4.5] == pytest.approx([
        stats.time_to_first_token_ms,
        stats.total_time_ms,
        stats.tokens_per_second,
        stats.energy_joules,
    ])
    assert (3, 3, "estimated") == (
        stats.prompt_tokens,
        stats.tokens_generated,
        stats.energy_source,
    )


async def test_an_answer_without_words(autojump_clock: MockClock) -> None:
    """Has one message, which tells all there is to tell."""
    async with at_home(writer()) as home:
        heard = await home.client.call(request(), path=STREAM)
    [only] = answers(heard.messages)

    assert ("", "npu", "npu", True, 0) == (
        only.response,
        only.backend,
        only.routing.backend,
        only.done,
        heard.status,
    )


async def test_who_takes_nothing_is_not_waited_for(autojump_clock: MockClock) -> None:
    """After the patience with readers its slot is free, and the end says why."""
    async with at_home(writer(*["x" * 30_000] * 10)) as home:
        began = trio.current_time()
        home.client.peer.reads = False
        stream_id = home.client.peer.call(request(), path=STREAM)
        heard = await home.client.ended(stream_id)
        took = trio.current_time() - began
        await trio.testing.wait_all_tasks_blocked()
        in_flight = home.house.station().in_flight

    assert Status.CANCELLED == heard.status
    assert pytest.approx(Patience().unread_s) == took
    assert 0 == in_flight
    assert [Outcome.LEFT] == [fact.outcome for fact in home.house.facts]


async def test_a_deadline_is_the_jobs(autojump_clock: MockClock) -> None:
    """Nobody who could be in time: refused before anything is sent, though there is time left."""
    backend = writer("a")
    async with at_home(backend) as home:
        began = trio.current_time()
        heard = await home.client.call(request(), path=WHOLE, headers=[(b"grpc-timeout", b"200m")])
        took = trio.current_time() - began

    assert Status.DEADLINE_EXCEEDED == heard.status
    assert (0.0, []) == (took, backend.errands)


async def test_a_deadline_ends_what_has_begun(autojump_clock: MockClock) -> None:
    """Also a stream that was in time with its first token."""
    backend = ScriptedBackend(spec("npu")).say(line(response="a")).hang()
    async with at_home(backend) as home:
        began = trio.current_time()
        heard = await home.client.call(request(), path=STREAM, headers=[(b"grpc-timeout", b"5S")])
        took = trio.current_time() - began
        await trio.testing.wait_all_tasks_blocked()
        in_flight = home.house.station().in_flight

    assert Status.DEADLINE_EXCEEDED == heard.status
    assert pytest.approx(5.0) == took
    assert (0, 1) == (in_flight, backend.left)


@pytest.mark.parametrize(
    ("wished", "left_ms", "nearer"),
    [
        (None, 5.0, "5.0"),
        ("3", 5.0, "3"),
        ("7.5", 5.0, "5.0"),
        ("soon", 5.0, "soon"),
        ("nan", 5.0, "nan"),
        ("-1", 5.0, "-1"),
    ],
)
def test_the_nearer_deadline_holds(wished: str | None, left_ms: float, nearer: str) -> None:
    """What is none is left for the reader of wishes to refuse."""
    assert nearer == _nearer(wished, left_ms)


async def test_health_is_watched(autojump_clock: MockClock) -> None:
    """A change is told when it is news, and when nobody has told of it, a little later."""
    watched = health_v1_pb2.HealthCheckRequest().SerializeToString()
    times: list[float] = []
    async with at_home(writer()) as home:
        heard = home.client.peer.heard[home.client.peer.call(watched, path=WATCH)]

        async def hear() -> None:
            began, count = trio.current_time(), len(heard.messages)
            while len(heard.messages) == count:
                await home.client.listen()
            times.append(trio.current_time() - began)

        await hear()
        home.house.station().is_down("it is gone")
        home.news.tell(BackendChanged(id="npu", healthy=False, why="it is gone"))
        await hear()
        home.house.station().is_well(Probe())
        await hear()
    states = [health_v1_pb2.HealthCheckResponse.FromString(each).status for each in heard.messages]

    assert [1, 2, 1] == states  # serving, not serving
    assert [0.0, 0.0] == times[:2]
    assert 0 < times[2] <= EVERY_S
