"""The fake backend does what its script says, seen by a client that is not ours."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests.fakes.ollama import Behaviour, Fake, Script, Then, open_fake

CHAT = "/v1/chat/completions"
COMMAND = Path(__file__).resolve().parents[2] / "tools" / "fake-ollama"


@asynccontextmanager
async def fake_and_client(script: Script) -> AsyncIterator[tuple[Fake, httpx.AsyncClient]]:
    with trio.fail_after(20):
        async with (
            open_fake(script) as fake,
            httpx.AsyncClient(base_url=fake.url, trust_env=False, timeout=None) as client,  # noqa: S113 - fail_after bounds it
        ):
            yield fake, client


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


async def received(fake: Fake, path: str = CHAT, body: bytes = b'{"stream":true}') -> bytes:
    """All bytes of one answer, the end of the connection included."""
    stream = await trio.open_tcp_stream(fake.host, fake.port)
    async with stream:
        await stream.send_all(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )
        return b"".join([part async for part in stream])


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/api/version", "version"),
        ("/api/tags", "models"),
        ("/api/ps", "models"),
        ("/v1/models", "data"),
        ("/v1/models/fake:latest", "id"),
        ("/health", "status"),
    ],
)
async def test_lists_are_json(path: str, key: str) -> None:
    """Each list is served as JSON of its own shape."""
    async with fake_and_client(Script()) as (_, client):
        answer = await client.get(path)

    assert (200, True) == (answer.status_code, key in answer.json())


async def test_root_is_ollamas() -> None:
    """GET and HEAD of the root answer as Ollama does, on one connection."""
    async with fake_and_client(Script()) as (fake, client):
        got = await client.get("/")
        headed = await client.head("/")

    assert ("Ollama is running", 200, "") == (got.text, headed.status_code, headed.text)
    assert 1 == fake.connections


async def test_openai_stream() -> None:
    """A chat completion streams its tokens as events and ends with [DONE]."""
    async with fake_and_client(Script(tokens=3, word=' "a')) as (_, client):
        answer = await client.post(CHAT, json={"model": "m", "stream": True})
        said = events(answer.text)

    deltas = [json.loads(event)["choices"][0]["delta"].get("content") for event in said[:-1]]
    assert "text/event-stream" == answer.headers["content-type"]
    assert [' "a', ' "a', ' "a', None] == deltas
    assert "[DONE]" == said[-1]


async def test_ollama_stream() -> None:
    """A native chat streams lines, the last of which counts the tokens."""
    async with fake_and_client(Script(tokens=2)) as (_, client):
        answer = await client.post("/api/chat", json={"model": "m"})
        lines = [json.loads(line) for line in answer.text.splitlines()]

    assert [" tok", " tok", ""] == [line["message"]["content"] for line in lines]
    assert (True, 2, "stop") == tuple(
        lines[-1][key] for key in ("done", "eval_count", "done_reason")
    )


async def test_whole_answer() -> None:
    """Without a stream the tokens come at once, no more of them than asked for."""
    async with fake_and_client(Script()) as (_, client):
        answer = await client.post(CHAT, json={"model": "m", "max_tokens": 2})

    choice = answer.json()["choices"][0]
    assert (" tok tok", "length") == (choice["message"]["content"], choice["finish_reason"])


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_named_events(path: str) -> None:
    """Anthropic's and the Responses routes name the type of each event."""
    async with fake_and_client(Script(tokens=1)) as (_, client):
        answer = await client.post(path, json={"model": "m", "stream": True})

    for event in events(answer.text):
        name, _, data = event.partition("\n")
        assert name.removeprefix("event: ") == json.loads(data.removeprefix("data: "))["type"]


async def test_embeddings() -> None:
    """Each input gets its vector."""
    async with fake_and_client(Script()) as (_, client):
        native = await client.post("/api/embed", json={"model": "m", "input": ["a", "b"]})
        openai = await client.post("/v1/embeddings", json={"model": "m", "input": "a"})

    assert (2, 1) == (len(native.json()["embeddings"]), len(openai.json()["data"]))


async def test_an_answer_reports_the_times_of_its_script() -> None:
    """Ollama's last line and, where the script says so, llama-server's timings are its pace."""
    script = Script(tokens=3, first_token_s=0.002, interval_s=0.001, timings=True)
    async with fake_and_client(script) as (_, client):
        native = await client.post("/api/chat", json={"model": "m", "stream": False})
        openai = await client.post(CHAT, json={"model": "m"})

    durations = [native.json()[key] for key in ("prompt_eval_duration", "eval_duration")]
    expected = {"cache_n": 2, "prompt_n": 3, "prompt_ms": 2, "predicted_n": 3, "predicted_ms": 2}
    assert [2_000_000, 2_000_000] == durations
    assert expected == openai.json()["timings"]


