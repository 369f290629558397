"""A gRPC client that says exactly what it is told: without I/O, and over a stream."""

from collections.abc import Iterable
from typing import Any, Self

import attrs
import h2.events as h2e
import trio
from h2.config import H2Configuration
from h2.connection import (
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.exceptions import ProtocolError
from h2.settings import Settings

from ollama_proxy.inbound.grpc.messages import framed
from ollama_proxy.inbound.grpc.pb import ollama_proxy_pb2 as pb
from ollama_proxy.inbound.grpc.wire import Wire

Pairs = list[tuple[bytes, bytes]]
GENERATE = "/ollama_proxy.OllamaProxy/Generate"


def head(path: str = GENERATE, *more: tuple[bytes, bytes], **changes: bytes) -> Pairs:
    """What a call begins with; `content_type=b""` leaves one out."""
    given = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path.encode(),
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    for name, value in changes.items():
        key = name.replace("_", "-").encode()
        given[key if key in given or key != b"method" else b":method"] = value
    return [(name, value) for name, value in given.items() if value] + list(more)


@attrs.define
class Heard:
    """What came back for one call."""

    headers: Pairs = attrs.field(factory=list)
    trailers: Pairs = attrs.field(factory=list)
    data: bytes = b""
    reset: int | None = None
    ended: bool = False

    def header(self, name: str) -> str | None:
        """Of the head or the end, whichever has it."""
        both = dict(self.headers) | dict(self.trailers)
        value = both.get(name.encode())
        return None if value is None else value.decode()

    @property
    def status(self) -> int | None:
        """As gRPC has it; None where it did not come."""
        value = self.header("grpc-status")
        return None if value is None else int(value)

    @property
    def messages(self) -> list[bytes]:
        """The whole messages that came."""
        found, rest = [], self.data
        while len(rest) >= 5:
            size = int.from_bytes(rest[1:5], "big")
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class _Deaf(H2ConnectionStateMachine):
    """Does not end with a goodbye: calls that are under way go on."""

    _transitions = {  # noqa: RUF012 - as h2 has it
        **H2ConnectionStateMachine._transitions,
        (ConnectionState.CLIENT_OPEN, ConnectionInputs.RECV_GOAWAY): (
            None,
            ConnectionState.CLIENT_OPEN,
        ),
    }


class _Immodest(Settings):
    @property  # type: ignore[misc]  # nobody sets it
    def max_concurrent_streams(self) -> int:
        """However few the server wants."""
        return 2**31 - 1


class _Rude(H2Connection):
    """h2 as a client that does what it must not."""

    def __init__(self) -> None:
        super().__init__(H2Configuration(client_side=True, header_encoding=None))
        self.state_machine = _Deaf()
        self.remote_settings = _Immodest(client=False)

    def clear_outbound_data_buffer(self) -> None:
        """Keep it."""


class Peer:
    """A client without I/O.

    Attributes:
        reads: whether it opens the window again for what it has received.
        goodbye: the code of the server's last GOAWAY; None: there was none.
        why: what it said with it.
    """

    def __init__(self) -> None:
        """Say hello."""
        self.h2 = _Rude()
        self.h2.initiate_connection()
        self.heard: dict[int, Heard] = {}
        self.reads = True
        self.goodbye: int | None = None
        self.last_id: int | None = None
        self.why = b""
        self.pinged = 0
        self.acked = 0

    def open(self, *headers: tuple[bytes, bytes], end: bool = False, **changes: Any) -> int:
        """Begin a call."""
        stream_id = self.h2.get_next_available_stream_id()
        self.heard[stream_id] = Heard()
        path = changes.pop("path", GENERATE)
        more = (*headers, *changes.pop("headers", ()))
        self.h2.send_headers(stream_id, head(path, *more, **changes), end_stream=end)
        return stream_id

    def call(self, *messages: bytes, **changes: Any) -> int:
        """Begin a call, send its messages, and say that there are no more."""
        stream_id = self.open(**changes)
        self.say(stream_id, b"".join(framed(m) for m in messages), end=True)
        return stream_id

    def say(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes, as far as the windows allow."""
        size = self.h2.max_outbound_frame_size
        for at in range(0, len(data), size):
            self.h2.send_data(stream_id, data[at : at + size])
        if end:
            self.h2.end_stream(stream_id)

    def take(self) -> bytes:
        """What it says now."""
        return bytes(self.h2.data_to_send())

    def hear(self, data: bytes) -> None:
        """Read what the server says."""
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            return  # h2 hears nothing more after a goodbye
        for event in events:
            self._note(event)

    def _note(self, event: h2e.Event) -> None:
        match event:
            case h2e.ResponseReceived():
                self.heard[event.stream_id].headers = list(event.headers)
            case h2e.TrailersReceived():
                self.heard[event.stream_id].trailers = list(event.headers)
            case h2e.DataReceived():
                self.heard[event.stream_id].data += event.data
                if self.reads and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2e.StreamEnded():
                self.heard[event.stream_id].ended = True
            case h2e.StreamReset():
                self.heard[event.stream_id].reset = event.error_code
            case h2e.ConnectionTerminated():
                self.goodbye, self.last_id = event.error_code, event.last_stream_id
                self.why = event.additional_data or b""
            case h2e.PingReceived():
                self.pinged += 1
            case h2e.PingAckReceived():
                self.acked += 1
            case _:
                pass


def talk(peer: Peer, wire: Wire, now: float = 0.0) -> list[Any]:
    """Carry bytes both ways until nobody has anything to say; the wire's events."""
    events: list[Any] = []
    while True:
        up, down = peer.take(), wire.take_output()
        if not up and not down:
            return events
        if up:
            events += wire.receive(up, now)
        if down:
            peer.hear(down)


class Client:
    """The same, over a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        """Take a connected stream."""
        self.peer = Peer()
        self.stream = stream
        self.is_closed = False

    async def __aenter__(self) -> Self:
        await self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def flush(self) -> None:
        """Send what there is to say."""
        data = self.peer.take()
        if data:
            await self.stream.send_all(data)

    async def call(self, *messages: bytes, **changes: Any) -> Heard:
        """A whole call."""
        return await self.ended(self.peer.call(*messages, **changes))

    async def listen(self) -> bool:
        """Read something; False where the server has closed."""
        await self.flush()
        data = await self.stream.receive_some(65536)
        self.peer.hear(bytes(data))
        await self.flush()
        self.is_closed = not data
        return bool(data)

    async def ended(self, stream_id: int) -> Heard:
        """Wait until a call is over."""
        heard = self.peer.heard[stream_id]
        while not heard.ended and heard.reset is None and await self.listen():
            pass
        return heard

    async def closed(self) -> None:
        """Wait until the server has closed."""
        while await self.listen():
            pass


def fields(pairs: Iterable[tuple[bytes, bytes]], name: str) -> list[bytes]:
    """Every value of a name."""
    return [value for each, value in pairs if each == name.encode()]


def framed_request(prompt: str) -> bytes:
    """A request with its length before it."""
    return framed(pb.GenerateRequest(prompt=prompt).SerializeToString())
