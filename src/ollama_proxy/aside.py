"""Brings things out beside the traffic: nobody waits for a disk or a collector but one thread.

Rule 1: handing something in is an entry in a list of bounded size; what finds it full is lost, and counted.
Rule 2: one thread at a time brings out, for one task, which gathers what came meanwhile.
Rule 3: what is lost is said once when it begins, and how much it was once it is over.

Short appending writes in the event loop were the alternative, without thread or list: they take ten
microseconds mostly, and seconds where the disk is busy with somebody else's data.
"""

import logging
from typing import Generic, Protocol, TypeVar

import attrs
import trio

log = logging.getLogger("ollama_proxy")

GATHER_S = 0.5  # between two rounds: a thread for each thing would cost more than all the rest
FAREWELL_S = 2.0
T = TypeVar("T")


class Outside(Protocol[T]):
    """Where things go. Called in a thread: it may block."""

    def write(self, things: list[T]) -> None:
        """Bring things out, and take out of the list what got there; it may grow meanwhile, at its end.

        Raises:
            OSError: what is left in the list did not, and why.
        """

    def close(self) -> None:
        """Let go of whatever is held; called in the event loop, so it must not block."""


@attrs.define(eq=False)
class Aside(Generic[T]):
    """Takes things in at once, and brings them out when there is time.

    Attributes:
        outside: where to.
        name: what this is, for the log, such as `the decision log`.
        things: what is brought out, in the plural.
        room: how much may wait: the sum of all sizes.
        lost: how many things were.
    """

    outside: Outside[T]
    name: str
    things: str
    room: int
    lost: int = 0
    _waiting: list[T] = attrs.field(factory=list)
    _going: list[T] = attrs.field(factory=list)  # the thread takes out what got there
    _size: int = 0  # of those that wait
    _some: trio.Event = attrs.field(factory=trio.Event)
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _said_lost: int | None = None  # how many were lost before; None: nothing to say

    def put(self, thing: T, size: int) -> None:
        """Hand something in."""
        if self._size + size > self.room:
            self.lose(1, "they come faster than they can be taken")
            return
        self._waiting.append(thing)
        self._size += size
        self._some.set()

    async def run(self) -> None:
        """Bring out what is handed in, until cancelled; then, for a moment at the most, what is left."""
        try:
            while True:
                await self._some.wait()
                await trio.sleep(GATHER_S)
                await self._bring()
        finally:
            with trio.move_on_after(FAREWELL_S, shield=True) as farewell:
                await self._bring()
            if farewell.cancelled_caught:
                self.lose(len(self._going), "the router ended, and nobody took them in time")
            else:
                self.outside.close()
            self._tell_lost()

    async def _bring(self) -> None:
        self._going += self._waiting
        self._waiting.clear()
        self._size = 0
        self._some = trio.Event()
        try:
            # Left alone at the router's end: a disk that hangs must not keep the process. Who comes
            # next waits for it at the limiter, and finds in the list what it did not bring out.
            await trio.to_thread.run_sync(
                self.outside.write, self._going, abandon_on_cancel=True, limiter=self._limiter
            )
        except OSError as error:
            self.lose(len(self._going), error.strerror or str(error))
            self._going.clear()
        else:
            self._tell_lost()

    def lose(self, number: int, why: str) -> None:
        """Count what is lost; the first of it is said."""
        if not number:
            return
        if self._said_lost is None:
            self._said_lost = self.lost
            log.warning("%s loses %s: %s", self.name, self.things, why)
        self.lost += number

    def _tell_lost(self) -> None:
        """Say how many were lost, now that things get out again."""
        if self._said_lost is not None:
            log.warning("%s lost %d %s", self.name, self.lost - self._said_lost, self.things)
            self._said_lost = None
