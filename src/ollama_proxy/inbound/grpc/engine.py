"""h2, mended: the only file that leans on its private names, so that a new version breaks here alone.

What it does by itself and a gRPC server must not:

* It takes a GOAWAY, the peer's or its own, for the end of every stream; streams that are under way
  must be finished (RFC 9113, 6.8).
* It ends the connection over one stream too many; only that one must be refused, with
  REFUSED_STREAM, so that its client may try it again.
* It ends the connection over one header list that is too long. The compression's state must be kept,
  so we read lists of up to eight times what we advertise, and refuse the call.
"""

from collections.abc import Iterable

import h2.config
import h2.connection
import h2.settings
import hpack
from h2.connection import ConnectionInputs, ConnectionState
from h2.events import Event
from h2.settings import SettingCodes
from h2.stream import StreamState
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, RstStreamFrame

_NO_LIMIT = 2**31 - 1
_HEADERS_SLACK = 8
_DEFAULT_WINDOW = 65535
_FOOD = {DataFrame, RstStreamFrame}
_FED = {StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL}


class _StateMachine(h2.connection.H2ConnectionStateMachine):
    _transitions = {  # noqa: RUF012 - as h2 has it
        **h2.connection.H2ConnectionStateMachine._transitions,  # noqa: SLF001 - the fault is there
        (ConnectionState.SERVER_OPEN, ConnectionInputs.RECV_GOAWAY): (
            None,
            ConnectionState.SERVER_OPEN,
        ),
    }


class _Settings(h2.settings.Settings):
    @property  # type: ignore[misc]  # nobody sets it
    def max_concurrent_streams(self) -> int:
        """What h2 enforces; what it advertises is the setting itself."""
        return _NO_LIMIT


class HeadDecoder(hpack.Decoder):
    """Reads a block of headers once where the next is the same: nearly all calls of a proxy begin alike.

    Only where its reading changed nothing that the next would be read by, and nothing did since. A table
    that takes an entry has a new first one.
    """

    def __init__(self) -> None:
        """Make ready."""
        super().__init__()
        self._block = b""
        self._read_by: tuple[object, int, int] = (None, 0, 0)
        self._headers: Iterable[hpack.HeaderTuple] = ()

    def _state(self) -> tuple[object, int, int]:
        entries = self.header_table.dynamic_entries
        return entries[0] if entries else None, len(entries), self.header_table.maxsize

    def decode(self, data: bytes, raw: bool = False) -> Iterable[hpack.HeaderTuple]:  # noqa: FBT001, FBT002 - as hpack has it
        """See `hpack.Decoder`."""
        before = self._state()
        if data == self._block and _is_same(before, self._read_by):
            return self._headers
        headers = super().decode(data, raw)
        if _is_same(before, self._state()):
            self._block, self._read_by, self._headers = bytes(data), before, headers
        return headers


def _is_same(one: tuple[object, int, int], other: tuple[object, int, int]) -> bool:
    return one[0] is other[0] and one[1:] == other[1:]


class Engine(h2.connection.H2Connection):
    """The server's end of one HTTP/2 connection."""

    def __init__(
        self, *, max_streams: int, max_header_bytes: int, stream_window: int, connection_window: int
    ) -> None:
        """Say hello: the first bytes to send are there at once."""
        super().__init__(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                # Ours are right as they are: lower-case, pseudo-headers first.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.state_machine = _StateMachine()
        self.local_settings = _Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: stream_window,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_bytes,
            },
        )
        self.decoder = HeadDecoder()
        self.decoder.max_header_list_size = _HEADERS_SLACK * max_header_bytes
        self.initiate_connection()
        self.increment_flow_control_window(connection_window - _DEFAULT_WINDOW)

    def _receive_frame(self, frame: Frame) -> list[Event]:
        """Read one: h2 writes each out for a log that nobody keeps, and that costs as much as to read it."""
        stream = self.streams.get(frame.stream_id)
        # Of a stream in another state it is not certain that it may be read at all.
        if type(frame) in _FOOD and stream is not None and stream.state_machine.state in _FED:
            events: list[Event]
            frames, events = self._frame_dispatch_table[type(frame)](frame)
            self._prepare_for_sending(frames)
            return events
        return super()._receive_frame(frame)

    def clear_outbound_data_buffer(self) -> None:
        """Keep it: h2 would throw it away when the peer says goodbye."""

    @property
    def pending_bytes(self) -> int:
        """How much waits to be sent."""
        return len(self._data_to_send)

    def say(self, data: bytes) -> None:
        """Send bytes that are no HTTP/2."""
        self._data_to_send = bytearray(data)

    def say_goodbye(self, code: int, last_stream_id: int | None = None, why: bytes = b"") -> None:
        """Send GOAWAY; streams that are under way go on.

        Args:
            code: RFC 9113, 7.
            last_stream_id: no later stream will be served; None: the last there is.
            why: for people.
        """
        last = self.highest_inbound_stream_id if last_stream_id is None else last_stream_id
        self._data_to_send += GoAwayFrame(
            0, last_stream_id=last, error_code=code, additional_data=why
        ).serialize()

    def stream_window(self, stream_id: int) -> int:
        """Bytes that the peer takes on one stream now; 0 where there is no such stream any more."""
        stream = self.streams.get(stream_id)
        return 0 if stream is None else int(stream.outbound_flow_control_window)
