"""One answer on its way from the task that has it to the task that sends it.

Nothing is kept between the two: a piece is handed over when it is asked for, so that a client that
reads slowly slows its backend, and one that left is noticed at the next piece.
"""

from collections.abc import Callable
from typing import NamedTuple, Self

import trio
from quart import Response

from ollama_proxy.engine.job import CallerLeft, Head
from ollama_proxy.inbound.answers import Headers
from ollama_proxy.inbound.http.replies import HeldBody, reply
from ollama_proxy.policy.refusal import Code, Refusal

_WITHDRAWN = Refusal(Code.SHUTTING_DOWN, "The request was withdrawn.", retry_after_s=1.0)


class AnswerCut(Exception):  # noqa: N818 - no error of the program: what tells the server to hang up
    """An answer that was begun cannot be finished; only a broken connection can say so."""


class Piece(NamedTuple):
    """Bytes of a body; `complete` says that they are the last."""

    data: bytes
    complete: bool


class Pipe:
    """Has two ends: `begin`, `write`, `refuse`, `end` for the one task, `take` for the other.

    Attributes:
        head: the answer's head; there as soon as a piece was taken.
        is_complete: the last piece was taken.
    """

    head: Head

    def __init__(self) -> None:
        """Open."""
        self.is_complete = False
        self._refusal = _WITHDRAWN
        self._in, self._out = trio.open_memory_channel[Piece](0)

    async def begin(self, head: Head, first: bytes, *, complete: bool) -> None:
        """Hand over the head with the first bytes. Raises CallerLeft."""
        self.head = head
        await self.write(first, complete=complete)

    async def write(self, data: bytes, *, complete: bool) -> None:
        """Hand over one piece. Raises CallerLeft."""
        try:
            await self._in.send(Piece(data, complete))
        except trio.BrokenResourceError as error:
            raise CallerLeft from error

    def refuse(self, refusal: Refusal) -> None:
        """Say why there is nothing, or nothing more; `end` follows."""
        self._refusal = refusal

    def end(self) -> None:
        """No piece will follow."""
        self._in.close()

    async def take(self) -> Piece | Refusal:
        """Wait for the next piece; a refusal where there is none though the last was not complete."""
        try:
            piece = await self._out.receive()
        except trio.EndOfChannel:
            return self._refusal
        self.is_complete = piece.complete
        return piece

    def close(self) -> None:
        """Nobody takes any more."""
        self._out.close()


class _PipedBody(HeldBody):
    """What is left of an answer after its first piece."""

    def __init__(
        self, pipe: Pipe, first: bytes, last_words: Callable[[Refusal, bytes], bytes] | None
    ) -> None:
        self._pipe = pipe
        self._first = first
        self._last = first
        self._last_words = last_words
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        while not self._ended and not self._pipe.is_complete:
            piece = await self._pipe.take()
            if isinstance(piece, Refusal):
                if self._last_words is None:
                    raise AnswerCut(piece.message)
                self._ended = True
                return self._last_words(piece, self._last)
            if piece.data:
                self._last = piece.data
                return piece.data
        raise StopAsyncIteration


def piped_reply(
    pipe: Pipe, first: bytes, more: Headers, last_words: Callable[[Refusal, bytes], bytes] | None
) -> Response:
    """Answer with what comes through a pipe.

    Args:
        pipe: of which the first piece was taken.
        first: that piece's bytes.
        more: headers besides those of the answer's head.
        last_words: makes the last piece of an answer that breaks off, of the refusal and the piece
            before; None breaks the connection.
    """
    head = pipe.head
    headers = [*head.headers, *more]
    if pipe.is_complete:
        return reply(first, head.status, headers)
    if head.length is not None:
        headers.append((b"content-length", b"%d" % head.length))
    return reply(_PipedBody(pipe, first, last_words), head.status, headers)
