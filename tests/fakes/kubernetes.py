"""A Kubernetes API as far as endpoint slices go: lists in pages, watches, and what it answers instead.

The objects are as `discovery.k8s.io/v1` describes them, with fields that nobody here reads left in, as
a cluster of today sends them.
"""

import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import h11
import trio

from ollama_proxy.certificates import HTTP1, server_contexts
from tests.papers import Papers

TOKEN = "a-service-accounts-token"  # noqa: S105 - of nobody
HOST = "127.0.0.1"
PATH = "/apis/discovery.k8s.io/v1/namespaces/ai/endpointslices"


def endpoint(address: str, *, ready: bool | None = True, pod: str = "") -> dict[str, Any]:
    """One endpoint of a slice."""
    conditions = {"serving": True, "terminating": ready is False}
    made: dict[str, Any] = {
        "addresses": [address],
        "conditions": conditions | ({} if ready is None else {"ready": ready}),
        "nodeName": "worker-1",
        "zone": "z1",
    }
    if pod:
        made["targetRef"] = {
            "kind": "Pod",
            "name": pod,
            "namespace": "ai",
            "uid": f"uid-of-{pod}",
        }
    return made


def endpoint_slice(name: str, *endpoints: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A slice as the API sends it."""
    return {
        "metadata": {
            "name": name,
            "generateName": "router-",
            "namespace": "ai",
            "uid": "7d5a",
            "resourceVersion": "41",
            "generation": 2,
            "creationTimestamp": "2026-11-28T10:00:00Z",
            "labels": {"kubernetes.io/service-name": "router"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "router"}],
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [
            {"name": "metrics", "port": 9090, "protocol": "TCP"},
            {"name": "quic", "port": 8443, "protocol": "UDP"},
            {"name": "http", "port": 8080, "protocol": "TCP"},
        ],
        **changes,
    }


@attrs.define(eq=False)
class Api:
    """One that does as a test tells it.

    Attributes:
        url: where it is.
        slices: what there is, by name.
        page: how many slices it gives at once.
        answers: what it answers a list instead: a status and a body.
        asked: the query of each request.
        tokens: what each request was authorized by.
        watches: how many follow the changes.
    """

    url: str = ""
    slices: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    page: int = 500
    answers: tuple[int, bytes] | None = None
    asked: list[dict[str, str]] = attrs.field(factory=list)
    tokens: list[str] = attrs.field(factory=list)
    _feeds: set[trio.MemorySendChannel[bytes]] = attrs.field(factory=set)

    @property
    def watches(self) -> int:
        """How many follow the changes."""
        return len(self._feeds)

    def put(self, name: str, *endpoints: dict[str, Any], **changes: Any) -> None:
        """Add a slice, or change it."""
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = endpoint_slice(name, *endpoints, **changes)
        self.tell(kind, self.slices[name])

    def drop(self, name: str) -> None:
        """Delete a slice."""
        self.tell("DELETED", self.slices.pop(name))

    def tell(self, kind: str, what: dict[str, Any]) -> None:
        """Send an event to each watch."""
        self.send(json.dumps({"type": kind, "object": what}).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Send bytes to each watch."""
        for feed in self._feeds:
            feed.send_nowait(data)

    def hang_up(self) -> None:
        """End each watch in order."""
        for feed in self._feeds.copy():
            feed.close()
            self._feeds.discard(feed)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._serve_one(stream):
                """The next request."""
            await stream.aclose()

    async def _serve_one(self, stream: trio.abc.Stream) -> bool:
        machine = h11.Connection(h11.SERVER)
        request: h11.Request | None = None
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return False
        assert request is not None
        parts = urlsplit(request.target.decode())
        assert PATH == parts.path
        query = {key: value for key, (value, *_) in parse_qs(parts.query).items()}
        self.asked.append(query)
        self.tokens.append(dict(request.headers).get(b"authorization", b"").decode())

        async def send(event: h11.Event) -> None:
            await stream.send_all(machine.send(event) or b"")

        headers = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
        if "watch" in query:
            await send(h11.Response(status_code=200, headers=headers))
            await self._watch(stream, send)
        else:
            status, body = self.answers or (200, self._list(query))
            await send(h11.Response(status_code=status, headers=headers))
            await send(h11.Data(data=body))
        await send(h11.EndOfMessage())
        return True

    async def _watch(
        self, stream: trio.abc.Stream, send: Callable[[h11.Event], Awaitable[None]]
    ) -> None:
        """Send what is fed, until the feed ends or the client leaves."""
        mine, others = trio.open_memory_channel[bytes](1000)

        async def notice_who_leaves() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.receive_some()
            self._feeds.discard(mine)
            nursery.cancel_scope.cancel()

        async with mine, others, trio.open_nursery() as nursery:
            nursery.start_soon(notice_who_leaves)
            self._feeds.add(mine)
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in others:
                    await send(h11.Data(data=data))
            nursery.cancel_scope.cancel()

    def _list(self, query: dict[str, str]) -> bytes:
        begin = int(query.get("continue", "0"))
        names = sorted(self.slices)[begin : begin + self.page]
        more = begin + self.page < len(self.slices)
        return json.dumps({
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "resourceVersion": "41",
                **({"continue": str(begin + self.page)} if more else {}),
            },
            "items": [self.slices[name] for name in names],
        }).encode()


@asynccontextmanager
async def open_api(directory: Path, *, tls: bool = True) -> AsyncIterator[Api]:
    """An API, over TLS or in the clear; `directory` becomes that of a service account."""
    papers = Papers(directory)
    papers.move("ca.pem", "ca.crt")
    (directory / "token").write_text(TOKEN + "\n")
    context = server_contexts(papers.files)[HTTP1]
    api = Api()
    async with trio.open_nursery() as nursery:
        if tls:
            serve = functools.partial(
                trio.serve_ssl_over_tcp, api.serve, 0, context, host=HOST, https_compatible=True
            )
            listener = (await nursery.start(serve))[0].transport_listener
        else:
            listener = (
                await nursery.start(functools.partial(trio.serve_tcp, api.serve, 0, host=HOST))
            )[0]
        port = listener.socket.getsockname()[1]
        api.url = f"{'https' if tls else 'http'}://{HOST}:{port}"
        yield api
        nursery.cancel_scope.cancel()
