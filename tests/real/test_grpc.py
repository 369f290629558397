"""The gRPC door of a router as a process, with the real client of gRPC, grpcurl, and raw sockets."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import attrs
import grpc
import httpx
import psutil
import pytest

from ollama_proxy.inbound.grpc.pb import (
    compute_v1_pb2,
    health_v1_pb2,
    ollama_proxy_pb2,
    reflection_v1_pb2,
    reflection_v1alpha_pb2,
    status_pb2,
)
from tests.inbound.grpc.peer import Peer, framed_request
from tests.inbound.grpc.test_wire import FLOODS
from tests.numb import NUMB_TOML
from tests.real.parts import require
from tests.real.processes import ROOT, Program, running, started

pb = ollama_proxy_pb2
MODEL = "fake:latest"
LIMIT_S = 20.0
HI = pb.GenerateRequest(prompt="hi", model=MODEL)
Code = grpc.StatusCode
CONFIG = """\
[server]
http_port = 0
grpc_port = 0
drain_s = 10
[[backends]]
id = "it"
hardware = "npu"
endpoint = "{url}"
slots = 4
[[backends]]
id = "other"
hardware = "cpu"
endpoint = "http://127.0.0.1:1"
models = ["fake*"]
[scheduler]
queue_capacity = 200
"""


@attrs.frozen
class Bench:
    """A router and the backend behind it."""

    program: Program
    fake: str

    @property
    def target(self) -> str:
        """Where its gRPC door is."""
        return self.program.address("grpc")

    @property
    def process(self) -> psutil.Process:
        """What the system knows of it."""
        return psutil.Process(self.program.process.pid)

    def script(self, **fields: object) -> None:
        """Let the backend behave otherwise, until the test is over."""
        httpx.post(f"{self.fake}/fake/script", json=fields, trust_env=False).raise_for_status()

    def get(self, path: str) -> Any:
        """Ask its HTTP door."""
        url = f"http://{self.program.address('http')}{path}"
        return httpx.get(url, trust_env=False).raise_for_status().json()

    def backend(self, name: str = "it") -> dict[str, Any]:
        """What /backends tells of one."""
        return next(each for each in self.get("/backends") if each["id"] == name)

    def until(self, is_so: Callable[[], object]) -> None:
        """Wait for something that will be."""
        deadline = time.perf_counter() + LIMIT_S
        while not is_so():
            assert time.perf_counter() < deadline, "it never came"
            threading.Event().wait(0.005)

    def idle(self) -> None:
        """Every slot is free again."""
        self.until(lambda: self.backend()["in_flight"] == 0)

    def connect(self) -> "Stub":
        """A client with a connection of its own."""
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        ]
        return Stub(grpc.insecure_channel(self.target, options=options))


class Stub:
    """grpcio's client for whatever method; services are registered in no stub of its own."""

    def __init__(self, channel: Any) -> None:
        """Take a channel."""
        self.channel = channel

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def unary(self, module: Any, service: str, method: str) -> Any:
        """A method of one answer."""
        return self._method(module, service, method, self.channel.unary_unary)

    def stream(self, module: Any, service: str, method: str) -> Any:
        """A method of several answers."""
        return self._method(module, service, method, self.channel.unary_stream)

    def both(self, module: Any, service: str, method: str) -> Any:
        """A method of several requests and answers."""
        return self._method(module, service, method, self.channel.stream_stream)

    def _method(self, module: Any, service: str, name: str, make: Any) -> Any:
        described = module.DESCRIPTOR.services_by_name[service]
        method = described.methods_by_name[name]
        return make(
            f"/{described.full_name}/{name}",
            request_serializer=method.input_type._concrete_class.SerializeToString,
            response_deserializer=method.output_type._concrete_class.FromString,
        )

    def call(self, name: str, request: Any, **more: Any) -> Any:
        """A whole call of ours."""
        return self.unary(pb, "OllamaProxy", name)(request, **({"timeout": LIMIT_S} | more))

    def listen(self, name: str, request: Any, **more: Any) -> Any:
        """A stream of ours."""
        return self.stream(pb, "OllamaProxy", name)(request, **({"timeout": LIMIT_S} | more))


