"""One load, from its own process: requests out, arrivals stamped.

A bare epoll loop: a tenth of a millisecond is what is measured, and a framework's scheduling would
drown it. An arrival is stamped right after recv, and of the answer only that is read which must be:
the stamps in its bytes and where it ends.

Reads a Load as JSON on stdin and writes a Yield as JSON on stdout.
"""

import gc
import itertools
import json
import re
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum, auto
from typing import Protocol

import attrs
import hpack
import psutil

STAMP = re.compile(rb" t(\d+)[^\d]")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
STAMP_MAX_BYTES = 32
LAST_FRAME = b'"done":true'
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
READ_BYTES = 16384
SILENCE_MAX_S = 30.0

# Servers allow some hundred calls at once; beyond that gRPC's clients take another connection.
CALLS_PER_LINE = 100
GRPC_METHOD = "/ollama_proxy.OllamaProxy/GenerateStream"
# RFC 9113: a frame's head, the types that are met here, and their flags.
FRAME_HEAD_BYTES = 9
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4
WINDOW_MAX_BYTES = 2**31 - 1
WINDOW_BYTES = 2**16 - 1


class Door(StrEnum):
    """What the requests go over: HTTP/1.1, a WebSocket each, or gRPC connections that many calls share."""

    HTTP = auto()
    SOCKET = auto()
    GRPC = auto()


@attrs.frozen(kw_only=True)
class Load:
    """What to send where.

    Attributes:
        streams: connections, each with one request at a time.
        requests: how many each connection sends, after one that is not counted.
        stream: whether streamed answers, with stamps in them, are asked for.
        prompt_bytes: the length of the prompt.
        spread_s: over which time the connections begin: in step they would be one great burst.
        pid: the process whose processor time is read, 0 = none.
        door: over a WebSocket it goes to `path`, and as over gRPC in the router's own words.
    """

    host: str
    port: int
    path: str = "/v1/chat/completions"
    model: str = "fake"
    streams: int = 1
    requests: int = 1
    stream: bool = True
    prompt_bytes: int = 5
    spread_s: float = 0.0
    pid: int = 0
    door: Door = attrs.field(default=Door.HTTP, converter=Door)


@attrs.define(kw_only=True)
class Yield:
    """What came back.

    Attributes:
        first_ns: from each request's first byte out to its first token (or byte) in.
        token_ns: from each token's stamp to its arrival.
        whole_ns: from each request's first byte out to its answer's last byte in.
        elapsed_s: from the first request to the last answer.
        cpu_s: processor time that the process used in it; None without one.
        steady_s: how long all connections were in the middle of their answers at once.
        steady_tokens: tokens that came in that time.
        steady_cpu_s: processor time that the process used in it; None without one.
    """

    first_ns: list[int] = attrs.field(factory=list)
    token_ns: list[int] = attrs.field(factory=list)
    whole_ns: list[int] = attrs.field(factory=list)
    elapsed_s: float = 0.0
    cpu_s: float | None = None
    steady_s: float = 0.0
    steady_tokens: int = 0
    steady_cpu_s: float | None = None


class Meter:
    """Processor and real time from its making on."""

    def __init__(self, pid: int) -> None:
        """Start."""
        self._process = psutil.Process(pid) if pid else None
        self._used_s = self._cpu_s()
        self._start_ns = time.monotonic_ns()

    def _cpu_s(self) -> float:
        if self._process is None:
            return 0.0
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def read(self) -> tuple[float, float | None]:
        """Seconds of real time, and of processor time if there is a process."""
        elapsed_s = (time.monotonic_ns() - self._start_ns) / 1e9
        return elapsed_s, self._cpu_s() - self._used_s if self._process else None


