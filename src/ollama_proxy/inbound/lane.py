"""The fast way for inference over HTTP/1.1: one connection, one task, one request after the other.

The task reads, parses, submits, and sees the client leave; the worker writes the answer. Every task
switch saved is a trip through the scheduler and an `epoll_wait`, which is why nothing here waits
for the worker: the task goes on reading, and is only woken when it has something to do.

Rule 1: what is ambiguous is refused, never guessed (lengths, codings, hosts, forms of the target).
Rule 2: everything a client sends is bounded in size, everything it must do in time.
Rule 3: after an answer that could not be given whole, the connection closes.
"""

import contextlib
import os
import re
from collections.abc import Callable
from hashlib import blake2b

import attrs
import httptools
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import CallerLeft, Head, Job, Tap
from ollama_proxy.inbound.admission import Rules, Visitor, peer_of
from ollama_proxy.inbound.answers import (
    REASON_PHRASES,
    STATUS,
    Headers,
    error_body,
    error_headers,
    error_piece,
    routing_headers,
    turned_away,
)
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD, Bound, Bounds
from ollama_proxy.inbound.connections import read_when_there, reset_when_closed
from ollama_proxy.inbound.farewell import part
from ollama_proxy.inbound.idlers import Idlers
from ollama_proxy.inbound.reading import RoutingHeaders, make_request_id, read_job
from ollama_proxy.inbound.trust import Gate, judge_page
from ollama_proxy.policy.ask import CALLS_BY_PATH, Call, Dialect
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

PIPELINE_MAX_BYTES = 1 << 20
LINGER_S = 1.0
_READ_BYTES = 65536
_LENGTH_DIGITS_MAX = 18  # int() refuses thousands of them, and leading zeros count
_CALLS_BY_TARGET = {path.encode(): call for path, call in CALLS_BY_PATH.items()}
# Nearly all lines are one of these.
_CALLS_BY_LINE = {b"POST %b HTTP/1.1" % path: call for path, call in _CALLS_BY_TARGET.items()}
_LINES: dict[int, bytes] = {}

ByteStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@attrs.frozen(kw_only=True)
class LaneLimits:
    """What a client may take. Seconds and bytes."""

    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    max_body_bytes: int = 64 << 20
    head_bytes: int = 32 << 10
    headers: int = 100


def call_of(first_line: bytes) -> Call | None:
    """The inference call that a request's first line makes; None for anything else."""
    call = _CALLS_BY_LINE.get(first_line)
    if call is not None:
        return call
    if not first_line.startswith(b"POST /"):
        return None
    parts = first_line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - method, target, version
        return None
    return _CALLS_BY_TARGET.get(parts[1].partition(b"?")[0])


def is_inference(received: bytes | bytearray) -> bool:
    """Whether received bytes begin, with a whole first line, a request for the lane."""
    line, end, _ = received.partition(b"\r\n")
    return bool(end) and call_of(bytes(line)) is not None


@attrs.frozen
class _Fault(Exception):  # noqa: N818 - a refusal on its way to the client
    """A request that is answered with an error, after which the connection closes."""

    refusal: Refusal


def _bad_request(message: str) -> _Fault:
    return _Fault(Refusal(Code.INVALID_REQUEST, message))


class _Head:
    """One request's head, as llhttp's strict parser tells it.

    Attributes:
        headers: lower-case names.
        keeps_alive: the connection may serve another request. It is asked at the head's end: at
            the message's end llhttp has forgotten it.
        http10: the version is HTTP/1.0.
    """

    def __init__(self, data: bytes) -> None:
        """Parse a whole head. Raises _Fault."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keeps_alive = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            # An offer to upgrade is not taken; the request stands as it is (RFC 9110, 7.8).
            with contextlib.suppress(httptools.HttpParserUpgrade):
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise _bad_request(f"The request is not valid HTTP: {error}.") from None
        self.http10 = self._parser.get_http_version() == "1.0"
        del self._parser  # which knows this object: neither shall wait for the collector

    def on_header(self, name: bytes, value: bytes) -> None:
        # llhttp leaves the space that may stand behind it (RFC 9110, 5.5).
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.keeps_alive = self._parser.should_keep_alive()


class _ChunkedBody:
    """A body in chunks, with a parser of its own.

    So its trailers are never taken for headers, nor what follows it for a part of it; and one that
    comes with an offer to upgrade, at which the head's parser stops, is read like any other.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.data += data

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes | bytearray) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise _bad_request(f"The request is not valid HTTP: {error}.") from None

    def take(self) -> bytearray:
        """Give the body away. Nothing is fed afterwards."""
        del self._parser  # as above: the body may be large
        return self.data