async def test_slots_show_what_is_under_way() -> None:
    """A slot is at work for as long as a call is answered, and free once the client has left."""
    async with fake_and_client(Script(slots=2, behaviour=Behaviour.HANG)) as (fake, client):

        async def busy() -> list[bool]:
            return [slot["is_processing"] for slot in (await client.get("/slots")).json()]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.post, CHAT, json={"model": "m"}))
            await fake.until(lambda log: log)
            during = await busy()
            nursery.cancel_scope.cancel()
        await fake.until(lambda log: log[0].client_left_s)
        after = await busy()

    assert ([True, False], [False, False]) == (during, after)


async def test_slots_are_llama_servers() -> None:
    """A fake that was given none does not know the path."""
    async with fake_and_client(Script()) as (_, client):
        answer = await client.get("/slots")

    assert 404 == answer.status_code


async def test_pull_reports_progress() -> None:
    """A pull streams its progress and ends with success."""
    async with fake_and_client(Script(tokens=2)) as (_, client):
        answer = await client.post("/api/pull", json={"model": "m"})
        lines = [json.loads(line) for line in answer.text.splitlines()]

    assert [1, 2] == [line["completed"] for line in lines if "completed" in line]
    assert {"status": "success"} == lines[-1]


async def test_delete_knows_its_models() -> None:
    """Deleting succeeds for a listed model and is 404 for another."""
    async with fake_and_client(Script()) as (_, client):
        known = await client.request("DELETE", "/api/delete", json={"model": "fake"})
        unknown = await client.request("DELETE", "/api/delete", json={"model": "x"})

    assert (200, 404) == (known.status_code, unknown.status_code)


async def test_stamps_are_send_times() -> None:
    """A stamped token names its send time, and the interval is kept over the whole stream."""
    script = Script(tokens=5, interval_s=0.01, stamp=True, token_bytes=40)
    async with fake_and_client(script) as (fake, client):
        answer = await client.post("/api/generate", json={"model": "m"})
        words = [json.loads(line)["response"] for line in answer.text.splitlines()][:-1]

    stamps = [int(word.strip().removeprefix("t")) / 1e9 for word in words]
    record = fake.log[0]
    assert {40} == {len(word) for word in words}
    assert sorted(stamps) == stamps
    assert record.arrived_s <= stamps[0]
    assert stamps[4] - record.arrived_s >= 0.04


async def test_log_tells_the_request() -> None:
    """A record holds what was asked and when it began and ended."""
    async with fake_and_client(Script(tokens=3)) as (fake, client):
        await client.post(f"{CHAT}?a=1", json={"stream": True}, headers={"X-Thing": "1"})

    record = fake.log[0]
    assert ("POST", CHAT, "a=1", {"stream": True}, 3) == (
        record.method,
        record.path,
        record.query,
        record.body,
        record.tokens_sent,
    )
    assert ("x-thing", "1") in record.headers
    assert record.first_byte_s is not None
    assert record.ended_s is not None
    assert record.arrived_s <= record.first_byte_s <= record.ended_s


async def test_control_endpoint() -> None:
    """The script, the log and a reset are within reach of another process."""
    async with fake_and_client(Script()) as (fake, client):
        changed = await client.post("/fake/script", json={"behaviour": "refuse", "status": 429})
        refused = await client.post(CHAT, json={})
        log = (await client.get("/fake/log")).json()
        wrong = await client.post("/fake/script", json={"behavior": "hang"})
        await client.post("/fake/reset")

    assert ("refuse", 429, 400) == (
        changed.json()["behaviour"],
        refused.status_code,
        wrong.status_code,
    )
    assert [CHAT] == [record["path"] for record in log]
    assert (Script(), []) == (fake.script, fake.log)