@contextmanager
def open_bench(directory: Path, *fakes: str, config: str = CONFIG) -> Iterator[Bench]:
    """A router, and the backend behind it, which is started with these arguments."""
    with running([str(ROOT / "tools" / "fake-ollama"), *fakes], directory) as url:
        (directory / "config.toml").write_text(config.format(url=url) + NUMB_TOML)
        with started(["-m", "ollama_proxy", "serve"], directory) as program:
            yield Bench(program, url)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("grpc"), "--tokens", "5", "--only-listed") as bench:
        yield bench


@pytest.fixture
def bench(processes: Bench) -> Iterator[Bench]:
    yield processes
    httpx.post(f"{processes.fake}/fake/reset", trust_env=False).raise_for_status()
    processes.idle()


@pytest.fixture
def stub(bench: Bench) -> Iterator[Stub]:
    with bench.connect() as stub:
        yield stub


def failure(call: Callable[[], object]) -> Any:
    """How a call failed."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


# -- calls -----------------------------------------------------------------------------------------


def test_generate(stub: Stub) -> None:
    """A text, who wrote it and why; the same as initial metadata in lower case."""
    request = pb.GenerateRequest(
        prompt="Explain AI",
        model=MODEL,
        annotations=pb.Annotations(latency_critical=True, request_id="mine-1"),
    )
    answer, call = stub.unary(pb, "OllamaProxy", "Generate").with_call(request, timeout=LIMIT_S)
    told = dict(call.initial_metadata())

    assert (" tok" * 5, "it", "stop", True) == (
        answer.response,
        answer.backend,
        answer.finish_reason,
        answer.done,
    )
    assert ("latency-critical", "mine-1") == (answer.routing.reason, answer.request_id)
    assert ("it", "latency-critical", "mine-1") == (
        told["x-backend-used"],
        told["x-routing-reason"],
        told["x-request-id"],
    )
    assert (5, True) == (answer.stats.tokens_generated, answer.stats.total_time_ms > 0)
    assert ("estimated", True) == (answer.stats.energy_source, answer.stats.energy_joules > 0)


def test_generate_stream(stub: Stub) -> None:
    """Token by token; the first tells who, the last how long it took."""
    answers = list(stub.listen("GenerateStream", HI))
    first, *rest, last = answers

    assert " tok" * 5 == "".join(each.response for each in answers)
    assert ("it", "deadline") == (first.backend, first.routing.reason)  # which the timeout is
    assert not any(each.HasField("routing") or each.done for each in rest)
    assert ("", True, "stop", 5) == (
        last.response,
        last.done,
        last.finish_reason,
        last.stats.tokens_generated,
    )
    assert last.stats.time_to_first_token_ms > 0


@pytest.mark.parametrize("name", ["Chat", "ChatStream"])
def test_chat(stub: Stub, name: str) -> None:
    """A conversation goes on, whole or in pieces."""
    request = pb.ChatRequest(
        model=MODEL,
        messages=[pb.ChatMessage(role="user", content="hi")],
        options=pb.GenerateOptions(num_predict=3, temperature=0),
    )
    answers = [stub.call(name, request)] if name == "Chat" else list(stub.listen(name, request))

    assert " tok" * 3 == "".join(each.message.content for each in answers)
    assert ("length", True) == (answers[-1].finish_reason, answers[-1].done)


def test_embed(stub: Stub) -> None:
    """A vector for each text."""
    answer = stub.call("Embed", pb.EmbedRequest(model=MODEL, input=["a", "b"]))

    assert [[0.25, -0.5, 0.125, 1.0]] * 2 == [list(each.values) for each in answer.embeddings]
    assert "it" == answer.backend


def test_what_is_there(stub: Stub, bench: Bench) -> None:
    """Models and backends, with the figures that HTTP tells."""
    [model] = stub.call("ListModels", pb.ListModelsRequest()).models
    it, other = stub.call("ListBackends", pb.ListBackendsRequest()).backends

    assert (MODEL, ["it"]) == (model.name, list(model.backends))
    assert (True, [MODEL], 4, "npu") == (it.healthy, list(it.models), it.slots, it.hardware)
    assert (False, False) == (other.healthy, other.HasField("energy_j_per_token"))
    assert bench.backend("other")["last_error"] == other.last_error


def test_route(stub: Stub) -> None:
    """A decision is explained, and nothing is sent."""
    asked = pb.Annotations(prefer_power_efficiency=True)
    answer = stub.call("Route", pb.RouteRequest(model=MODEL, prompt="hi", annotations=asked))
    it, other = answer.candidates

    assert ("it", "power-efficient") == (answer.backend, answer.reason)
    assert (True, False) == (it.eligible, other.eligible)
    assert "latency" in it.terms
    assert other.why_not


def test_the_mode_is_one_for_all_doors(stub: Stub, bench: Bench) -> None:
    """Set here, told there, and those who watch hear of it."""
    watching = stub.listen("WatchState", pb.WatchStateRequest())
    before = next(watching)
    answer = stub.call("SetEfficiency", pb.SetEfficiencyRequest(mode="Ultra Efficiency"))
    after = next(watching)
    told = bench.get("/efficiency")
    stub.call("SetEfficiency", pb.SetEfficiencyRequest(mode="balanced"))
    watching.cancel()
    fault = failure(lambda: stub.call("SetEfficiency", pb.SetEfficiencyRequest(mode="fast")))

    assert ("balanced", "ultra-efficiency") == (before.mode, after.mode)
    assert ["it", "other"] == [each.id for each in before.backends]
    assert ("ultra-efficiency",) * 2 == (answer.effective_mode, told["effective_mode"])
    assert Code.INVALID_ARGUMENT is fault.code()
    assert "performance, balanced" in fault.details()


# -- wishes and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "code", "words"),
    [
        ({"target": "gpu9"}, Code.INVALID_ARGUMENT, "gpu9"),
        ({"target": "other"}, Code.UNAVAILABLE, "other"),
        ({"priority": "soon"}, Code.INVALID_ARGUMENT, "priority"),
        ({"media_type": "smell"}, Code.INVALID_ARGUMENT, "media_type"),
        ({"max_latency_ms": -1.0}, Code.INVALID_ARGUMENT, "max_latency_ms"),
        ({"max_latency_ms": float("nan")}, Code.INVALID_ARGUMENT, "max_latency_ms"),
        ({"max_power_watts": 0.1}, Code.UNAVAILABLE, "0.1"),
        ({"request_id": "no\r\nsuch: thing"}, Code.INVALID_ARGUMENT, "X-Request-ID"),
    ],
)
def test_a_refusal(stub: Stub, wishes: dict[str, Any], code: Any, words: str) -> None:
    """The status says whose fault it is, the sentence what to do."""
    request = pb.GenerateRequest(prompt="hi", model=MODEL, annotations=pb.Annotations(**wishes))
    fault = failure(lambda: stub.call("Generate", request))
    streamed = failure(lambda: list(stub.listen("GenerateStream", request)))

    assert (code, code) == (fault.code(), streamed.code())
    assert words in fault.details()


@pytest.mark.parametrize("name", ["Generate", "GenerateStream"])
def test_an_unknown_model(stub: Stub, name: str) -> None:
    """NOT_FOUND, with HTTP's code for machines, and the request's name."""
    request = pb.GenerateRequest(prompt="hi", model="no-such")
    fault = failure(lambda: list(stub.listen(name, request)))
    trailing = dict(fault.trailing_metadata()) | dict(fault.initial_metadata())
    told = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = status_pb2.ErrorInfo.FromString(told.details[0].value)

    assert (Code.NOT_FOUND, 5) == (fault.code(), told.code)
    assert ("model_not_found", fault.details()) == (info.reason, told.message)
    assert trailing["x-request-id"].startswith("req-")


def test_metadata_are_wishes_too(stub: Stub) -> None:
    """By the names of HTTP's headers; fields win. Binary ones harm nobody."""
    metadata = (("x-target-backend", "other"), ("x-it-bin", b"\x00\xff"), ("x-request-id", "m-1"))
    fault = failure(lambda: stub.call("Generate", HI, metadata=metadata))
    request = pb.GenerateRequest(
        prompt="hi", model=MODEL, annotations=pb.Annotations(target="it", request_id="f-1")
    )
    answer = stub.call("Generate", request, metadata=metadata)

    assert (Code.UNAVAILABLE, "f-1") == (fault.code(), answer.request_id)


