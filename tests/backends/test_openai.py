"""A server of OpenAI's dialect: what is passed on to it, and what is translated for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from ollama_proxy.backends import openai
from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Fault,
    Probe,
    Report,
    Served,
)
from ollama_proxy.backends.endpoint import Endpoint
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.backends.server import inference_path
from ollama_proxy.policy.ask import Call, Dialect
from ollama_proxy.policy.fleet import BackendType
from tests.backends.exchanges import (
    byte_server,
    direct,
    errand,
    lines,
    paths,
    reaching,
    recording,
)
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.fleet import spec

# An OpenAI-style server knows no path of Ollama's.
NO_OLLAMA = ("/api/*",)


@asynccontextmanager
async def scripted(
    script: Script, *, base: str = "", **changes: Any
) -> AsyncIterator[tuple[Fake, OpenAIBackend]]:
    """A fake and the backend that it is; `changes` go into the backend's spec."""
    async with open_fake(script) as fake, reaching(fake.url + base) as server:
        yield fake, OpenAIBackend(spec(type=BackendType.OPENAI, **changes), server)


@pytest.mark.parametrize(
    "call", [c for c in Call if c.dialect is not Dialect.OLLAMA], ids=lambda call: call.path
)
async def test_its_own_calls_are_passed_on(call: Call) -> None:
    """They come back untouched."""
    made = errand(call, stream=not call.embeds, model="fake")
    async with scripted(Script(unserved=NO_OLLAMA)) as (fake, backend), recording() as sink:
        expected = await direct(fake, made)
        await backend.exchange(made, sink)

    assert (expected, [call.path] * 2) == (sink.body, paths(fake))


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (Call.OLLAMA_CHAT, "/v1/chat/completions"),
        (Call.OLLAMA_GENERATE, "/v1/chat/completions"),
    ],
)
async def test_an_ollama_stream(call: Call, path: str) -> None:
    """A stream of OpenAI's events becomes Ollama's lines, with the counts at its end."""
    async with scripted(Script(tokens=3)) as (fake, backend), recording() as sink:
        served = await backend.exchange(errand(call, stream=True), sink)

    assert sink.head is not None
    said = lines(sink.body)
    assert [path] == paths(fake)
    report = Report(prompt_tokens=5, answer_tokens=3)
    assert (Served(status=200, tokens=3, report=report), True) == (served, sink.complete)
    assert (b"content-type", b"application/x-ndjson") in sink.head.headers
    assert [*[False] * (len(said) - 1), True] == [line["done"] for line in said]
    assert (3, "stop") == (said[-1]["eval_count"], said[-1]["done_reason"])


@pytest.mark.parametrize(
    ("call", "path", "field"),
    [
        (Call.OLLAMA_CHAT, "/v1/chat/completions", "message"),
        (Call.OLLAMA_GENERATE, "/v1/chat/completions", "response"),
        (Call.OLLAMA_EMBED, "/v1/embeddings", "embeddings"),
        (Call.OLLAMA_EMBEDDINGS, "/v1/embeddings", "embedding"),
    ],
)
async def test_a_whole_ollama_answer(call: Call, path: str, field: str) -> None:
    """Each of Ollama's calls is answered in Ollama's words."""
    script = Script(unserved=NO_OLLAMA)
    async with scripted(script) as (fake, backend), recording() as sink:
        await backend.exchange(errand(call, stream=False), sink)

    assert sink.head is not None
    assert [path] == paths(fake)
    assert field in msgspec.json.decode(sink.body)
    assert (len(sink.body), True) == (sink.head.length, sink.complete)


@pytest.mark.parametrize("call", [Call.OLLAMA_CHAT, Call.OLLAMA_GENERATE])
async def test_loading_a_model_needs_no_call(call: Call) -> None:
    """Ollama's clients ask for nothing to have a model loaded; there is nothing to ask of others."""
    empty: dict[str, object] = {"messages": []} if call is Call.OLLAMA_CHAT else {"prompt": ""}
    async with scripted(Script()) as (fake, backend), recording() as sink:
        served = await backend.exchange(errand(call, stream=True, **empty), sink)

    answer = msgspec.json.decode(sink.body)
    assert ([], 200, True) == (fake.log, served.status, sink.complete)
    assert (True, "load") == (answer["done"], answer["done_reason"])


async def test_latest_is_a_word_of_ollamas() -> None:
    """A server that lists its models without tags is asked without one."""
    async with scripted(Script()) as (fake, backend), recording() as sink, recording() as other:
        await backend.exchange(errand(Call.OLLAMA_CHAT, stream=False, model="a:latest"), sink)
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=False, model="b:1b"), other)

    assert ["a", "b:1b"] == [record.body["model"] for record in fake.log]


