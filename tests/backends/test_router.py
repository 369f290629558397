"""Another router as a backend: it speaks every dialect, and tells how it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ollama_proxy.backends.backend import BackendFailed, Fault, ModelMissing, Probe
from ollama_proxy.backends.router import NODE_MAX_BYTES, RouterBackend
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.refusal import Code
from tests.backends.exchanges import (
    byte_server,
    direct,
    errand,
    paths,
    reaching,
    recording,
)
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.fleet import spec

VIA = ("via", "1.1 ollama-proxy (a1)")


@asynccontextmanager
async def scripted(script: Script, **changes: Any) -> AsyncIterator[tuple[Fake, RouterBackend]]:
    """A fake, and the router that it is taken for."""
    async with open_fake(script) as fake, reaching(fake.url) as server:
        yield fake, RouterBackend(spec(type=BackendType.ROUTER, **changes), server, node_id="a1")


@asynccontextmanager
async def saying(status: int, body: object, *headers: str) -> AsyncIterator[RouterBackend]:
    """One that answers whatever it is asked with the same."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", *headers, "", ""]
    async with byte_server("\r\n".join(head).encode() + content) as url, reaching(url) as server:
        yield RouterBackend(spec(type=BackendType.ROUTER), server)


@pytest.mark.parametrize("call", Call, ids=lambda call: call.path)
async def test_no_call_is_translated(call: Call) -> None:
    """Whatever the dialect, a call goes to the same path, and its answer comes back untouched."""
    made = errand(call, stream=not call.embeds)
    async with scripted(Script()) as (fake, backend), recording() as sink:
        expected = await direct(fake, made)
        served = await backend.exchange(made, sink)

    assert (expected, 200, [call.path] * 2) == (sink.body, served.status, paths(fake))


async def test_it_says_that_it_was_here() -> None:
    """In all that it asks for: a call, how it is, and what is done to models."""
    async with scripted(Script()) as (fake, backend), recording() as sink:
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)
        await backend.probe()
        async with backend.call("POST", "/api/show", body=b'{"model": "fake"}') as reply:
            assert 200 == reply.status
        told = [dict(record.headers).get(VIA[0]) for record in fake.log]

    assert [VIA[1]] * len(paths(fake)) == told


async def test_an_alias_becomes_its_name() -> None:
    """As for any backend."""
    async with (
        scripted(Script(), aliases={"gpt": "fake:latest"}) as (fake, backend),
        recording() as sink,
    ):
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=False, model="gpt"), sink)
        body = fake.log[-1].body

    assert "fake:latest" == body["model"]


class TestProbe:
    """How it says that it is."""

    async def test_it_tells(self) -> None:
        """Models and state with one question."""
        told = {"protocol": 1, "slots": 3, "models": ["a:1"], "loaded": [], "version": "9"}
        async with saying(200, told) as backend:
            probe = await backend.probe()

        node = Node(slots=3, models=frozenset({"a:1"}), loaded=frozenset(), version="9")
        assert probe == Probe(
            models=node.models, loaded=node.loaded, version=node.version, node=node
        )

    async def test_an_old_one_is_asked_for_its_models(self) -> None:
        """It does not know the question: all else of it is unknown."""
        async with scripted(Script(models=("a:1", "b:latest"))) as (fake, backend):
            probe = await backend.probe()

        assert Probe(models=frozenset({"a:1", "b:latest"})) == probe
        assert ["/node", "/api/tags"] == paths(fake)

    @pytest.mark.parametrize("body", ["", "\xff", "<html>", '"x"', "[]", '{"protocol":null}'])
    async def test_what_is_no_such_answer_is_none(self, body: str) -> None:
        """Whatever it is: it is asked for its models instead, as an old one is."""
        said = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        script = Script(behaviour=Behaviour.VERBATIM, misbehaves_at=("/node",), verbatim=said)
        async with scripted(script) as (_, backend):
            assert Probe(models=frozenset({"fake:latest"})) == await backend.probe()

    async def test_another_version_is_down_and_says_why(self) -> None:
        """It is not used: what it says may mean other things."""
        async with saying(200, {"protocol": 2, "models": []}) as backend:
            with pytest.raises(BackendFailed, match=r"version 2 .* reads 1: install"):
                await backend.probe()

    @pytest.mark.parametrize("status", [401, 429, 500, 503])
    async def test_one_that_refuses_is_not_well(self, status: int) -> None:
        """A wrong key, say."""
        async with saying(status, {}) as backend:
            with pytest.raises(BackendFailed, match=f"/node answered {status}"):
                await backend.probe()

    async def test_one_that_says_too_much_is_not_well(self) -> None:
        """Sixteen times what there is to say is no answer."""
        async with saying(200, b" " * (NODE_MAX_BYTES + 1)) as backend:
            with pytest.raises(BackendFailed) as caught:
                await backend.probe()

        assert "its answer is far too long" == str(caught.value)

    async def test_one_without_a_list_is_not_well(self) -> None:
        """It is no router at all."""
        async with scripted(Script(unserved=("/api/tags",))) as (_, backend):
            with pytest.raises(BackendFailed, match="/api/tags answered 404"):
                await backend.probe()