def test_an_empty_request(stub: Stub) -> None:
    """Without a model there is nothing to route."""
    fault = failure(lambda: stub.call("Generate", pb.GenerateRequest()))

    assert (Code.INVALID_ARGUMENT, True) == (fault.code(), "model" in fault.details())


def test_an_unknown_method(stub: Stub) -> None:
    """UNIMPLEMENTED."""
    fault = failure(lambda: stub.channel.unary_unary("/ollama_proxy.OllamaProxy/Dance")(b""))

    assert Code.UNIMPLEMENTED is fault.code()


def test_bytes_that_are_no_request(stub: Stub) -> None:
    """INVALID_ARGUMENT."""
    call = stub.channel.unary_unary("/ollama_proxy.OllamaProxy/Generate")
    fault = failure(lambda: call(b"\xff\xff\xff"))

    assert Code.INVALID_ARGUMENT is fault.code()


def test_a_backend_that_dies_in_mid_answer(stub: Stub, bench: Bench) -> None:
    """What was said stands, and the end says that it is not all."""
    bench.script(behaviour="die_mid_stream", interval_s=0.001)
    heard: list[str] = []
    call = stub.listen("GenerateStream", HI)
    fault = failure(lambda: heard.extend(each.response for each in call))

    assert (Code.UNAVAILABLE, " tok") == (fault.code(), heard[0])


