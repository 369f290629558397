"""HTTP/1.1 to a backend on the hot path: requests out, answers in, connections kept.

Rule 1: bytes are parsed here and nowhere else; `feed` is synchronous, so that the pump can call it.
Rule 2: a connection is reused only after an answer that ended cleanly, and only if it is silent.
Rule 3: closing is synchronous: whoever is cancelled can still do it.
"""

import os
import select
import ssl
from collections.abc import Callable

import attrs
import httptools
import trio

from ollama_proxy.backends.backend import BackendFailed, Fault, Head
from ollama_proxy.backends.endpoint import Endpoint

READ_BYTES = 65536
HEAD_MAX_BYTES = 65536
IDLE_MAX_S = 30.0
NO_NAME = "{} is no name that a host can have; see its endpoint"
TAIL_BYTES = 65536
# Connections are one hop long (RFC 9110, 7.6.1), and a backend has no say in the router's origin.
_NOT_PASSED = frozenset({
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"date",
    b"server",
    b"set-cookie",
    b"location",
    b"strict-transport-security",
    b"alt-svc",
    b"x-accel-buffering",  # the doors say it themselves, of every stream
})

# Alerts about our certificate, as OpenSSL calls them.
_STRANGER = frozenset({
    "TLSV1_ALERT_UNKNOWN_CA",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
})


# What another router tells of its choice, and this one of its own.
_ROUTERS_OWN = frozenset({
    b"x-routing-reason",
    b"x-estimated-latency-ms",
    b"x-estimated-power-w",
    b"x-alternatives",
    b"x-queue-ms",
    b"x-request-id",
    b"x-energy-j",
    b"x-energy-source",
})
# Under another name: whose answer it was there.
_RENAMED = {b"x-backend-used": b"x-node-backend"}


def _may_pass(name: bytes) -> bool:
    return (
        name not in _NOT_PASSED
        and name not in _ROUTERS_OWN
        and not name.startswith(b"access-control-")
    )


