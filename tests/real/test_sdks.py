"""The official SDKs and curl, against the router as a process, with fake backends as processes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx
import ollama
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.numb import NUMB_TOML
from tests.real.parts import require
from tests.real.processes import ROOT, running

MODEL = "fake:latest"
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
KINDS = {
    # What the backend is, as configured, and which paths it does not know.
    "ollama": ("ollama", ()),
    "old-ollama": ("ollama", ("/v1/*",)),
    "openai": ("openai", ("/api/*",)),
}


@attrs.frozen
class Bench:
    """A router and the backend behind it."""

    kind: str
    url: str
    fake: str

    @property
    def unserved(self) -> tuple[str, ...]:
        """The paths that the backend does not know."""
        return KINDS[self.kind][1]

    def script(self, **fields: object) -> None:
        """Let the backend behave otherwise, until the test is over."""
        httpx.post(f"{self.fake}/fake/script", json=fields, trust_env=False).raise_for_status()

    def openai(self) -> openai.OpenAI:
        """OpenAI's client, which otherwise tries again by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def ollama(self) -> ollama.Client:
        """Ollama's client."""
        return ollama.Client(host=self.url)


@pytest.fixture(scope="module", params=KINDS)
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """One router for each kind of backend."""
    kind: str = request.param
    dialect, unserved = KINDS[kind]
    directory = tmp_path_factory.mktemp(kind)
    fake = [str(ROOT / "tools" / "fake-ollama"), "--tokens", "5", "--only-listed"]
    if unserved:
        fake += ["--unserved", *unserved]
    with running(fake, directory) as fake_url:
        (directory / "config.toml").write_text(
            f'[server]\nhttp_port = 0\ngrpc = false\n[[backends]]\nid = "it"\ntype = "{dialect}"\n'
            f'hardware = "npu"\nendpoint = "{fake_url}"\nslots = 4\n'
            f"{NUMB_TOML}"
        )
        with running(["-m", "ollama_proxy", "serve"], directory) as url:
            yield Bench(kind, url, fake_url)


@pytest.fixture
def bench(processes: Bench) -> Iterator[Bench]:
    """The same, with the backend as it was at first."""
    yield processes
    httpx.post(f"{processes.fake}/fake/reset", trust_env=False).raise_for_status()


# -- OpenAI's SDK ----------------------------------------------------------------------------------


def test_openai_chat(bench: Bench) -> None:
    """A chat has its text, its reason to end and its usage, and says who served it."""
    with bench.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HI)
        said = raw.parse()

    assert (" tok" * 5, "stop") == (said.choices[0].message.content, said.choices[0].finish_reason)
    assert said.usage is not None
    assert (5, "fake") == (said.usage.completion_tokens, said.model.removesuffix(":latest"))
    assert "it" == raw.headers["x-backend-used"]


def test_openai_chat_stream(bench: Bench) -> None:
    """A stream is read to its end, with the usage that was asked for."""
    with (
        bench.openai() as client,
        client.chat.completions.create(
            model=MODEL,
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=3,
        ) as stream,
    ):
        chunks = list(stream)

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    usage = chunks[-1].usage
    assert (" tok" * 3, "length") == ("".join(texts), reasons[-1])
    assert usage is not None
    assert 3 == usage.completion_tokens


def test_openai_completion(bench: Bench) -> None:
    """The older call works, whole and in pieces."""
    with bench.openai() as client:
        whole = client.completions.create(model=MODEL, prompt="hi")
        with client.completions.create(model=MODEL, prompt="hi", stream=True) as stream:
            pieces = [c.choices[0].text for c in stream if c.choices]

    assert (" tok" * 5, " tok" * 5) == (whole.choices[0].text, "".join(pieces))


def test_openai_embeddings(bench: Bench) -> None:
    """Vectors come as numbers, though the SDK asks for base64."""
    with bench.openai() as client:
        made = client.embeddings.create(model=MODEL, input=["a", "b"])

    assert [[0.25, -0.5, 0.125, 1.0]] * 2 == [item.embedding for item in made.data]


def test_openai_models(bench: Bench) -> None:
    """The list has the model, and the model can be asked for by name."""
    with bench.openai() as client:
        listed = [model.id for model in client.models.list()]
        model = client.models.retrieve(listed[0])
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no-such")

    assert [MODEL] == listed
    assert MODEL == model.id


def test_openai_responses(bench: Bench) -> None:
    """The newest call passes where the server knows it, and is an error where not."""
    with bench.openai() as client:
        if bench.kind == "old-ollama":
            with pytest.raises(openai.InternalServerError) as caught:
                client.responses.create(model=MODEL, input="hi")

            assert 503 == caught.value.status_code
            return
        said = client.responses.create(model=MODEL, input="hi")

    assert " tok" * 5 == said.output_text