# -- deadlines and leaving -------------------------------------------------------------------------


def test_a_deadline_is_kept(stub: Stub, bench: Bench) -> None:
    """Of a call whose backend says nothing; its slot is free at once."""
    bench.script(behaviour="hang")
    began = time.perf_counter()
    fault = failure(lambda: stub.call("Generate", HI, timeout=2.0))
    took = time.perf_counter() - began
    bench.idle()

    assert Code.DEADLINE_EXCEEDED is fault.code()
    assert 1.9 < took < 4.0


def test_a_deadline_in_mid_stream(stub: Stub, bench: Bench) -> None:
    """Ends it, though its first token was in time."""
    bench.script(tokens=100_000, interval_s=0.01)
    heard: list[object] = []
    fault = failure(lambda: heard.extend(stub.listen("GenerateStream", HI, timeout=2.0)))
    bench.idle()

    assert (Code.DEADLINE_EXCEEDED, True) == (fault.code(), len(heard) > 10)


def test_a_wish_is_a_deadline(stub: Stub, bench: Bench) -> None:
    """The nearer of the two holds."""
    bench.script(behaviour="hang")
    request = pb.GenerateRequest(
        prompt="hi", model=MODEL, annotations=pb.Annotations(max_latency_ms=1500)
    )
    began = time.perf_counter()
    fault = failure(lambda: stub.call("Generate", request, timeout=LIMIT_S))

    assert Code.DEADLINE_EXCEEDED is fault.code()
    assert time.perf_counter() - began < LIMIT_S / 2


