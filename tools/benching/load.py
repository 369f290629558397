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

import attrs
import psutil

STAMP = re.compile(rb" t(\d+)[^\d]")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
STAMP_MAX_BYTES = 32
LAST_FRAME = b'"done":true'
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
READ_BYTES = 16384
SILENCE_MAX_S = 30.0


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
        by_socket: whether it goes over a WebSocket at `path`, in the router's own words.
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
    by_socket: bool = False


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
    message = {"role": "user", "content": "x" * load.prompt_bytes}
    body = json.dumps({"model": load.model, "stream": load.stream, "messages": [message]}).encode()
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
    short = len(body) < 126  # noqa: PLR2004 - as the RFC has it
    size = bytes([0x80 | len(body)]) if short else b"\xfe" + len(body).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + body


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


class Exchange:
    """One connection: a request on its way out, then an answer on its way in.

    Attributes:
        left: how many requests it is still to begin.
        unsent: what the kernel did not take yet.
        has_begun: whether a token or an answer has come since `left` was set.
    """

    def __init__(self, load: Load, counted: Yield) -> None:
        """Connect, which is not measured."""
        self.socket = socket.create_connection((load.host, load.port), timeout=SILENCE_MAX_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if load.by_socket:
            shake_hands(load, self.socket)
        self.socket.settimeout(0)
        self.left = 0
        self.unsent = memoryview(b"")
        self.has_begun = False
        self._stamped = load.stream
        self._by_socket = load.by_socket
        self._counted = counted
        # The id of an answer that has just ended need not be free on a socket yet.
        sent = [frame(load, name) for name in "ab"] if load.by_socket else [request(load)]
        self._requests = itertools.cycle(sent)

    def begin(self) -> None:
        """Send a request, as far as the kernel takes it."""
        self.left -= 1
        self.unsent = memoryview(next(self._requests))
        self._is_last = False
        self._head: bytes | None = b""
        self._body_bytes = 0
        self._length: int | None = None
        self._tail = b""
        self._first_ns = 0
        self._sent_ns = time.monotonic_ns()
        self.send()

    def send(self) -> None:
        """Send on."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return

    def receive(self) -> bool:
        """Take what is there; True when the answer is complete.

        Raises:
            ConnectionError: the server refused or broke off.
        """
        data = self.socket.recv(READ_BYTES)
        now = time.monotonic_ns()
        if not data:
            raise ConnectionError(f"closed in the middle of an answer: ...{self._tail!r}")
        recent = self._tail + data
        at = 0
        for found in STAMP.finditer(recent):
            self._counted.token_ns.append(now - int(found[1]))
            at = found.end() - 1
        if at or not self._stamped:
            self.has_begun = True
            self._first_ns = self._first_ns or now
        self._tail = recent[max(at, len(recent) - STAMP_MAX_BYTES) :]
        if not self._is_complete(data, recent):
            return False
        self._counted.first_ns.append((self._first_ns or now) - self._sent_ns)
        self._counted.whole_ns.append(now - self._sent_ns)
        return True

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


class Loop:
    """All connections of one load."""

    def __init__(self, load: Load) -> None:
        """Connect all."""
        self._load = load
        self._yield = Yield()
        self._poll = select.epoll()
        self._running = 0
        exchanges = [Exchange(load, self._yield) for _ in range(load.streams)]
        self._exchanges = {each.socket.fileno(): each for each in exchanges}
        for descriptor in self._exchanges:
            self._poll.register(descriptor, select.EPOLLIN)

    def run(self) -> Yield:
        """Send one uncounted request on each connection, then the counted ones.

        Raises:
            ConnectionError: the server refused, broke off or fell silent.
        """
        exchanges = self._exchanges.values()
        # Warming: a pool behind the server should be as full as after a minute of work.
        for exchange in exchanges:
            exchange.left = 1
            self._begin(exchange)
        self._finish()
        counted = self._yield
        for recorded in (counted.first_ns, counted.token_ns, counted.whole_ns):
            recorded.clear()
        for exchange in exchanges:
            exchange.left, exchange.has_begun = self._load.requests, False
        gc.collect()
        gc.disable()
        self._measure(list(exchanges))
        return counted

    def _measure(self, exchanges: list[Exchange]) -> None:
        load, counted = self._load, self._yield
        whole = Meter(load.pid)
        start_ns = time.monotonic_ns()
        for number, exchange in enumerate(exchanges):
            due_ns = start_ns + int(number * load.spread_s / len(exchanges) * 1e9)
            while (ahead_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
                self._serve(ahead_s)
            self._begin(exchange)
        while self._running and not all(exchange.has_begun for exchange in exchanges):
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
        if exchange.unsent:
            self._poll.modify(exchange.socket, select.EPOLLIN | select.EPOLLOUT)

    def _finish(self) -> None:
        while self._running:
            self._serve(SILENCE_MAX_S)

    def _serve(self, timeout_s: float) -> None:
        """Do what is ready, once; waiting for SILENCE_MAX_S in vain is an error."""
        ready = self._poll.poll(timeout_s, len(self._exchanges))
        if not ready and timeout_s >= SILENCE_MAX_S:
            raise ConnectionError(f"nothing came for {timeout_s} s")
        for descriptor, events in ready:
            exchange = self._exchanges[descriptor]
            if exchange.unsent and events & select.EPOLLOUT:
                exchange.send()
                if not exchange.unsent:
                    self._poll.modify(descriptor, select.EPOLLIN)
            if events & ~select.EPOLLOUT and exchange.receive():
                self._running -= 1
                if exchange.left:
                    self._begin(exchange)


if __name__ == "__main__":
    try:
        json.dump(attrs.asdict(Loop(Load(**json.load(sys.stdin))).run()), sys.stdout)
    except OSError as fault:
        sys.exit(f"load: {fault}")
