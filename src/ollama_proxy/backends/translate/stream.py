"""How a streamed answer is cut into its pieces, and translated piece by piece to its end."""

import abc
from typing import Protocol

from ollama_proxy.backends.translate.reading import GarbledAnswer

LINE_MAX_BYTES = 1 << 20


class Cutter(Protocol):
    """Finds the pieces in a stream of bytes."""

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces these bytes complete. Raises GarbledAnswer when one grows too long."""

    def finish(self) -> list[bytes]:
        """What is left; a server may leave out the last line's end."""


class Lines:
    """Cuts at line ends and drops empty lines: NDJSON."""

    def __init__(self, *, keep_empty: bool = False) -> None:
        """Keep empty lines only where they mean something."""
        self._keep_empty = keep_empty
        # A list, since joining at every slice would cost the square of a long line.
        self._open: list[bytes] = []
        self._open_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines these bytes complete. See `Cutter`."""
        first, *rest = data.split(b"\n")
        self._grow(first)
        lines: list[bytes] = []
        for part in rest:
            lines.append(self._take())
            self._grow(part)
        return [line for line in lines if line or self._keep_empty]

    def finish(self) -> list[bytes]:
        """The line without an end, if there is one."""
        line = self._take()
        return [line] if line else []

    def _grow(self, part: bytes) -> None:
        self._open.append(part)
        self._open_bytes += len(part)
        if self._open_bytes > LINE_MAX_BYTES:
            raise GarbledAnswer(f"a line of its stream is longer than {LINE_MAX_BYTES} bytes")

    def _take(self) -> bytes:
        line = b"".join(self._open).rstrip(b"\r")
        self._open = []
        self._open_bytes = 0
        return line


class Events:
    r"""Cuts out the data of server-sent events: SSE.

    An error event comes out as `{"error": data}`, so that it is told like any other error. Older
    llama-servers write one as a field of its own, `error: {...}`. A lone CR does not end a line
    here: no server of this kind writes it, and it would have to be told from half a CRLF.
    """

    def __init__(self) -> None:
        """Begin between two events."""
        self._lines = Lines(keep_empty=True)
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._is_error = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events these bytes complete. See `Cutter`."""
        return self._read(self._lines.feed(data))

    def finish(self) -> list[bytes]:
        """The event that lacks its empty line, if there is one."""
        return self._read([*self._lines.finish(), b""])

    def _read(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if not line:
                events += self._take()
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"error":
                self._is_error = True
            if name == b"event":
                self._is_error = value == b"error"
            elif name in {b"data", b"error"}:
                self._data.append(value)
                self._data_bytes += len(value)
                if self._data_bytes > LINE_MAX_BYTES:
                    raise GarbledAnswer(f"an event is longer than {LINE_MAX_BYTES} bytes")
        return events

    def _take(self) -> list[bytes]:
        data, is_error = b"\n".join(self._data), self._is_error
        self._data = []
        self._data_bytes = 0
        self._is_error = False
        if not data:
            return []
        return [b'{"error":%b}' % data if is_error else data]


class Stream(abc.ABC):
    """One streamed answer on its way; see `Pieces`.

    A direction says what a piece means (`_piece`), and what to do when the bytes end before the
    answer has said that it is over (`_close`).
    """

    def __init__(self, cutter: Cutter) -> None:
        """Begin before the first byte."""
        self.tokens = 0
        self.error: str | None = None
        self._cutter = cutter
        self._is_over = False

    def feed(self, data: bytes) -> bytes:
        """Translate what these bytes complete. See `Pieces`."""
        if self._is_over:
            return b""
        return self._translate(self._cutter.feed(data))

    def finish(self) -> bytes:
        """Translate what is left. See `Pieces`."""
        if self._is_over:
            return b""
        out = self._translate(self._cutter.finish())
        if not self._is_over:
            out += self._close()
            self._is_over = True
        return out

    def _translate(self, pieces: list[bytes]) -> bytes:
        out: list[bytes] = []
        for piece in pieces:
            out.append(self._piece(piece))
            if self._is_over:
                break
        return b"".join(out)

    def _fail(self, error: str) -> bytes:
        self.error = error
        self._is_over = True
        return b""

    @abc.abstractmethod
    def _piece(self, piece: bytes) -> bytes: ...

    @abc.abstractmethod
    def _close(self) -> bytes: ...


class Unstreamed(Stream):
    """Stands where no answer may stream: vectors come whole or not at all."""

    def __init__(self) -> None:
        """Expect nothing."""
        super().__init__(Lines())

    def _piece(self, piece: bytes) -> bytes:
        raise GarbledAnswer(f"it streams what should come whole ({len(piece)} bytes)")

    def _close(self) -> bytes:
        raise GarbledAnswer("it streams what should come whole")