def error(code: str) -> object:
    """As a router says it, to who speaks OpenAI's dialect."""
    return {"error": {"message": f"words of {code}", "type": "api_error", "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "fault", "code"),
    [
        (503, error("queue_full"), Fault.FULL, Code.QUEUE_FULL),
        (429, error("rate_limit_exceeded"), Fault.FULL, Code.RATE_LIMITED),
        (429, b"slow down", Fault.FULL, None),
        (503, error("shutting_down"), Fault.FULL, Code.SHUTTING_DOWN),
        (503, {"error": "words of", "code": "queue_full"}, Fault.FULL, Code.QUEUE_FULL),
        (503, error("no_backend"), Fault.DECLINED, Code.NO_BACKEND),
        (503, error("preempted"), Fault.DECLINED, Code.PREEMPTED),
        (503, error("deadline_unmeetable"), Fault.DECLINED, Code.DEADLINE_UNMEETABLE),
        (504, error("deadline_exceeded"), Fault.DECLINED, Code.DEADLINE_EXCEEDED),
        (502, error("backend_failed"), Fault.REFUSED, Code.BACKEND_FAILED),
        (503, b"<html>", Fault.REFUSED, None),
        (503, error("never heard"), Fault.REFUSED, None),
    ],
)
async def test_a_refusal_is_what_it_means(
    status: int, body: object, fault: Fault, code: Code | None
) -> None:
    """A router that is full, or cannot serve this one request, has not failed."""
    async with saying(status, body, "retry-after: 7") as backend, recording() as sink:
        with pytest.raises(BackendFailed) as caught:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

    failure = caught.value
    assert (fault, code, status, 7.0) == (
        failure.fault,
        failure.code,
        failure.status,
        failure.retry_after_s,
    )
    if code is not None:
        assert "words of" in str(failure)


@pytest.mark.parametrize("told", ["soon", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 9])
async def test_a_time_that_is_none_is_not_told(told: str) -> None:
    """Clocks may be apart: a date says nothing."""
    async with saying(503, b"", f"retry-after: {told}") as backend, recording() as sink:
        with pytest.raises(BackendFailed) as caught:
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

    assert None is caught.value.retry_after_s


async def test_a_model_that_is_not_there() -> None:
    """Its list was out of date: another may have it."""
    async with saying(404, error("model_not_found")) as backend, recording() as sink:
        with pytest.raises(ModelMissing):
            await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)


async def test_what_the_caller_got_wrong_is_passed_on() -> None:
    """In its own words, with its own bytes."""
    body = msgspec.json.encode(error("invalid_request"))
    async with saying(400, body) as backend, recording() as sink:
        served = await backend.exchange(errand(Call.OPENAI_CHAT, stream=True), sink)

    assert (400, body) == (served.status, sink.body)


async def test_whose_answer_it_was_there_is_told() -> None:
    """The far router's choice under a name of its own; its forecasts and waits not at all."""
    headers = [
        "content-type: application/json",
        "X-Backend-Used: ollama-npu",
        "X-Routing-Reason: balanced",
        "X-Queue-Ms: 1",
        "X-Request-ID: mine",
        "X-Energy-J: 3",
        "X-Other: kept",
    ]
    async with saying(200, {"a": 1}, *headers) as backend, recording() as sink:
        await backend.exchange(errand(Call.OPENAI_CHAT, stream=False), sink)

    assert sink.head is not None
    assert {
        b"content-type": b"application/json",
        b"x-node-backend": b"ollama-npu",
        b"x-other": b"kept",
    } == dict(sink.head.headers)
