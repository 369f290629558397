"""What is secret is written nowhere: planted at every door, then looked for in all that was written."""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio
from trio_websocket import ConnectionRejected

from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.policy.access import digest_of
from tests.fakes.ollama import Behaviour, Fake, Script, open_fake
from tests.inbound.grpc.peer import Client
from tests.inbound.test_keys import socket_of
from tests.numb import NUMB_TOML
from tests.test_cli import CHAT, Desk, Router

KEY, WRONG, BACKENDS = (f"pl4nted-key-{secrets.token_hex(16)}" for _ in range(3))
READER = f"pl4nted-key-{secrets.token_hex(16)}"
PROMPT, ANSWER = "pl4nted-prompt", "pl4nted-answer"
QUERY, HEADER, COOKIE = "pl4nted-query", "pl4nted-header", "pl4nted-cookie"
BAD_JSON = b'{"model": "fake", "prompt": "pl4nted-prompt", "pl4nted-field": }'
MODEL = "fake:latest"
SERVICE = b"/ollama_proxy.OllamaProxy/"
FAILURES = [
    Script(word=ANSWER, tokens=2),
    Script(behaviour=Behaviour.REFUSE, message=f"I will not say {ANSWER}"),
    Script(behaviour=Behaviour.DIE_BEFORE_HEAD),
    Script(behaviour=Behaviour.DIE_MID_STREAM, word=ANSWER),
    Script(behaviour=Behaviour.GARBLE),
    Script(behaviour=Behaviour.GARBLE_STREAM, word=ANSWER),
]


def config_of(fake: Fake, log_format: str, keys: Path) -> str:
    """All doors that need no desktop, and every word in the log."""
    keys.write_text(
        f"sha256:{digest_of(KEY.encode()).hex()} name=ours\n"
        f"sha256:{digest_of(READER.encode()).hex()} read name=reader\n"
    )
    keys.chmod(0o600)
    return f"""
[server]
http_port = 0
grpc_port = 0
drain_s = 5
[server.auth]
api_keys = ["file:{keys.name}"]
[[backends]]
id = "npu"
type = "openai"
hardware = "npu"
endpoint = "{fake.url}"
slots = 4
api_key_env = "KEY_OF_THE_BACKEND"
{NUMB_TOML}
[wyoming]
enabled = true
port = 0
model = "{MODEL}"
[observability]
log_level = "debug"
log_format = "{log_format}"
"""


def bodies() -> Iterator[bytes]:
    """What is said to what answers with words."""
    words = {"model": MODEL, "prompt": PROMPT, "messages": [{"role": "user", "content": PROMPT}]}
    yield json.dumps(words).encode()
    yield json.dumps(words | {"stream": True}).encode()
    yield json.dumps(words | {"model": 7}).encode()
    yield json.dumps(
        words | {"messages": PROMPT, "prompt": [PROMPT], "max_tokens": PROMPT}
    ).encode()
    yield BAD_JSON
    yield b"\xff" + PROMPT.encode()


async def over_http(router: Router, heard: bytearray) -> None:
    """Every way through, with every kind of key; the answers as they were received."""
    paths = [CHAT, "/v1/completions", "/v1/messages", "/api/chat", "/api/generate", "/v1/route"]
    paths += ["/api/show", "/efficiency", "/api/pull", "/nowhere", f"/{QUERY}"]
    planted = {"x-thing": HEADER, "cookie": COOKIE, "x-client-id": HEADER}
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=20) as client:
        for path in paths:
            for key in (KEY, WRONG, READER, f"{KEY} {KEY}", ""):
                for body in bodies() if key == KEY else [BAD_JSON]:
                    answer = await client.post(
                        f"{path}?api_key={QUERY}",
                        content=body,
                        headers=planted | ({"authorization": f"Bearer {key}"} if key else {}),
                    )
                    heard += str(answer.headers).encode() + answer.content
        for name in ("x-priority", "x-max-latency-ms", "origin", "host", "content-encoding"):
            answer = await client.post(CHAT, content=BAD_JSON, headers=planted | {name: HEADER})
            heard += answer.content


async def over_bytes(router: Router, heard: bytearray) -> None:
    """Requests that are none."""
    host, _, port = router.url.removeprefix("http://").partition(":")
    for line in (
        f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nauthorization : Bearer {KEY}\r\n\r\n",
        f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nauthorization: {KEY}\x00\r\n\r\n",
        f"GET /health HTTP/1.1\r\nhost: {host}\r\nauthorization : Bearer {KEY}\r\n\r\n",
        f"GET /{QUERY}?{KEY} HTTP/9.9\r\nhost: {host}\r\n\r\n",
        f"GET /v1/stream/ws?{KEY} HTTP/1.1\r\nhost: {host}\r\nauthorization : {KEY}\r\n\r\n",
        f"{KEY} {PROMPT}\r\n\r\n",
        f"PRI * HTTP/2.0\r\n\r\n{KEY}",
    ):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(line.encode("latin-1"))
            await stream.send_eof()
            with trio.move_on_after(10):
                async for piece in stream:
                    heard += piece


