"""A server of Ollama's dialect: what is passed on to it, and what is translated for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
    Probe,
    Report,
    Served,
)
from ollama_proxy.backends.ollama import OllamaBackend
from ollama_proxy.policy.ask import Call
from tests.backends.exchanges import (
    MODEL,
    byte_server,
    deltas,
    direct,
    errand,
    paths,
    reaching,
    recording,
)
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.fleet import spec

OLD = Script(unserved=("/v1/*",), tokens=3)


@asynccontextmanager
async def scripted(
    script: Script, *, base: str = "", **changes: Any
) -> AsyncIterator[tuple[Fake, OllamaBackend]]:
    """A fake and the backend that it is; `changes` go into the backend's spec."""
    async with open_fake(script) as fake, reaching(fake.url + base) as server:
        yield fake, OllamaBackend(spec(**changes), server)


@pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
async def test_calls_are_passed_on(call: Call) -> None:
    """Its own calls and OpenAI's go where they belong, and their answers come back untouched."""
    made = errand(call, stream=not call.embeds)
    async with scripted(Script()) as (fake, backend), recording() as sink:
        expected = await direct(fake, made)
        served = await backend.exchange(made, sink)

    assert (expected, 200, [call.path] * 2) == (sink.body, served.status, paths(fake))


async def test_an_unserved_call_is_translated_from_then_on() -> None:
    """A server that does not know one of OpenAI's calls is asked once, and never again."""
    async with scripted(OLD) as (fake, backend):
        for _ in range(2):
            async with recording() as sink:
                served = await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

                assert " tok tok tok" == deltas(sink.body)
                report = Report(
                    prompt_tokens=5, answer_tokens=3, load_s=0.0, prefill_s=0.0, decode_s=0.0
                )
                assert Served(status=200, tokens=3, report=report) == served
                assert sink.complete

    assert ["/v1/chat/completions", "/api/chat", "/api/chat"] == paths(fake)


async def test_a_server_that_was_down_is_asked_again() -> None:
    """It may be a newer one when it is back, and know the call."""
    async with scripted(OLD) as (fake, backend), recording() as old, recording() as new:
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), old)
        fake.script = Script(behaviour=Behaviour.REFUSE, misbehaves_at=("/api/tags",))
        with pytest.raises(BackendFailed):
            await backend.probe()
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), new)

    assert Call.OPENAI_CHAT.path == paths(fake)[-1]


@pytest.mark.parametrize("unserved_as", ["gin", "llama-server"])
@pytest.mark.parametrize(
    ("call", "path", "field"),
    [
        (Call.OPENAI_CHAT, "/api/chat", "choices"),
        (Call.OPENAI_COMPLETION, "/api/generate", "choices"),
        (Call.OPENAI_EMBEDDING, "/api/embed", "data"),
    ],
)
async def test_a_whole_answer_is_translated(
    call: Call, path: str, field: str, unserved_as: str
) -> None:
    """Each of OpenAI's calls that Ollama has a word for is answered in OpenAI's words."""
    script = Script(unserved=("/v1/*",), unserved_as=unserved_as)
    async with scripted(script) as (fake, backend), recording() as sink:
        served = await backend.exchange(errand(call, stream=False), sink)

    assert sink.head is not None
    assert ([call.path, path], 200) == (paths(fake), served.status)
    assert 1 == len(msgspec.json.decode(sink.body)[field])
    assert len(sink.body) == sink.head.length


@pytest.mark.parametrize("call", [Call.OPENAI_RESPONSES, Call.ANTHROPIC_MESSAGES])
async def test_what_ollama_has_no_word_for_is_unserved(call: Call) -> None:
    """Another backend may serve it, now and the next time."""
    async with scripted(OLD) as (fake, backend), recording() as sink:
        for _ in range(2):
            with pytest.raises(CallUnserved):
                await backend.exchange(errand(call, stream=True), sink)

    assert [call.path] == paths(fake)


async def test_one_of_its_own_calls_may_be_unserved() -> None:
    """An old server without /api/embed is not asked in other words."""
    script = Script(unserved=("/api/embed",))
    async with scripted(script) as (fake, backend), recording() as sink:
        with pytest.raises(CallUnserved):
            await backend.exchange(errand(Call.OLLAMA_EMBED, stream=False), sink)

    assert ["/api/embed"] == paths(fake)


async def test_a_missing_model_is_not_an_unserved_call() -> None:
    """A 404 that names the model leaves the call as it was."""
    script = Script(behaviour=Behaviour.MISSING_MODEL, times=1)
    async with scripted(script) as (fake, backend), recording() as sink:
        with pytest.raises(ModelMissing):
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

    assert [Call.OPENAI_CHAT.path] * 2 == paths(fake)


