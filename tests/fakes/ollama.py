"""A backend that answers over real sockets as its script says, faults included.

Rule 1: what to answer is decided in `Fake.decide`, without waiting; `_Connection` only performs it.
Rule 2: the client is listened to while it is answered, so that its leaving is seen in silence too.
Rule 3: times in the log are CLOCK_MONOTONIC seconds, comparable between processes of one machine.
"""

import enum
import fnmatch
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, assert_never

import attrs
import httptools
import msgspec
import trio

from tests.fakes import ollama_dialects as words
from tests.fakes.ollama_dialects import Stream, Whole

INFERENCE = (
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
)
CONTROL = "/fake/"
READ_BYTES = 262144
LOGGED_BODY_BYTES = 65536
LINGER_RESET = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
GARBAGE = b"\x16\x03\x01 SSH-2.0-not_http\r\n\x00\xff\r\n\r\n"
GARBAGE_LINES = b'data: {"choices":[{"de\n\n{"message":\n\xff\xfe\x00 nonsense\n\n'


class Behaviour(enum.StrEnum):
    """How the fake treats the requests that its script names."""

    OK = "ok"
    SLOW = "slow"
    """Waits `delay_s` more before the head."""
    HANG = "hang"
    """Reads the request and never answers."""
    HANG_MID_STREAM = "hang_mid_stream"
    """Says `after_tokens` tokens, then nothing more."""
    DIE_BEFORE_HEAD = "die_before_head"
    """Closes the connection instead of answering."""
    DIE_MID_STREAM = "die_mid_stream"
    """Says `after_tokens` tokens, then closes the connection."""
    GARBLE = "garble"
    """Says bytes that are not HTTP, then closes the connection."""
    GARBLE_STREAM = "garble_stream"
    """Says lines that are no events after `after_tokens` tokens, in sound HTTP, and goes on."""
    CLOSE_AFTER_STREAM = "close_after_stream"
    """Announces keep-alive and closes after each stream, as llama-server does."""
    REFUSE = "refuse"
    """Answers `status` with an error in the dialect."""
    MISSING_MODEL = "missing_model"
    """Answers 404 as Ollama does for a model that it does not have."""
    UNSERVED = "unserved"
    """Answers 404 as a server does for a path that it does not know."""
    NO_CONTENT_LENGTH = "no_content_length"
    """Ends the body by closing the connection."""
    TRICKLE = "trickle"
    """Sends `trickle_bytes` at a time, `trickle_s` apart."""
    HTML_ERROR = "html_error"
    """Answers 502 with a page, as a reverse proxy does."""
    VERBATIM = "verbatim"
    """Says `verbatim`, whatever it is, and then does `then`."""


