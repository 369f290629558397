"""One connection on Trio: a reader, a writer, a watch, and for each call a task with its own scope.

Rule 1: only the writer touches the socket's sending side; whoever makes bytes wakes it. To send them
where they are made takes longer: of calls that run at once, one write carries what all have made.
Rule 2: a call ends by its scope: taken back, out of time, or its connection lost, all are a cancel.
Rule 3: what waits is awaited where it is made, so that a slow reader slows its own call alone.
"""

import logging
import math
import os
import re
import traceback
from collections.abc import Mapping
from typing import Any

import attrs
import trio
from google.protobuf.message import DecodeError

from ollama_proxy.engine.job import CallerLeft
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.inbound.admission import ANYBODY, Visitor
from ollama_proxy.inbound.answers import turned_away
from ollama_proxy.inbound.connections import read_when_there
from ollama_proxy.inbound.grpc.messages import Budget, framed
from ollama_proxy.inbound.grpc.metadata import GZIP, Head, Pairs, end_of_answer, head_of_answer
from ollama_proxy.inbound.grpc.rpc import Message, Method
from ollama_proxy.inbound.grpc.status import WELL, CallFailed, Ended, Status, refused
from ollama_proxy.inbound.grpc.wire import (
    Call,
    Fed,
    Opened,
    TakenBack,
    Widened,
    Wire,
    WireLimits,
)
from ollama_proxy.inbound.trust import Gate
from ollama_proxy.policy.access import NOTHING, UNKNOWN_KEY
from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

log = logging.getLogger("ollama_proxy.grpc")
DOOR = "grpc"
_READ_BYTES = 16384  # more would let one peer's cheap frames take the clock for too long
_METHOD_NOT_ALLOWED = b"405"
_UNSUPPORTED_MEDIA_TYPE = b"415"
_NOT_GRPC = b"This port speaks gRPC only.\n"
_TOO_LATE = Ended(Status.DEADLINE_EXCEEDED, "The deadline has passed.")
# Programs that speak through a socket of files, or a relay of one, name it as libraries do: C++ with its
# path's slashes encoded, others as a URI, or not at all. Browsers always name a host.
_NO_HOST = re.compile(rb"$|/|%2f|unix:", re.IGNORECASE)
_STOPPING = refused(Refusal(Code.SHUTTING_DOWN, "The router is shutting down."))
_UNREAD = refused(Refusal(Code.REQUEST_TIMEOUT, "The answer was left unread for too long."))
_FAULTED = refused(Refusal(Code.INTERNAL, "The router made a mistake; its log says which."))


@attrs.frozen(kw_only=True)
class Patience:
    """How long a connection may take for what, in seconds.

    Attributes:
        greeting_s: until it has said that it speaks HTTP/2.
        silence_s: until it is asked whether it is still there.
        answer_s: and until it must have answered.
        unread_s: for a call's reader to take some more of what waits for it.
        idle_s: without a call.
        farewell_s: for the peer to hear that no more calls are taken.
        linger_s: for the peer to read our last words.
    """

    greeting_s: float = 10.0
    silence_s: float = 60.0
    answer_s: float = 20.0
    unread_s: float = 30.0
    idle_s: float = 900.0
    farewell_s: float = 1.0
    linger_s: float = 0.5


@attrs.frozen(kw_only=True)
class Terms:
    """What every connection is served by.

    Attributes:
        methods: by their paths.
        gate: says who may ask.
        budget: what all of them may keep unread.
        ledger: is told who is turned away.
    """

    methods: Mapping[str, Method]
    gate: Gate
    budget: Budget
    limits: WireLimits = attrs.field(factory=WireLimits)
    patience: Patience = attrs.field(factory=Patience)
    ledger: Ledger = attrs.field(factory=Ledger)