@pytest.mark.parametrize(
    "fields",
    [{"messages": "hi"}, {"temperature": "warm"}, {"messages": [{"role": 1}]}],
    ids=["messages", "temperature", "role"],
)
async def test_what_cannot_be_translated_is_the_callers_fault(fields: dict[str, object]) -> None:
    """A field of the wrong type ends the call with a sentence, and nothing is sent."""
    async with scripted(OLD) as (fake, backend), recording() as sink:
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=False), sink)
        asked = len(fake.log)
        with pytest.raises(CallRejected) as caught:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=False, **fields), sink)

    assert (400, asked) == (caught.value.status, len(fake.log))
    assert next(iter(fields)) in str(caught.value)


async def test_the_callers_fault_is_told_in_translation() -> None:
    """An error in Ollama's words is told as a sentence, for the door to put into OpenAI's."""
    script = Script(
        unserved=("/v1/*",),
        behaviour=Behaviour.REFUSE,
        misbehaves_at=("/api/chat",),
        status=400,
        message="bad image",
    )
    async with scripted(script) as (_, backend), recording() as sink:
        with pytest.raises(CallRejected) as caught:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=False), sink)

    assert (400, "bad image", 0) == (caught.value.status, str(caught.value), sink.begun)


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
    script = Script(
        behaviour=behaviour,
        after_tokens=after_tokens,
        unserved=("/v1/*",),
        misbehaves_at=("/api/*",),
        interval_s=0.001,
    )
    async with scripted(script) as (_, backend), recording() as sink:
        with pytest.raises(BackendFailed) as caught:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

    assert (fault, begun, False) == (caught.value.fault, sink.begun, sink.complete)
    assert b"[DONE]" not in sink.body


@pytest.mark.parametrize("script", [Script(), OLD], ids=["passed", "translated"])
async def test_an_alias(script: Script) -> None:
    """The server hears its own name for the model."""
    aliases = {"gpt-4o-mini": "qwen2.5:0.5b"}
    async with scripted(script, aliases=aliases) as (fake, backend), recording() as sink:
        made = errand(Call.OPENAI_CHAT, stream=True, model="gpt-4o-mini")
        await backend.exchange(made, sink)

    assert "qwen2.5:0.5b" == fake.log[-1].body["model"]


async def test_a_base_path() -> None:
    """Behind a reverse proxy every path begins with its own."""
    async with scripted(Script(), base="/ollama") as (fake, backend), recording() as sink:
        with pytest.raises(CallUnserved):  # the fake knows no such path; it is the path that counts
            await backend.exchange(errand(Call.OLLAMA_CHAT, stream=True), sink)
        with pytest.raises(BackendFailed):
            await backend.probe()
        async with backend.call("POST", "/api/show", body=b"{}") as reply:
            status = reply.status

    assert ["/ollama/api/chat", "/ollama/api/tags", "/ollama/api/show"] == paths(fake)
    assert 404 == status


# -- probes ----------------------------------------------------------------------------------------


async def test_a_probe() -> None:
    """It tells the models that are there and those in memory, by their full names."""
    async with scripted(Script(models=("a", "b:1b"), loaded=("a",))) as (_, backend):
        probe = await backend.probe()

    assert Probe(models=frozenset({"a:latest", "b:1b"}), loaded=frozenset({"a:latest"})) == probe


async def test_a_server_that_does_not_tell_what_is_loaded() -> None:
    """It is unknown then, which is not the same as nothing."""
    async with scripted(Script(unserved=("/api/ps",))) as (_, backend):
        probe = await backend.probe()

    assert Probe(models=frozenset({MODEL}), loaded=None) == probe


@pytest.mark.parametrize(
    "content",
    [b"[]\n\n", b'{"models":[{"name":"\xff"}]}\n\n', b"hello\n\n", b"[" * 50_000 + b"\n\n"],
)
async def test_a_list_that_makes_no_sense(content: bytes) -> None:
    """Whatever stands in its place, the backend is down and the router is not."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content)
    async with byte_server(head + content, head + content) as url, reaching(url) as server:
        with pytest.raises(BackendFailed) as caught:
            await OllamaBackend(spec(), server).probe()

    assert Fault.GARBLED is caught.value.fault


async def test_a_server_in_trouble_is_not_well() -> None:
    """A list that is refused is told with its status."""
    script = Script(behaviour=Behaviour.REFUSE, status=503, misbehaves_at=("/api/tags",))
    async with scripted(script) as (_, backend):
        with pytest.raises(BackendFailed) as caught:
            await backend.probe()

    assert (Fault.REFUSED, 503) == (caught.value.fault, caught.value.status)
