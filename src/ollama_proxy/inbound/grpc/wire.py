"""One connection without I/O: bytes in, events and bytes out, and nothing grows without bound.

What a peer may do for nothing is rationed: streams that it opens and takes back, pings, settings,
and frames that carry nothing. Whoever sends more is told ENHANCE_YOUR_CALM and cut off; nobody else
notices.
"""

import contextlib
import itertools

import attrs
import h2.events as h2e
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from ollama_proxy.inbound.grpc.engine import Engine
from ollama_proxy.inbound.grpc.messages import Budget, Inbox
from ollama_proxy.inbound.grpc.metadata import GZIP, Head, Pairs, read_head
from ollama_proxy.inbound.grpc.status import CallFailed, Ended

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NOT_HTTP2 = b"This port speaks gRPC: HTTP/2 by prior knowledge. HTTP/1.1 is at another port.\n"
_NOT_HTTP2_HEAD = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n"
)
_ANY_STREAM = 2**31 - 1
_RAPID_S = 1.0  # who waited longer than that for its answer may well have had enough
_REPLIES = 4  # frames that a reader may send for one of ours: windows, of its own and for all
_DRAINING = b"draining"  # a ping of ours; whoever answers it has seen the goodbye before it


@attrs.frozen(kw_only=True)
class WireLimits:
    """What one connection may take. Bytes, seconds.

    Attributes:
        streams: calls at once.
        message_bytes: the largest message.
        metadata_bytes: the most metadata of one call.
        stream_window: what may be on its way for one call, unread.
        connection_window: the same for all calls of a connection.
        unsent_bytes: of answers, that wait for the socket.
        replies_bytes: of all that waits for the socket: answers to pings are no answers to calls.
        resets: calls that are taken back at once, before anything of their answer was sent, or are
            beyond `streams`, in `per_s`; not of a relay.
        pings: in `per_s`, since an answer was last sent. A proxy sends one each second, for as long as an
            answer takes of which nothing comes this way.
        settings: changes of settings, in `per_s`.
        idle_frames: frames that carry nothing, in `per_s`: priorities, windows, empty data; beyond
            those that answer our own.
    """

    streams: int = 128
    message_bytes: int = 4 << 20
    metadata_bytes: int = 16 << 10
    stream_window: int = 256 << 10
    connection_window: int = 4 << 20
    unsent_bytes: int = 64 << 10
    replies_bytes: int = 1 << 20
    resets: int = 200
    pings: int = 100
    settings: int = 100
    idle_frames: int = 20_000
    per_s: float = 30.0


@attrs.define(eq=False)
class Call:
    """One call, as far as the wire knows it.

    Attributes:
        id: of its stream.
        head: what it began with.
        inbox: its messages.
        opened: when, in seconds.
        has_begun: something of the answer was sent.
        is_over: nothing more may be sent.
        was_reset: the caller took it back, or its connection is gone.
    """

    id: int
    head: Head
    inbox: Inbox
    opened: float
    has_begun: bool = False
    is_over: bool = False
    was_reset: bool = False
    unread: int = 0  # bytes for which the window was not opened again


# -- events ----------------------------------------------------------------------------------------


@attrs.frozen
class Opened:
    """A call has begun."""

    call: Call


@attrs.frozen
class Fed:
    """More of a call's messages have come, or there are no more; `failed`: it was too much."""

    call: Call
    failed: Ended | None = None


@attrs.frozen
class TakenBack:
    """A caller does not want its answer any more."""

    call: Call


@attrs.frozen
class Widened:
    """More may be sent: of one call, or, without one, of all."""

    call: Call | None


Event = Opened | Fed | TakenBack | Widened


class _Ration:
    """So many in a span of time, counted from its first."""

    def __init__(self, limit: int, per_s: float) -> None:
        self._limit, self._per_s = limit, per_s
        self._since, self._count = 0.0, 0

    def is_used_up(self, now: float) -> bool:
        """Count one; whether it was one too many."""
        if now - self._since > self._per_s:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > self._limit

    def renew(self) -> None:
        """Begin to count anew."""
        self._count = 0

    def give(self, count: int) -> None:
        """So many more are to be expected; what is not used is not kept for long."""
        self._count = max(-self._limit, self._count - count)


