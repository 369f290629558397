"""One table of requests through every door of one router: they must come out the same.

The doors are asked by their usual clients: httpx, websockets, grpcio. Behind the router stand the four
backends of the contract, each a process of its own.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import attrs
import grpc
import httpx
import pytest
import websockets.sync.client

from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from tests.numb import NUMB_TOML
from tests.real.processes import ROOT, Program, running, started
from tests.routers import FOUR, MODEL

WORDS = " tok" * 3
BACKEND = """\
[[backends]]
id = "{name}"
hardware = "{name}"
endpoint = "{url}"
slots = 2
[backends.characteristics]
power_watts = {watts}
avg_latency_ms = {latency_ms}
"""


@attrs.frozen
class Answer:
    """What a door told: who answered and why with which text, or why nobody did."""

    backend: str | None = None
    reason: str | None = None
    text: str = ""
    error: str | None = None


@attrs.frozen
class House:
    """A router with its four backends, each at its URL."""

    router: Program
    fakes: dict[str, str]

    def script(self, name: str, **fields: object) -> None:
        """Let a backend behave otherwise."""
        httpx.post(f"{self.fakes[name]}/fake/script", json=fields, trust_env=False)

    def reset(self) -> None:
        """Let all behave."""
        for url in self.fakes.values():
            httpx.post(f"{url}/fake/reset", trust_env=False)
            httpx.post(
                f"{url}/fake/script", json={"tokens": 3, "only_listed": True}, trust_env=False
            )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("doors")
    with ExitStack() as stack:
        fakes = {}
        config = "[server]\nhttp_port = 0\ngrpc_port = 0\n" + NUMB_TOML
        for name, (_, watts, latency_ms) in FOUR.items():
            home = tmp_path_factory.mktemp(name)
            command = [str(ROOT / "tools" / "fake-ollama"), "--tokens", "3", "--only-listed"]
            fakes[name] = stack.enter_context(running(command, home))
            config += BACKEND.format(name=name, url=fakes[name], watts=watts, latency_ms=latency_ms)
        # What was learned in one case must not decide in the next.
        config += "[router]\nauto_optimize = false\n"
        (directory / "config.toml").write_text(config)
        router = stack.enter_context(started(["-m", "ollama_proxy", "serve"], directory))
        yield House(router, fakes)


# -- the doors -------------------------------------------------------------------------------------


_HEADERS = {
    "target": "X-Target-Backend",
    "latency_critical": "X-Latency-Critical",
    "power_efficient": "X-Power-Efficient",
    "max_latency_ms": "X-Max-Latency-Ms",
    "max_power_watts": "X-Max-Power-Watts",
    "priority": "X-Priority",
    "media_type": "X-Media-Type",
}


def over_http(house: House, model: str, wishes: dict[str, Any]) -> Answer:
    """Ollama's own call, streamed."""
    url = f"http://{house.router.address('http')}/api/generate"
    headers = {_HEADERS[k]: str(v).lower() for k, v in wishes.items()}
    body = {"model": model, "prompt": "hi"}
    answer = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=20)
    told = [json.loads(line) for line in answer.text.splitlines() if line]
    error = next((line.get("code", "backend_failed") for line in told if "error" in line), None)
    return Answer(
        backend=answer.headers.get("x-backend-used") if error is None else None,
        reason=answer.headers.get("x-routing-reason") if error is None else None,
        text="".join(line.get("response", "") for line in told),
        error=error,
    )


def over_websocket(house: House, model: str, wishes: dict[str, Any]) -> Answer:
    """The router's own frames."""
    url = f"ws://{house.router.address('http')}/v1/stream/ws"
    with websockets.sync.client.connect(url, proxy=None) as socket:
        message = {"request_id": "a", "model": model, "prompt": "hi", "media_type": "text"}
        socket.send(json.dumps(message | wishes))
        frames = [json.loads(socket.recv(timeout=20))]
        while not frames[-1]["done"]:
            frames.append(json.loads(socket.recv(timeout=20)))
    error = frames[-1].get("error", {}).get("code")
    return Answer(
        backend=frames[-1].get("backend"),
        reason=frames[-1].get("routing_reason"),
        text="".join(frame.get("token", "") for frame in frames),
        error=error,
    )


_CODES = {
    grpc.StatusCode.NOT_FOUND: "model_not_found",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
}