@attrs.frozen(kw_only=True)
class _Framing:
    """What the parsed headers say about the body and the connection."""

    host: bytes
    origin: bytes | None
    length: int
    chunked: bool
    expects_continue: bool


def _read_framing(headers: list[tuple[bytes, bytes]], *, http10: bool) -> _Framing:
    """Read what rules 1 and 2 need, beyond what the parser refused already."""
    host: bytes | None = None
    origin: bytes | None = None
    length: int | None = None
    chunked = False
    expects_continue = False
    for name, value in headers:
        if name == b"host":
            if host is not None:
                raise _bad_request("The request has two Host headers.")
            host = value
        elif name == b"origin":
            # Two are none that is allowed.
            origin = value if origin is None else origin + b", " + value
        elif name == b"content-length":
            if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX or length is not None:
                raise _bad_request("Content-Length must be one number.")
            length = int(value)
        elif name == b"transfer-encoding":
            if http10 or chunked:
                raise _bad_request("Transfer-Encoding is not understood here.")
            if value.strip().lower() != b"chunked":
                raise _Fault(
                    Refusal(Code.NOT_IMPLEMENTED, "Only the transfer coding chunked is understood.")
                )
            chunked = True
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise _Fault(
                Refusal(Code.UNSUPPORTED_MEDIA_TYPE, "Send the body without Content-Encoding.")
            )
        elif name == b"expect":
            expects_continue = value.lower() == b"100-continue" and not http10
    if host is None:
        raise _bad_request("The request has no Host header.")
    if chunked and length is not None:
        raise _bad_request("The request has both Content-Length and Transfer-Encoding.")
    return _Framing(
        host=host,
        origin=origin,
        length=length or 0,
        chunked=chunked,
        expects_continue=expects_continue,
    )


@attrs.frozen(kw_only=True)
class _Known:
    """A head that was read, judged and let in, and what was read of it.

    A client's next head is nearly always the same but for the body's length; then nothing of it need
    be read or judged again, but for how often its client asks. No head is kept for that, since there
    may be a key in it: `digest` tells of two whether they are the same, apart from the length.

    Attributes:
        digest: see `digest_of`.
        rules: by which its visitor was let in.
    """

    digest: tuple[bytes, int] | None
    rules: Rules
    visitor: Visitor
    headers: RoutingHeaders
    framing: _Framing
    sharing: Headers
    keeps_alive: bool
    http10: bool


_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,%d})\r\n" % _LENGTH_DIGITS_MAX, re.IGNORECASE)


def digest_of(head: bytes) -> tuple[tuple[bytes, int] | None, int]:
    """What tells a head from all that differ in more than their body's length, and that length.

    The digest is of all bytes but the length's digits, and goes with the place of these: two heads
    that agree in it are the same up to there and from there on. Where no length is told, or not in
    the plainest way, there is none, and the head is read.
    """
    found = _LENGTH.search(head)
    if found is None:
        return None, 0
    start, end = found.span(1)
    return (blake2b(head[:start] + head[end:]).digest(), start), int(found[1])


def _status_line(status: int) -> bytes:
    line = _LINES.get(status)
    if line is None:
        phrase = REASON_PHRASES.get(status, b"")
        line = _LINES[status] = b"HTTP/1.1 %d %b\r\n" % (status, phrase)
    return line


def _head_bytes(status: int, headers: Headers) -> bytes:
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return _status_line(status) + lines + b"\r\n"