def request(load: Load) -> bytes:
    """The bytes of the request that every connection sends."""
    said = "x" * load.prompt_bytes
    asked: dict[str, object] = {"model": load.model}
    if load.path.endswith("/embeddings"):
        asked["input"] = said
    else:
        asked |= {"stream": load.stream, "messages": [{"role": "user", "content": said}]}
    body = json.dumps(asked).encode()
    headers = {
        "Host": f"{load.host}:{load.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {load.path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def frame(load: Load, request_id: str) -> bytes:
    """The same as a client's text frame (RFC 6455, 5.2), masked with zeros."""
    message = {"role": "user", "content": "x" * load.prompt_bytes}
    asked = {"request_id": request_id, "model": load.model, "stream": load.stream}
    body = json.dumps({**asked, "messages": [message], "media_type": None}).encode()
    return b"\x81" + _masked_size(len(body)) + bytes(4) + body


def _masked_size(size: int) -> bytes:
    if size < 126:  # noqa: PLR2004 - as the RFC has it
        return bytes([0x80 | size])
    if size < 2**16:
        return b"\xfe" + size.to_bytes(2, "big")
    return b"\xff" + size.to_bytes(8, "big")


def shake_hands(load: Load, connection: socket.socket) -> None:
    """Make a WebSocket of a connection.

    Raises:
        ConnectionError: the server would not.
    """
    connection.sendall(
        f"GET {load.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(READ_BYTES)
        head += data
        if not data or not head.startswith(b"HTTP/1.1 101"[: len(head)]):
            raise ConnectionError(head[:400].decode(errors="replace"))


class Line:
    """A connection: what the kernel did not take of what was posted waits in `unsent`."""

    def __init__(self, load: Load) -> None:
        """Connect, which is not measured."""
        self.socket = socket.create_connection((load.host, load.port), timeout=SILENCE_MAX_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if load.door is Door.SOCKET:
            shake_hands(load, self.socket)
        self.socket.settimeout(0)
        self.unsent = bytearray()

    def post(self, data: bytes) -> None:
        """Send, as far as the kernel takes it."""
        self.unsent += data
        self.send()

    def send(self) -> None:
        """Send on."""
        try:
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent)]
        except BlockingIOError:
            return

    def receive(self) -> tuple[bytes, int]:
        """What is there, and when it was.

        Raises:
            ConnectionError: the server closed it.
        """
        data = self.socket.recv(READ_BYTES)
        now_ns = time.monotonic_ns()
        if not data:
            raise ConnectionError("closed in the middle of an answer")
        return data, now_ns


class Clock:
    """When the request that is under way began to answer and ended, for what is counted.

    Attributes:
        left: how many requests are still to be begun.
        has_begun: whether a token or an answer has come since `left` was set.
    """

    def __init__(self, load: Load, counted: Yield) -> None:
        """Nothing is under way."""
        self.left = 0
        self.has_begun = False
        self._stamped = load.stream
        self._counted = counted

    def begin(self) -> None:
        """A request goes out now."""
        self.left -= 1
        self._first_ns = 0
        self._sent_ns = time.monotonic_ns()

    def take(self, recent: bytes, now_ns: int) -> int:
        """Note the stamps that came at `now_ns`; where the last one ended, 0 without any."""
        at = 0
        for found in STAMP.finditer(recent):
            self._counted.token_ns.append(now_ns - int(found[1]))
            at = found.end() - 1
        if at or not self._stamped:
            self.has_begun = True
            self._first_ns = self._first_ns or now_ns
        return at

    def end(self, now_ns: int) -> None:
        """The answer is complete."""
        self._counted.first_ns.append((self._first_ns or now_ns) - self._sent_ns)
        self._counted.whole_ns.append(now_ns - self._sent_ns)


class Exchange(Protocol):
    """One request at a time, over a line that others may share."""

    line: Line
    clock: Clock

    def begin(self) -> None:
        """Send a request."""

    def receive(self) -> Sequence["Exchange"]:
        """Take what is there on the line: those on it of which the answers are complete.

        Raises:
            ConnectionError: the server refused or broke off.
        """


class Textual:
    """An exchange on a line of its own, HTTP/1.1 or a WebSocket."""

    def __init__(self, load: Load, counted: Yield) -> None:
        """Connect."""
        self.line = Line(load)
        self.clock = Clock(load, counted)
        self._by_socket = load.door is Door.SOCKET
        # The id of an answer that has just ended need not be free on a socket yet.
        sent = [frame(load, name) for name in "ab"] if self._by_socket else [request(load)]
        self._requests = itertools.cycle(sent)

    def begin(self) -> None:
        """Send a request."""
        self._is_last = False
        self._head: bytes | None = b""
        self._body_bytes = 0
        self._length: int | None = None
        self._tail = b""
        self.clock.begin()
        self.line.post(next(self._requests))

    def receive(self) -> Sequence[Exchange]:
        """Take what is there; itself when the answer is complete.

        Raises:
            ConnectionError: the server refused or broke off.
        """
        data, now_ns = self.line.receive()
        recent = self._tail + data
        at = self.clock.take(recent, now_ns)
        self._tail = recent[max(at, len(recent) - STAMP_MAX_BYTES) :]
        if not self._is_complete(data, recent):
            return ()
        self.clock.end(now_ns)
        return (self,)

    def _is_complete(self, data: bytes, recent: bytes) -> bool:
        if self._by_socket:
            self._is_last = self._is_last or LAST_FRAME in recent
            if self._is_last and b'"error":' in recent:
                raise ConnectionError(recent[-400:].decode(errors="replace"))
            return self._is_last and recent.endswith(b"}")
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return False
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(self._head[:400].decode(errors="replace"))
            self._head = None
            length = LENGTH.search(head)
            self._length = int(length[1]) if length else None
        self._body_bytes += len(data)
        if self._length is not None:
            return self._body_bytes >= self._length
        return recent.endswith(END_OF_CHUNKS)


def http2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of RFC 9113, 4.1."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def protobuf_text(field: int, text: str) -> bytes:
    """A string field of a protobuf message."""
    data, size = text.encode(), b""
    left = len(data)
    while left > 0x7F:  # noqa: PLR2004 - seven bits a byte, as the encoding has it
        size += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([field << 3 | 2]) + size + bytes([left]) + data


class GrpcLine:
    """An HTTP/2 connection that all exchanges share, as gRPC's own clients do it."""

    def __init__(self, load: Load) -> None:
        """Connect; with windows so wide that nobody waits for leave to send to us."""
        self.line = Line(load)
        self._streams: dict[int, Grpc] = {}
        self._next = 1
        self._data = b""
        self._decoder = hpack.Decoder()
        window = INITIAL_WINDOW_SIZE.to_bytes(2, "big") + WINDOW_MAX_BYTES.to_bytes(4, "big")
        wider = (WINDOW_MAX_BYTES - WINDOW_BYTES).to_bytes(4, "big")
        self.line.post(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + http2_frame(SETTINGS, 0, 0, window)
            + http2_frame(WINDOW_UPDATE, 0, 0, wider)
        )
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": GRPC_METHOD,
            ":authority": f"{load.host}:{load.port}",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        self._head = encoder.encode(headers.items())
        message = protobuf_text(1, "x" * load.prompt_bytes) + protobuf_text(2, load.model)
        self._body = b"\0" + len(message).to_bytes(4, "big") + message

    def begin(self, exchange: "Grpc") -> None:
        """Open the next stream."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = exchange
        self.line.post(
            http2_frame(HEADERS, END_HEADERS, stream, self._head)
            + http2_frame(DATA, END_STREAM, stream, self._body)
        )

    def receive(self) -> Sequence[Exchange]:
        """Take what is there.

        Raises:
            ConnectionError: a call failed or the server broke off.
        """
        data, now_ns = self.line.receive()
        self._data += data
        return [done for each in self._frames() if (done := self._take(*each, now_ns))]

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of all frames that came whole."""
        data, at = self._data, 0
        while len(data) >= at + FRAME_HEAD_BYTES:
            end = at + FRAME_HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            yield data[at + 3], data[at + 4], stream, data[at + FRAME_HEAD_BYTES : end]
            at = end
        self._data = data[at:]

    def _take(
        self, kind: int, flags: int, stream: int, payload: bytes, now_ns: int
    ) -> Exchange | None:
        """What a frame says; the exchange that it ends."""
        if kind == DATA:
            # A stamp at the very end of a message is whole, other than one at the end of a read.
            self._streams[stream].clock.take(payload + b"\0", now_ns)
        elif kind == HEADERS:
            said = dict(self._decoder.decode(payload))
            if said.get("grpc-status", "0") != "0":
                raise ConnectionError(f"{said['grpc-status']}: {said.get('grpc-message')}")
            if flags & END_STREAM:
                exchange = self._streams.pop(stream)
                exchange.clock.end(now_ns)
                return exchange
        elif kind in {SETTINGS, PING} and not flags & ACK:
            self.line.post(http2_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind in {RESET, GOAWAY}:
            raise ConnectionError(f"frame {kind} on stream {stream}: {payload!r}")
        return None


class Grpc:
    """A call at a time on a connection that is shared."""

    def __init__(self, shared: GrpcLine, load: Load, counted: Yield) -> None:
        """Nothing is under way."""
        self.line = shared.line
        self.clock = Clock(load, counted)
        self._shared = shared

    def begin(self) -> None:
        """Call."""
        self.clock.begin()
        self._shared.begin(self)

    def receive(self) -> Sequence[Exchange]:
        """Take what is there for any call on the connection."""
        return self._shared.receive()


def exchanges(load: Load, counted: Yield) -> list[Exchange]:
    """As many as the load wants, connected."""
    if load.door is Door.GRPC:
        lines = [GrpcLine(load) for _ in range(0, load.streams, CALLS_PER_LINE)]
        return [Grpc(lines[at // CALLS_PER_LINE], load, counted) for at in range(load.streams)]
    return [Textual(load, counted) for _ in range(load.streams)]


class Loop:
    """All connections of one load."""

    def __init__(self, load: Load) -> None:
        """Connect all."""
        self._load = load
        self._yield = Yield()
        self._poll = select.epoll()
        self._running = 0
        self._exchanges = exchanges(load, self._yield)
        # Of those that share a line any one reads for all.
        self._readers = {each.line.socket.fileno(): each for each in self._exchanges}
        for descriptor in self._readers:
            self._poll.register(descriptor, select.EPOLLIN)

    def run(self) -> Yield:
        """Send one uncounted request on each connection, then the counted ones.

        Raises:
            ConnectionError: the server refused, broke off or fell silent.
        """
        # Warming: a pool behind the server should be as full as after a minute of work.
        for exchange in self._exchanges:
            exchange.clock.left = 1
            self._begin(exchange)
        self._finish()
        counted = self._yield
        for recorded in (counted.first_ns, counted.token_ns, counted.whole_ns):
            recorded.clear()
        for exchange in self._exchanges:
            exchange.clock.left, exchange.clock.has_begun = self._load.requests, False
        gc.collect()
        gc.disable()
        self._measure()
        return counted

    def _measure(self) -> None:
        load, counted, exchanges = self._load, self._yield, self._exchanges
        whole = Meter(load.pid)
        start_ns = time.monotonic_ns()
        for number, exchange in enumerate(exchanges):
            due_ns = start_ns + int(number * load.spread_s / len(exchanges) * 1e9)
            while (ahead_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
                self._serve(ahead_s)
            self._begin(exchange)
        while self._running and not all(exchange.clock.has_begun for exchange in exchanges):
            self._serve(SILENCE_MAX_S)
        steady = Meter(load.pid)
        tokens = len(counted.token_ns)
        while self._running == len(exchanges):
            self._serve(SILENCE_MAX_S)
        counted.steady_tokens = len(counted.token_ns) - tokens
        counted.steady_s, counted.steady_cpu_s = steady.read()
        self._finish()
        counted.elapsed_s, counted.cpu_s = whole.read()

    def _begin(self, exchange: Exchange) -> None:
        self._running += 1
        exchange.begin()
        if exchange.line.unsent:
            self._poll.modify(exchange.line.socket, select.EPOLLIN | select.EPOLLOUT)

    def _finish(self) -> None:
        while self._running:
            self._serve(SILENCE_MAX_S)

    def _serve(self, timeout_s: float) -> None:
        """Do what is ready, once; waiting for SILENCE_MAX_S in vain is an error."""
        ready = self._poll.poll(timeout_s, len(self._readers))
        if not ready and timeout_s >= SILENCE_MAX_S:
            raise ConnectionError(f"nothing came for {timeout_s} s")
        for descriptor, events in ready:
            reader = self._readers[descriptor]
            if reader.line.unsent and events & select.EPOLLOUT:
                reader.line.send()
                if not reader.line.unsent:
                    self._poll.modify(descriptor, select.EPOLLIN)
            if not events & ~select.EPOLLOUT:
                continue
            for exchange in reader.receive():
                self._running -= 1
                if exchange.clock.left:
                    self._begin(exchange)


if __name__ == "__main__":
    try:
        json.dump(attrs.asdict(Loop(Load(**json.load(sys.stdin))).run()), sys.stdout)
    except OSError as fault:
        sys.exit(f"load: {fault}")