def over_grpc(house: House, model: str, wishes: dict[str, Any]) -> Answer:
    """The typed call, streamed."""
    given = {
        {"power_efficient": "prefer_power_efficiency"}.get(name, name): value
        for name, value in wishes.items()
    }
    request = pb.GenerateRequest(prompt="hi", model=model, annotations=pb.Annotations(**given))
    with grpc.insecure_channel(
        house.router.address("grpc"), options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        call = channel.unary_stream(
            "/ollama_proxy.OllamaProxy/GenerateStream",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )(request, timeout=None)
        text = ""
        try:
            pieces = list(iter_text(call))
            text = "".join(pieces)
        except grpc.RpcError as error:
            return Answer(text=text, error=_CODES[error.code()])
        told = dict(call.initial_metadata())
    return Answer(
        backend=told.get("x-backend-used"), reason=told.get("x-routing-reason"), text=text
    )


def iter_text(call: Any) -> Iterator[str]:
    """The pieces of a stream."""
    for message in call:
        yield message.response


# What the statuses of gRPC cannot tell apart.
_ROUGHLY = {
    "invalid_header": "invalid",
    "invalid_request": "invalid",
    "unknown_backend": "invalid",
    "no_backend": "unavailable",
    "backend_failed": "unavailable",
    "queue_full": "unavailable",
    "deadline_unmeetable": "deadline",
    "deadline_exceeded": "deadline",
    "model_not_found": "model_not_found",
}
DOORS: list[Callable[[House, str, dict[str, Any]], Answer]] = [over_http, over_websocket, over_grpc]


def expect(house: House, expected: Answer, wishes: dict[str, Any], model: str = MODEL) -> None:
    """Every door tells the same."""
    for door in DOORS:
        told = door(house, model, wishes)
        error = None if told.error is None else _ROUGHLY.get(told.error, told.error)
        assert expected == attrs.evolve(told, error=error), door.__name__


# -- the table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "backend", "reason"),
    [
        ({}, "npu", "mode-balanced"),
        ({"latency_critical": True}, "nvidia", "latency-critical"),
        ({"power_efficient": True}, "npu", "power-efficient"),
        ({"target": "cpu"}, "cpu", "explicit-target"),
        ({"target": "igpu", "latency_critical": True}, "igpu", "explicit-target"),
        ({"max_power_watts": 5.0}, "npu", "power-budget"),
        ({"max_power_watts": 15.0, "latency_critical": True}, "igpu", "latency-critical"),
        ({"max_latency_ms": 390.0}, "nvidia", "deadline"),
        ({"priority": "critical"}, "npu", "mode-balanced"),
        ({"media_type": "audio"}, "npu", "mode-balanced"),
    ],
)
def test_a_wish_is_heard_alike(
    house: House, wishes: dict[str, Any], backend: str, reason: str
) -> None:
    """The same backend for the same reason, and the same text."""
    house.reset()

    expect(house, Answer(backend=backend, reason=reason, text=WORDS), wishes)


@pytest.mark.parametrize(
    ("wishes", "model", "error"),
    [
        ({}, "nothing:1b", "model_not_found"),
        ({"target": "tpu"}, MODEL, "invalid"),
        ({"priority": "soon"}, MODEL, "invalid"),
        ({"media_type": "smell"}, MODEL, "invalid"),
        ({"max_latency_ms": -1.0}, MODEL, "invalid"),
        ({"max_power_watts": 0.5}, MODEL, "unavailable"),
        ({"max_latency_ms": 1.0}, MODEL, "deadline"),
    ],
)
def test_what_cannot_be_is_refused_alike(
    house: House, wishes: dict[str, Any], model: str, error: str
) -> None:
    """By the same fault, before anything was sent."""
    house.reset()

    expect(house, Answer(error=error), wishes, model)


def test_a_backend_that_fails_first_is_replaced_alike(house: House) -> None:
    """Unseen: the answer is whole. Who comes after the first finds it out of favour already."""
    house.reset()
    house.script("npu", behaviour="die_before_head", tokens=3)
    told = [door(house, MODEL, {}) for door in DOORS]
    house.reset()

    assert [("igpu", WORDS, None)] * len(DOORS) == [(t.backend, t.text, t.error) for t in told]
    assert "failover" == told[0].reason
