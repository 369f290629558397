"""The official interoperability client (C-core, driven from Ruby), against the test service it asks for."""

from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ollama_proxy.inbound.grpc.door import GrpcDoor, GrpcSettings
from ollama_proxy.inbound.grpc.rpc import Rpc, methods_of
from ollama_proxy.inbound.grpc.status import CallFailed, Status
from ollama_proxy.inbound.trust import Gate
from tests.real.parts import require

PROTOS = Path("/usr/share/grpc-proto")
CASES = (
    "empty_unary",
    "large_unary",
    "client_compressed_unary",
    "client_streaming",
    "client_compressed_streaming",
    "server_streaming",
    "ping_pong",
    "timeout_on_sleeping_server",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "unimplemented_method",
    "unimplemented_service",
    "status_code_and_message",
    "custom_metadata",
)
LIMIT_S = 60.0


def find_client() -> Path | None:
    """Debian's package ruby-grpc has it."""
    pattern = "*/rubygems-integration/*/gems/grpc-*/src/ruby/pb/test/client.rb"
    return next(iter(sorted(Path("/usr/lib").glob(pattern))), None)


def read_protos(directory: Path) -> descriptor_pool.DescriptorPool:
    """The service and its messages, in a pool of their own."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    target = directory / "test.binpb"
    name = "grpc/testing/test.proto"
    assert not protoc.main([
        "protoc",
        f"-I{PROTOS}",
        "--include_imports",
        f"--descriptor_set_out={target}",
        name,
    ])
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file:
        pool.Add(file)
    return pool


class TestedService:
    """What the client's cases ask for."""

    __test__ = False

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        """Find the messages."""
        for name in (
            "Empty",
            "Payload",
            "SimpleResponse",
            "StreamingOutputCallResponse",
            "StreamingInputCallResponse",
        ):
            found = message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"grpc.testing.{name}")
            )
            setattr(self, name, found)

    Empty: Any
    Payload: Any
    SimpleResponse: Any
    StreamingOutputCallResponse: Any
    StreamingInputCallResponse: Any

    async def empty_call(self, request: Any, rpc: Rpc) -> Any:  # noqa: ARG002 - every method is given both
        """Nothing for nothing."""
        _echo_metadata(rpc)
        return self.Empty()

    async def unary_call(self, request: Any, rpc: Rpc) -> Any:
        """As many bytes as are asked for."""
        _echo_metadata(rpc)
        _heed(request, rpc)
        rpc.compress = request.response_compressed.value
        return self.SimpleResponse(payload=self.Payload(body=bytes(request.response_size)))

    cacheable_unary_call = unary_call

    async def streaming_output_call(self, request: Any, rpc: Rpc) -> None:
        """Several times as many as are asked for."""
        _echo_metadata(rpc)
        _heed(request, rpc)
        await self._output(request, rpc)

    async def _output(self, request: Any, rpc: Rpc) -> None:
        for wanted in request.response_parameters:
            await trio.sleep(wanted.interval_us / 1e6)
            payload = self.Payload(body=bytes(wanted.size))
            await rpc.send(self.StreamingOutputCallResponse(payload=payload))

    async def streaming_input_call(self, rpc: Rpc) -> None:
        """How many bytes came."""
        size = 0
        while (request := await rpc.receive()) is not None:
            _heed(request, rpc)
            size += len(request.payload.body)
        await rpc.send(self.StreamingInputCallResponse(aggregated_payload_size=size))

    async def full_duplex_call(self, rpc: Rpc) -> None:
        """Each request is answered as it comes."""
        _echo_metadata(rpc)
        while (request := await rpc.receive()) is not None:
            _heed(request, rpc)
            await self._output(request, rpc)

    half_duplex_call = full_duplex_call

    async def unimplemented_call(self, request: Any, rpc: Rpc) -> Any:  # noqa: ARG002 - as above
        """What nobody has made."""
        raise CallFailed(Status.UNIMPLEMENTED, "It is not implemented.")


def _echo_metadata(rpc: Rpc) -> None:
    for name, value in rpc.head.metadata:
        if name == b"x-grpc-test-echo-initial":
            rpc.initial.append((name, value))
        if name == b"x-grpc-test-echo-trailing-bin":
            rpc.trailing.append((name, value))


def _heed(request: Any, rpc: Rpc) -> None:
    """Fail where it is asked for, or where compression is not what the request says."""
    fields = request.DESCRIPTOR.fields_by_name
    if "response_status" in fields and request.HasField("response_status"):
        raise CallFailed(Status(request.response_status.code), request.response_status.message)
    if "expect_compressed" in fields and request.HasField("expect_compressed"):
        expected = request.expect_compressed.value
        if expected is not rpc.was_compressed:
            raise CallFailed(Status.INVALID_ARGUMENT, "It was not compressed as it said.")


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    require(PROTOS.is_dir(), "grpc-proto is not installed")
    return read_protos(tmp_path_factory.mktemp("protos"))


@pytest.fixture
async def port(protos: descriptor_pool.DescriptorPool, nursery: trio.Nursery) -> int:
    """The door, with the test service behind it."""
    service = protos.FindServiceByName("grpc.testing.TestService")
    for method in service.methods:  # makes the classes that the methods are found by
        message_factory.GetMessageClass(method.input_type)
    door = GrpcDoor(
        methods_of(service, TestedService(protos)), Gate(bound_host="127.0.0.1"), GrpcSettings()
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await nursery.start(door.serve, listeners)
    return int(listeners[0].socket.getsockname()[1])


@pytest.mark.parametrize("case", CASES)
async def test_interoperability(case: str, port: int) -> None:
    """Each case passes, as its own client sees it."""
    client = find_client()
    require(client is not None, "ruby-grpc is not installed")
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(
            [
                *("ruby", str(client), "--server_host", "127.0.0.1"),
                *("--server_port", str(port), "--test_case", case),
            ],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )

    assert 0 == done.returncode, done.stderr.decode()[-2000:]