@pytest.mark.parametrize("behaviour", [Behaviour.HANG, Behaviour.HANG_MID_STREAM])
async def test_notices_the_client_leaving(behaviour: Behaviour) -> None:
    """A silent fake sees its client close."""
    async with fake_and_client(Script(behaviour=behaviour)) as (fake, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(received, fake)
            wanted = 2 if behaviour is Behaviour.HANG_MID_STREAM else 0
            await fake.until(lambda log: log and log[0].tokens_sent == wanted)
            nursery.cancel_scope.cancel()
        log = await fake.until(lambda log: log[0].client_left_s)

    assert (None, wanted) == (log[0].ended_s, log[0].tokens_sent)


async def test_slow() -> None:
    """A slow answer begins no sooner than its delay."""
    async with fake_and_client(Script(behaviour=Behaviour.SLOW, delay_s=0.05)) as (fake, client):
        await client.post(CHAT, json={})

    record = fake.log[0]
    assert record.first_byte_s is not None
    assert record.first_byte_s - record.arrived_s >= 0.05


async def test_dies_before_head() -> None:
    """The connection closes without a byte of answer."""
    async with fake_and_client(Script(behaviour=Behaviour.DIE_BEFORE_HEAD)) as (fake, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json={})

        assert b"" == await received(fake)


async def test_dies_by_reset() -> None:
    """The connection is reset instead of ended."""
    script = Script(behaviour=Behaviour.DIE_BEFORE_HEAD, reset=True)
    async with fake_and_client(script) as (_, client):
        with pytest.raises(httpx.ReadError):
            await client.post(CHAT, json={})


@pytest.mark.parametrize("stream", [True, False])
async def test_dies_mid_stream(stream: bool) -> None:
    """The answer breaks off before its framing says that it is complete."""
    async with fake_and_client(Script(behaviour=Behaviour.DIE_MID_STREAM)) as (fake, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json={"stream": stream})

    assert (2 if stream else 0) == fake.log[0].tokens_sent


async def test_garble() -> None:
    """The answer is no HTTP at all."""
    async with fake_and_client(Script(behaviour=Behaviour.GARBLE)) as (_, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json={})


async def test_garble_stream() -> None:
    """Lines that are no events stand in a stream that is sound HTTP and ends well."""
    async with fake_and_client(Script(behaviour=Behaviour.GARBLE_STREAM)) as (_, client):
        answer = await client.post(CHAT, json={"stream": True})

    assert b"\xff\xfe\x00 nonsense" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_close_after_stream() -> None:
    """Keep-alive is announced, yet the connection ends with the stream."""
    async with fake_and_client(Script(behaviour=Behaviour.CLOSE_AFTER_STREAM)) as (fake, _):
        answer = await received(fake)

    assert b"connection: keep-alive" in answer
    assert answer.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/chat", {"error": "full"}),
        (
            CHAT,
            {"error": {"message": "full", "type": "api_error", "param": None, "code": None}},
        ),
        ("/v1/messages", {"type": "error", "error": {"type": "api_error", "message": "full"}}),
    ],
)
async def test_refuse(path: str, said: object) -> None:
    """A refusal has the status of the script and the words of the dialect."""
    script = Script(behaviour=Behaviour.REFUSE, status=500, message="full")
    async with fake_and_client(script) as (_, client):
        answer = await client.post(path, json={})

    assert (500, said) == (answer.status_code, answer.json())


async def test_missing_model() -> None:
    """A missing model is 404 in Ollama's words."""
    async with fake_and_client(Script(behaviour=Behaviour.MISSING_MODEL)) as (_, client):
        answer = await client.post("/api/chat", json={"model": "x"})

    assert (404, {"error": "model 'x' not found"}) == (answer.status_code, answer.json())


async def test_only_listed_models() -> None:
    """A strict fake serves the models that it lists, with or without their tag."""
    async with fake_and_client(Script(only_listed=True)) as (_, client):
        known = await client.post("/api/chat", json={"model": "fake"})
        unknown = await client.post("/api/chat", json={"model": "x"})

    assert (200, 404) == (known.status_code, unknown.status_code)


@pytest.mark.parametrize(
    ("served_by", "said"), [("gin", "404 page not found"), ("llama-server", "File Not Found")]
)
async def test_unserved(served_by: str, said: str) -> None:
    """A path that the server does not know is 404 in its framework's words, others are served."""
    async with fake_and_client(Script(unserved=("/api/*",), unserved_as=served_by)) as (_, client):
        unknown = await client.get("/api/tags")
        known = await client.get("/v1/models")

    assert (404, True, 200) == (unknown.status_code, said in unknown.text, known.status_code)


@pytest.mark.parametrize("stream", [True, False])
async def test_no_content_length(stream: bool) -> None:
    """The body ends with the connection and nothing else."""
    async with fake_and_client(Script(behaviour=Behaviour.NO_CONTENT_LENGTH)) as (fake, client):
        answer = await client.post(CHAT, json={"stream": stream})
        await fake.until(lambda _: fake.open_connections == 0)

    assert set() == {"content-length", "transfer-encoding"} & set(answer.headers)
    assert answer.text.endswith("data: [DONE]\n\n" if stream else "}")


