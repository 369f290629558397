"""Who waits for a backend, in which order.

Rule 1: priority first; within a priority callers take turns by what they had; within a caller the
        earliest deadline, then the earliest arrival.
Rule 2: waiting counts: each `aging_s` is worth one priority. Whoever has been overtaken for that
        long is due, and goes before everybody who arrived after.
Rule 3: but at most `OVERTAKES_MAX` others in a row go before whoever is due, and so many may: a flood
        that has waited long is due to its last request, and would else be served in one piece
        before the single request of another client, or a voice's.
Rule 4: nothing here knows the clock, and no order changes while nobody comes or goes.

Rule 2 is kept without counting anybody's waiting: the oldest of a priority is due at its arrival
plus `aging_s` for each priority it must climb, and goes first once somebody who arrived after that
would be served instead, or after the eight who may go before it. So whoever waits can be overtaken
only by those who arrive before it is due, which are finitely many, and by eight for each of those
and for itself: nobody starves. (Raising priorities by a timer was the alternative; it needs a sweep
over the line, and reorders it when nothing has happened.)

Turns are start-time fair queueing: each caller has a clock of its own that runs on by the cost of
what it was served, and the one that is furthest behind is next. Deficit round robin gives the same
shares with a quantum that must be tuned to the costs; this has none.
"""

import heapq
import itertools
import math
from typing import Generic, Protocol, TypeVar

from ollama_proxy.policy.ask import Priority

AGING_S = 10.0
OVERTAKES_MAX = 8


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

    def clear(self) -> None:
        """Forget the void tickets; there are no others."""
        self._entries.clear()

    def first(self) -> T | None:
        """The least of those who are still there."""
        while self._entries:
            who = self._holders.get(self._entries[0][2])
            if who is not None:
                return who
            heapq.heappop(self._entries)
        return None


class _Rank(Generic[T]):
    """Those of one priority.

    Attributes:
        people: who waits, with the ticket and the cost that each came with.
        cost_s: the sum of their costs.
        oldest: they by their arrival.
    """

    def __init__(self) -> None:
        self.people: dict[T, tuple[int, float]] = {}
        self.cost_s = 0.0
        self._holders: dict[int, T] = {}
        self.oldest: _Heap[T] = _Heap(self._holders)
        self._clients: dict[str, _Heap[T]] = {}
        self._counts: dict[str, int] = {}
        self._turns: list[tuple[float, str]] = []
        self._clocks: dict[str, float] = {}
        self._now = 0.0

    def add(self, who: T, ticket: int, patience_s: float) -> None:
        """Let one join. Who has no deadline has one by its patience, or hurried ones would push it back."""
        client, cost_s = who.client, who.cost
        self.people[who] = ticket, cost_s
        self.cost_s += cost_s
        self._holders[ticket] = who
        self._counts[client] = self._counts.get(client, 0) + 1
        self.oldest.add(who.arrived, who, ticket)
        theirs = self._clients.get(client)
        if theirs is None:
            theirs = self._clients[client] = _Heap(self._holders)
            # Who had nothing waiting has saved up no turns by it.
            self._clocks[client] = self._now
            heapq.heappush(self._turns, (self._now, client))
        theirs.add(min(who.deadline, who.arrived + patience_s), who, ticket)

    def remove(self, who: T) -> bool:
        """Let one go; false if it was not here."""
        held = self.people.pop(who, None)
        if held is None:
            return False
        ticket, cost_s = held
        del self._holders[ticket]
        # Sums of many small numbers drift; of none, the sum is known.
        self.cost_s = max(0.0, self.cost_s - cost_s) if self.people else 0.0
        left = self._counts[who.client] - 1
        if left:
            self._counts[who.client] = left
        else:
            del self._counts[who.client]
            if not self.people:
                # Nobody is owed anything any more; callers choose the names that are kept here.
                self.oldest.clear()
                self._clients.clear()
                self._clocks.clear()
                self._turns.clear()
                self._now = 0.0
        return True

    def next(self) -> T | None:
        """Whose turn it is; nobody is taken out."""
        if not self.people:
            return None
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
        client, (_, cost_s) = who.client, self.people[who]
        self.remove(who)
        if self.people:
            before = self._clocks[client]
            self._now = max(self._now, before)
            after = self._clocks[client] = before + cost_s
            heapq.heappush(self._turns, (after, client))

    def turns_ahead_s(self, client: str) -> float:
        """What is served before one more of this client, if they take turns: all at the most."""
        waiting = len(self.people)
        if not waiting:
            return 0.0
        own = self._counts.get(client, 0)
        others = len(self._counts) - (own > 0)
        return min(self.cost_s, self.cost_s / waiting * (own + others * (own + 1)))