@pytest.mark.parametrize("base", ["", "/v1", "/v3", "/api/v1", "/v1/"])
async def test_a_base_path_stands_for_the_version(base: str) -> None:
    """A URL with a path says where the calls are; without one they are under /v1, bar one."""
    expected = base.rstrip("/") or "/v1"
    script = Script(unserved=("*",))
    async with scripted(script, base=base) as (fake, backend), recording() as sink:
        for call in (Call.OPENAI_CHAT, Call.OLLAMA_EMBED):
            with pytest.raises(CallUnserved):
                await backend.exchange(errand(call, stream=False), sink)
        await backend.probe()

    assert [
        f"{expected}/chat/completions",
        f"{expected}/embeddings",
        f"{expected}/models",
        "/slots",
    ] == paths(fake)


def test_an_ollama_path_is_not_moved() -> None:
    """A base path stands for /v1 and for nothing else."""
    endpoint = Endpoint.parse("http://localhost/v3")

    assert "/api/chat" == inference_path(endpoint, Call.OLLAMA_CHAT)


@pytest.mark.parametrize(
    "fields",
    [{"options": "hot"}, {"messages": 7}, {"options": {"temperature": "warm"}}],
    ids=["options", "messages", "temperature"],
)
async def test_what_cannot_be_translated_is_the_callers_fault(fields: dict[str, object]) -> None:
    """A field of the wrong type ends the call with a sentence, and nothing is sent."""
    async with scripted(Script()) as (fake, backend), recording() as sink:
        with pytest.raises(CallRejected) as caught:
            await backend.exchange(errand(Call.OLLAMA_CHAT, stream=True, **fields), sink)

    assert (400, []) == (caught.value.status, fake.log)
    assert next(iter(fields)) in str(caught.value)


@pytest.mark.parametrize(
    ("behaviour", "after_tokens", "fault", "begun"),
    [
        (Behaviour.DIE_MID_STREAM, 2, Fault.BROKE, 1),
        (Behaviour.GARBLE_STREAM, 2, Fault.GARBLED, 1),
        (Behaviour.GARBLE_STREAM, 0, Fault.GARBLED, 0),
    ],
)
async def test_a_broken_stream_in_translation(
    behaviour: Behaviour, after_tokens: int, fault: Fault, begun: int
) -> None:
    """A translated stream is judged: what makes no sense fails it, and no end is made up."""
    script = Script(behaviour=behaviour, after_tokens=after_tokens, interval_s=0.001)
    async with scripted(script) as (_, backend), recording() as sink:
        with pytest.raises(BackendFailed) as caught:
            await backend.exchange(errand(Call.OLLAMA_CHAT, stream=True), sink)

    assert (fault, begun, False) == (caught.value.fault, sink.begun, sink.complete)
    assert not any(line["done"] for line in lines(sink.body))


async def test_a_stream_that_tells_of_an_error() -> None:
    """An error in the middle of a sound stream is the backend's failure."""
    event = b'data: {"error":{"message":"out of memory"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    async with byte_server(head % len(event) + event) as url, reaching(url) as server:
        backend = OpenAIBackend(spec(type=BackendType.OPENAI), server)
        async with recording() as sink:
            with pytest.raises(BackendFailed) as caught:
                await backend.exchange(errand(Call.OLLAMA_CHAT, stream=True), sink)

    assert (Fault.REFUSED, 0) == (caught.value.fault, sink.begun)
    assert "out of memory" in str(caught.value)


# -- probes ----------------------------------------------------------------------------------------


async def test_a_probe() -> None:
    """It tells the models that are there; what is in memory, such servers do not say."""
    async with scripted(Script(models=("a", "b:1b"))) as (_, backend):
        probe = await backend.probe()

    assert Probe(models=frozenset({"a", "b:1b"}), loaded=None) == probe


@pytest.mark.parametrize("unserved_as", ["gin", "llama-server"])
async def test_a_server_without_a_list_is_trusted(unserved_as: str) -> None:
    """It is well, and may have any model."""
    script = Script(unserved=("/v1/models",), unserved_as=unserved_as)
    async with scripted(script) as (_, backend):
        probe = await backend.probe()

    assert Probe() == probe