class Lane:
    """One client's connection. It is the `Caller` of the job it has submitted, and its `Tap`."""

    def __init__(
        self,
        stream: ByteStream,
        dispatcher: Dispatcher,
        gate: Gate,
        limits: LaneLimits,
        *,
        idlers: Idlers,
        is_draining: Callable[[], bool],
        bounds: Bounds | None = None,
    ) -> None:
        """Take over a connection; `serve` does the rest."""
        self.gate = gate
        self.known: _Known | None = None
        self._idlers = idlers
        self._stream = stream
        self._dispatcher = dispatcher
        self._limits = limits
        self._is_draining = is_draining
        self._bounds = bounds or Bounds()
        self._held = 0  # bytes of the present request's body
        self._peer = peer_of(stream)
        self._plain = not isinstance(stream, trio.SSLStream)
        self.descriptor = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._buffer = bytearray()
        self._job: Job | None = None
        self._closing = False
        self._outbox = b""
        self._wake = trio.CancelScope()
        self._is_watching = False  # only bytes are awaited: `_wake` may end that
        self._is_roused = False
        self._was_idle = True  # something was awaited since the last request
        self._head_wait: trio.CancelScope | None = None
        # of the present answer
        self._http10 = False
        self._chunked = False
        self._sized = False
        self._torn = False  # a write was begun that is not known to be finished, or never will be
        self._last_chunk = b""
        self._is_last = False  # the client was told, or can see, that no other follows
        self._dialect = Dialect.OPENAI
        self._request_id = ""
        self._path = ""
        self._sharing: Headers = []  # where a listed page asks
        self._head_until = 0.0

    # -- reading -------------------------------------------------------------------------------

    async def serve(self, received: bytes) -> bytes | None:
        """Serve inference requests, the first of which begins with `received`.

        Returns:
            The first bytes of a request that is not for the lane, or None when the connection is
            at its end. It is not closed here.
        """
        self._buffer = bytearray(received)
        try:
            try:
                elsewhere = await self._serve_all()
                if elsewhere is not None:
                    return elsewhere
            except _Fault as fault:
                self._closing = True
                self._turn_away(fault.refusal)
                await self._send(self._error(fault.refusal, self._identity()))
            if self._is_last or self._owes_farewell():
                await part(self._stream, LINGER_S)
        except (OSError, trio.BrokenResourceError, CallerLeft):
            self._closing = True  # the client reset the connection, or takes nothing
        finally:
            if self._job is not None:
                self._dispatcher.withdraw(self._job)
            self._idlers.discard(self)
            self._free()
            # The number may soon be another client's: a worker on its way to its next checkpoint
            # must not write to it.
            self.descriptor = -1
        return None

    def _turn_away(self, refusal: Refusal) -> None:
        """Book a request that becomes no job."""
        self._request_id = self._request_id or make_request_id()
        self._dispatcher.ledger.turn_away(
            turned_away("http", self._path, refusal, self._request_id)
        )

    async def _serve_all(self) -> bytes | None:
        """Serve until a request is for others, which is given back as far as it is here.

        One scope for all requests, not one for each: what it is there for is rare, and to enter and
        leave one is a twentieth of a request's work. It is cancelled in `_watch` alone.
        """
        while True:
            self._is_roused = False
            with trio.CancelScope() as self._wake:
                while await self._watch():
                    line = None if self._closing else await self._read_first_line()
                    if line is None:
                        return None
                    call = call_of(line)
                    if call is None:
                        return bytes(self._buffer)
                    await self._serve_one(call)

    async def _serve_one(self, call: Call) -> None:
        """Read one request, and have it served."""
        self._dialect = call.dialect
        self._path = call.path
        try:
            job = await self._read_request(call)
        except RequestRefused as refused:
            # The request was read whole, so the connection may serve another.
            self._free()
            self._turn_away(refused.refusal)
            await self._send(self._error(refused.refusal, self._identity()))
        else:
            if job is None:
                self._closing = True
                return
            self._job = job
            self._dispatcher.submit(job)
            del job  # its body may be large, and this connection may be idle for long

    async def _read_first_line(self) -> bytes | None:
        """Read until the request line is whole. None: the client closed instead."""
        self._request_id = self._path = ""
        self._sharing = []
        self._head_until = 0.0
        while True:
            self._skip_empty_lines()
            line, end, _ = self._buffer.partition(b"\r\n")
            if end:
                return bytes(line)
            if not await self._read_more():
                return None

    def _skip_empty_lines(self) -> None:
        """Ignore what may stand before a request (RFC 9112, 2.2)."""
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]

    async def _read_more(self) -> bool:
        """Read more of the head; False at the connection's end, or that of the router."""
        if self._closing:
            return False
        if len(self._buffer) > self._limits.head_bytes:
            raise self._head_too_large()
        # Only where there is something to wait for: nearly every request comes in one piece.
        if not self._head_until:
            self._head_until = trio.current_time() + self._limits.head_timeout_s
        with trio.move_on_at(self._head_until) as self._head_wait:
            data = await self._receive()
            self._buffer += data
            return bool(data)
        if trio.current_time() < self._head_until:
            return False  # `close_when_idle`
        raise self._head_too_slow()

    async def _receive(self) -> bytes:
        """What the client sends next; empty at the connection's end."""
        if not self._plain:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        # Meanwhile a worker stands ready to make the call that was just submitted.
        return await read_when_there(self.descriptor, _READ_BYTES)

    async def _read_request(self, call: Call) -> Job | None:
        """Read one request whole. None: the client closed instead.

        Raises:
            RequestRefused: it was read whole, and cannot be understood.
        """
        while (end := self._buffer.find(b"\r\n\r\n") + 4) < 4:  # noqa: PLR2004 - not found is -1
            if not await self._read_more():
                return None
        if end > self._limits.head_bytes:
            raise self._head_too_large()
        head = bytes(self._buffer[:end])
        digest, length = digest_of(head)
        known = self.known
        if (
            known is not None
            and known.digest == digest
            and known.rules is self.gate.admission.rules
        ):
            headers = known.headers.again()
            self._request_id = headers.request_id
            self._http10, self._sharing = known.http10, known.sharing
            refusal = self.gate.admission.readmit(known.visitor)
            if refusal is not None:
                raise _Fault(refusal)
        else:
            self.known = None
            known = self._read_head(call, head, digest)
            headers, length = known.headers, known.framing.length
            if digest is not None:
                self.known = known
        framing = known.framing
        if length > self._limits.max_body_bytes:
            raise self._too_large()
        del self._buffer[:end]
        # Where a chunked body ends only the parser knows, and it does not tell where the next
        # request begins: such a connection serves no other.
        self._closing = framing.chunked or not known.keeps_alive or self._is_draining()
        body = await self._read_body(framing, length)
        if body is None:
            return None
        return read_job(
            call,
            headers,
            body,
            caller=self,
            door="http",
            arrived=trio.current_time(),
            key_name=known.visitor.name,
        )

    def _read_head(self, call: Call, data: bytes, digest: tuple[bytes, int] | None) -> _Known:
        """Read and judge a whole head. Raises _Fault."""
        head = _Head(data)
        most = self._limits.headers
        if len(head.headers) > most:
            self._bounds.reach(Bound.HEADERS)
            raise _Fault(Refusal(Code.HEADERS_TOO_LARGE, f"More than {most} headers were sent."))
        self._http10 = head.http10
        headers = RoutingHeaders(head.headers)
        self._request_id = headers.request_id
        framing = _read_framing(head.headers, http10=head.http10)
        refusal = self.gate.judge(framing.host, framing.origin) or judge_page("POST", head.headers)
        if refusal is not None:
            raise _Fault(refusal)
        self._sharing = self.gate.sharing(framing.origin)
        admission = self.gate.admission
        visitor = admission.admit(f"POST {call.path}", head.headers, self._peer)
        if isinstance(visitor, Refusal):
            raise _Fault(visitor)
        return _Known(
            digest=digest,
            rules=admission.rules,
            visitor=visitor,
            headers=headers,
            framing=framing,
            sharing=self._sharing,
            keeps_alive=head.keeps_alive,
            http10=head.http10,
        )

    async def _read_body(self, framing: _Framing, length: int) -> bytes | bytearray | None:
        """Read a body whole. None: the client closed instead."""
        if not framing.chunked and len(self._buffer) >= length:
            self._hold(length)
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            return body
        with trio.move_on_after(self._limits.body_timeout_s):
            if framing.expects_continue and not self._buffer:
                await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if framing.chunked:
                return await self._read_chunked()
            return await self._read_sized(length)
        self._bounds.reach(Bound.BODY_TIME)
        raise _Fault(Refusal(Code.REQUEST_TIMEOUT, "The request's body took too long."))

    async def _read_sized(self, length: int) -> bytearray | None:
        """Read a body of known length, around the parser: each byte is copied once, or seldom twice.

        Room is made for what came and as much again, not for what was announced: that costs its
        sender nothing, and us memory that no bound counts.
        """
        whole = self._buffer
        self._buffer = bytearray()
        have = len(whole)
        self._hold(have)
        while have < length:
            whole.extend(bytes(min(length - have, max(have, _READ_BYTES))))
            with memoryview(whole) as view:
                while have < len(whole):
                    got = await self._receive_into(view[have:])
                    if not got:
                        return None
                    self._hold(got)
                    have += got
        return whole

    async def _receive_into(self, view: memoryview) -> int:
        """Fill in what the client sends next; 0 at the connection's end."""
        if isinstance(self._stream, trio.SocketStream):
            return await self._stream.socket.recv_into(view)
        data = await self._stream.receive_some(min(_READ_BYTES, len(view)))
        view[: len(data)] = data
        return len(data)

    async def _read_chunked(self) -> bytearray | None:
        body = _ChunkedBody()
        data: bytes | bytearray = self._buffer
        self._buffer = bytearray()
        fed = 0
        while True:
            before = len(body.data)
            body.feed(data)
            fed += len(data)
            size = len(body.data)
            self._hold(size - before)
            if size > self._limits.max_body_bytes:
                raise self._too_large()
            if body.complete:
                return body.take()  # what else was fed is no framing: the next request, most likely
            # Each chunk costs a callback and some six bytes of framing: no client means a long
            # body in small ones.
            if fed > size + size // 8 + (64 << 10):
                self._bounds.reach(Bound.SMALL_CHUNKS)
                raise _bad_request("The body's chunks are too small.")
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                return None

    async def _watch(self) -> bool:
        """Read on while a job runs, so that the client's leaving is seen whatever it sent.

        Returns when there is something to do: the next request's bytes are there, or the
        connection is to end. False: `_wake` was cancelled in the moment in which there were bytes, and
        is of no more use.
        """
        while True:
            if self._outbox:
                data, self._outbox = self._outbox, b""
                await self._send(data)
                continue
            if self._job is None:
                self._skip_empty_lines()  # who sends them alone waits on
                if self._buffer or self._closing:
                    self._idlers.discard(self)
                    if not self._was_idle:
                        # Who sends many requests at once must not keep the others waiting.
                        await trio.lowlevel.checkpoint()
                    self._was_idle = False
                    return True
                if self not in self._idlers:
                    self._idlers.add(self)
            self._was_idle = self._is_watching = True
            try:
                data = await self._receive()
            finally:
                self._is_watching = False
            is_flooded = len(self._buffer) > PIPELINE_MAX_BYTES
            if is_flooded:
                self._bounds.reach(Bound.EARLY_BYTES)
            if not data or is_flooded:
                self._closing = True
                self._is_last = False
                if self._job is not None:
                    self._dispatcher.withdraw(self._job)
                return not self._is_roused
            self._buffer += data
            if self._is_roused:
                return False

    # -- answering: Caller -------------------------------------------------------------------------

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`. Head and first bytes go out in one write."""
        headers: Headers = [*head.headers, *routing_headers(job), *self._sharing]
        length = len(first) if complete else head.length
        self._sized = length is not None
        self._chunked = length is None and not self._http10
        self._last_chunk = b""
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        else:
            if self._chunked:
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self._closing = True
            if job.ask.stream:
                headers.append((b"x-accel-buffering", b"no"))
        self._add_connection(headers)
        await self._send(_head_bytes(head.status, headers) + self.frame([first], complete=complete))

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        await self._send(self.frame([data], complete=complete))

    def tap(self) -> Tap | None:
        """See `Caller`. Under TLS bytes need encoding, so there is no descriptor to give."""
        return self if self._plain else None

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Caller`. Written at once if the socket takes it, else by the connection's task."""
        if job.begun is None:
            data = self._error(refusal, routing_headers(job))
        elif job.ask.stream and not self._sized and not self._torn:
            self._closing = self._is_last = True
            ask = job.ask.call
            piece = error_piece(ask.framing, ask.dialect, refusal, self._last_chunk)
            data = self.frame([piece], complete=True)
        else:
            # Part of an answer is out that cannot say itself that it broke off.
            self._closing = True
            self._is_last = False
            if not (self._sized or self._chunked):
                # Where the connection's end is the answer's, only a reset is another end. Under TLS
                # the missing farewell is one, too, but many clients do not mind that.
                self._torn = True
                reset_when_closed(self._stream)
            return
        self._outbox += data
        self._flush_outbox()

    def done(self, job: Job) -> None:
        """See `Caller`."""
        if job is self._job:
            self._job = None
            self._free()
        if self._is_draining():
            self._closing = True
        if self._outbox or self._buffer or self._closing:
            self._rouse()
        elif self._is_watching:
            self._idlers.add(self)

    def _rouse(self) -> None:
        """Have `_watch` look again, if it waits."""
        if self._is_watching:
            self._is_roused = True
            self._wake.cancel()

    def close_when_idle(self) -> None:
        """The router drains: end the connection once its answer is out.

        A head that is not whole is waited for no more: nothing was begun for it, and its client may
        take as long as it likes, while the end waits for it. Its client asks elsewhere, as one whose
        whole request was still on its way would. A body is waited for: its request was taken.
        """
        if self._job is None:
            self._closing = True
            self._rouse()
            if self._head_wait is not None:
                self._head_wait.cancel()

    def close_unasked(self) -> None:
        """See `Idler`."""
        self._bounds.reach(Bound.IDLE_TIME)
        self._closing = True
        self._rouse()

    # -- answering: Tap ----------------------------------------------------------------------------

    def frame(self, chunks: list[bytes], *, complete: bool) -> bytes:
        """See `Tap`."""
        if chunks and chunks[-1]:
            self._last_chunk = chunks[-1]
        if not self._chunked:
            return b"".join(chunks)
        framed = b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk])
        return framed + b"0\r\n\r\n" if complete else framed

    async def flush(self, rest: bytes) -> None:
        """See `Tap`."""
        await self._send(rest)

    # -- writing -----------------------------------------------------------------------------------

    async def _send(self, data: bytes) -> None:
        """Write; a client that takes nothing for too long counts as gone."""
        sent = 0
        if self._plain:
            # Nearly always the socket takes it all: no trip through the scheduler.
            try:
                sent = os.write(self.descriptor, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise CallerLeft from error
            if sent == len(data):
                return
        if not sent:
            # Whoever was cancelled before has torn nothing.
            await trio.lowlevel.checkpoint_if_cancelled()
        self._torn = True
        try:
            with trio.move_on_after(self._limits.write_timeout_s) as patience:
                await self._stream.send_all(data[sent:])
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise CallerLeft from error
        if patience.cancelled_caught:
            self._closing = True
            self._bounds.reach(Bound.WRITE_TIME)
            reset_when_closed(self._stream)
            raise CallerLeft
        self._torn = False

    def _flush_outbox(self) -> None:
        if not self._plain:
            return
        try:
            sent = os.write(self.descriptor, self._outbox)
        except BlockingIOError:
            return
        except OSError:
            # The connection's task learns the same from its next read.
            sent = len(self._outbox)
        self._outbox = self._outbox[sent:]

    def _add_connection(self, headers: Headers) -> None:
        if self._closing or self._is_draining():
            self._closing = self._is_last = True
            headers.append((b"connection", b"close"))
        elif self._http10:
            headers.append((b"connection", b"keep-alive"))

    def _error(self, refusal: Refusal, more: Headers) -> bytes:
        body = error_body(self._dialect, refusal)
        length = (b"content-length", b"%d" % len(body))
        headers = [*error_headers(refusal), *more, *self._sharing, length]
        self._add_connection(headers)
        return _head_bytes(STATUS[refusal.code], headers) + body

    def _identity(self) -> Headers:
        """What an answer tells of a request that became no job."""
        return [(b"x-request-id", (self._request_id or make_request_id()).encode())]

    # -- bounds ------------------------------------------------------------------------------------

    def _hold(self, size: int) -> None:
        if not self._bounds.hold(size):
            raise _Fault(TOO_MUCH_HELD)
        self._held += size

    def _free(self) -> None:
        self._bounds.free(self._held)
        self._held = 0

    def _owes_farewell(self) -> bool:
        """Whether TLS's own is to be said, though no answer's end depends on it."""
        return not (self._plain or self._torn or self._job is not None)

    def _head_too_slow(self) -> _Fault:
        self._bounds.reach(Bound.HEAD_TIME)
        limit_s = self._limits.head_timeout_s
        return _Fault(
            Refusal(Code.REQUEST_TIMEOUT, f"The request's head took longer than {limit_s:g} s.")
        )

    def _head_too_large(self) -> _Fault:
        self._bounds.reach(Bound.HEAD_BYTES)
        limit = self._limits.head_bytes >> 10
        return _Fault(
            Refusal(Code.HEADERS_TOO_LARGE, f"The request's head is longer than {limit} KiB.")
        )

    def _too_large(self) -> _Fault:
        self._bounds.reach(Bound.BODY_BYTES)
        limit = self._limits.max_body_bytes >> 20
        return _Fault(
            Refusal(Code.BODY_TOO_LARGE, f"The body is larger than {limit} MiB (max_body_mib).")
        )