def test_leaving_in_mid_stream_frees_the_backend(stub: Stub, bench: Bench) -> None:
    """As often as one likes: more often than there are slots."""
    bench.script(tokens=100_000, interval_s=0.001)
    for _ in range(8):
        call = stub.listen("GenerateStream", HI)
        next(call)
        call.cancel()
    bench.idle()
    bench.script(tokens=5)

    assert " tok" * 5 == stub.call("Generate", HI).response


def test_leaving_the_line(stub: Stub, bench: Bench) -> None:
    """Who waits for a slot and goes is waited for by nobody."""
    bench.script(behaviour="hang")
    calls = [stub.unary(pb, "OllamaProxy", "Generate").future(HI) for _ in range(12)]
    bench.until(lambda: bench.backend()["queued"]["normal"] == 8)
    for call in calls:
        call.cancel()
    bench.idle()

    assert 0 == bench.backend()["queued"]["normal"]


def test_a_lost_connection_frees_the_backend(bench: Bench) -> None:
    """All of its calls end."""
    bench.script(tokens=100_000, interval_s=0.001)
    with bench.connect() as stub:
        calls = [stub.listen("GenerateStream", HI) for _ in range(4)]
        for call in calls:
            next(call)
    bench.idle()


# -- many, slow, large -----------------------------------------------------------------------------


def test_a_hundred_streams_on_one_connection(stub: Stub, bench: Bench) -> None:
    """Each gets its own tokens, all of them; whoever finds no slot waits."""
    bench.script(tokens=20, interval_s=0.001)

    def listen(_: int) -> str:
        answers = stub.listen("GenerateStream", HI, timeout=60)
        return "".join(each.response for each in answers)

    with ThreadPoolExecutor(100) as pool:
        heard = list(pool.map(listen, range(100)))

    assert [" tok" * 20] * 100 == heard


def test_three_hundred_calls_at_once(stub: Stub) -> None:
    """More than there may be on a connection: the client makes them wait."""
    futures = [
        stub.unary(pb, "OllamaProxy", "GetEfficiency").future(
            pb.GetEfficiencyRequest(), timeout=LIMIT_S
        )
        for _ in range(300)
    ]

    assert {"balanced"} == {future.result().mode for future in futures}


def test_a_slow_reader(stub: Stub, bench: Bench) -> None:
    """Slows its backend, not its neighbours; in the end it has all."""
    bench.script(tokens=4000, token_bytes=4000)
    slow = stub.listen("GenerateStream", HI, timeout=60)
    next(slow)
    before = bench.process.memory_info().rss
    bench.script(tokens=5)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        stub.call("Generate", HI)
        took.append(time.perf_counter() - began)
    grown = bench.process.memory_info().rss - before
    heard = 1 + sum(bool(each.response) for each in slow)

    assert sorted(took)[10] < 0.5
    assert grown < 32 << 20
    assert 4000 == heard


def test_the_largest_request(stub: Stub) -> None:
    """Just under 4 MiB is served, just over is refused; the connection lives."""
    under = pb.GenerateRequest(prompt="x" * ((4 << 20) - 100), model=MODEL)
    over = pb.GenerateRequest(prompt="x" * (4 << 20), model=MODEL)
    answer = stub.call("Generate", under)
    fault = failure(lambda: stub.call("Generate", over))

    assert " tok" * 5 == answer.response
    assert Code.RESOURCE_EXHAUSTED is fault.code()
    assert "larger than max" in fault.details()
    assert " tok" * 5 == stub.call("Generate", HI).response


def test_gzip(stub: Stub) -> None:
    """A compressed request is read."""
    request = pb.GenerateRequest(prompt="x" * 100_000, model=MODEL)
    answer = stub.call("Generate", request, compression=grpc.Compression.Gzip)

    assert " tok" * 5 == answer.response


