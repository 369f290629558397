"""Who waits for a backend, in which order.

Rule 1: order depends on priority, then arrival. Rule 2: nothing here knows the clock.
"""

from typing import Generic, Protocol, TypeVar

from ollama_proxy.policy.ask import Priority


class Waiting(Protocol):
    """What the line needs to know of whoever stands in it. Compared by identity."""

    @property
    def priority(self) -> Priority:
        """How urgent it is; constant while it waits."""


T = TypeVar("T", bound=Waiting)


class Line(Generic[T]):
    """A bounded line for one backend.

    A dict per priority rather than a heap: dicts keep arrival order, and leave from anywhere in
    constant time, which a client that hangs up while waiting does.
    """

    def __init__(self, capacity: int) -> None:
        """Open a line of at most `capacity` places."""
        self.capacity = capacity
        self._ranks: dict[Priority, dict[T, None]] = {p: {} for p in reversed(Priority)}

    def __len__(self) -> int:
        return sum(map(len, self._ranks.values()))

    def __contains__(self, who: object) -> bool:
        return any(who in rank for rank in self._ranks.values())

    @property
    def is_full(self) -> bool:
        """Whether the next one must be turned away."""
        return len(self) >= self.capacity

    @property
    def depths(self) -> dict[Priority, int]:
        """How many wait, by priority."""
        return {priority: len(rank) for priority, rank in self._ranks.items()}

    def add(self, who: T) -> None:
        """Join at the end of one's own priority."""
        self._ranks[who.priority][who] = None

    def remove(self, who: T) -> None:
        """Leave without being served; no harm if not in line."""
        self._ranks[who.priority].pop(who, None)

    def next(self) -> T | None:
        """Take the first of the most urgent."""
        for rank in self._ranks.values():
            if rank:
                who = next(iter(rank))
                del rank[who]
                return who
        return None

    def everybody(self) -> list[T]:
        """All who wait, in the order they would be served."""
        return [who for rank in self._ranks.values() for who in rank]