@attrs.define(eq=False, kw_only=True)
class LiveRpc:
    """One call, live: the `Rpc` that its method sees. `stopped`: how it ends, once it is cancelled.

    `failed`: why no more of it can be read, where its method is told.
    """

    call: Call
    method: Method | None
    arrived: float
    peer: str
    _connection: "Connection"
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    deadline: float = math.inf
    initial: Pairs = attrs.field(factory=list)
    trailing: Pairs = attrs.field(factory=list)
    compress: bool = False
    is_job: bool = False
    stopped: Ended | None = None
    failed: Ended | None = None
    visitor: Visitor = ANYBODY
    readable: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)
    writable: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def head(self) -> Head:
        """See `Rpc`."""
        return self.call.head

    @property
    def has_begun(self) -> bool:
        """See `Rpc`."""
        return self.call.has_begun

    @property
    def was_compressed(self) -> bool:
        """See `Rpc`."""
        return self.call.inbox.was_compressed

    async def receive(self) -> Any:  # noqa: ANN401 - its method knows which
        """See `Rpc`."""
        while (message := self.take()) is None and not self.has_ended:
            await self.wait()
        return message

    def take(self) -> Any:  # noqa: ANN401 - as above
        """See `Rpc`."""
        assert self.method is not None, "only methods receive"  # noqa: S101 - as `serve` has it
        if self.failed is not None:
            raise CallFailed(self.failed.status, self.failed.message, self.failed.refusal)
        raw = self._connection.wire.take_message(self.call)
        if raw is None:
            return None
        self._connection.flush()  # there is room for more, of which its sender must hear
        try:
            return self.method.takes.FromString(raw)
        except DecodeError:
            name = self.method.takes.__name__
            raise CallFailed(Status.INVALID_ARGUMENT, f"The request is no {name}.") from None

    @property
    def has_ended(self) -> bool:
        """See `Rpc`."""
        return self.call.inbox.has_ended

    async def wait(self) -> None:
        """See `Rpc`."""
        await self.readable.park()

    def rouse(self) -> None:
        """See `Rpc`."""
        self.readable.unpark_all()

    async def send(self, message: Message) -> None:
        """See `Rpc`."""
        self._begin_answer()
        await self.write(framed(message.SerializeToString(), compress=self.compress))

    def send_at_once(self, message: Message) -> bool:
        """See `Rpc`."""
        wire = self._connection.wire
        data = framed(message.SerializeToString(), compress=self.compress)
        if self.call.is_over or not wire.has_room(self.call, len(data)):
            return False
        self._begin_answer()
        wire.send(self.call, memoryview(data))
        self._connection.flush()
        return True

    def begin(self, headers: Pairs) -> None:
        """Send the head of an answer."""
        self._begin(headers)
        self._connection.flush()

    def _begin_answer(self) -> None:
        if not self.call.has_begun:
            self._begin(head_of_answer(self.initial, gzip=self.compress))

    def _begin(self, headers: Pairs) -> None:
        """Have the head of an answer sent with what follows."""
        if self.call.is_over:
            raise CallerLeft
        self._connection.wire.begin(self.call, headers)

    async def write(self, data: bytes) -> None:
        """Send bytes of an answer, as soon as its reader takes them.

        Raises:
            CallerLeft: nobody reads it, or nothing of it for too long, which ends the call.
        """
        connection, wire = self._connection, self._connection.wire
        rest = memoryview(data)
        while True:
            if self.call.is_over:
                raise CallerLeft
            sent = wire.send(self.call, rest)
            rest = rest[sent:]
            connection.flush()
            if not rest:
                return
            if not sent and not self.call.is_over:
                await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Wait until more may be sent, or nothing more.

        Its own reader is waited for, or everybody's: who waits for the one is not woken by the
        other. Only what makes room renews the patience: pings and settings are answered by
        libraries whose application has stopped. Of everybody's room others may have been quicker to
        take what there was; then the connection gets on all the same, and this call's turn comes.

        Raises:
            CallerLeft: as `write`.
        """
        connection, wire = self._connection, self._connection.wire
        unread_s = connection.unread_s
        with trio.move_on_after(unread_s) as patience:
            while not self.call.is_over:
                if not wire.room_for(self.call):
                    await self.writable.park()
                    gets_on = wire.room_for(self.call) > 0
                elif not wire.room():
                    taken = wire.taken_bytes
                    await connection.writable.park()
                    gets_on = wire.taken_bytes > taken
                else:
                    return
                if gets_on:
                    patience.deadline = trio.current_time() + unread_s
            return
        self.stop(_UNREAD)
        raise CallerLeft  # who sends may be another task than the one that was just stopped

    def wake(self) -> None:
        """Whatever it waits for: look again."""
        self.readable.unpark_all()
        self.writable.unpark_all()

    def leave(self) -> None:
        """Its key is good no longer: what was begun is finished, nothing else is told or begun."""
        if not self.is_job:
            self.stop(refused(UNKNOWN_KEY))

    def fail(self, how: Ended) -> None:
        """What came is too much: end it, unless its method has something to say to that."""
        if self.method is not None and self.method.hears_faults:
            # The first: what comes after it is the rest of a message, and not read as one.
            self.failed = self.failed or how
            self.readable.unpark_all()
        else:
            self.stop(how)

    def stop(self, how: Ended) -> None:
        """End it now."""
        if self.stopped is None:
            self.stopped = how
        self.scope.cancel()


class Connection:
    """One connection, from its first byte to its last."""

    def __init__(self, stream: trio.abc.Stream, terms: Terms, peer: str) -> None:
        """Take a connected stream; `run` serves it."""
        self.wire = Wire(terms.limits, terms.budget)
        self.writable = trio.lowlevel.ParkingLot()
        self.unread_s = terms.patience.unread_s
        self._stream = stream
        self._terms = terms
        self._peer = peer
        self._rpcs: dict[Call, LiveRpc] = {}
        # Without one, what is between encrypts.
        self._descriptor = -1
        if isinstance(stream, trio.SocketStream):
            self._descriptor = stream.socket.fileno()
        self._output = trio.lowlevel.ParkingLot()
        self._sent = trio.lowlevel.ParkingLot()
        self._received = trio.lowlevel.ParkingLot()
        self._was_read = trio.Event()
        self._heard = self._used = trio.current_time()
        self._is_warned = False
        self._tasks: trio.Nursery

    def flush(self) -> None:
        """Have what there is sent, as soon as others had their turn to add to it."""
        if self._output and (self.wire.pending_bytes or self.wire.is_over):
            self._output.unpark_all()

    async def run(self) -> None:
        """Serve it to its end. A fault of one call stays in it; a lost socket ends all of them."""
        async with trio.open_nursery() as self._tasks:
            self._tasks.start_soon(self._write)
            self._tasks.start_soon(self._watch)
            await self._read()
            self._was_read.set()
            if not self.wire.is_over:
                self._tasks.cancel_scope.cancel()
            self.flush()

    # -- the socket --------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read until the peer is gone; what comes after our last words is nothing."""
        wire = self.wire
        while True:
            try:
                data = await self._receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                return
            if not data:
                return
            now = self._heard = trio.current_time()
            for event in wire.receive(data, now):
                self._heed(event)
            if self._received:
                self._received.unpark_all()
            self.flush()
            while wire.is_flooded and not wire.is_over:
                await self._sent.park()

    async def _receive(self) -> bytes:
        """What the peer sends next; empty at its end."""
        if self._descriptor < 0:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        return await read_when_there(self._descriptor, _READ_BYTES)

    def _heed(self, event: Opened | Fed | TakenBack | Widened) -> None:
        match event:
            case Opened(call):
                self._open(call)
            case Fed(call, failed):
                rpc = self._rpcs.get(call)
                if rpc is not None and failed is not None:
                    rpc.fail(failed)
                elif rpc is not None:
                    rpc.readable.unpark_all()
            case TakenBack(call):
                if (rpc := self._rpcs.get(call)) is not None:
                    rpc.wake()  # who sends for it may be another task than its own
                    rpc.scope.cancel()
            case Widened(call):
                self._widen(call)

    def _widen(self, call: Call | None) -> None:
        """Let those go on who wait for room: of one call, or of the connection."""
        if call is None:
            self.writable.unpark_all()
        elif (rpc := self._rpcs.get(call)) is not None:
            rpc.writable.unpark_all()

    async def _write(self) -> None:
        """Send what there is until all is said, then end the connection."""
        wire = self.wire
        try:
            while True:
                data = wire.take_output()
                if data:
                    await self._send(data)
                    for waiting in (self.writable, self._sent):
                        if waiting:
                            waiting.unpark_all()
                elif wire.is_over:
                    break
                else:
                    await self._output.park()
            await self._linger()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone, and with it whoever waits for an answer
        self._tasks.cancel_scope.cancel()

    async def _send(self, data: bytes) -> None:
        """Send it; nearly always a plain socket takes it all, without a trip through the scheduler."""
        sent = 0
        if self._descriptor >= 0:
            try:
                sent = os.write(self._descriptor, data)
            except OSError:
                sent = 0  # it is full; or what follows hears what is wrong with it
        if sent < len(data):
            await self._stream.send_all(data[sent:])

    async def _linger(self) -> None:
        """Let the peer read our last words: closed with bytes unread, a socket takes them back."""
        stream = self._stream
        if isinstance(stream, trio.SSLStream):
            # TLS has a farewell, too, but GOAWAY says more, and the reader is still at its work.
            stream = stream.transport_stream
        if isinstance(stream, trio.abc.HalfCloseableStream):
            with trio.move_on_after(self._terms.patience.linger_s):
                await stream.send_eof()
                await self._was_read.wait()

    async def _watch(self) -> None:
        """End the connection that says nothing, asks for nothing, or is not there any more."""
        patience = self._terms.patience
        opened, asked = trio.current_time(), False
        while True:
            now = trio.current_time()
            quiet_since = self._heard
            if not self.wire.is_greeted:
                due = opened + patience.greeting_s
                if now >= due:
                    break
            elif asked and quiet_since + patience.silence_s > now:
                asked = False  # it has answered
                continue
            elif asked:
                due = quiet_since + patience.silence_s + patience.answer_s
                if now >= due:
                    break
            else:
                due = quiet_since + patience.silence_s
                if now >= due:
                    self.wire.ping()
                    self.flush()
                    asked = True
                    continue
                is_idle = not (self._rpcs or self._is_warned)
                idle_at = self._used + patience.idle_s if is_idle else math.inf
                if now >= idle_at:
                    self._tasks.start_soon(self.drain)
                    idle_at = math.inf
                due = min(due, idle_at)
            await trio.sleep_until(due)
        self._tasks.cancel_scope.cancel()

    # -- its end -----------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take no more calls, finish those there are, and close."""
        if self._is_warned:
            return
        self._is_warned = True
        for rpc in self._rpcs.values():
            self._hurry(rpc)
        if self.wire.is_greeted:
            self.wire.warn()
            self.flush()
            # Calls that were sent before the warning was read are still taken.
            with trio.move_on_after(self._terms.patience.farewell_s):
                while not self.wire.drain_was_heard:
                    await self._received.park()
        self.wire.drain()
        self._close_if_drained()
        self.flush()

    @staticmethod
    def _hurry(rpc: LiveRpc) -> None:
        """End a call that would not come to an end by itself."""
        if rpc.method is not None and not rpc.method.is_work:
            rpc.stop(_STOPPING)

    def _close_if_drained(self) -> None:
        if self.wire.is_draining and not self._rpcs:
            self.wire.is_over = True
            self.flush()

    # -- calls -------------------------------------------------------------------------------------

    def _open(self, call: Call) -> None:
        now = trio.current_time()
        rpc = LiveRpc(
            call=call,
            method=self._terms.methods.get(call.head.path),
            arrived=now,
            peer=self._peer,
            connection=self,
            compress=call.head.takes_gzip and call.head.encoding == GZIP,
        )
        if call.head.timeout_s is not None:
            rpc.deadline = rpc.scope.deadline = now + call.head.timeout_s
        if rpc.method is not None and rpc.method.message_bytes is not None:
            call.inbox.max_bytes = rpc.method.message_bytes
        if self._is_warned:
            self._hurry(rpc)
        self._rpcs[call] = rpc
        self._tasks.start_soon(self._serve, rpc)

    async def _serve(self, rpc: LiveRpc) -> None:
        """One call, from its first event to its last byte."""
        call = rpc.call
        try:
            ended: Ended | None = _TOO_LATE
            with rpc.scope:
                ended = await self._answer(rpc)
            if rpc.scope.cancelled_caught:
                ended = rpc.stopped or _TOO_LATE
            if ended not in {None, WELL} and not (call.is_over or call.has_begun or rpc.is_job):
                self._book(rpc, ended.booked)
            if ended is not None and not call.is_over:
                metadata = rpc.trailing if call.has_begun else rpc.initial + rpc.trailing
                self.wire.end(call, end_of_answer(ended, metadata, is_all=not call.has_begun))
        finally:
            self.wire.close(call)
            del self._rpcs[call]
            rpc.wake()
            self._used = trio.current_time()
            self._close_if_drained()
            self.flush()

    async def _answer(self, rpc: LiveRpc) -> Ended | None:
        """Serve one call; how it ended, or None where it was no gRPC, or nobody is there."""
        head = rpc.call.head
        try:
            if not head.is_grpc:
                await self._turn_away(rpc)
                return None
            if head.fault is not None:
                return head.fault
            refusal = self._judge(head)
            if refusal is not None:
                return refused(refusal)
            what = NOTHING if rpc.method is None else rpc.method.path
            counts = rpc.method is None or rpc.method.counts
            admitted = self._terms.gate.admission.admit(
                what, head.metadata, self._peer, counts=counts
            )
            if isinstance(admitted, Refusal):
                return refused(admitted)
            rpc.visitor = admitted
            if rpc.method is None:
                return Ended(Status.UNIMPLEMENTED, f"There is no method {head.path[:200]!r}.")
            if rpc.method.relays:
                self.wire.is_relay = True
            with self._terms.gate.admission.stay(admitted, rpc.leave):
                await rpc.method.serve(rpc)
        except CallFailed as failed:
            return failed.ended
        except RequestRefused as why:
            return refused(why.refusal)
        except CallerLeft:
            return rpc.stopped
        except Exception as fault:  # noqa: BLE001 - one call's fault must not end the others
            # The text of an exception may quote a prompt; where it was raised does not.
            where = "".join(traceback.format_tb(fault.__traceback__))
            log.error("a call failed by a fault of ours: %s\n%s", type(fault).__name__, where)  # noqa: TRY400 - as above
            return _FAULTED
        return WELL

    def _judge(self, head: Head) -> Refusal | None:
        """As on HTTP. A program that names no host, or a socket's path, is no page with a rebound name."""
        origin = head.first(b"origin")
        if origin is None and _NO_HOST.match(head.authority):
            return None
        return self._terms.gate.judge(head.authority, origin)

    def _book(self, rpc: LiveRpc, refusal: Refusal) -> None:
        """A call that becomes no job. Its id is told where it had come so far as to have one."""
        request_id = dict(rpc.initial).get(b"x-request-id", b"").decode()
        # What is no method's may be anything, a key by mistake.
        path = "" if rpc.method is None else rpc.method.path
        self._terms.ledger.turn_away(turned_away(DOOR, path, refusal, request_id))

    async def _turn_away(self, rpc: LiveRpc) -> None:
        is_post = rpc.call.head.method == b"POST"
        code = Code.UNSUPPORTED_MEDIA_TYPE if is_post else Code.METHOD_NOT_ALLOWED
        self._book(rpc, Refusal(code, ""))
        status = _UNSUPPORTED_MEDIA_TYPE if is_post else _METHOD_NOT_ALLOWED
        more = [] if is_post else [(b"allow", b"POST")]
        rpc.begin([(b":status", status), (b"content-type", b"text/plain"), *more])
        if rpc.call.head.method != b"HEAD":
            await rpc.write(_NOT_GRPC)
        self.wire.end(rpc.call)
        self.flush()
        # Behind a whole answer a reset is no fault (RFC 9113, 8.1), but curl takes it for one while its
        # body is on its way. gRPC's own clients do not, and are not waited for.
        with trio.move_on_after(self._terms.patience.linger_s):
            while not rpc.call.inbox.has_ended:
                await rpc.readable.park()