class Then(enum.StrEnum):
    """What follows what was said verbatim."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"
    """Nothing: the connection stays open, and silent."""
    HALF_CLOSE = "half_close"
    """Says that it will say no more, and goes on listening."""


@attrs.frozen(kw_only=True)
class Script:
    """What the fake is and how it behaves.

    Attributes:
        behaviour: how it treats requests at `misbehaves_at`; other requests are answered well.
        misbehaves_at: glob patterns of paths.
        times: how many requests `behaviour` holds for, then "ok"; 0 = all of them.
        tokens: how many tokens it says, unless the request wants fewer.
        interval_s: seconds from one token to the next, kept on average over a whole stream.
        first_token_s: seconds from the request to its first token.
        early_head: whether a stream's head is sent at once instead of with the first token.
        word: what each token says.
        token_bytes: the least length of a token, reached by trailing spaces.
        stamp: whether a token says ` tNNN` instead, NNN being its CLOCK_MONOTONIC nanoseconds.
        models: the models that it has.
        loaded: those of them that are in memory.
        only_listed: whether another model than these is answered 404.
        after_tokens: where in a stream a misbehaviour sets in.
        reset: whether a dying connection ends by RST instead of FIN.
        status: what "refuse" answers.
        message: the error text of "refuse".
        delay_s: what "slow" adds.
        trickle_bytes: the size of "trickle"'s writes.
        trickle_s: the seconds between them.
        unserved: glob patterns of paths that it does not know.
        unserved_as: whose 404 they get, "gin" or "llama-server".
        version: what /api/version says.
        owned_by: who owns the models of /v1/models, by which servers can be told apart.
        timings: whether OpenAI's answers report llama-server's `timings`.
        slots: how many slots /slots lists, as llama-server does; 0 = it does not know that path.
        verbatim: what "verbatim" says, a byte for each character.
        then: what "verbatim" does after that.
    """

    behaviour: Behaviour = Behaviour.OK
    misbehaves_at: tuple[str, ...] = INFERENCE
    times: int = 0
    tokens: int = 8
    interval_s: float = 0.0
    first_token_s: float = 0.0
    early_head: bool = False
    word: str = " tok"
    token_bytes: int = 0
    stamp: bool = False
    models: tuple[str, ...] = ("fake:latest",)
    loaded: tuple[str, ...] = ()
    only_listed: bool = False
    after_tokens: int = 2
    reset: bool = False
    status: int = 503
    message: str = "server busy, please try again. maximum pending requests exceeded"
    delay_s: float = 1.0
    trickle_bytes: int = 7
    trickle_s: float = 0.001
    unserved: tuple[str, ...] = ()
    unserved_as: str = "gin"
    version: str = "0.12.6"
    owned_by: str = "library"
    timings: bool = False
    slots: int = 0
    verbatim: str = ""
    then: Then = Then.CLOSE

    def changed(self, fields: Mapping[str, object]) -> "Script":
        """This script with some fields replaced.

        Args:
            fields: JSON values by name.

        Raises:
            ValueError: a name is unknown or a value has the wrong type; the text says which.
        """
        own = attrs.asdict(self)
        unknown = sorted(set(fields) - set(own))
        if unknown:
            raise ValueError(f"a script has no {', '.join(unknown)}")
        return msgspec.convert(own | dict(fields), Script, strict=False)


@attrs.frozen(kw_only=True)
class Record:
    """One request that the fake saw; a time is None while its moment has not come.

    Attributes:
        connection: which connection of the fake's life it came on, from 1.
        method: as sent.
        path: the target without its query.
        query: what follows the "?".
        headers: names in lower case, in order.
        body_bytes: the length of the body.
        body: the body's JSON, unless it is none or is longer than 64 KiB.
        arrived_s: when the request was complete.
        first_byte_s: when the answer began.
        ended_s: when the fake had sent all that it meant to send.
        client_left_s: when it saw that its client had closed the connection before that.
        tokens_sent: how many pieces of a stream it sent.
    """

    connection: int
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body_bytes: int
    body: Any
    arrived_s: float
    first_byte_s: float | None = None
    ended_s: float | None = None
    client_left_s: float | None = None
    tokens_sent: int = 0


def _now_s() -> float:
    # Not trio.current_time, whose zero differs from process to process.
    return time.monotonic_ns() / 1e9


@attrs.frozen(kw_only=True)
class _Request:
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    keep_alive: bool

    def json(self) -> object:
        """The body's JSON, None when it is none."""
        try:
            return msgspec.json.decode(self.body) if self.body else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def ask(self) -> Mapping[str, Any]:
        """The body's JSON object, empty when it is none."""
        said = self.json()
        return said if isinstance(said, dict) else {}