def distrust(error: BaseException) -> str:
    """Which of two ends does not trust the other's certificate; "" where that is not the cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                "it shows a certificate that is not trusted here; a paired router that was set up anew"
                " has to be paired anew"
            )
        if isinstance(cause, ssl.SSLError) and (cause.reason or "") in _STRANGER:
            return (
                "it does not know this router's certificate; if they were paired, that was dissolved"
                " there: pair anew"
            )
        cause = cause.__cause__ or cause.__context__
    return ""


class Connection:
    """One connection to a backend, one request at a time.

    Attributes:
        descriptor: the socket's file descriptor; None under TLS, whose bytes need decoding.
        head: the answer's head, once it is there.
        complete: the answer has come to its end.
        pieces: how many pieces of a stream came so far, by `mark`.
        mark: what ends a piece.
    """

    __slots__ = (
        "_chunks",
        "_dirty",
        "_headers",
        "_keeps",
        "_parser",
        "_poll",
        "_received",
        "_socket",
        "_stream",
        "_tail",
        "complete",
        "descriptor",
        "head",
        "idle_since",
        "mark",
        "pieces",
        "reused",
    )

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        """Take over an open stream."""
        self._stream = stream
        if isinstance(stream, trio.SSLStream):
            self._socket = stream.transport_stream.socket
            self.descriptor = None
        else:
            self._socket = stream.socket
            self.descriptor = stream.socket.fileno()
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN | select.POLLRDHUP)
        self.reused = False
        self.idle_since = 0.0
        self._expect()

    def _expect(self) -> None:
        """Make ready for the next answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._tail = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._received = 0
        self._dirty = False
        self._keeps = False
        self.head: Head | None = None
        self.complete = False
        self.pieces = 0
        self.mark = b""

    # -- what the parser calls -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A second answer to one request leaves the connection unfit for another."""
        if self.complete:
            self._dirty = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (or, after the body, a trailer, which is dropped)."""
        if self.head is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Build the head, unless it is an interim one (1xx)."""
        status = self._parser.get_status_code()
        if status < 200:  # noqa: PLR2004 - RFC 9110: 1xx is interim
            self._headers.clear()
            return
        if self.complete:
            return
        # Asked now: the parser forgets it when the message is complete.
        self._keeps = bool(self._parser.should_keep_alive())
        length = None
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)
        self.head = Head(
            status=status,
            headers=tuple((_RENAMED.get(n, n), v) for n, v in self._headers if _may_pass(n)),
            length=length,
        )

    def on_body(self, data: bytes) -> None:
        """Keep body bytes until they are taken, and the last of them until the next answer."""
        if self.complete:
            return
        self._chunks.append(data)
        # A copy, since the last few chunks could be bounded in number or in bytes, not in both: a
        # server may cut its last event into single bytes. Trimmed seldom, so that it costs nothing.
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def on_message_complete(self) -> None:
        """The answer has come to its end; an interim one has none."""
        if self.head is not None:
            self.complete = True

    # -- what the exchange calls ---------------------------------------------------------------

    @property
    def is_untouched(self) -> bool:
        """Whether nothing of an answer was received yet."""
        return self._received == 0

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow on it."""
        return self.complete and self._keeps and not self._dirty

    @property
    def is_silent(self) -> bool:
        """Whether the idle peer has neither closed nor spoken out of turn."""
        return not self._poll.poll(0)

    @property
    def tail(self) -> bytes:
        """The end of the body so far: at least its last `TAIL_BYTES`, all of a shorter one."""
        return bytes(self._tail)

    def take(self) -> list[bytes]:
        """The body chunks received since the last call."""
        chunks = self._chunks
        self._chunks = []
        return chunks

    def feed(self, data: bytes) -> None:
        """Parse what was received; `b""` is the end of the stream.

        Raises:
            BackendFailed: GARBLED, or BROKE when the stream ended before the answer.
        """
        if not data:
            self._end()
            return
        self._received += len(data)
        if self.mark:
            self.pieces += data.count(self.mark)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise BackendFailed(Fault.GARBLED, "it sent bytes that are no HTTP answer") from error
        if self.head is None and self._received > HEAD_MAX_BYTES:
            raise BackendFailed(Fault.GARBLED, "its answer's head is too long")

    def _end(self) -> None:
        """The peer closed. Right only for an answer that is delimited by that."""
        told = self.head is not None and (
            self.head.length is not None or any(n == b"transfer-encoding" for n, _ in self._headers)
        )
        self._dirty = True
        if self.complete:
            return
        if self.head is None or told:
            raise BackendFailed(Fault.BROKE, "it closed the connection before its answer's end")
        self.complete = True

    async def send(self, data: bytes, body: bytes | bytearray) -> None:
        """Send a request's head and body.

        Where the server closes meanwhile, it may have said why (413, say): `read` tells, or raises.
        """
        try:
            if len(body) < READ_BYTES:
                data += body
                body = b""
            sent = 0
            if self.descriptor is not None:
                # Nearly always the socket takes it all: no trip through the scheduler.
                try:
                    sent = os.write(self.descriptor, data)
                except BlockingIOError:
                    sent = 0
            if sent < len(data):
                await self._stream.send_all(data[sent:])
            if body:
                await self._stream.send_all(body)
        except (OSError, trio.BrokenResourceError):
            return

    async def read(self) -> None:
        """Wait for bytes, and parse them.

        Raises:
            BackendFailed: as `feed`.
        """
        try:
            if self.descriptor is None:
                data = bytes(await self._stream.receive_some(READ_BYTES))
            else:
                # Straight to the poller: the answer is never there yet.
                await trio.lowlevel.wait_readable(self.descriptor)
                data = os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return  # woken for nothing
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            why = distrust(error) or "it reset the connection"
            raise BackendFailed(Fault.BROKE, why) from error
        self.feed(data)

    async def gather(self, limit: int) -> bytes:
        """The body so far: up to its end, or until it is longer than `limit` bytes."""
        gathered = self.take()
        size = sum(map(len, gathered))
        while not self.complete and size <= limit:
            await self.read()
            fresh = self.take()
            size += sum(map(len, fresh))
            gathered += fresh
        return b"".join(gathered)

    def renew(self) -> None:
        """Make ready for another request."""
        self.reused = True
        self._expect()

    def close(self) -> None:
        """Close at once, without a TLS farewell: the server must notice now, not politely."""
        self._socket.close()


@attrs.define
class Pool:
    """The idle connections of one backend, newest first.

    There is no upper bound here: a connection is open only while a slot's worker holds it, so the
    slots are the bound, and no request can wait in a second line.
    """

    endpoint: Endpoint
    connect_timeout_s: float
    _tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
    _context: ssl.SSLContext | None = None
    _idle: list[Connection] = attrs.field(factory=list)

    @property
    def idle(self) -> int:
        """How many connections wait for their next request."""
        return len(self._idle)

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """A connection that was live a moment ago.

        Args:
            fresh: take none from the pool.

        Raises:
            BackendFailed: UNREACHABLE.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            # llama-server closes after each streamed answer while announcing keep-alive.
            if trio.current_time() - connection.idle_since < IDLE_MAX_S and connection.is_silent:
                connection.renew()
                return connection
            connection.close()
        return Connection(await self._connect())

    def release(self, connection: Connection) -> None:
        """Keep a connection for its next request, or close it if it is fit for none."""
        if connection.is_reusable:
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        where = self.endpoint
        try:
            with trio.fail_after(self.connect_timeout_s):
                if where.unix_path:
                    return await trio.open_unix_socket(where.unix_path)
                stream = await trio.open_tcp_stream(where.host, where.port)
                if not where.tls:
                    return stream
                return await self._secure(stream)
        except UnicodeError as error:
            raise BackendFailed(Fault.UNREACHABLE, NO_NAME.format(where.host)) from error
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            why = distrust(error) or "no connection could be made to it"
            raise BackendFailed(Fault.UNREACHABLE, why) from error
        except trio.TooSlowError as error:
            raise BackendFailed(
                Fault.UNREACHABLE, f"it took no connection within {self.connect_timeout_s:g} s"
            ) from error

    async def _secure(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        if self._context is None:
            self._context = self._tls()
        secured = trio.SSLStream(
            stream, self._context, server_hostname=self.endpoint.host, https_compatible=True
        )
        try:
            await secured.do_handshake()
        except BaseException:
            stream.socket.close()
            raise
        return secured
