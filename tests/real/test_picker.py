"""The picker of a router as a process, asked by gRPC's own client as Envoy asks it."""

import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.grpc.pb import health_v1_pb2
from tests.inbound.picker.envoy import CHAT, DESTINATION, MODES, changes, heads
from tests.real.test_grpc import CONFIG, LIMIT_S, MODEL, Bench, Stub, open_bench

HEAD = [(":method", "POST"), (":path", CHAT), (":authority", "localhost")]
BUFFERED = pb.ProtocolConfiguration(request_body_mode=MODES.BUFFERED)
DUPLEX = pb.ProtocolConfiguration(request_body_mode=MODES.FULL_DUPLEX_STREAMED)


class Talk:
    """One stream, spoken in turn."""

    def __init__(self, stub: Stub) -> None:
        """Begin."""
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        process = stub.both(pb, "ExternalProcessor", "Process")
        self.call = process(iter(self._said.get, None), timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._said.put(None)
        self.call.cancel()

    def say(self, **fields: Any) -> None:
        """One message."""
        self._said.put(pb.ProcessingRequest(**fields))

    def hear(self) -> Any:
        """The next answer."""
        return next(self.call)

    def end(self) -> Any:
        """No more is said; how it ended."""
        self._said.put(None)
        list(self.call)
        return self.call.code()

    def ask(self, prompt: str = "hi") -> Any:
        """A request, buffered; what is said of it."""
        content = json.dumps({"model": MODEL, "stream": True, "prompt": prompt}).encode()
        self.say(request_headers=heads(HEAD), protocol_config=BUFFERED)
        assert "request_headers" == self.hear().WhichOneof("response")
        self.say(request_body=pb.HttpBody(body=content, end_of_stream=True))
        return self.hear()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A router, and the node behind it."""
    with open_bench(tmp_path_factory.mktemp("picker"), "--tokens", "5", "--only-listed") as bench:
        yield bench


@pytest.fixture
def stub(bench: Bench) -> Iterator[Stub]:
    """A client; in the end every slot is free."""
    with bench.connect() as stub:
        yield stub
    bench.idle()


def test_a_pick(stub: Stub, bench: Bench) -> None:
    """Where the node is, for as long as the stream lasts."""
    with Talk(stub) as talk:
        answer = talk.ask()
        during = bench.backend()["in_flight"]
        talk.say(
            response_headers=heads([(":status", "200"), ("x-envoy-upstream-service-time", "1")])
        )
        headers = changes(talk.hear().response_headers.response)
        ended = talk.end()

    assert bench.fake == "http://" + changes(answer.request_body.response)[DESTINATION]
    assert (1, "it", grpc.StatusCode.OK) == (during, headers["x-backend-used"], ended)


def test_a_long_prompt(stub: Stub) -> None:
    """Larger than any other message may be, for it is somebody's body."""
    with Talk(stub) as talk:
        answer = talk.ask("x" * (16 << 20))

    assert DESTINATION in changes(answer.request_body.response)


def test_full_duplex(stub: Stub) -> None:
    """A long body comes back byte for byte."""
    content = json.dumps({"model": MODEL, "prompt": "x" * (4 << 20)}).encode()
    with Talk(stub) as talk:
        talk.say(request_headers=heads(HEAD), protocol_config=DUPLEX)
        for at in range(0, len(content), 64 << 10):
            talk.say(request_body=pb.HttpBody(body=content[at : at + (64 << 10)]))
        talk.say(request_body=pb.HttpBody(end_of_stream=True))
        head, back, ended = talk.hear(), b"", False
        while not ended:
            piece = talk.hear().request_body.response.body_mutation.streamed_response
            back, ended = back + piece.body, piece.end_of_stream

    assert DESTINATION in changes(head.request_headers.response)
    assert content == back


def test_leaving_frees_the_slot(stub: Stub, bench: Bench) -> None:
    """Envoy's caller has left, and it resets the stream."""
    with Talk(stub) as talk:
        talk.ask()
        assert 1 == bench.backend()["in_flight"]
    bench.idle()


def test_a_thousand_requests_that_end_by_a_reset(stub: Stub, bench: Bench) -> None:
    """As Envoy ends them: nobody is told to calm down, and the next is picked for."""
    for _ in range(1000):
        with Talk(stub) as talk:
            talk.ask()
    bench.idle()
    with Talk(stub) as talk:
        answer = talk.ask()

    assert DESTINATION in changes(answer.request_body.response)


def test_health_by_its_name(stub: Stub) -> None:
    """As a gateway asks."""
    request = health_v1_pb2.HealthCheckRequest(
        service="envoy.service.ext_proc.v3.ExternalProcessor"
    )
    check = stub.unary(health_v1_pb2, "Health", "Check")

    assert health_v1_pb2.HealthCheckResponse.SERVING == check(request, timeout=LIMIT_S).status


def test_what_envoy_carries_outlives_its_picker(tmp_path: Path) -> None:
    """At the end of the drain the stream is closed well: Envoy goes on without it."""
    config = CONFIG.replace("drain_s = 10", "drain_s = 0.2")
    with open_bench(tmp_path, "--only-listed", config=config) as bench:
        with bench.connect() as stub, Talk(stub) as talk:
            talk.ask()
            bench.program.process.send_signal(signal.SIGTERM)
            rest = list(talk.call)
        ended = bench.program.process.wait(LIMIT_S)

    assert ([], grpc.StatusCode.OK, 0) == (rest, talk.call.code(), ended)