@pytest.mark.parametrize(
    "content", [b"[]\n\n", b'{"data":[{"id":"\xff"}]}\n\n', b"hello\n\n", b"[" * 50_000 + b"\n\n"]
)
async def test_a_list_that_makes_no_sense(content: bytes) -> None:
    """Whatever stands in its place, the backend is down and the router is not."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content)
    async with byte_server(head + content) as url, reaching(url) as server:
        with pytest.raises(BackendFailed) as caught:
            await OpenAIBackend(spec(type=BackendType.OPENAI), server).probe()

    assert Fault.GARBLED is caught.value.fault


# -- what is being computed ------------------------------------------------------------------------


async def test_a_probe_tells_what_is_being_computed() -> None:
    """Of a llama-server's slots, those at work are counted."""
    async with scripted(Script(slots=4)) as (fake, backend), recording() as sink:
        idle = await backend.probe()
        fake.script = Script(slots=4, behaviour=Behaviour.HANG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.exchange, errand(Call.OPENAI_CHAT, stream=True), sink)
            await fake.until(lambda log: Call.OPENAI_CHAT.path in [r.path for r in log])
            busy = await backend.probe()
            nursery.cancel_scope.cancel()

    assert (0, 1) == (idle.computing, busy.computing)


@pytest.mark.parametrize("unserved_as", ["gin", "llama-server"])
async def test_a_server_without_slots_is_asked_once(unserved_as: str) -> None:
    """Who is no llama-server is left alone after that."""
    script = Script(unserved=("/slots",), unserved_as=unserved_as)
    async with scripted(script) as (fake, backend):
        told = [(await backend.probe()).computing for _ in range(3)]

    assert [None] * 3 == told
    assert ["/v1/models", "/slots", "/v1/models", "/v1/models"] == paths(fake)


async def test_a_server_that_was_down_may_have_slots() -> None:
    """It may be another one when it is back: it is asked again."""
    trouble = Script(behaviour=Behaviour.REFUSE, misbehaves_at=("/v1/models",))
    async with scripted(Script()) as (fake, backend):
        await backend.probe()
        fake.script = trouble
        with pytest.raises(BackendFailed):
            await backend.probe()
        fake.script = Script(slots=2)
        probe = await backend.probe()

    assert 0 == probe.computing


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]",
        b"[1]",
        b'[{"id":0}]',
        b'[{"is_processing":1}]',
        b'[{"is_processing":true},{"is_processing":"no"}]',
        b"<html>",
        b"\xff\xfe",
        b"[" * 50_000,
    ],
    ids=str,
)
async def test_slots_that_make_no_sense_are_none(content: bytes) -> None:
    """The backend is well all the same; what it computes is not known."""
    models = b'{"data":[{"id":"m"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
    answers = [head % (len(said) + 2) + said + b"\n\n" for said in (models, content, models)]
    async with byte_server(*answers) as url, reaching(url) as server:
        backend = OpenAIBackend(spec(type=BackendType.OPENAI), server)
        probes = [await backend.probe() for _ in range(2)]

    assert [Probe(models=frozenset({"m"}))] * 2 == probes


@pytest.mark.parametrize(
    "behaviour", [Behaviour.DIE_BEFORE_HEAD, Behaviour.DIE_MID_STREAM, Behaviour.GARBLE]
)
async def test_slots_that_break_off_fail_no_probe(behaviour: Behaviour) -> None:
    """A fault there is no answer of the server's: it is well, and asked again next time."""
    async with scripted(Script(slots=1)) as (fake, backend):
        fake.script = Script(slots=1, behaviour=behaviour, misbehaves_at=("/slots",), times=1)
        told = [(await backend.probe()).computing for _ in range(2)]

    assert [None, 0] == told


async def test_slots_that_are_silent_leave_a_probe_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that is too busy to tell is well, within half a second and within the probe's own."""
    script = Script(slots=1, behaviour=Behaviour.HANG, misbehaves_at=("/slots",))
    async with scripted(script) as (fake, backend):
        monkeypatch.setattr(openai, "SLOTS_PATIENCE_S", 0.02)
        patient = await backend.probe()
        monkeypatch.setattr(openai, "SLOTS_PATIENCE_S", 1000.0)
        with trio.fail_after(0.2):
            hurried = await backend.probe()
        fake.script = Script(slots=1)
        after = await backend.probe()

    assert (None, None, 0) == (patient.computing, hurried.computing, after.computing)


@pytest.mark.parametrize("status", [401, 503])
async def test_a_server_in_trouble_is_not_well(status: int) -> None:
    """A list that is refused is told with its status: llama-server says 503 while it loads."""
    script = Script(behaviour=Behaviour.REFUSE, status=status, misbehaves_at=("/v1/models",))
    async with scripted(script) as (_, backend):
        with pytest.raises(BackendFailed) as caught:
            await backend.probe()

    assert (Fault.REFUSED, status) == (caught.value.fault, caught.value.status)
