"""One WebSocket, from its handshake to its end, whatever is spoken on it.

One task reads, and one flushes what the kernel would not take at once, which is nearly never. Whoever
has something to say hands over whole frames: they keep their order, and one that has begun is
finished whatever becomes of the request that it belongs to.

wsproto reads what a client sends, and writes what is rare. A text frame of ours is a few bytes before
the text, since nothing was negotiated that would change it: they are put there by hand.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, Protocol

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ollama_proxy.engine.job import CallerLeft
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.inbound.admission import ANYBODY, KEY_PROTOCOL, Admission, Visitor, peer_of
from ollama_proxy.inbound.answers import STATUS, error_body, error_headers, turned_away
from ollama_proxy.inbound.bounds import TOO_MUCH_HELD, Bounds
from ollama_proxy.inbound.connections import reset_when_closed
from ollama_proxy.inbound.farewell import part
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.policy.access import NOTHING
from ollama_proxy.policy.ask import Dialect
from ollama_proxy.policy.rates import Bucket
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

# What the books call what is spoken at a path.
DOOR = "websocket"
DOORS = {"/v1/realtime": "realtime"}
HEAD_MAX_BYTES = 16 << 10  # h11 below wsproto reads no more
FAREWELL_S = 1.0
PENDING_MAX_BYTES = 64 << 10  # who leaves so much unread is not listened to
_READ_BYTES = 65536
_MARK_BYTES = 8
_SHORT, _LONG = 125, 65535
# As which wsproto closes what it cannot parse; a client that closes so says that we cannot speak.
_UNPARSED = {CloseReason.PROTOCOL_ERROR, CloseReason.INVALID_FRAME_PAYLOAD_DATA}


@attrs.frozen(kw_only=True)
class SocketLimits:
    """What one socket may take.

    Attributes:
        head_timeout_s: for the handshake to come.
        write_timeout_s: for the client to take what is sent.
        ping_s: between two pings; silence from one to the next ends the socket, unless the client
            may still be reading what was said before.
        message_bytes: the longest message, in UTF-8.
        messages_per_s: how many messages are read a second in the long run; a fragment of one, a
            ping and a pong are as many, since what they cost does not depend on what they carry.
        burst: how many at once.
    """

    head_timeout_s: float = 10.0
    write_timeout_s: float = 30.0
    ping_s: float = 20.0
    message_bytes: int = 4 << 20
    messages_per_s: float = 500.0
    burst: int = 2000


class Dialogue(Protocol):
    """What is spoken on a socket: one dialect's end of it."""

    async def open(self) -> None:
        """The handshake is over."""

    async def hear(self, message: str) -> None:
        """The client has said something. It may raise CallerLeft."""

    def refuse(self, message: str, refusal: Refusal) -> None:
        """What the client has said is not heard; it is to be told so."""

    def leave(self) -> None:
        """The socket is closed: whatever it asked for is wanted no more."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is owed to the client."""


