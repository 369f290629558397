"""Who waits for a backend, in which order.

Rule 1: priority first; within a priority callers take turns by what they had; within a caller the
        earliest deadline, then the earliest arrival.
Rule 2: waiting counts: each `aging_s` is worth one priority. Whoever has been overtaken for that
        long goes before everybody who arrived after.
Rule 3: nothing here knows the clock, and no order changes while nobody comes or goes.

Rule 2 is kept without counting anybody's waiting: the oldest of a priority is due at its arrival
plus `aging_s` for each priority it must climb, and goes first once somebody who arrived after that
would be served instead. So whoever waits can be overtaken only by those who arrive before it is due,
which are finitely many: nobody starves. (Raising priorities by a timer was the alternative; it
needs a sweep over the line, and reorders it when nothing has happened.)

Turns are start-time fair queueing: each caller has a clock of its own that runs on by the cost of
what it was served, and the one that is furthest behind is next. Deficit round robin gives the same
shares with a quantum that must be tuned to the costs; this has none.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from ollama_proxy.policy.ask import Priority

AGING_S = 10.0


class Waiting(Protocol):
    """What the line needs to know of whoever stands in it. Constant while it waits; by identity."""

    @property
    def priority(self) -> Priority:
        """How urgent it is."""

    @property
    def arrived(self) -> float:
        """When it came, in seconds; one who is put back keeps its place by it."""

    @property
    def deadline(self) -> float:
        """When it is too late, in seconds; inf for never."""

    @property
    def client(self) -> str:
        """Who asks: those of one client share its turns."""

    @property
    def cost(self) -> float:
        """What serving it takes, in seconds, as far as is known; > 0."""


T = TypeVar("T", bound=Waiting)


class _Heap(Generic[T]):
    """People by a number, then by arrival.

    Who leaves is forgotten at once, body and all: the heap holds tickets, and drops the void ones
    when they come up, or outnumber the others.
    """

    def __init__(self, holders: dict[int, T]) -> None:
        self._entries: list[tuple[float, float, int]] = []
        self._holders = holders

    def add(self, number: float, who: T, ticket: int) -> None:
        if len(self._entries) > 2 * len(self._holders) + 64:
            self._entries = [entry for entry in self._entries if entry[2] in self._holders]
            heapq.heapify(self._entries)
        heapq.heappush(self._entries, (number, who.arrived, ticket))

    def first(self) -> T | None:
        """The least of those who are still there."""
        while self._entries:
            who = self._holders.get(self._entries[0][2])
            if who is not None:
                return who
            heapq.heappop(self._entries)
        return None


class _Rank(Generic[T]):
    """Those of one priority."""

    def __init__(self) -> None:
        self.people: dict[T, int] = {}
        self._holders: dict[int, T] = {}
        self.oldest: _Heap[T] = _Heap(self._holders)
        self._clients: dict[str, _Heap[T]] = {}
        self._turns: list[tuple[float, str]] = []
        self._clocks: dict[str, float] = {}
        self._now = 0.0

    def add(self, who: T, ticket: int) -> None:
        self.people[who] = ticket
        self._holders[ticket] = who
        self.oldest.add(who.arrived, who, ticket)
        theirs = self._clients.get(who.client)
        if theirs is None:
            theirs = self._clients[who.client] = _Heap(self._holders)
            # Who had nothing waiting has saved up no turns by it.
            self._clocks[who.client] = self._now
            heapq.heappush(self._turns, (self._now, who.client))
        theirs.add(who.deadline, who, ticket)

    def remove(self, who: T) -> None:
        ticket = self.people.pop(who, None)
        if ticket is not None:
            del self._holders[ticket]

    def next(self) -> T | None:
        """Whose turn it is; nobody is taken out."""
        while self._turns:
            clock, client = self._turns[0]
            if clock == self._clocks.get(client):
                who = self._clients[client].first()
                if who is not None:
                    return who
                del self._clients[client], self._clocks[client]
            heapq.heappop(self._turns)
        return None

    def charge(self, who: T) -> None:
        """Take one out who is served."""
        self.remove(who)
        before = self._clocks[who.client]
        self._now = max(self._now, before)
        self._clocks[who.client] = before + who.cost
        heapq.heappush(self._turns, (before + who.cost, who.client))


class Line(Generic[T]):
    """A bounded line for one backend. Coming, leaving and being served cost O(log n)."""

    def __init__(self, capacity: int, *, aging_s: float = AGING_S) -> None:
        """Open a line of at most `capacity` places."""
        self.capacity = capacity
        self.aging_s = aging_s
        self._ranks: dict[Priority, _Rank[T]] = {p: _Rank() for p in reversed(Priority)}
        self._tickets = itertools.count()

    def __len__(self) -> int:
        return sum(len(rank.people) for rank in self._ranks.values())

    def __contains__(self, who: object) -> bool:
        return any(who in rank.people for rank in self._ranks.values())

    @property
    def is_full(self) -> bool:
        """Whether the next one must be turned away."""
        return len(self) >= self.capacity

    @property
    def depths(self) -> dict[Priority, int]:
        """How many wait, by priority."""
        return {priority: len(rank.people) for priority, rank in self._ranks.items()}

    def add(self, who: T) -> None:
        """Join, or come back to one's old place."""
        self._ranks[who.priority].add(who, next(self._tickets))

    def remove(self, who: T) -> None:
        """Leave without being served; no harm if not in line."""
        self._ranks[who.priority].remove(who)

    def next(self) -> T | None:
        """Take the one who is to be served now."""
        who = self.peek()
        if who is not None:
            self._ranks[who.priority].charge(who)
        return who

    def peek(self) -> T | None:
        """See who is to be served now."""
        chosen: T | None = None
        for rank in self._ranks.values():
            chosen = rank.next()
            if chosen is not None:
                break
        if chosen is None:
            return None
        due = min(self._dues(chosen.priority), key=lambda pair: pair[0], default=None)
        if due is not None and due[0] < chosen.arrived:
            return due[1]
        return chosen

    def _dues(self, highest: Priority) -> Iterator[tuple[float, T]]:
        """The oldest of each priority, and when it went before all who come after."""
        for priority, rank in self._ranks.items():
            oldest = rank.oldest.first()
            if oldest is not None:
                climbs = max(1, highest - priority)
                yield oldest.arrived + climbs * self.aging_s, oldest

    def everybody(self) -> list[T]:
        """All who wait: by priority, then by arrival."""
        return sorted(
            (who for rank in self._ranks.values() for who in rank.people),
            key=lambda who: (-who.priority, who.arrived),
        )