def test_a_gzip_bomb(stub: Stub, bench: Bench) -> None:
    """Is refused before it takes the memory that it wants."""
    bomb = pb.GenerateRequest(prompt="x" * (64 << 20), model=MODEL)
    before = bench.process.memory_info().rss
    fault = failure(
        lambda: stub.call("Generate", bomb, compression=grpc.Compression.Gzip, timeout=60)
    )

    assert Code.RESOURCE_EXHAUSTED is fault.code()
    assert bench.process.memory_info().rss - before < 48 << 20


def test_too_much_metadata(stub: Stub) -> None:
    """Is that call's fault alone."""
    large = [(f"x-it-{at}", "y" * 1000) for at in range(24)]
    fault = failure(lambda: stub.call("Generate", HI, metadata=large))

    assert Code.RESOURCE_EXHAUSTED is fault.code()
    assert " tok" * 5 == stub.call("Generate", HI).response


# -- what every gRPC server has --------------------------------------------------------------------


def test_health(stub: Stub) -> None:
    """Serving as long as a backend is well, by the name of each service."""
    check = stub.unary(health_v1_pb2, "Health", "Check")
    watching = stub.stream(health_v1_pb2, "Health", "Watch")(
        health_v1_pb2.HealthCheckRequest(service="no.Such"), timeout=LIMIT_S
    )
    states = [
        check(health_v1_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S).status
        for name in ("", "ollama_proxy.OllamaProxy", "compute.v1.ComputeService")
    ]
    unknown = health_v1_pb2.HealthCheckRequest(service="no.Such")
    fault = failure(lambda: check(unknown, timeout=LIMIT_S))
    watched = next(watching).status
    watching.cancel()

    assert [health_v1_pb2.HealthCheckResponse.SERVING] * 3 == states
    assert Code.NOT_FOUND is fault.code()
    assert health_v1_pb2.HealthCheckResponse.SERVICE_UNKNOWN == watched


@pytest.mark.parametrize("module", [reflection_v1_pb2, reflection_v1alpha_pb2])
def test_reflection(stub: Stub, module: Any) -> None:
    """Services are listed and described; what is not there is an answer, no failure."""
    ask = module.ServerReflectionRequest
    answers = stub.both(module, "ServerReflection", "ServerReflectionInfo")(
        iter([
            ask(list_services=""),
            ask(file_containing_symbol="ollama_proxy.Annotations.priority"),
            ask(file_containing_symbol="ollama_proxy.OllamaProxy.Generate"),
            ask(file_by_filename="ollama_proxy.proto"),
            ask(file_containing_symbol="no.Such"),
            ask(all_extension_numbers_of_type="ollama_proxy.Annotations"),
        ]),
        timeout=LIMIT_S,
    )
    listed, *files, missing, extensions = answers

    assert [
        "compute.v1.ComputeService",
        "envoy.service.ext_proc.v3.ExternalProcessor",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "ollama_proxy.OllamaProxy",
    ] == [each.name for each in listed.list_services_response.service]
    for each in files:
        assert pb.DESCRIPTOR.serialized_pb == each.file_descriptor_response.file_descriptor_proto[0]
    assert 5 == missing.error_response.error_code
    assert "ollama_proxy.Annotations" == extensions.all_extension_numbers_response.base_type_name