class Fake:
    """A running fake backend.

    Attributes:
        script: what it does from the next request on; assign to change it.
        log: every request but those to /fake/, oldest first.
        host: the loopback address, "" on a Unix socket.
        port: the TCP port, 0 on a Unix socket.
        url: where it is, without a trailing slash.
        connections: how many connections it has accepted.
        open_connections: how many of them are open.
    """

    def __init__(self, script: Script, *, host: str, port: int) -> None:
        """A fake at an address where somebody else listens."""
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}" if host else "http://localhost"
        self.connections = 0
        self.open_connections = 0
        self._first_script = script
        self._entries: list[_Entry] = []
        self._waiting = trio.lowlevel.ParkingLot()
        self.script = script

    @property
    def script(self) -> Script:
        """What it does from the next request on."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        self._script = script
        self._misbehaved = 0

    @property
    def log(self) -> list[Record]:
        """Every request but those to /fake/, oldest first, as known now."""
        return [entry.record for entry in self._entries]

    async def until(self, is_so: Callable[[list[Record]], object]) -> list[Record]:
        """Wait until the log is as `is_so` wants it, and return it."""
        while not is_so(self.log):
            await self._waiting.park()
        return self.log

    def reset(self) -> None:
        """Forget the log and go back to the first script."""
        self._entries = []
        self.script = self._first_script
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for the log or for the connections."""
        self._waiting.unpark_all()

    def enter(self, request: _Request, connection: int) -> "_Entry":
        """Write a request into the log, unless it is one about the log."""
        small = len(request.body) <= LOGGED_BODY_BYTES
        record = Record(
            connection=connection,
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            body_bytes=len(request.body),
            body=request.json() if small else None,
            arrived_s=_now_s(),
        )
        entry = _Entry(self, record)
        if not request.path.startswith(CONTROL):
            self._entries.append(entry)
            self.changed()
        return entry

    def behaviour(self, path: str) -> Behaviour:
        """How a request to `path` is treated; asking counts towards the script's `times`."""
        script = self._script
        named = _matches(path, script.misbehaves_at) and not path.startswith(CONTROL)
        if script.behaviour is Behaviour.OK or not named:
            return Behaviour.OK
        self._misbehaved += 1
        if script.times and self._misbehaved > script.times:
            return Behaviour.OK
        return script.behaviour

    def decide(self, request: _Request, behaviour: Behaviour) -> Whole | Stream:
        """What is said to a request: (1) a fault, (2) a control call, (3) the route's answer."""
        script, path = self._script, request.path
        if path.startswith(CONTROL):
            return self._control(request)
        if behaviour is Behaviour.UNSERVED or _matches(path, script.unserved):
            return (
                words.llama_server_unserved()
                if script.unserved_as == "llama-server"
                else words.gin_unserved()
            )
        if behaviour is Behaviour.REFUSE:
            return words.refusal(path, script.status, script.message)
        if behaviour is Behaviour.HTML_ERROR:
            return words.html_error()
        if request.method in {"GET", "HEAD"}:
            return self._list(path)
        ask = request.ask()
        model = words.model_asked(ask)
        listed = words.full_name(model) in {words.full_name(known) for known in script.models}
        named = path in {"/api/show", "/api/delete"} or (path in INFERENCE and script.only_listed)
        if behaviour is Behaviour.MISSING_MODEL or (named and not listed):
            return words.refusal(path, 404, f"model '{model}' not found")
        match request.method, path:
            case "POST", "/api/show":
                return words.shown(model)
            case "POST", "/api/pull":
                return words.pulling(ask, script.tokens)
            case "DELETE", "/api/delete":
                return words.plain(b"")
            case "POST", _:
                allowed = words.tokens_allowed(ask)
                cut = allowed is not None and allowed < script.tokens
                tokens = allowed if cut and allowed is not None else script.tokens
                pace = words.Pace(
                    prefill_s=script.first_token_s,
                    decode_s=script.interval_s * max(tokens - 1, 0),
                    timings=script.timings,
                )
                said = words.answer(path, ask, tokens, cut=cut, pace=pace)
                return said or words.gin_unserved()
            case _:
                return words.gin_unserved()

    def _list(self, path: str) -> Whole:
        script = self._script
        match path:
            case "/":
                return words.plain(b"Ollama is running")
            case "/health":
                return words.json({"status": "ok"})
            case "/api/version":
                return words.json({"version": script.version})
            case "/api/tags":
                return words.tags(script.models)
            case "/api/ps":
                return words.running(script.loaded)
            case "/v1/models" | "/api/v1/models":  # the latter is Lemonade's
                return words.cards(script.models, script.owned_by)
            case "/slots" if script.slots:
                return words.slots(script.slots, self._computing())
            case _ if (model := path.removeprefix("/v1/models/")) in script.models:
                return words.card(model)
            case _:
                return words.gin_unserved()

    def _computing(self) -> int:
        """How many inference calls it is answering."""
        return sum(
            each.path in INFERENCE and each.ended_s is None and each.client_left_s is None
            for each in self.log
        )

    def _control(self, request: _Request) -> Whole:
        match request.method, request.path:
            case "GET", "/fake/log":
                return words.json(self.log)
            case "GET", "/fake/script":
                return words.json(self._script)
            case "POST", "/fake/script":
                try:
                    self.script = self._script.changed(request.ask())
                except ValueError as fault:
                    return words.json({"error": str(fault)}, status=400)
                return words.json(self._script)
            case "POST", "/fake/reset":
                self.reset()
                return words.json(self._script)
            case _:
                return words.gin_unserved()


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return path in patterns or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