async def test_trickle() -> None:
    """The answer comes in many small reads and is whole."""
    script = Script(behaviour=Behaviour.TRICKLE, tokens=1, trickle_bytes=20)
    async with (
        fake_and_client(script) as (fake, client),
        client.stream("POST", "/api/generate", json={}) as answer,
    ):
        parts = [part async for part in answer.aiter_raw()]

    assert len(parts) > 5
    assert b"".join(parts).endswith(b"}\n")
    assert 1 == fake.log[0].tokens_sent


async def test_html_error() -> None:
    """The error is a page, as from a reverse proxy."""
    async with fake_and_client(Script(behaviour=Behaviour.HTML_ERROR)) as (_, client):
        answer = await client.post(CHAT, json={})

    assert (502, "text/html") == (answer.status_code, answer.headers["content-type"])


@pytest.mark.parametrize("then", list(Then))
async def test_verbatim(then: Then) -> None:
    """It says just these bytes, and then closes, resets, falls silent, or ends its side alone."""
    script = Script(behaviour=Behaviour.VERBATIM, verbatim="HTTP/1.1 2\xff", then=then)
    async with fake_and_client(script) as (fake, _):
        stream = await trio.open_tcp_stream(fake.host, fake.port)
        async with stream:
            await stream.send_all(
                b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
            )
            said = b""
            with suppress(trio.BrokenResourceError):
                while len(said) < 11:
                    said += await stream.receive_some()
            ended: bytes | None = None
            with trio.move_on_after(0.0 if then is Then.HANG else 5.0):
                try:
                    ended = await stream.receive_some()
                except trio.BrokenResourceError:
                    ended = b"reset"
            is_over = fake.log[0].ended_s is not None

    assert b"HTTP/1.1 2\xff" == said
    assert {"close": b"", "reset": b"reset", "hang": None, "half_close": b""}[then] == ended
    assert is_over == (then in {Then.CLOSE, Then.RESET})


async def test_misbehaves_a_number_of_times() -> None:
    """After `times` requests the fake is well again, and other paths were well throughout."""
    async with fake_and_client(Script(behaviour=Behaviour.REFUSE, times=1)) as (_, client):
        other = await client.get("/api/tags")
        statuses = [(await client.post(CHAT, json={})).status_code for _ in range(2)]

    assert (200, [503, 200]) == (other.status_code, statuses)


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n\xff\xff\r\n"]
)
async def test_survives_nonsense(nonsense: bytes) -> None:
    """A client that does not speak HTTP loses its connection, and only that."""
    async with fake_and_client(Script(behaviour=Behaviour.HANG)) as (fake, client):
        stream = await trio.open_tcp_stream(fake.host, fake.port)
        async with stream:
            await stream.send_all(nonsense)
            answer = b"".join([part async for part in stream])
        alive = await client.post("/api/show", content=b'{"model":"\xff"}')

    assert (False, 404) == (b" 500 " in answer, alive.status_code)


async def test_unix_socket(tmp_path: Path) -> None:
    """The fake serves on a Unix socket and removes it."""
    door = tmp_path / "fake"
    transport = httpx.AsyncHTTPTransport(uds=str(door))
    async with open_fake(unix=door) as fake, httpx.AsyncClient(transport=transport) as client:
        answer = await client.get(fake.url)

    assert ("Ollama is running", False) == (answer.text, door.exists())


async def test_leaving_closes_everything() -> None:
    """After the block nobody listens, and a hanging request was dropped."""
    async with open_fake(Script(behaviour=Behaviour.HANG)) as fake:
        stream = await trio.open_tcp_stream(fake.host, fake.port)
        await stream.send_all(b"POST /api/chat HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
        await fake.until(len)
    async with stream:
        with socket.socket() as probe:
            refused = probe.connect_ex((fake.host, fake.port))

        assert b"" == await stream.receive_some()
        assert (True, 0) == (refused != 0, fake.open_connections)


async def test_command() -> None:
    """The command says where it is ready, obeys its flags, and ends cleanly on SIGTERM."""
    flags = ["--hardware", "nvidia", "--tokens", "1", "--models", "a", "b:1"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, str(COMMAND), *flags],
                stdout=subprocess.PIPE,
            )
        )
        with trio.fail_after(20):
            ready = (await process.stdout.receive_some()).decode()
            url = ready.removeprefix("ready http=").strip()
            async with httpx.AsyncClient(base_url=f"http://{url}", trust_env=False) as client:
                script = (await client.get("/fake/script")).json()
            process.send_signal(signal.SIGTERM)

    assert 0 == process.returncode
    assert (0.15, 1, ["a", "b:1"]) == tuple(
        script[key] for key in ("first_token_s", "tokens", "models")
    )
