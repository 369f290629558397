"""Where requests go is said by the configuration, and by nothing that a client sends."""

import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ollama_proxy.policy.fleet import BackendType
from tests.routers import CHAT, MODEL, ask, backend, configured, fakes, idle, running

pytestmark = pytest.mark.usefixtures("in_process")


@asynccontextmanager
async def elsewhere() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that nobody should ask: its URL, and what it was asked."""
    heard: list[bytes] = []

    async def hear(stream: trio.SocketStream) -> None:
        heard.append(bytes(await stream.receive_some(65536)))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            functools.partial(trio.serve_tcp, hear, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}", heard
        nursery.cancel_scope.cancel()


async def test_no_request_names_a_place_to_go() -> None:
    """Neither in its target, its headers, nor its body at any depth; images are not fetched."""
    async with elsewhere() as (url, heard), fakes("npu") as fleet:
        config = configured(backend("npu", fleet["npu"].url))
        async with running(config) as owner, owner.client() as client:
            named = dict.fromkeys(
                ("api_base", "base_url", "endpoint", "host", "api_key", "url"), url
            )
            image = {"type": "image_url", "image_url": {"url": f"{url}/cat.png"}}
            bodies = [
                ask(**named),
                ask(options=named, metadata={"extra_body": named}),
                ask() | {"model": url},
                ask() | {"messages": [{"role": "user", "content": [image]}]},
            ]
            for body in bodies:
                await client.post(CHAT, json=body)
                await client.post("/api/chat", json=body)
            targets = [
                (await client.post(CHAT, json=ask(), headers={"x-target-backend": there}))
                for there in (url, url.removeprefix("http://"), "../npu", "npu@evil", "")
            ]
            for name in ("x-forwarded-host", "forwarded", "x-original-url", "referer", "location"):
                await client.post(CHAT, json=ask(), headers={name: url})
            host, _, port = owner.url.removeprefix("http://").partition(":")
            statuses = []
            for target in (f"{url}{CHAT}", f"//{url.removeprefix('http://')}{CHAT}"):
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    content = json.dumps(ask()).encode()
                    head = f"POST {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
                    head += f"content-length: {len(content)}\r\n\r\n"
                    await stream.send_all(head.encode() + content)
                    answer = b"".join([bytes(piece) async for piece in stream])
                    statuses.append(answer.partition(b" ")[2][:3])
            await idle(client)

    assert [] == heard
    assert [400] * 4 == [each.status_code for each in targets[:4]]
    assert set(statuses) <= {b"400", b"403", b"404"}


async def test_a_backend_sends_nobody_elsewhere() -> None:
    """Its redirects are not followed, nor passed on."""
    async with elsewhere() as (url, heard), redirecting(f"{url}/v1/x") as other:
        config = configured(backend("npu", other, type=BackendType.OPENAI))
        async with running(config) as owner, owner.client() as client:
            answer = await client.post(CHAT, json=ask() | {"model": MODEL})

    assert [] == heard
    assert "location" not in answer.headers


@asynccontextmanager
async def redirecting(target: str) -> AsyncIterator[str]:
    """A backend that answers everything with a redirect."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)
            head = f"HTTP/1.1 307 Elsewhere\r\nlocation: {target}\r\ncontent-length: 0\r\n"
            await stream.send_all(f"{head}connection: close\r\n\r\n".encode())

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
        )
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