def test_openai_realtime(bench: Bench) -> None:
    """Its realtime client reads a whole response, in the SDK's own types."""
    with bench.openai() as client, client.realtime.connect(model=MODEL) as connection:
        connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "hello"}],
            }
        )
        connection.response.create()
        text = ""
        while (event := connection.recv()).type != "response.done":
            text += event.delta if event.type == "response.output_text.delta" else ""

    assert text
    assert event.response.status == "completed"
    assert event.response.output is not None
    assert event.response.output[0].content[0].text == text  # type: ignore[union-attr]  # a message


def test_openai_realtime_cancel(bench: Bench) -> None:
    """A response that is interrupted is `cancelled`, and the connection goes on."""
    bench.script(tokens=1000, interval_s=0.01)
    with bench.openai() as client, client.realtime.connect(model=MODEL) as connection:
        connection.conversation.item.create(
            item={
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "hello"}],
            }
        )
        connection.response.create()
        statuses = []
        for event in connection:
            if event.type == "response.output_text.delta":
                connection.response.cancel()
            elif event.type == "response.done":
                statuses.append(event.response.status)
                break

    assert ["cancelled"] == statuses


@pytest.mark.parametrize("stream", [True, False])
def test_openai_unknown_model(bench: Bench, stream: bool) -> None:
    """It is the SDK's NotFoundError, with code and param."""
    with bench.openai() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such", messages=HI, stream=stream)

    assert ("model_not_found", "model") == (caught.value.code, caught.value.param)


def test_openai_bad_requests(bench: Bench) -> None:
    """What the caller got wrong is the SDK's BadRequestError, whoever found it."""
    with bench.openai() as client:
        with pytest.raises(openai.BadRequestError) as header:
            client.chat.completions.create(
                model=MODEL,
                messages=HI,
                extra_headers={"X-Max-Latency-Ms": "soon"},
            )
        with pytest.raises(openai.BadRequestError) as model:
            client.chat.completions.create(model="", messages=HI)
        if bench.kind == "old-ollama":
            with pytest.raises(openai.BadRequestError, match="temperature"):
                client.chat.completions.create(model=MODEL, messages=HI, temperature="warm")  # type: ignore[call-overload] # the fault

    assert ("invalid_header", "X-Max-Latency-Ms") == (header.value.code, header.value.param)
    assert "invalid_request" == model.value.code


def test_openai_no_backend(bench: Bench) -> None:
    """What cannot be served now is an APIStatusError 503 that says when to try again."""
    with bench.openai() as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=HI,
            extra_headers={"X-Max-Power-Watts": "0.1"},
        )

    assert (503, "no_backend") == (caught.value.status_code, caught.value.code)
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_openai_broken_stream(bench: Bench) -> None:
    """A stream that breaks off raises within the loop, instead of ending like a whole one."""
    bench.script(behaviour="die_mid_stream", interval_s=0.001)
    texts = []
    with bench.openai() as client:
        stream = client.chat.completions.create(model=MODEL, messages=HI, stream=True)
        with stream, pytest.raises(openai.APIError):  # noqa: PT012 - the loop is what raises
            for chunk in stream:
                texts += [chunk.choices[0].delta.content]

    assert " tok" in texts


def test_openai_leaves_a_stream(bench: Bench) -> None:
    """Closing a stream halfway frees its slot for the next."""
    bench.script(tokens=100_000, interval_s=0.001)
    with bench.openai() as client:
        for _ in range(8):  # twice as many as there are slots
            with client.chat.completions.create(model=MODEL, messages=HI, stream=True) as stream:
                next(iter(stream))


# -- Ollama's SDK ----------------------------------------------------------------------------------


def test_ollama_chat(bench: Bench) -> None:
    """A chat, whole and in pieces."""
    with bench.ollama() as client:
        whole = client.chat(model=MODEL, messages=HI)
        pieces = list(client.chat(model=MODEL, messages=HI, stream=True))

    assert (" tok" * 5, True, 5) == (whole.message.content, whole.done, whole.eval_count)
    assert " tok" * 5 == "".join(piece.message.content or "" for piece in pieces)
    assert (True, "stop", 5) == (pieces[-1].done, pieces[-1].done_reason, pieces[-1].eval_count)


def test_ollama_generate(bench: Bench) -> None:
    """A completion, whole and in pieces, with options."""
    with bench.ollama() as client:
        whole = client.generate(model=MODEL, prompt="hi", options={"num_predict": 2})
        pieces = list(client.generate(model=MODEL, prompt="hi", stream=True))

    assert (" tok" * 2, "length") == (whole.response, whole.done_reason)
    assert " tok" * 5 == "".join(piece.response for piece in pieces)


def test_ollama_embed(bench: Bench) -> None:
    """Vectors, by the new call and the old."""
    with bench.ollama() as client:
        new = client.embed(model=MODEL, input=["a", "b"])
        old = client.embeddings(model=MODEL, prompt="a")

    assert [[0.25, -0.5, 0.125, 1.0]] * 2 == [list(vector) for vector in new.embeddings]
    assert [0.25, -0.5, 0.125, 1.0] == list(old.embedding)