class _Entry:
    """One request's line in the log, completed as its answer goes on."""

    def __init__(self, fake: Fake, record: Record) -> None:
        self._fake = fake
        self._record = record
        self._tokens_sent = 0

    @property
    def record(self) -> Record:
        """What is known by now."""
        return attrs.evolve(self._record, tokens_sent=self._tokens_sent)

    def begin(self) -> None:
        """The first byte goes out."""
        self._know(attrs.evolve(self._record, first_byte_s=_now_s()))

    def end(self) -> None:
        """All is sent that was meant to be."""
        self._know(attrs.evolve(self._record, ended_s=_now_s()))

    def leave(self) -> None:
        """The client has closed, which is news only before the end."""
        if self._record.ended_s is None:
            self._know(attrs.evolve(self._record, client_left_s=_now_s()))

    def count_token(self) -> None:
        """A token is sent: the one thing noted thousands of times a second, so only counted."""
        self._tokens_sent += 1
        self._fake.changed()

    def _know(self, record: Record) -> None:
        self._record = record
        self._fake.changed()


class _ClientLeftError(Exception):
    """The client closed its connection while it was answered."""


class _Connection:
    """One client: reads its requests, answers them in turn."""

    def __init__(self, fake: Fake, stream: trio.SocketStream) -> None:
        fake.connections += 1
        self._number = fake.connections
        self._fake = fake
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._requests: list[_Request] = []
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    # -- what the parser calls -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        self._requests.append(
            _Request(
                method=self._parser.get_method().decode(),
                path=path,
                query=query,
                headers=tuple(self._headers),
                body=b"".join(self._body),
                keep_alive=self._parser.should_keep_alive(),
            )
        )

    # -- reading -------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Answer until either side is done with the connection."""
        self._fake.open_connections += 1
        try:
            async with self._stream:
                while await self._answer_next():
                    self._fake.changed()
        finally:
            self._fake.open_connections -= 1
            self._fake.changed()

    async def _receive(self) -> bool:
        """Read once; False when the client has closed, or speaks something that is not HTTP/1.1."""
        try:
            data = await self._stream.receive_some(READ_BYTES)
            if data:
                self._parser.feed_data(data)
        except (
            trio.BrokenResourceError,
            httptools.HttpParserError,
            httptools.HttpParserUpgrade,
        ):
            return False
        return bool(data)

    async def _answer_next(self) -> bool:
        """Answer the next request; False when the connection is over."""
        while not self._requests:
            if not await self._receive():
                return False
        request = self._requests.pop(0)
        entry = self._fake.enter(request, self._number)
        keep = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope, entry)
            answer = _Answer(self._fake, request, entry, self._stream, self._descriptor)
            try:
                keep = await answer.perform()
            except _ClientLeftError:
                entry.leave()
            nursery.cancel_scope.cancel()
        return keep

    async def _listen(self, answering: trio.CancelScope, entry: _Entry) -> None:
        """Read on while a request is answered, and stop answering when the client leaves."""
        while await self._receive():
            continue
        entry.leave()
        answering.cancel()