def test_grpcurl(bench: Bench) -> None:
    """The tool that people have finds everything by reflection, and its call is answered."""
    tool = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or shutil.which("grpcurl")
    require(tool is not None, "grpcurl is not installed")
    assert tool is not None
    asked = {"prompt": "Explain AI", "model": MODEL, "annotations": {"latency_critical": True}}

    def run(*arguments: str) -> str:
        command = [tool, "-plaintext", *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    listed = run(bench.target, "list")
    described = run(bench.target, "describe", "ollama_proxy.OllamaProxy")
    answer = json.loads(
        run("-d", json.dumps(asked), bench.target, "ollama_proxy.OllamaProxy/Generate")
    )

    assert "ollama_proxy.OllamaProxy" in listed.splitlines()
    assert "rpc WatchState" in described
    assert (" tok" * 5, "latency-critical") == (answer["response"], answer["routing"]["reason"])


def test_compute_v1(stub: Stub) -> None:
    """Clients of earlier routers are served in their own numbers."""
    v1 = compute_v1_pb2
    request = v1.GenerateRequest(
        prompt="hi",
        model=MODEL,
        options=v1.GenerationOptions(max_tokens=3, temperature=0.7),
        annotations=v1.JobAnnotations(max_power_watts=50, custom={"priority": "high"}),
    )
    whole = stub.unary(v1, "ComputeService", "Generate")(request, timeout=LIMIT_S)
    pieces = list(stub.stream(v1, "ComputeService", "GenerateStream")(request, timeout=LIMIT_S))
    vector = stub.unary(v1, "ComputeService", "Embed")(
        v1.EmbedRequest(text="a", model=MODEL), timeout=LIMIT_S
    )
    listed = stub.unary(v1, "ComputeService", "ListBackends")(
        v1.ListBackendsRequest(type_filter="npu"), timeout=LIMIT_S
    )
    health = stub.unary(v1, "ComputeService", "HealthCheck")(
        v1.HealthCheckRequest(), timeout=LIMIT_S
    )

    assert (" tok" * 3, "it", 3) == (
        whole.response,
        whole.backend_used,
        whole.stats.tokens_generated,
    )
    assert " tok" * 3 == "".join(each.token for each in pieces)
    assert ("it", True) == (pieces[0].backend_used, pieces[-1].done)
    assert [0.25, -0.5, 0.125, 1.0] == list(vector.embedding)
    assert [("it", "healthy")] == [(each.id, each.status.state) for each in listed.backends]
    assert ("degraded", {"it": "healthy", "other": "unhealthy"}) == (
        health.status,
        dict(health.backend_health),
    )


# -- abuse -----------------------------------------------------------------------------------------


def read_all(raw: socket.socket, peer: Peer) -> None:
    """Hear all that is said, up to the end of the connection."""
    raw.settimeout(LIMIT_S)
    while True:
        try:
            data = raw.recv(65536)
        except ConnectionResetError:
            return
        if not data:
            return
        peer.hear(data)


def dial(bench: Bench) -> socket.socket:
    """A bare connection."""
    host, _, port = bench.target.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_S)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_harms_nobody_else(bench: Bench, stub: Stub, flood: str) -> None:
    """The one who makes it is cut off; a stream beside it goes on, and memory stays bounded."""
    bench.script(tokens=100, interval_s=0.005)
    beside = stub.listen("GenerateStream", HI)
    next(beside)
    before = bench.process.memory_info().rss
    one, count, _ = FLOODS[flood]
    peer = Peer()
    with closing(dial(bench)) as raw:
        with suppress(BrokenPipeError, ConnectionResetError):  # cut off while it was at it
            raw.sendall(peer.take())
            for batch in _hundreds(count):
                raw.sendall(b"".join(one(peer) for _ in batch))
        read_all(raw, peer)
    heard = 1 + sum(bool(each.response) for each in beside)

    assert 100 == heard
    assert bench.process.memory_info().rss - before < 48 << 20
    assert peer.goodbye in {11, None}  # None: it went down with the connection


def _hundreds(count: int) -> Iterator[range]:
    """So many, and as many again, by the hundred."""
    for _ in range(0, count * 2, 100):
        yield range(100)


def garbage() -> bytes:
    peer = Peer()
    return peer.take() + bytes(range(256)) * 20


def bad_compression() -> bytes:
    peer = Peer()
    return peer.take() + b"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff"