class Wire:
    """One connection.

    Attributes:
        calls: those that are not closed, by their streams.
        is_over: what is still to be sent is all; then the socket is closed.
        is_greeted: the peer has said that it speaks HTTP/2.
        is_draining: no more calls are taken.
        drain_was_heard: the peer has seen that.
        is_relay: the peer brings other people's requests, and takes back what they do not want. It does
            not answer for them: one of them could have everybody's connection ended.
        taken_bytes: of answers, that there was room for since the connection began.
    """

    def __init__(self, limits: WireLimits, budget: Budget) -> None:
        """Make ready."""
        self.limits = limits
        self.calls: dict[int, Call] = {}
        self.is_over = False
        self.is_greeted = False
        self.is_draining = False
        self.drain_was_heard = False
        self.is_relay = False
        self.taken_bytes = 0
        # No window is opened for less: not even all calls at once close half of the connection's so.
        self._spared_bytes = min(
            limits.stream_window // 4, limits.connection_window // (2 * limits.streams)
        )
        self._budget = budget
        self._preface = bytearray()
        self._knows_preface = False
        self._pings = _Ration(limits.pings, limits.per_s)
        self._resets = _Ration(limits.resets, limits.per_s)
        self._settings = _Ration(limits.settings, limits.per_s)
        self._idle_frames = _Ration(limits.idle_frames, limits.per_s)
        self._engine = Engine(
            max_streams=limits.streams,
            max_header_bytes=limits.metadata_bytes,
            stream_window=limits.stream_window,
            connection_window=limits.connection_window,
        )

    # -- in ----------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Read what has come.

        Args:
            data: some bytes.
            now: seconds.
        """
        if self.is_over:
            return []
        if not self._knows_preface:
            self._preface += data
            known = len(self._preface)
            if self._preface[: len(PREFACE)] != PREFACE[:known]:
                self._engine.say(_NOT_HTTP2_HEAD % len(NOT_HTTP2) + NOT_HTTP2)
                self.is_over = True
                return []
            if known < len(PREFACE):
                return []
            data, self._preface = bytes(self._preface), bytearray()
            self._knows_preface = True
        try:
            told = self._engine.receive_data(data)
        except ProtocolError:
            self.is_over = True  # h2 has put its goodbye into what is sent
            return []
        events: list[Event] = []
        for each in itertools.takewhile(lambda _: not self.is_over, told):
            self._heed(each, now, events)
        return events

    def _heed(self, event: h2e.Event, now: float, events: list[Event]) -> None:
        match event:
            case h2e.RequestReceived():
                self._open(event, now, events)
            case h2e.DataReceived():
                self._feed(event, now, events)
            case h2e.StreamEnded():
                call = self.calls.get(event.stream_id)
                if call is not None:
                    call.inbox.has_ended = True
                    events.append(Fed(call))
            case h2e.StreamReset():
                self._take_back(event.stream_id, now, events)
            case h2e.WindowUpdated():
                self._ration(self._idle_frames, now, b"too_many_windows")
                if not event.stream_id:
                    events.append(Widened(None))
                elif (call := self.calls.get(event.stream_id)) is not None:
                    events.append(Widened(call))
            case h2e.RemoteSettingsChanged():
                self.is_greeted = True
                self._ration(self._settings, now, b"too_many_settings")
                events += [Widened(call) for call in self.calls.values()]
            case h2e.PingReceived():
                self._ration(self._pings, now, b"too_many_pings")
            case h2e.PingAckReceived():
                self.drain_was_heard |= event.ping_data == _DRAINING
            case h2e.PriorityUpdated() | h2e.UnknownFrameReceived():
                self._ration(self._idle_frames, now, b"too_many_idle_frames")
            case _:
                pass  # acknowledgements, trailers, goodbyes: nothing follows from them

    def _ration(self, ration: _Ration, now: float, why: bytes) -> None:
        if ration.is_used_up(now):
            self._cut_off(why)

    def _ration_resets(self, now: float, why: bytes) -> None:
        if not self.is_relay:
            self._ration(self._resets, now, why)

    def _cut_off(self, why: bytes) -> None:
        self._engine.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM, why=why)
        self.is_over = True

    def _open(self, event: h2e.RequestReceived, now: float, events: list[Event]) -> None:
        if self.is_draining or len(self.calls) >= self.limits.streams:
            self._reset(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self._ration_resets(now, b"too_many_streams")
            return
        head = read_head(list(event.headers), max_bytes=self.limits.metadata_bytes)
        inbox = Inbox(self._budget, self.limits.message_bytes, head.encoding == GZIP)
        call = self.calls[event.stream_id] = Call(event.stream_id, head, inbox, now)
        events.append(Opened(call))

    def _feed(self, event: h2e.DataReceived, now: float, events: list[Event]) -> None:
        call = self.calls.get(event.stream_id)
        size = event.flow_controlled_length
        if not event.data and event.stream_ended is None:
            self._ration(self._idle_frames, now, b"too_many_idle_frames")
        if call is None or call.is_over:
            self._widen(event.stream_id, size)
            return
        call.unread += size
        try:
            call.inbox.feed(event.data)
        except CallFailed as failed:
            self._widen_for(call)
            events.append(Fed(call, failed.ended))
            return
        # The rest of a message may come; another one only when this one was taken.
        if not call.inbox.has_message:
            self._widen_for(call)
        events.append(Fed(call))

    def _take_back(self, stream_id: int, now: float, events: list[Event]) -> None:
        call = self.calls.get(stream_id)
        if call is None or not (call.has_begun or now - call.opened > _RAPID_S):
            self._ration_resets(now, b"too_many_resets")
        if call is not None:
            call.was_reset = call.is_over = True
            events.append(TakenBack(call))

    def _widen_for(self, call: Call) -> None:
        size, call.unread = call.unread, 0
        self._widen(call.id, size)

    def _widen(self, stream_id: int, size: int) -> None:
        if size:
            # h2 is ahead of the events that it tells: the stream may be gone.
            with contextlib.suppress(ProtocolError):
                self._engine.acknowledge_received_data(size, stream_id)

    def take_message(self, call: Call) -> bytes | None:
        """A call's next message; None where it is not there yet, or there are no more.

        Raises:
            CallFailed: it is none, or too large.
        """
        message = call.inbox.take()
        if call.unread > self._spared_bytes and not call.inbox.has_message:
            self._widen_for(call)
        return message

    # -- out ---------------------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """How much waits to be sent."""
        return self._engine.pending_bytes

    @property
    def is_flooded(self) -> bool:
        """Whether the peer should not be read before it has read what it has called forth."""
        return self.pending_bytes > self.limits.replies_bytes

    def take_output(self) -> bytes:
        """What is to be sent now; nobody else will send it.

        Not even our hello before the peer's: whoever speaks HTTP/1.1 could not read what follows.
        """
        if not (self._knows_preface or self.is_over):
            return b""
        return bytes(self._engine.data_to_send())

    def room(self) -> int:
        """How many bytes of answers may be sent now on the connection."""
        free = self.limits.unsent_bytes - self.pending_bytes
        return max(0, min(free, self._engine.outbound_flow_control_window))

    def room_for(self, call: Call) -> int:
        """How many bytes of answers may be sent now to one call's reader."""
        return max(0, self._engine.stream_window(call.id))

    def has_room(self, call: Call, size: int) -> bool:
        """Whether so many bytes of one call's answer may be sent now, in one frame."""
        return size <= self._room_in_frame(call)

    def _room_in_frame(self, call: Call) -> int:
        return min(self.room(), self.room_for(call), self._engine.max_outbound_frame_size)

    def begin(self, call: Call, headers: Pairs) -> None:
        """Send the headers of an answer."""
        call.has_begun = True
        self._pings.renew()
        with contextlib.suppress(ProtocolError):
            self._engine.send_headers(call.id, headers)

    def send(self, call: Call, data: memoryview) -> int:
        """Send as much of an answer as there is room for now; returns how much that was."""
        size = min(len(data), self._room_in_frame(call))
        if size <= 0:
            return 0
        # A PING for each burst of data is how some clients measure how far away we are.
        self._pings.renew()
        self._idle_frames.give(_REPLIES)
        try:
            self._engine.send_data(call.id, bytes(data[:size]))
        except ProtocolError:
            call.was_reset = call.is_over = True
            return 0
        self.taken_bytes += size
        return size

    def end(self, call: Call, headers: Pairs | None = None) -> None:
        """Send the end of an answer; without headers, where it is no gRPC."""
        if call.is_over:
            return
        call.is_over = True
        self._pings.renew()
        with contextlib.suppress(ProtocolError):
            if headers is None:
                self._engine.end_stream(call.id)
            else:
                self._engine.send_headers(call.id, headers, end_stream=True)

    def close(self, call: Call) -> None:
        """Forget a call."""
        if not call.is_over:
            call.is_over = True
            self._reset(call.id, ErrorCodes.INTERNAL_ERROR)
        elif not (call.inbox.has_ended or call.was_reset):
            self._reset(call.id, ErrorCodes.NO_ERROR)  # nobody reads what is still to come
        call.inbox.close()
        self._widen_for(call)
        self.calls.pop(call.id, None)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with contextlib.suppress(ProtocolError):
            self._engine.reset_stream(stream_id, code)

    # -- the connection ----------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether the peer is there."""
        with contextlib.suppress(ProtocolError):
            self._engine.ping(b"r u here")

    def warn(self) -> None:
        """Say that no more calls will be taken soon; those that are on their way still are."""
        self._engine.say_goodbye(ErrorCodes.NO_ERROR, _ANY_STREAM)
        with contextlib.suppress(ProtocolError):
            self._engine.ping(_DRAINING)

    def drain(self) -> None:
        """Take no more calls; those that there are go on."""
        if not self.is_draining:
            self.is_draining = True
            self._engine.say_goodbye(ErrorCodes.NO_ERROR)
