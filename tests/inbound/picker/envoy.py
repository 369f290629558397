"""What Envoy says and hears, in memory: phases in, a destination or a refusal out."""

import functools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import attrs
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Probe
from ollama_proxy.backends.overheard import Overheard
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.crew import Workers
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Fact, Ledger, TurnedAway
from ollama_proxy.engine.news import News, Routed
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import work
from ollama_proxy.inbound.admission import Admission
from ollama_proxy.inbound.bounds import Bounds
from ollama_proxy.inbound.grpc.connection import Connection, Patience, Terms
from ollama_proxy.inbound.grpc.messages import Budget, framed
from ollama_proxy.inbound.grpc.offer import all_methods
from ollama_proxy.inbound.grpc.pb import ext_proc_v3_pb2 as pb
from ollama_proxy.inbound.lane import LaneLimits
from ollama_proxy.inbound.picker.desk import PickerSettings
from ollama_proxy.inbound.trust import Gate
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, spec
from tests.inbound.grpc.peer import Client

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
DESTINATION = "x-gateway-destination-endpoint"
CHAT = "/v1/chat/completions"
LIMITS = LaneLimits(max_body_bytes=1 << 20)
MODES = pb.ProcessingMode


def node(name: str = "npu", port: int = 8001, **changes: Any) -> ScriptedBackend:
    """A backend that others can reach."""
    return ScriptedBackend(spec(name, endpoint=f"http://192.0.2.1:{port}", **changes))


def body(model: str = MODEL, **more: Any) -> bytes:
    """What is asked."""
    return json.dumps({"model": model, "stream": True, "messages": []} | more).encode()


def heads(told: Sequence[tuple[str, str]], *, end: bool = False) -> pb.HttpHeaders:
    """Headers as Envoy has them."""
    message = pb.HttpHeaders(end_of_stream=end)
    for name, value in told:
        message.headers.headers.add(key=name, raw_value=value.encode())
    return message


@attrs.define(eq=False)
class Stream:
    """One request that Envoy asks about."""

    client: Client
    id: int
    _heard: int = 0

    @classmethod
    def open(cls, client: Client, **changes: Any) -> Self:
        """Begin to ask."""
        return cls(client, client.peer.open(path=PROCESS, **changes))

    async def say(self, **fields: Any) -> None:
        """One message."""
        message = framed(pb.ProcessingRequest(**fields).SerializeToString())
        while message:
            room = self.client.peer.h2.local_flow_control_window(self.id)
            self.client.peer.say(self.id, message[:room])
            message = message[room:]
            if message:
                assert await self.client.listen(), "the connection ended"
        await self.client.flush()

    async def hear(self) -> pb.ProcessingResponse:
        """The next answer."""
        heard = self.client.peer.heard[self.id]
        while (message := self._next(heard.data)) is None:
            assert not heard.ended, f"it ended: {heard.status} {heard.header('grpc-message')}"
            assert await self.client.listen(), "the connection ended"
        self._heard += 5 + len(message)
        answer = pb.ProcessingResponse()
        answer.ParseFromString(message)
        return answer

    def _next(self, data: bytes) -> bytes | None:
        """The next message, once it is whole."""
        size = int.from_bytes(data[self._heard + 1 : self._heard + 5], "big")
        rest = data[self._heard + 5 :]
        return rest[:size] if len(data) >= self._heard + 5 and len(rest) >= size else None

    async def ask(
        self,
        content: bytes | None = None,
        *more: tuple[str, str],
        path: str = CHAT,
        method: str = "POST",
        mode: int = MODES.BUFFERED,
        **fields: Any,
    ) -> pb.ProcessingResponse:
        """A whole request, buffered; what is said of it."""
        content = body() if content is None else content
        told = [(":method", method), (":path", path), (":authority", "localhost"), *more]
        if not any(name == "content-length" for name, _ in more):
            told.append(("content-length", str(len(content))))
        config = pb.ProtocolConfiguration(request_body_mode=mode)  # type: ignore[arg-type]  # a number is one
        await self.say(request_headers=heads(told), protocol_config=config, **fields)
        first = await self.hear()
        if first.WhichOneof("response") != "request_headers" or not content:
            return first
        if DESTINATION in changes(first.request_headers.response):
            return first
        await self.say(request_body=pb.HttpBody(body=content, end_of_stream=True))
        return await self.hear()

    async def answer(
        self, status: int = 200, *more: tuple[str, str], **fields: Any
    ) -> pb.ProcessingResponse:
        """The head of a node's answer; what is said of it."""
        told = [(":status", str(status)), ("x-envoy-upstream-service-time", "3"), *more]
        await self.say(response_headers=heads(told), **fields)
        return await self.hear()

    async def end(self) -> None:
        """As Envoy ends it, whatever became of the request."""
        self.client.peer.h2.end_stream(self.id)
        await self.client.ended(self.id)

    async def reset(self) -> None:
        """As Envoy ends it when it needs no more answers."""
        self.client.peer.h2.reset_stream(self.id, 8)
        await self.client.flush()


