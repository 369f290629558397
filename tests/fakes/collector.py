"""A collector of OpenTelemetry's traces: OTLP over HTTP on loopback, which keeps what it is told."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import h11
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

LIMIT_S = 20.0


@attrs.frozen(kw_only=True)
class Span:
    """One span as it came, ids in hexadecimal. Events by their order: name and attributes."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    state: str
    status: int
    seconds: float
    attributes: dict[str, object]
    events: list[tuple[str, dict[str, object]]]
    resource: dict[str, object]

    @property
    def event_names(self) -> list[str]:
        """What happened, in order."""
        return [name for name, _ in self.events]


@attrs.define(eq=False)
class Collector:
    """What was told.

    Attributes:
        url: where it is.
        status: what it answers.
        answers: it does not answer before this is set.
        spans: what it was told.
        bodies: the same as it came.
        asked: how many requests there were.
    """

    url: str
    status: int = 200
    answers: trio.Event = attrs.field(factory=trio.Event)
    spans: list[Span] = attrs.field(factory=list)
    bodies: list[bytes] = attrs.field(factory=list)
    asked: int = 0

    async def wait(self, count: int) -> list[Span]:
        """Wait until it was told so many spans, and give them in the order of their begins."""
        with trio.fail_after(LIMIT_S):
            while len(self.spans) < count:  # noqa: ASYNC110 - a thread of another library tells it
                await trio.sleep(0.01)
        return self.spans

    def take(self, path: str, body: bytes) -> None:
        """Keep what was told."""
        assert "/v1/traces" == path
        self.asked += 1
        if self.status != 200:
            return
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_read(span, _values(resource.resource)) for span in scope.spans]


def _values(holder: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in holder.attributes:  # type: ignore[attr-defined]  # generated
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind)
    return found


def _read(span: object, resource: dict[str, object]) -> Span:
    s = span
    return Span(
        name=s.name,  # type: ignore[attr-defined]
        kind=s.kind,  # type: ignore[attr-defined]
        trace=s.trace_id.hex(),  # type: ignore[attr-defined]
        span=s.span_id.hex(),  # type: ignore[attr-defined]
        parent=s.parent_span_id.hex(),  # type: ignore[attr-defined]
        state=s.trace_state,  # type: ignore[attr-defined]
        status=s.status.code,  # type: ignore[attr-defined]
        seconds=(s.end_time_unix_nano - s.start_time_unix_nano) / 1e9,  # type: ignore[attr-defined]
        attributes=_values(s),
        events=[(event.name, _values(event)) for event in s.events],  # type: ignore[attr-defined]
        resource=resource,
    )


@asynccontextmanager
async def open_collector() -> AsyncIterator[Collector]:
    """Collect while the block runs."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    collector = Collector(f"http://127.0.0.1:{port}")
    collector.answers.set()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await _serve(stream, collector)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield collector
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.SocketStream, collector: Collector) -> None:
    connection = h11.Connection(h11.SERVER)
    path, body = "", b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Request):
            path, body = event.target.decode(), b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            collector.take(path, body)
            await collector.answers.wait()
            answer = h11.Response(status_code=collector.status, headers=[("content-length", "0")])
            await stream.send_all(
                (connection.send(answer) or b"") + (connection.send(h11.EndOfMessage()) or b"")
            )
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()
        else:
            return
