"""A client and a backend that take turns: nothing is sent before what went before it has arrived.

So a router between them does the same work each time, whatever the machine is busy with. They are
threads, with blocking sockets: what they do is not counted as the router's.
"""

import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import attrs

MODEL = "fake"
PATH = "/v1/chat/completions"
PATIENCE_S = 20.0
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
END = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(number: int) -> bytes:
    """One event of a stream."""
    return b'data: {"choices":[{"index":0,"delta":{"content":" t%d"}}]}\n\n' % number


@attrs.define(eq=False)
class Backend:
    """An OpenAI-compatible server of one model, which says what it is told to."""

    listener: socket.socket
    models: tuple[str, ...] = (MODEL,)
    _told: "queue.SimpleQueue[bytes]" = attrs.field(factory=queue.SimpleQueue)
    _connections: list[socket.socket] = attrs.field(factory=list)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def say(self, data: bytes) -> None:
        """Let it send bytes of the answer that is under way."""
        self._told.put(data)

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            thread = threading.Thread(target=self._converse, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests:
            while line := requests.readline():
                size = 0
                while (header := requests.readline()).strip():
                    name, _, value = header.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                requests.read(size)
                if line.startswith(b"POST"):
                    connection.sendall(STREAM_HEAD + chunk(self._told.get(timeout=PATIENCE_S)))
                    while (said := self._told.get(timeout=PATIENCE_S)) != END:
                        connection.sendall(chunk(said))
                    connection.sendall(chunk(END) + b"0\r\n\r\n")
                else:
                    listed = {"data": [{"id": model} for model in self.models]}
                    is_list = b"/models" in line
                    body = json.dumps(listed).encode() if is_list else b""
                    status = b"200 OK" if is_list else b"404 Not Found"
                    connection.sendall(
                        b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
                    )

    def close(self) -> None:
        """End every conversation."""
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the router was faster
        for thread in self._threads:
            thread.join(PATIENCE_S)


@contextmanager
def open_backend(*models: str) -> Iterator[Backend]:
    """A backend, and no thread of it afterwards."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        backend = Backend(listener, models=models or (MODEL,))
        accepting = threading.Thread(target=backend.serve)
        accepting.start()
        try:
            yield backend
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(PATIENCE_S)
            backend.close()


class Client:
    """One connection to the router."""

    def __init__(self, url: str, backend: Backend) -> None:
        """Connect."""
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._backend = backend

    def __enter__(self) -> Self:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def stream(self, tokens: int, model: str = MODEL) -> None:
        """Ask, and take an answer of so many tokens, each after the one before it has come."""
        message = {"role": "user", "content": "hi"}
        body = json.dumps({"model": model, "stream": True, "messages": [message]}).encode()
        self._socket.sendall(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
        )
        for number in range(tokens):
            self._backend.say(token(number))
            self._read_until(token(number))
        self._backend.say(END)
        self._read_until(b"\r\n0\r\n\r\n")

    def _read_until(self, end: bytes) -> None:
        received = b""
        while end not in received:
            data = self._socket.recv(65536)
            received += data
            if not data or (b" 200 " not in received[:32] and received.startswith(b"HTTP")):
                raise ConnectionError(received.decode(errors="replace"))
