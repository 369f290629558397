"""Brings lines to disk beside the traffic: nobody waits for a disk but one thread.

Rule 1: noting a choice is a line in a list of bounded size; what finds it full is lost, and counted.
Rule 2: one thread at a time writes, for one task, which gathers what came meanwhile.
Rule 3: what is lost is said once when it begins, and how much it was once it is over.

Short appending writes in the event loop were the alternative, without thread or list: they take ten
microseconds mostly, and seconds where the disk is busy with somebody else's data.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import attrs
import trio

from ollama_proxy.decisions.form import LINE_MAX
from ollama_proxy.decisions.writing import Scribe
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

log = logging.getLogger("ollama_proxy")

BUFFER_BYTES = 8 << 20
GATHER_S = 0.5  # between two writes: a thread for each line would cost more than all the rest
FAREWELL_S = 2.0


class Lines(Protocol):
    """Where lines go; as `RotatingFile`."""

    def write(self, lines: list[bytes]) -> None:
        """Append lines, and take out what got in. Raises OSError where something did not."""

    def close(self) -> None:
        """Let go of the file."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@attrs.define(eq=False)
class DecisionLog:
    """Takes choices down.

    Attributes:
        file: where to.
        lost: choices that are not in it: the disk was full, or too slow.
        time: what time it is on the wall.
    """

    file: Lines
    buffer_bytes: int = BUFFER_BYTES
    time: Callable[[], str] = _now
    lost: int = 0
    _scribe: Scribe = attrs.field(init=False)
    _waiting: list[bytes] = attrs.field(factory=list)
    _writing: list[bytes] = attrs.field(factory=list)  # the thread takes out what is on disk
    _bytes: int = 0  # of those that wait
    _some: trio.Event = attrs.field(factory=trio.Event)
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _said_lost: int | None = None  # how many were lost before; None: nothing to say

    def __attrs_post_init__(self) -> None:
        self._scribe = Scribe(self.time)

    def note(self, request_id: str, question: Question, outcome: Decision | Refusal) -> None:
        """Take one choice down; as `engine.dispatcher.Note`."""
        line = self._scribe.line(request_id, question, outcome)
        if len(line) > LINE_MAX or self._bytes + len(line) > self.buffer_bytes:
            self._lose(1, "they come faster than they can be written")
            return
        self._waiting.append(line)
        self._bytes += len(line)
        self._some.set()

    async def run(self) -> None:
        """Write what is noted, until cancelled; then, for a moment at the most, what is left."""
        try:
            while True:
                await self._some.wait()
                await trio.sleep(GATHER_S)
                await self._write()
        finally:
            with trio.move_on_after(FAREWELL_S, shield=True) as farewell:
                await self._write()
            if farewell.cancelled_caught:
                self._lose(len(self._writing), "the router ended, and the disk did not answer")
            else:
                self.file.close()
            self._tell_lost()

    async def _write(self) -> None:
        self._writing += self._waiting
        self._waiting.clear()
        self._bytes = 0
        self._some = trio.Event()
        try:
            # Left alone at the router's end: a disk that hangs must not keep the process. Who comes
            # next waits for it at the limiter, and finds in the list what it did not write.
            await trio.to_thread.run_sync(
                self.file.write, self._writing, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as error:
            self._lose(len(self._writing), error.strerror or str(error))
            self._writing.clear()
        else:
            self._tell_lost()

    def _lose(self, number: int, why: str) -> None:
        if not number:
            return
        if self._said_lost is None:
            self._said_lost = self.lost
            log.warning("the decision log loses lines: %s", why)
        self.lost += number

    def _tell_lost(self) -> None:
        """Say how many were lost, now that lines get in again."""
        if self._said_lost is not None:
            log.warning("the decision log lost %d lines", self.lost - self._said_lost)
            self._said_lost = None