def changes(response: pb.CommonResponse) -> dict[str, str]:
    """The headers that are set."""
    return {
        option.header.key: option.header.raw_value.decode()
        for option in response.header_mutation.set_headers
    }


def refused(answer: pb.ProcessingResponse) -> tuple[int, Any, dict[str, str]]:
    """An immediate answer: status, body and headers."""
    immediate = answer.immediate_response
    told = {
        option.header.key: option.header.raw_value.decode()
        for option in immediate.headers.set_headers
    }
    return immediate.status.code, json.loads(immediate.body or b"null"), told


@attrs.frozen
class Home:
    """Envoy's connection, and what is behind the door."""

    client: Client
    dispatcher: Dispatcher
    facts: list[Fact]
    turned: list[TurnedAway]
    bounds: Bounds
    routed: list[Routed]

    def stream(self, **changes: Any) -> Stream:
        """A request that Envoy asks about."""
        return Stream.open(self.client, **changes)

    async def settle(self) -> None:
        """Let everybody do what there is to do."""
        await wait_all_tasks_blocked()


@asynccontextmanager
async def at_home(
    *backends: ScriptedBackend,
    admission: Admission | None = None,
    settings: DispatchSettings | None = None,
    picker: PickerSettings | None = None,
    queue: int = 8,
    models: frozenset[str] | None = None,
    traces: bool = False,
    origins: tuple[str, ...] = (),
) -> AsyncIterator[Home]:
    """A router with these backends, all well, and Envoy at its door."""
    ours, theirs = memory_stream_pair()
    ledger, news, bounds = Ledger(), News(), Bounds()
    facts: list[Fact] = []
    turned: list[TurnedAway] = []
    ledger.read_by(facts.append)
    ledger.door_read_by(turned.append)
    dispatcher = Dispatcher(settings or DispatchSettings(), ledger, news=news, traces=traces)
    routed: list[Routed] = []
    news.followed_by(routed.append)
    gate = Gate(bound_host="127.0.0.1", allowed_origins=origins, admission=admission)
    async with trio.open_nursery() as nursery:
        for backend in backends:
            station = Station(backend, queue_capacity=queue)
            labour = functools.partial(work, dispatcher, station)
            slots = backend.spec.slots
            station.open(Workers(nursery, labour, slots=slots, name=backend.spec.id))
            dispatcher.add(station)
            station.is_well(Probe(models=models or frozenset({MODEL})))
        nursery.start_soon(dispatcher.keep_time)
        methods = all_methods(
            dispatcher,
            Climate(dispatcher, ClimateSettings(), news, minute_of_day=lambda: 0),
            news,
            gate=gate,
            bounds=bounds,
            picker=picker or PickerSettings(limits=LIMITS),
            overhear=Overheard,
        )
        terms = Terms(
            methods={method.path: method for method in methods},
            gate=gate,
            budget=Budget(64 << 20),
            ledger=ledger,
            patience=Patience(silence_s=1e9, idle_s=1e9),
        )
        nursery.start_soon(Connection(theirs, terms, "192.0.2.9").run)
        async with Client(ours) as client:
            yield Home(client, dispatcher, facts, turned, bounds, routed)
        nursery.cancel_scope.cancel()
