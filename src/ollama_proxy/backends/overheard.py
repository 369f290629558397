"""An answer that somebody else carries, read as it passes: how many pieces, and what its server says.

It is read as `server` reads those that come this way.
"""

from ollama_proxy.backends.backend import Report
from ollama_proxy.backends.report import read_stream, read_whole
from ollama_proxy.policy.ask import Framing

TAIL_BYTES = 65536
_FRAMINGS = {f.value.encode(): f for f in Framing} | {b"application/ndjson": Framing.NDJSON}


class Overheard:
    """One answer.

    Attributes:
        pieces: how many of a stream have come; None for a whole answer.
    """

    def __init__(self, content_type: bytes) -> None:
        """Begin, by what its head says of it."""
        framing = _FRAMINGS.get(content_type.partition(b";")[0].strip().lower())
        self._mark = b"" if framing is None else framing.mark
        self.pieces: int | None = None if framing is None else 0
        self._tail = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Read some bytes of it."""
        if self.pieces is not None:
            # One that is cut between its bytes' two halves is not counted: as on our own wire.
            self.pieces += data.count(self._mark)
        self._size += len(data)
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]

    def report(self) -> Report | None:
        """What its server says of it, once it is whole."""
        tail = bytes(self._tail)
        if self.pieces is not None:
            return read_stream(tail)
        return read_whole(tail) if len(tail) == self._size else None
