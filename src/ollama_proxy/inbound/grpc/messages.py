"""Messages with their length before them, in pieces as they come; never more of them than is allowed.

Rule 1: a length is believed only as far as it is allowed, before anything is kept for it.
Rule 2: what is kept counts, compressed and not, until the next message is taken or the call is over.
"""

import gzip
import sys
import zlib

import attrs

from ollama_proxy.inbound.bounds import TOO_MUCH_HELD
from ollama_proxy.inbound.grpc.status import CallFailed, Status

_PREFIX_BYTES = 5
_UNKNOWN = sys.maxsize
_GZIP_WINDOW = 31  # zlib's way to say: with gzip's header
_COMPRESSED = 1
WORTHWHILE_BYTES = 1024  # less is not compressed: it would hardly become less


@attrs.define
class Budget:
    """The memory that all unread messages of all connections may take, in bytes."""

    max_bytes: int
    used: int = 0

    def take(self, size: int) -> None:
        """Count bytes that are kept from now on.

        Raises:
            CallFailed: they would be too many.
        """
        if self.used + size > self.max_bytes:
            # Of all requests together: it is none that is too large.
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED,
                "Too many requests are being received; try again.",
                TOO_MUCH_HELD,
            )
        self.used += size

    def give(self, size: int) -> None:
        """They are kept no more."""
        self.used -= size


def framed(message: bytes, *, compress: bool = False) -> bytes:
    """A message with its length before it."""
    if compress and len(message) >= WORTHWHILE_BYTES:
        message = gzip.compress(message, 1)
        return b"\x01" + len(message).to_bytes(4, "big") + message
    return b"\x00" + len(message).to_bytes(4, "big") + message


@attrs.define(eq=False)
class Inbox:
    """The messages of one call that have come and were not taken yet.

    Attributes:
        has_ended: no more bytes come.
        was_compressed: the message that was taken last.
    """

    budget: Budget
    max_bytes: int
    gzip: bool
    has_ended: bool = False
    was_compressed: bool = False
    _bytes: bytearray = attrs.field(factory=bytearray)
    _taken: int = 0  # what the message that was taken last still counts
    _whole_bytes: int = _UNKNOWN  # how long the first message is, its prefix included

    def feed(self, data: bytes) -> None:
        """Keep what has come.

        Raises:
            CallFailed: it is too much.
        """
        self.budget.take(len(data))
        self._bytes += data
        self._check()

    def _check(self) -> None:
        if len(self._bytes) < _PREFIX_BYTES:
            self._whole_bytes = _UNKNOWN
            return
        size = int.from_bytes(self._bytes[1:_PREFIX_BYTES], "big")
        self._whole_bytes = _PREFIX_BYTES + size
        if size > self.max_bytes:
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED,
                f"Received message larger than max ({size} vs. {self.max_bytes}).",
            )

    @property
    def has_message(self) -> bool:
        """Whether a message is there, whole."""
        return len(self._bytes) >= self._whole_bytes

    def take(self) -> bytes | None:
        """The next message; None where it is not there yet, or there are no more.

        Raises:
            CallFailed: it is none, or too large.
        """
        if not self.has_message:
            if self.has_ended and self._bytes:
                raise CallFailed(Status.INTERNAL, "The last message is cut off.")
            return None
        self._forget()
        whole = self._whole_bytes
        flag, message = self._bytes[0], bytes(self._bytes[_PREFIX_BYTES:whole])
        del self._bytes[:whole]
        self._taken = whole
        if flag > _COMPRESSED:
            raise CallFailed(Status.INTERNAL, f"A message is marked as {flag}, which is nothing.")
        self.was_compressed = flag == _COMPRESSED
        if self.was_compressed:
            message = self._inflate(message)
        self._check()
        return message

    def _inflate(self, message: bytes) -> bytes:
        if not self.gzip:
            raise CallFailed(
                Status.INTERNAL, "A message is compressed; grpc-encoding says not how."
            )
        inflating = zlib.decompressobj(_GZIP_WINDOW)
        try:
            inflated = inflating.decompress(message, self.max_bytes + 1)
        except zlib.error:
            raise CallFailed(Status.INTERNAL, "A message is no gzip.") from None
        if len(inflated) > self.max_bytes:
            raise CallFailed(
                Status.RESOURCE_EXHAUSTED,
                f"Received message larger than max (it inflates to more than {self.max_bytes}).",
            )
        if not inflating.eof or inflating.unused_data:
            raise CallFailed(Status.INTERNAL, "A message is no whole gzip.")
        self.budget.take(len(inflated))
        self._taken += len(inflated)
        return inflated

    def _forget(self) -> None:
        self.budget.give(self._taken)
        self._taken = 0

    def close(self) -> None:
        """The call is over: nothing of it is kept."""
        self._forget()
        self.budget.give(len(self._bytes))
        self._bytes = bytearray()
