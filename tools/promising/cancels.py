"""How soon a backend is free of an answer that its caller cancelled, over every door.

Each door is left in its own way: HTTP by closing the connection, a WebSocket by a cancel message,
gRPC by a reset of the stream. The backend notes when its connection was closed; it, the router and
the callers share the machine's monotonic clock.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping
from statistics import median

import grpc
import httpx
import trio
from benching import servers
from benching.servers import Server
from websockets.sync.client import connect

from ollama_proxy.inbound.grpc.pb.ollama_proxy_pb2 import GenerateRequest, GenerateResponse

CANCELS = 300
MOST_P99_S = 0.010
SOON_S = 10.0
TOKENS = 1000
INTERVAL_S = 0.005
METHOD = "/ollama_proxy.OllamaProxy/GenerateStream"
CONFIG = """\
[server]
http_port = 0
[[backends]]
id = "fake"
type = "ollama"
hardware = "cpu"
endpoint = "{url}"
slots = 4
"""


def _now_s() -> float:
    """By the clock that all processes here share."""
    return time.monotonic_ns() / 1e9


def cancel_over_http(router: Server, cancels: int) -> list[float]:
    """When each connection was closed in the middle of its answer."""
    left = []
    body = b'{"model":"fake","prompt":"hello"}'
    head = (
        f"POST /api/generate HTTP/1.1\r\nHost: {router.host}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(cancels):
        # A client of a library has more to do than to close, which would be measured with it.
        with socket.create_connection((router.host, router.port), timeout=SOON_S) as connection:
            connection.sendall(head.encode() + body)
            while b"response" not in connection.recv(4096):
                continue
            left.append(_now_s())
    return left


def cancel_over_websocket(router: Server, cancels: int) -> list[float]:
    """When each cancel was sent, all on one socket."""
    left = []
    with connect(f"ws://{router.host}:{router.port}/v1/stream/ws", proxy=None) as door:
        for number in range(cancels):
            message = {"role": "user", "content": "hello"}
            asked = {"request_id": str(number), "model": "fake", "messages": [message]}
            door.send(json.dumps({**asked, "stream": True}))
            door.recv(SOON_S)
            left.append(_now_s())
            door.send(json.dumps({"type": "cancel", "request_id": str(number)}))
            while not json.loads(door.recv(SOON_S)).get("done"):
                continue
    return left


def cancel_over_grpc(router: Server, cancels: int) -> list[float]:
    """When each call was cancelled, all on one connection."""
    left = []
    with grpc.insecure_channel(f"{router.host}:{router.grpc_port}") as channel:
        generate = channel.unary_stream(
            METHOD,
            request_serializer=GenerateRequest.SerializeToString,
            response_deserializer=GenerateResponse.FromString,
        )
        for _ in range(cancels):
            call = generate(GenerateRequest(model="fake", prompt="hello"), timeout=SOON_S)
            next(call)
            left.append(_now_s())
            call.cancel()
    return left


DOORS: Mapping[str, Callable[[Server, int], list[float]]] = {
    "http": cancel_over_http,
    "websocket": cancel_over_websocket,
    "grpc": cancel_over_grpc,
}


def _closed(fake: Server, cancels: int) -> list[float]:
    """When the backend saw each of its connections close, once it has seen them all."""
    until = _now_s() + SOON_S
    while True:
        log = httpx.get(f"{fake.url}/fake/log", trust_env=False, timeout=SOON_S).json()
        closed = sorted(each["client_left_s"] for each in log if each["client_left_s"] is not None)
        if len(closed) >= cancels or _now_s() > until:
            return closed
        trio.run(trio.sleep, 0.1)


def measure(cancels: int = CANCELS) -> bool:
    """Print the figures of each door; whether the promise is kept by all."""
    kept = True
    with servers.fake_backend() as fake, servers.configured(CONFIG.format(url=fake.url)) as router:
        for door, cancel in DOORS.items():
            servers.instruct(fake, tokens=TOKENS, interval_s=INTERVAL_S)
            cancel(router, cancels // 10)
            _closed(fake, cancels // 10)
            servers.instruct(fake, tokens=TOKENS, interval_s=INTERVAL_S)
            left = cancel(router, cancels)
            closed = _closed(fake, cancels)
            took = sorted(c - a for a, c in zip(left, closed, strict=False))
            p99 = took[int(len(took) * 0.99)] if took else float("inf")
            print(
                f"{door:>9}: backend's connection closed after p50 {median(took) * 1000:.2f} ms,"
                f" p99 {p99 * 1000:.2f} ms (at most {MOST_P99_S * 1000:.0f}), most"
                f" {took[-1] * 1000:.2f} ms, {len(closed)} of {cancels}"
            )
            kept = kept and len(closed) == cancels and p99 <= MOST_P99_S
    return kept