def endless_head() -> bytes:
    peer = Peer()
    first = b"\x00\x00\x05\x01\x00\x00\x00\x00\x01\x00\x01a\x01b"
    more = b"\x00\x00\x05\x09\x00\x00\x00\x00\x01\x00\x01a\x01b"
    return peer.take() + first + more * 1000


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        garbage(),
        bad_compression(),
        endless_head(),
        b"\x00" * 100_000,
    ],
    ids=["tls", "garbage", "bad compression", "endless head", "zeros"],
)
def test_nonsense_is_closed(bench: Bench, stub: Stub, said: bytes) -> None:
    """And nobody else notices."""
    with closing(dial(bench)) as raw:
        with suppress(BrokenPipeError, ConnectionResetError):  # cut off while it was at it
            raw.sendall(said)
        read_all(raw, Peer())

    assert " tok" * 5 == stub.call("Generate", HI).response


def test_http1_is_told_where_it_is(bench: Bench) -> None:
    """In words that its client shows."""
    answer = httpx.get(f"http://{bench.target}/health", trust_env=False)

    assert 505 == answer.status_code
    assert "gRPC" in answer.text


def test_what_is_no_grpc(bench: Bench) -> None:
    """HTTP/2 without gRPC is answered in HTTP's words."""
    require(shutil.which("curl") is not None, "curl is not installed")
    command = ["curl", "-s", "--noproxy", "*", "--http2-prior-knowledge", "-w", "%{http_code}"]
    url = f"http://{bench.target}/"
    posted = subprocess.run(
        [*command, "-d", "{}", url], capture_output=True, check=True, text=True, timeout=LIMIT_S
    )
    got = subprocess.run(
        [*command, url], capture_output=True, check=True, text=True, timeout=LIMIT_S
    )

    assert ("415", "405") == (posted.stdout[-3:], got.stdout[-3:])


def test_unread_requests_are_bounded(bench: Bench, stub: Stub) -> None:
    """Many large requests that are never finished take no more memory than is allowed."""
    before = bench.process.memory_info().rss
    part = framed_request("x" * (4 << 20))[:60_000]
    with closing(dial(bench)) as raw:
        peer = Peer()
        for _ in range(100):
            stream_id = peer.open()
            room = min(peer.h2.outbound_flow_control_window, len(part))
            peer.say(stream_id, part[:room])
        raw.sendall(peer.take())
        answer = stub.call("Generate", HI)
        grown = bench.process.memory_info().rss - before

    assert " tok" * 5 == answer.response
    assert grown < 64 << 20


# -- the end ---------------------------------------------------------------------------------------


def test_a_drain_lets_streams_finish(tmp_path: Path) -> None:
    """Told to stop, it takes no more calls, finishes those it has, and says goodbye to watchers."""
    with (
        open_bench(tmp_path, "--tokens", "60", "--interval-s", "0.02") as bench,
        bench.connect() as stub,
    ):
        watching = stub.listen("WatchState", pb.WatchStateRequest())
        next(watching)
        call = stub.listen("GenerateStream", HI)
        next(call)
        bench.program.process.send_signal(signal.SIGTERM)
        heard = 1 + sum(bool(each.response) for each in call)
        fault = failure(lambda: list(watching))
        ended = bench.program.process.wait(LIMIT_S)

    assert (60, Code.OK) == (heard, call.code())
    assert (Code.UNAVAILABLE, 0) == (fault.code(), ended)


def test_a_taken_port_is_told(bench: Bench, tmp_path: Path) -> None:
    """In one sentence that names the option."""
    config = CONFIG.replace("grpc_port = 0", f"grpc_port = {bench.target.rpartition(':')[2]}")
    (tmp_path / "config.toml").write_text(config.format(url=bench.fake) + NUMB_TOML)
    done = subprocess.run(
        [sys.executable, "-m", "ollama_proxy", "serve", "--config", tmp_path / "config.toml"],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )

    assert (2, "", True) == (done.returncode, done.stdout, "--grpc-port" in done.stderr)
    assert 1 == done.stderr.count("\n")