class _Answer:
    """One answer on its way."""

    def __init__(
        self,
        fake: Fake,
        request: _Request,
        entry: _Entry,
        stream: trio.SocketStream,
        descriptor: int,
    ) -> None:
        self._fake = fake
        self._request = request
        self._entry = entry
        self._stream = stream
        self._descriptor = descriptor
        self._script = fake.script
        self._behaviour = fake.behaviour(request.path)
        self._begun = False
        # Escaped once and not for each token.
        self._said = self._padded(msgspec.json.encode(self._script.word)[1:-1])

    def _padded(self, said: bytes) -> bytes:
        return said.ljust(self._script.token_bytes)

    def _word(self) -> bytes:
        """What a token says now."""
        if self._script.stamp:
            return self._padded(b" t%d" % time.monotonic_ns())
        return self._said

    async def perform(self) -> bool:
        """Say it all; returns whether the connection may serve another request.

        Raises:
            _ClientLeftError: the client closed the connection first.
        """
        if self._behaviour is Behaviour.HANG:
            await trio.sleep_forever()
        if self._behaviour is Behaviour.DIE_BEFORE_HEAD:
            return self._die()
        if self._behaviour is Behaviour.GARBLE:
            await self._send(GARBAGE)
            return self._end(keep=False)
        if self._behaviour is Behaviour.VERBATIM:
            return await self._say_verbatim()
        if self._behaviour is Behaviour.SLOW:
            await trio.sleep(self._script.delay_s)
        reply = self._fake.decide(self._request, self._behaviour)
        match reply:
            case Whole():
                return await self._say_whole(reply)
            case Stream():
                return await self._say_stream(reply)
            case _:
                assert_never(reply)

    async def _say_whole(self, reply: Whole) -> bool:
        script = self._script
        if self._request.path in INFERENCE and reply.status < 400:
            more = max(reply.tokens - 1, 0)
            await trio.sleep(script.first_token_s + script.interval_s * more)
        body = reply.words.around(b"".join(self._word() for _ in range(reply.tokens)))
        keep = self._request.keep_alive and self._behaviour is not Behaviour.NO_CONTENT_LENGTH
        framing = b"content-length: %d\r\n" % len(body)
        if self._behaviour is Behaviour.NO_CONTENT_LENGTH:
            framing = b""
        head = _head(reply.status, reply.media, framing, keep=keep)
        if self._request.method == "HEAD":
            body = b""
        if self._behaviour in {Behaviour.DIE_MID_STREAM, Behaviour.HANG_MID_STREAM}:
            await self._send(head + body[: len(body) // 2])
            return await self._break_off()
        await self._send(head + body)
        return self._end(keep=keep)

    async def _say_stream(self, reply: Stream) -> bool:
        script, behaviour = self._script, self._behaviour
        until_closed = behaviour is Behaviour.NO_CONTENT_LENGTH
        keep = self._request.keep_alive and not until_closed
        framing = b"" if until_closed else b"transfer-encoding: chunked\r\n"
        framed = bytes if until_closed else _chunk
        breaks = behaviour in {Behaviour.DIE_MID_STREAM, Behaviour.HANG_MID_STREAM}
        pending = _head(200, reply.media, framing, keep=keep)
        start = trio.current_time() + script.first_token_s
        if script.early_head:
            await self._send(pending)
            pending = b""
        if reply.opening:
            pending += framed(reply.opening)
        pieces = reply.pieces[: script.after_tokens] if breaks else reply.pieces
        for at, piece in enumerate(pieces):
            if at == script.after_tokens and behaviour is Behaviour.GARBLE_STREAM:
                pending += framed(GARBAGE_LINES)
            # Against the start and not against the token before: lateness must not add up.
            await trio.sleep_until(start + at * script.interval_s)
            await self._send(pending + framed(piece.around(self._word())))
            pending = b""
            self._entry.count_token()
        if breaks:
            await self._send(pending)
            return await self._break_off()
        await self._send(pending + framed(reply.closing) + (b"" if until_closed else b"0\r\n\r\n"))
        return self._end(keep=keep and behaviour is not Behaviour.CLOSE_AFTER_STREAM)

    async def _break_off(self) -> bool:
        if self._behaviour is Behaviour.HANG_MID_STREAM:
            await trio.sleep_forever()
        return self._die()

    async def _say_verbatim(self) -> bool:
        await self._send(self._script.verbatim.encode("latin-1"))
        then = self._script.then
        if then is Then.HALF_CLOSE:
            await self._stream.send_eof()
        if then in {Then.HALF_CLOSE, Then.HANG}:
            await trio.sleep_forever()
        if then is Then.RESET:
            self._reset_when_closed()
        return self._end(keep=False)

    def _end(self, *, keep: bool) -> bool:
        self._entry.end()
        return keep

    def _die(self) -> bool:
        """Make the close that follows the one that the script wants."""
        if self._script.reset:
            self._reset_when_closed()
        return self._end(keep=False)

    def _reset_when_closed(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    async def _send(self, data: bytes) -> None:
        if not data:
            return
        if not self._begun:
            self._begun = True
            self._entry.begin()
        if self._behaviour is not Behaviour.TRICKLE:
            await self._write(data)
            return
        size = self._script.trickle_bytes
        for at in range(0, len(data), size):
            await self._write(data[at : at + size])
            await trio.sleep(self._script.trickle_s)

    async def _write(self, data: bytes) -> None:
        # Past Trio when the kernel takes it at once: a benchmark sends ten thousand of these a second.
        try:
            written = os.write(self._descriptor, data)
        except BlockingIOError:
            written = 0
        except OSError as fault:
            raise _ClientLeftError from fault
        if written < len(data):
            try:
                await self._stream.send_all(data[written:])
            except trio.BrokenResourceError as fault:
                raise _ClientLeftError from fault


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(status: int, media: bytes, framing: bytes, *, keep: bool) -> bytes:
    connection = b"keep-alive" if keep else b"close"
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%bconnection: %b\r\n\r\n" % (
        status,
        b"OK" if status < 400 else b"Error",
        media,
        framing,
        connection,
    )


@asynccontextmanager
async def open_fake(
    script: Script | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    unix: Path | None = None,
) -> AsyncIterator[Fake]:
    """Serve while the block runs; leaving it closes the door and every connection.

    Args:
        script: what the fake does at first.
        host: a loopback address.
        port: the TCP port, 0 = any free one.
        unix: a socket's path, instead of TCP; removed afterwards.

    Raises:
        OSError: the address cannot be had.
    """
    if unix is None:
        listener = (await trio.open_tcp_listeners(port, host=host))[0]
        fake = Fake(script or Script(), host=host, port=listener.socket.getsockname()[1])
    else:
        door = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await door.bind(str(unix))
        door.listen()
        listener = trio.SocketListener(door)
        fake = Fake(script or Script(), host="", port=0)

    async def serve(stream: trio.SocketStream) -> None:
        await _Connection(fake, stream).serve()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [listener])
            yield fake
            nursery.cancel_scope.cancel()
    finally:
        if unix is not None:
            with suppress(FileNotFoundError):
                unix.unlink()  # noqa: ASYNC240 - one system call, and nothing may wait in a finally