class Line(Generic[T]):
    """A bounded line for one backend. Coming, leaving and being served cost O(log n)."""

    def __init__(self, capacity: int, *, aging_s: float = AGING_S) -> None:
        """Open a line of at most `capacity` places."""
        self.capacity = capacity
        self.aging_s = aging_s
        self._ranks: list[_Rank[T]] = [_Rank() for _ in Priority]
        self._tickets = itertools.count()
        self._count = 0
        self._run = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, who: object) -> bool:
        return any(who in rank.people for rank in self._ranks)

    def is_full_for(self, priority: Priority) -> bool:
        """Whether one of this priority must be turned away.

        Only those who would be served before it, or with it, count: whoever is less urgent would
        else keep the urgent ones out by their number.
        """
        if self._count < self.capacity:
            return False
        return sum(len(rank.people) for rank in self._ranks[priority:]) >= self.capacity

    @property
    def depths(self) -> dict[Priority, int]:
        """How many wait, by priority."""
        return {priority: len(self._ranks[priority].people) for priority in Priority}

    def depth(self, priority: Priority) -> int:
        """How many of one priority wait."""
        return len(self._ranks[priority].people)

    def ahead_s(self, priority: Priority, client: str) -> float:
        """The work, in seconds, that is served before one more of this priority and client."""
        if not self._count:
            return 0.0
        ahead_s = self._ranks[priority].turns_ahead_s(client)
        for rank in self._ranks[priority + 1 :]:
            ahead_s += rank.cost_s
        return ahead_s

    def add(self, who: T) -> None:
        """Join, or come back to one's old place."""
        self._ranks[who.priority].add(who, next(self._tickets), self.aging_s)
        self._count += 1

    def remove(self, who: T) -> None:
        """Leave without being served; no harm if not in line."""
        if self._ranks[who.priority].remove(who):
            self._leave()

    def _leave(self) -> None:
        """One fewer waits; where nobody does, nobody was passed over."""
        self._count -= 1
        if not self._count:
            self._run = 0

    def next(self, least: Priority = Priority.BEST_EFFORT) -> T | None:
        """Take the one of `least` priority or more who is to be served now."""
        who, overtakes = self._pick(least)
        if who is None:
            return None
        if least is Priority.BEST_EFFORT:  # in a line for the critical alone nobody is passed over
            self._run = self._run + 1 if overtakes else 0
        self._ranks[who.priority].charge(who)
        self._leave()
        return who

    def peek(self, least: Priority = Priority.BEST_EFFORT) -> T | None:
        """See who is to be served now."""
        return self._pick(least)[0]

    def _pick(self, least: Priority) -> tuple[T | None, bool]:
        """Who is to be served now, and whether somebody who is due is passed over by rule 3."""
        if not self._count:
            return None, False
        chosen: T | None = None
        for rank in reversed(self._ranks[least:]):
            chosen = rank.next()
            if chosen is not None:
                break
        if chosen is None:
            return None, False
        due_at, due = self._due(chosen.priority, least)
        if due is None or due_at >= chosen.arrived:
            return chosen, False
        if self._run < OVERTAKES_MAX:
            return chosen, True
        return due, False

    def _due(self, highest: Priority, least: Priority) -> tuple[float, T | None]:
        """Whoever goes first before all who come after, of the oldest of each priority; and when."""
        due_at, due = math.inf, None
        for priority in range(least, highest + 1):
            rank = self._ranks[priority]
            oldest = rank.oldest.first() if rank.people else None
            if oldest is not None:
                at = oldest.arrived + max(1, highest - priority) * self.aging_s
                if at < due_at:
                    due_at, due = at, oldest
        return due_at, due

    def foremost(self, number: int) -> list[T]:
        """So many of those who wait, the most urgent and then the earliest to come first."""
        ranks = reversed(self._ranks)
        return list(
            itertools.islice(itertools.chain.from_iterable(r.people for r in ranks), number)
        )

    def everybody(self) -> list[T]:
        """All who wait: by priority, then by arrival."""
        return sorted(
            (who for rank in self._ranks for who in rank.people),
            key=lambda who: (-who.priority, who.arrived),
        )
