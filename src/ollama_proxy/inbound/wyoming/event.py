"""Wyoming's events in bytes: a line of JSON, then data and a payload of the lengths it names.

Law: bytes in, events out, and back; nothing here reads from anywhere, or writes.
"""

from typing import Annotated, Any, Literal

import attrs
import msgspec

LINE_MAX_BYTES = 64 << 10
DATA_MAX_BYTES = 1 << 20
PAYLOAD_MAX_BYTES = 16 << 20
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class BadEvent(Exception):  # noqa: N818 - the other end's fault, not an error of the program
    """What came is no event.

    Attributes:
        is_lost: where the next event begins cannot be told any more.
    """

    def __init__(self, message: str, *, is_lost: bool) -> None:
        """Say what is wrong with it, in a sentence for the other end."""
        super().__init__(message)
        self.is_lost = is_lost


@attrs.frozen
class Event:
    """One event. Payloads are audio, which nobody here listens to: they are left out.

    `size`: of what was read of it, in bytes as they came.
    """

    type: str
    data: dict[str, Any] = attrs.field(factory=dict)
    size: int = attrs.field(default=0, eq=False)


class _Header(msgspec.Struct):
    type: str
    data: dict[str, Any] | None = None
    data_length: Annotated[int, msgspec.Meta(ge=0, le=DATA_MAX_BYTES)] | None = None
    payload_length: Annotated[int, msgspec.Meta(ge=0, le=PAYLOAD_MAX_BYTES)] | None = None


_header = msgspec.json.Decoder(_Header)
_data = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode
_Type = Literal[
    "error",
    "handled",
    "handled-chunk",
    "handled-start",
    "handled-stop",
    "info",
    "not-handled",
    "pong",
]


def encode_event(event: _Type, data: dict[str, object] | None = None) -> bytes:
    """An event without payload. Its data follow the line: clients read no line of any length."""
    if not data:
        return b'{"type":"%b"}\n' % event.encode()
    content = _encode(data)
    return b'{"type":"%b","data_length":%d}\n%b' % (event.encode(), len(content), content)


@attrs.define
class EventReader:
    """What has come of a stream of events, and was not taken yet."""

    _buffer: bytearray = attrs.field(factory=bytearray)
    _begun: _Header | None = None  # its data are still to come
    _line_bytes: int = 0  # of the header that was read last
    _skip: int = 0  # what is still to come of the payload before

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def take(self) -> Event | None:
        """The next event; None until more bytes have come.

        Raises:
            BadEvent: it is none.
        """
        self._drop_payload()
        if self._skip:
            return None
        header = self._begun or self._take_header()
        if header is None:
            return None
        size = header.data_length or 0
        if len(self._buffer) < size:
            self._begun = header
            return None
        self._begun = None
        more = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._skip = header.payload_length or 0
        data = (header.data or {}) | (_read_data(more) if more else {})
        return Event(header.type, data, self._line_bytes + size)

    def _drop_payload(self) -> None:
        dropped = min(self._skip, len(self._buffer))
        del self._buffer[:dropped]
        self._skip -= dropped

    def _take_header(self) -> _Header | None:
        end = self._buffer.find(b"\n", 0, LINE_MAX_BYTES)
        if end < 0:
            if len(self._buffer) >= LINE_MAX_BYTES:
                message = f"An event's line has at most {LINE_MAX_BYTES >> 10} KiB."
                raise BadEvent(message, is_lost=True)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._line_bytes = end + 1
        try:
            return _header.decode(line)
        except _FAULTS as fault:
            # Its lengths are not known, so what follows may be anything.
            raise BadEvent(f"The line is not an event: {fault}.", is_lost=True) from None


def _read_data(content: bytes) -> dict[str, Any]:
    try:
        return _data.decode(content)
    except _FAULTS as fault:
        raise BadEvent(f"The event's data are not understood: {fault}.", is_lost=False) from None
