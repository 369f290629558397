"""The workers of one backend: as many as were ever needed at once, at most one for each slot."""

from typing import Protocol

import trio

from ollama_proxy.engine.attempt import Attempt


class Crew(Protocol):
    """Who does the work that a station hands out."""

    def give(self, attempt: Attempt, at_work: int) -> None:
        """Let somebody make an attempt, one of `at_work` now. There is a slot; never blocks."""

    def close(self) -> None:
        """Send everybody home, once they are idle."""


class Work(Protocol):
    """A worker's life: make attempts from the channel until it closes."""

    async def __call__(self, attempts: trio.MemoryReceiveChannel[Attempt]) -> None:
        """Serve."""


class Workers:
    """Tasks in a nursery, fed by a channel. They are started when first needed."""

    def __init__(self, nursery: trio.Nursery, work: Work, *, slots: int, name: str) -> None:
        """Let workers live in `nursery`."""
        self._nursery, self._work, self._name = nursery, work, name
        self._workers = 0
        # As many places as slots: an attempt is only given when a slot is free.
        self._into, self._out_of = trio.open_memory_channel[Attempt](slots)

    def give(self, attempt: Attempt, at_work: int) -> None:
        """See `Crew`."""
        if at_work > self._workers:
            self._workers += 1
            self._nursery.start_soon(self._work, self._out_of.clone(), name=f"worker {self._name}")
        self._into.send_nowait(attempt)

    def close(self) -> None:
        """See `Crew`."""
        self._into.close()
        self._out_of.close()
