"""Connections that wait for their client's next request, each for as long as any may.

All may wait equally long, so the first to come is the first to go: one task sleeps until then, and to
come and to leave is an entry in a dict. A deadline of its own for each connection, moved twice for
each request, costs a twentieth of a whole request's work.
"""

from typing import NoReturn, Protocol

import trio


class Idler(Protocol):
    """A connection with nothing to do."""

    def close_unasked(self) -> None:
        """It has waited for too long."""


class Idlers:
    """All that wait at one door."""

    def __init__(self, patience_s: float) -> None:
        """Nobody waits; `run` sends away who has waited for `patience_s`."""
        self._patience_s = patience_s
        self._until: dict[Idler, float] = {}
        self._first_came = trio.Event()

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, idler: Idler) -> bool:
        return idler in self._until

    def add(self, idler: Idler) -> None:
        """It waits from now on."""
        self._until.pop(idler, None)  # whoever was there comes after all others now
        if not self._until:
            self._first_came.set()
        self._until[idler] = trio.current_time() + self._patience_s

    def discard(self, idler: Idler) -> None:
        """It waits no more; no harm if it did not."""
        self._until.pop(idler, None)

    async def run(self) -> NoReturn:
        """Send away who has waited for too long. Until cancelled."""
        while True:
            first = next(iter(self._until), None)
            if first is None:
                self._first_came = trio.Event()
                await self._first_came.wait()
                continue
            until = self._until[first]
            if trio.current_time() < until:
                await trio.sleep_until(until)
                continue
            del self._until[first]
            first.close_unasked()