async def over_sockets(router: Router, heard: bytearray) -> None:
    """Both that are spoken, with good keys and bad."""
    asked = {"request_id": "a", "model": MODEL, "prompt": PROMPT}
    said = {"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}
    talks: dict[str, list[object]] = {
        "/v1/stream/ws": [asked, asked | {"prompt": 7}, asked | {"priority": PROMPT}],
        "/v1/realtime": [
            {"type": "conversation.item.create", "item": said},
            {"type": "response.create", "response": {"model": MODEL, "pl4nted": PROMPT}},
            {"type": PROMPT},
        ],
    }
    for path, messages in talks.items():
        for key in (KEY, WRONG, READER):
            try:
                async with socket_of(
                    router.url,
                    f"{path}?key={QUERY}",
                    subprotocols=["realtime", f"openai-insecure-api-key.{key}"],
                ) as socket:
                    for message in (*map(json.dumps, messages), BAD_JSON.decode()):
                        await socket.send_message(message)
                    with trio.move_on_after(1):
                        for _ in range(8):
                            heard += str(await socket.get_message()).encode()
            except ConnectionRejected as rejected:
                heard += repr(rejected.headers).encode() + (rejected.body or b"")


async def over_grpc(router: Router, heard: bytearray) -> None:
    """Every kind of call that takes words."""
    port = int(router.grpc.rpartition(":")[2])
    good = pb.GenerateRequest(prompt=PROMPT, model=MODEL).SerializeToString()
    odd = pb.GenerateRequest(prompt=PROMPT, model=MODEL, annotations={"priority": PROMPT})
    for method in (b"Generate", b"GenerateStream", b"Chat", b"SetEfficiency", PROMPT.encode()):
        for key in (KEY, WRONG, READER):
            for message in (good, odd.SerializeToString(), b"\xff" + PROMPT.encode()):
                async with Client(await trio.open_tcp_stream("127.0.0.1", port)) as client:
                    told = await client.call(
                        message,
                        path=(SERVICE + method).decode(),
                        headers=[
                            (b"authorization", b"Bearer " + key.encode()),
                            (b"x-thing", HEADER.encode()),
                        ],
                    )
                heard += repr((told.headers, told.trailers)).encode() + told.data


async def over_wyoming(router: Router, heard: bytearray) -> None:
    """What is heard, and what is no event."""
    found = re.search(rb"voice assistants are heard on 127\.0\.0\.1:([0-9]+)", router.err)
    assert found is not None
    event = json.dumps({"type": "transcript", "data": {"text": PROMPT}}).encode()
    for line in (event + b"\n", BAD_JSON + b"\n", b'{"type": "' + PROMPT.encode() + b'"}\n'):
        async with await trio.open_tcp_stream("127.0.0.1", int(found[1])) as stream:
            await stream.send_all(line)
            with trio.move_on_after(1):
                heard += await stream.receive_some(65536)


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_nothing_that_is_secret_is_written(tmp_path: Path, log_format: str) -> None:
    """No log at any level, no metric; and no error or answer has a key in it, whosever it is."""
    desk = Desk(tmp_path, {"KEY_OF_THE_BACKEND": BACKENDS, "PYTHONDEVMODE": "1"})
    heard = bytearray()
    async with open_fake(FAILURES[0]) as fake:
        desk.write(config_of(fake, log_format, tmp_path / "keys"))
        async with desk.serving() as router:
            doors = (over_http, over_bytes, over_sockets, over_grpc, over_wyoming)
            for script in FAILURES if log_format == "json" else FAILURES[:1]:
                fake.script = script
                for door in doors if script is FAILURES[0] else (over_http, over_grpc):
                    await door(router, heard)
            async with httpx.AsyncClient(
                base_url=router.url, trust_env=False, headers={"x-api-key": READER}
            ) as client:
                pages = {
                    (path, accept): (await client.get(path, headers={"accept": accept})).content
                    for path in ("/metrics", "/backends", "/thermal", "/efficiency", "/health")
                    for accept in ("application/openmetrics-text", "text/plain", "*/*")
                }
        asked_with = {dict(record.headers).get("authorization") for record in fake.log}

    written = bytes(router.out + router.err)
    assert written.count(b"\n") > 30
    assert b"pl4nted" not in written, context(written)
    for (path, _), page in pages.items():
        # What a backend itself says of its failure is told to who may read it, there alone.
        told = page.replace(ANSWER.encode(), b"") if path == "/backends" else page
        assert b"pl4nted" not in told, context(told)
    assert b"pl4nted-key" not in heard, context(bytes(heard), b"pl4nted-key")
    assert {f"Bearer {BACKENDS}"} == asked_with


def context(text: bytes, what: bytes = b"pl4nted") -> list[bytes]:
    """Where it was found."""
    return [text[max(0, m.start() - 200) : m.end() + 60] for m in re.finditer(what, text)][:3]