def test_ollama_lists(bench: Bench) -> None:
    """What is installed, what is loaded, and what one model is."""
    with bench.ollama() as client:
        listed = [model.model for model in client.list().models]
        client.ps()
        client.show(MODEL)

    assert [MODEL] == listed


def test_ollama_pull_and_delete(bench: Bench) -> None:
    """A download reports its progress, a model can be removed; where nobody can, that is said."""
    if bench.kind == "openai":
        with (
            bench.ollama() as client,
            pytest.raises(ollama.ResponseError, match="no healthy") as no,
        ):
            client.pull(MODEL)

        assert 503 == no.value.status_code
        return
    with bench.ollama() as client:
        progress = list(client.pull(MODEL, stream=True))
        done = client.pull(MODEL)
        deleted = client.delete(MODEL)

    assert [1, 2, 3, 4, 5] == [step.completed for step in progress if step.completed]
    assert ("success", "success", "success") == (
        progress[-1].status,
        done.status,
        deleted.status,
    )


def test_ollama_errors(bench: Bench) -> None:
    """They are the SDK's ResponseError, with status and sentence."""
    with bench.ollama() as client:
        for call in (
            lambda: client.chat(model="no-such", messages=HI),
            lambda: client.generate(model="no-such", prompt="hi"),
            lambda: client.embed(model="no-such", input="hi"),
            lambda: list(client.chat(model="no-such", messages=HI, stream=True)),
            lambda: client.show("no-such"),
        ):
            with pytest.raises(ollama.ResponseError, match="no-such") as caught:
                call()

            assert 404 == caught.value.status_code


def test_ollama_broken_stream(bench: Bench) -> None:
    """A stream that breaks off raises within the loop, instead of ending like a whole one."""
    bench.script(behaviour="die_mid_stream", interval_s=0.001)
    with bench.ollama() as client, pytest.raises(ollama.ResponseError, match="it failed"):
        list(client.chat(model=MODEL, messages=HI, stream=True))


# -- curl ------------------------------------------------------------------------------------------


def curl(*arguments: str) -> str:
    """What curl prints; fails as it does."""
    require(shutil.which("curl") is not None, "curl is not installed")
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


CHAT = json.dumps({"model": MODEL, "messages": HI})


def test_curl_chat(bench: Bench) -> None:
    """A chat as it stands in every README: curl says its JSON is a form, and is understood."""
    said = json.loads(curl(f"{bench.url}/v1/chat/completions", "-d", CHAT))

    assert " tok" * 5 == said["choices"][0]["message"]["content"]


def test_curl_stream(bench: Bench) -> None:
    """Ollama's calls stream unless told otherwise."""
    said = curl(
        "--no-buffer", f"{bench.url}/api/generate", "-d", f'{{"model":"{MODEL}","prompt":"hi"}}'
    )
    lines = [json.loads(line) for line in said.splitlines()]

    assert " tok" * 5 == "".join(line["response"] for line in lines)


def test_curl_headers(bench: Bench) -> None:
    """What was decided stands in the answer's head, of errors too."""
    good = curl(
        "-i", "-H", "X-Latency-Critical: true", f"{bench.url}/v1/chat/completions", "-d", CHAT
    )
    bad = curl("-i", "-H", "X-Target-Backend: cpu", f"{bench.url}/v1/chat/completions", "-d", CHAT)
    head = good.partition("\n\n")[0].lower()

    assert head.startswith("http/1.1 200")
    for header in ("x-backend-used: it", "x-request-id: ", "x-queue-ms: ", "x-estimated-power-w: "):
        assert header in head
    assert "x-routing-reason: " in head
    assert bad.startswith("HTTP/1.1 400")
    assert "unknown_backend" in bad


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/", "Ollama is running"),
        ("/health", '"status":"ok"'),
        ("/backends", '"id":"it"'),
        ("/v1/models", MODEL),
        ("/api/tags", MODEL),
        ("/api/version", "version"),
        ("/openapi.json", "openapi"),
    ],
)
def test_curl_looks_around(bench: Bench, path: str, word: str) -> None:
    """What a person asks first is answered."""
    assert word in curl(bench.url + path)


def test_curl_routes(bench: Bench) -> None:
    """A decision is explained without asking any backend."""
    said = json.loads(curl(f"{bench.url}/v1/route", "-d", CHAT, "-H", "X-Power-Efficient: true"))

    assert ("it", "power-efficient") == (said["backend"], said["reason"])


def test_curl_uploads(bench: Bench, tmp_path: Path) -> None:
    """A prompt of megabytes, for which curl asks leave first, arrives."""
    big = tmp_path / "big.json"
    big.write_text(
        json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x" * 3_000_000}]})
    )
    said = json.loads(curl(f"{bench.url}/v1/chat/completions", "-d", f"@{big}"))

    assert " tok" * 5 == said["choices"][0]["message"]["content"]