def text_frame(payload: bytes) -> bytes:
    """A text message in one frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size <= _SHORT:
        return b"\x81%c%b" % (size, payload)
    if size <= _LONG:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


@attrs.frozen
class _Closing(Exception):  # noqa: N818 - a decision on its way out of the reader
    """The socket is to be closed with this code. `fault`: what the client did; None: nothing."""

    code: int
    reason: str
    fault: Code | None = None


_TOO_LONG = Refusal(
    Code.HEADERS_TOO_LARGE, f"The request's head is longer than {HEAD_MAX_BYTES >> 10} KiB."
)
STOPPING = Refusal(Code.SHUTTING_DOWN, "The router is shutting down.", retry_after_s=5)
_GOING_AWAY = _Closing(CloseReason.GOING_AWAY, "the router is shutting down")


class Socket:
    """One client's socket.

    Attributes:
        headers: of the handshake, lower-case names.
        target: the path and query that were asked for.
        visitor: who was let in.
        bounds: what all clients hold of the router's memory; what is asked for counts here, too.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        limits: SocketLimits,
        *,
        is_draining: Callable[[], bool],
        ledger: Ledger | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Take over a connection; `serve` does the rest."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.target = ""
        self.visitor: Visitor = ANYBODY
        self._ledger = ledger or Ledger()
        self.bounds = bounds or Bounds()
        self._admission: Admission | None = None
        self._stream = stream
        self._descriptor = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._limits = limits
        self._is_draining = is_draining
        self._wire = WSConnection(ConnectionType.SERVER)
        self._message = bytearray()  # of one that has not come to its end
        self._held = 0  # bytes of it that count
        self._messages = Bucket(limits.messages_per_s, limits.burst)
        self._was_heard = True
        self._dialogue: Dialogue | None = None
        self._greeting = trio.CancelScope()
        self._talk = trio.CancelScope()
        self._pings = trio.CancelScope()
        self._is_gone = False
        self._pending = bytearray()  # what the kernel has not taken yet
        self._said = 0  # bytes, from the beginning
        self._read = 0  # how many of them the client has read for certain
        self._has_pending = trio.Event()
        self._is_flushed = trio.Event()

    # -- its life ----------------------------------------------------------------------------------

    async def serve(
        self, received: bytes, gate: Gate, dialects: Mapping[str, Callable[["Socket"], Dialogue]]
    ) -> None:
        """Shake hands, speak, and say farewell. The connection is not closed here.

        Args:
            received: the first bytes of the handshake.
            gate: who may ask.
            dialects: what is spoken at which path.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush, name="websocket writer")
            try:
                self._greeting.deadline = trio.current_time() + self._limits.head_timeout_s
                with self._greeting:
                    self._dialogue = await self._shake_hands(received, gate, dialects)
                if self._dialogue is not None:
                    nursery.start_soon(self._ping, name="websocket pings")
                    await self._speak(self._dialogue)
                if not self._greeting.cancelled_caught:  # else there are no last words
                    await self._part()
            except (CallerLeft, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                self._is_gone = True
            finally:
                # The number may soon be another client's.
                self._descriptor = -1
                self._free()
                # Nobody writes any more: who waits for that is told so.
                self._lose()
                nursery.cancel_scope.cancel()

    async def _speak(self, dialogue: Dialogue) -> None:
        ending: _Closing | None = None
        try:
            with self._talk:
                await dialogue.open()
                self.settled()
                await self._listen(dialogue)
        except _Closing as closing:
            ending = closing
        finally:
            dialogue.leave()
        if ending is not None and ending.fault is not None:
            self.turn_away(Refusal(ending.fault, ending.reason))
        if self._is_gone:
            raise CallerLeft
        ending = ending or _GOING_AWAY
        self._post_event(CloseConnection(code=ending.code, reason=ending.reason))

    async def _part(self) -> None:
        """Let the client read what was said last: bytes of it that stay unread would reset it."""
        # Nobody listens for their answers any more.
        self._pings.cancel()
        # An answer may be among it, which is long: each piece of it has the time of any other.
        await self._flushed()
        self._is_gone = True  # for whoever would say something still
        # Browsers leave it to the server to close first (RFC 6455, 7.1.1).
        await part(self._stream, FAREWELL_S)

    def drain(self) -> None:
        """The router takes nothing new: part as soon as nothing is owed.

        Nor is anything to who has not shaken hands; a handshake is not waited for.
        """
        if self._dialogue is None:
            self._greeting.cancel()
        elif self._dialogue.is_idle:
            self._talk.cancel()

    def settled(self) -> None:
        """Nothing more is owed for something that was asked."""
        if self.is_draining:
            self.drain()

    def readmit(self) -> None:
        """Let the client ask for something once more.

        Raises:
            RequestRefused: not so soon. A client whose key is good no longer is parted with.
        """
        refusal = None if self._admission is None else self._admission.readmit(self.visitor)
        if refusal is not None and refusal.code is Code.INVALID_API_KEY:
            raise _Closing(
                CloseReason.POLICY_VIOLATION, "the API key is good no longer", refusal.code
            )
        if refusal is not None:
            raise RequestRefused(refusal)

    def turn_away(self, refusal: Refusal, request_id: str = "") -> None:
        """Book what becomes no job."""
        path = self.target.partition("?")[0]
        self._ledger.turn_away(turned_away(DOORS.get(path, DOOR), path, refusal, request_id))

    @property
    def is_draining(self) -> bool:
        """Whether the router takes nothing new: what runs is finished, what is asked is refused."""
        return self._is_draining()

    # -- the handshake -----------------------------------------------------------------------------

    async def _shake_hands(
        self, data: bytes, gate: Gate, dialects: Mapping[str, Callable[["Socket"], Dialogue]]
    ) -> Dialogue | None:
        """The dialogue that was agreed upon; None where it was none, which the client was told."""
        size = 0
        while True:
            size += len(data)
            try:
                self._wire.receive_data(data)
                request = next(self._wire.events(), None)
            except (RemoteProtocolError, UnicodeError) as error:
                if size > HEAD_MAX_BYTES:
                    self._reject(_TOO_LONG)
                    return None
                self._reject(
                    Refusal(Code.INVALID_REQUEST, f"A WebSocket is spoken here: {error}."),
                    getattr(error, "event_hint", None),
                )
                return None
            if isinstance(request, Request):
                return self._judge(request, gate, dialects)
            if size > HEAD_MAX_BYTES:
                self._reject(_TOO_LONG)
                return None
            data = bytes(await self._stream.receive_some(_READ_BYTES))
            if not data:
                raise CallerLeft

    def _judge(
        self,
        request: Request,
        gate: Gate,
        dialects: Mapping[str, Callable[["Socket"], Dialogue]],
    ) -> Dialogue | None:
        self.headers = [(name.lower(), value) for name, value in request.extra_headers]
        self.target = request.target
        origins = [value for name, value in self.headers if name == b"origin"]
        host = request.host.encode("latin-1", "replace")
        # Two origins are none that is allowed.
        refusal = gate.judge(host, b", ".join(origins) if origins else None)
        path = request.target.partition("?")[0]
        dialect = dialects.get(path)
        if refusal is None:
            refusal = self._admit(request, path if dialect is not None else "", gate.admission)
        if refusal is None and dialect is None:
            refusal = Refusal(Code.NOT_FOUND, f"There is nothing at {request.target}.")
        if refusal is None and self.is_draining:
            refusal = STOPPING
        if refusal is not None or dialect is None:
            assert refusal is not None, "what is not there is refused"  # noqa: S101 - just above
            self._reject(refusal)
            return None
        chosen = "realtime" if "realtime" in request.subprotocols else None
        self._post_event(AcceptConnection(subprotocol=chosen))
        return dialect(self)

    def _admit(self, request: Request, path: str, admission: Admission) -> Refusal | None:
        # A page cannot set a header; what it can is name the key as if it were a protocol.
        keys = [
            p.removeprefix(KEY_PROTOCOL) for p in request.subprotocols if p.startswith(KEY_PROTOCOL)
        ]
        given = [(b"x-api-key", key.encode()) for key in keys]
        admitted = admission.admit(
            f"GET {path}" if path else NOTHING, [*self.headers, *given], peer_of(self._stream)
        )
        if isinstance(admitted, Refusal):
            return admitted
        self.visitor, self._admission = admitted, admission
        return None

    def _reject(self, refusal: Refusal, hint: object = None) -> None:
        """Say in HTTP why there is no socket. `hint`: what wsproto would say."""
        self.turn_away(refusal)
        status, more = STATUS[refusal.code], []
        if isinstance(hint, RejectConnection):
            status, more = hint.status_code or status, list(hint.headers)
        body = error_body(Dialect.OPENAI, refusal)
        more += [
            *error_headers(refusal),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        self._post_event(RejectConnection(status_code=status, headers=more, has_body=True))
        self._post_event(RejectData(data=body))

    # -- reading -----------------------------------------------------------------------------------

    async def _listen(self, dialogue: Dialogue) -> None:
        while True:
            for event in self._events():
                await self._take(event, dialogue)
                # After each: one read holds hundreds of messages, and each may have a long answer.
                if len(self._pending) > PENDING_MAX_BYTES:
                    await self._flushed()
            data = bytes(await self._stream.receive_some(_READ_BYTES))
            if not data:
                self._is_gone = True
                return
            self._was_heard = True
            self._wire.receive_data(data)

    def _events(self) -> Iterator[Event]:
        try:
            yield from self._wire.events()
        except RemoteProtocolError as error:
            raise _Closing(CloseReason.PROTOCOL_ERROR, str(error), Code.INVALID_REQUEST) from None

    async def _take(self, event: Event, dialogue: Dialogue) -> None:
        match event:
            case TextMessage():
                fits = self._gather(event.data, is_whole=event.message_finished)
                if event.message_finished:
                    message = self._message.decode()
                    self._message = bytearray()  # not cleared: that would keep its room
                    self._free()  # from here on who hears it counts what is kept
                    self._count()
                    if fits:
                        await dialogue.hear(message)
                    else:
                        dialogue.refuse(message, TOO_MUCH_HELD)
                elif event.frame_finished:
                    await self._ration()
            case BytesMessage():
                why = "text is understood, bytes are not"
                raise _Closing(CloseReason.UNSUPPORTED_DATA, why, Code.UNSUPPORTED_MEDIA_TYPE)
            case Ping():
                self._post_event(event.response())
                await self._ration()
            case CloseConnection():
                # What cannot be parsed ends here, too: wsproto knows the code.
                fault = Code.INVALID_REQUEST if event.code in _UNPARSED else None
                raise _Closing(event.code, event.reason or "", fault)
            case Pong():
                if len(event.payload) == _MARK_BYTES:
                    mark = int.from_bytes(event.payload, "big")
                    self._read = min(max(self._read, mark), self._said)
                await self._ration()
            case _:
                raise _Closing(
                    CloseReason.PROTOCOL_ERROR, "this is not understood", Code.INVALID_REQUEST
                )

    def _gather(self, piece: str, *, is_whole: bool) -> bool:
        """Add a piece of a message. False: it is too much for the router, but is there, whole.

        Before a message is whole nobody can say whose it is, and so not refuse it alone.
        """
        # As bytes: they are what the limit is of, and a list would grow by pieces that are empty.
        data = piece.encode()
        self._message += data
        if len(self._message) > self._limits.message_bytes:
            limit = self._limits.message_bytes >> 10
            why = f"messages have at most {limit} KiB"
            raise _Closing(CloseReason.MESSAGE_TOO_BIG, why, Code.BODY_TOO_LARGE)
        if self.bounds.hold(len(data)):
            self._held += len(data)
            return True
        if not is_whole:
            why = "the router holds as much as it may"
            raise _Closing(CloseReason.TRY_AGAIN_LATER, why, TOO_MUCH_HELD.code)
        return False

    def _free(self) -> None:
        self.bounds.free(self._held)
        self._held = 0

    async def _ration(self) -> None:
        """Take a frame that says nothing by itself: ten thousand may have come in one read."""
        self._count()
        await trio.lowlevel.checkpoint()

    def _count(self) -> None:
        """Who says more than is ever needed is let go, before others wait for it."""
        if self._messages.take(trio.current_time()):
            raise _Closing(CloseReason.TRY_AGAIN_LATER, "too many messages", Code.RATE_LIMITED)

    # -- writing -----------------------------------------------------------------------------------

    async def send(self, payload: bytes) -> None:
        """Send a text message, and wait until the client takes messages. Raises CallerLeft.

        Cancelled, the message is sent all the same.
        """
        self.post(payload)
        if self._pending or self._is_gone:
            await self._flushed()

    def post(self, payload: bytes) -> None:
        """Send a text message as soon as the client takes it; who posts does not wait for that."""
        self._post(text_frame(payload))

    def _post_event(self, event: Event) -> None:
        # What can no longer be said need not be: the other end has closed.
        with contextlib.suppress(LocalProtocolError):
            self._post(self._wire.send(event))

    def _post(self, data: bytes) -> None:
        if self._is_gone:
            return
        self._said += len(data)
        if self._descriptor >= 0 and not self._pending:
            # Nearly always the kernel takes it all: no trip through the scheduler.
            try:
                sent = os.write(self._descriptor, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._lose()
                return
            if sent == len(data):
                return
            data = data[sent:]
        if not self._pending:
            self._is_flushed = trio.Event()
        self._pending += data
        self._has_pending.set()

    async def _flushed(self) -> None:
        """Wait until everything was taken. Raises CallerLeft."""
        if self._pending:
            await self._is_flushed.wait()
        if self._is_gone:
            raise CallerLeft

    async def _flush(self) -> NoReturn:
        """Send what the kernel would not take at once."""
        while True:
            await self._has_pending.wait()
            self._has_pending = trio.Event()
            while self._pending:
                data = bytes(self._pending[:_READ_BYTES])
                with trio.move_on_after(self._limits.write_timeout_s) as patience:
                    try:
                        await self._stream.send_all(data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                        self._lose()
                        break
                if patience.cancelled_caught:
                    reset_when_closed(self._stream)
                    self._lose()
                    break
                del self._pending[: len(data)]
            self._is_flushed.set()

    def _lose(self) -> None:
        """The client is gone, or takes nothing."""
        self._is_gone = True
        self._pending.clear()
        self._is_flushed.set()
        self._talk.cancel()

    async def _ping(self) -> None:
        """Notice a client that has vanished without a word.

        A ping comes behind all that was said before it, megabytes of it in the kernels' buffers where
        a client reads slowly. So it says how much that is, and while there is something to read, who
        is silent has the time that writing it may take. What is pending has the writer's patience.
        """
        silent_s = 0.0
        with self._pings:
            while True:
                await trio.sleep(self._limits.ping_s)
                silent_s += self._limits.ping_s
                if self._was_heard or self._pending:
                    silent_s = 0.0
                elif (
                    silent_s
                    > (self._said - self._read) / _READ_BYTES * self._limits.write_timeout_s
                ):
                    self._lose()
                self._was_heard = False
                self._post_event(Ping(self._said.to_bytes(_MARK_BYTES, "big")))
