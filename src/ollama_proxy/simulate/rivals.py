"""What plain routers would have done with the same requests on the same backends.

Each has lines that are served first come, first served, without limits; none looks at priorities or
deadlines, refuses anybody, cancels, or tries again. They differ in who gets a request:

    round-robin        the backends that have its model, in turn
    least-connections  of those, the one with the fewest requests, at work and in line, to a slot
    fifo               one line for all: a backend that is free takes the first whose model it has
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from ollama_proxy.simulate.arrivals import Arrival, Kept, Traffic
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.report import Tally

_Asker = tuple[Kept, Iterator[Arrival]]
_Waiting = tuple[Arrival, float, int, _Asker | None]  # it, since when, its phase, who asks again


@attrs.define(eq=False)
class Place:
    """A backend with its line, if it has one of its own."""

    machine: Machine
    number: int
    line: deque[_Waiting] = attrs.field(factory=deque)
    held: int = 0  # at work and in line
    free: int = 0


class Rival:
    """A run of one of them. Who comes next and where it goes is the subclass's."""

    def __init__(self, traffic: Traffic, fleet: Sequence[Machine], tally: Tally) -> None:
        """Open; nothing has happened."""
        self._traffic, self._tally = traffic, tally
        self._models = [kind.model for kind in traffic.kinds]
        self.places = [
            Place(machine, number, free=machine.spec.slots) for number, machine in enumerate(fleet)
        ]
        self.able = {
            model: [place for place in self.places if model in place.machine.sizes]
            for model in set(self._models)
        }
        self._heap: list[tuple[float, int, Any, Any, Any]] = []
        self._order = itertools.count()

    def take(self, model: str, waiting: _Waiting) -> Place | None:
        """Put a request in line; returns whose line it is, or who is free."""
        raise NotImplementedError

    def next(self, place: Place) -> _Waiting | None:
        """Who is next at a backend that has a free slot."""
        return place.line.popleft() if place.line else None

    def run(self) -> None:
        """Let it all happen."""
        heap, order = self._heap, self._order
        left = self._traffic.count_kept
        until = self._traffic.until
        for kept in self._traffic.kept:
            asker = kept, kept.draw()
            for _ in range(kept.at_once):
                heapq.heappush(heap, (kept.starts_s, next(order), None, None, asker))
        arrivals = self._traffic.open()
        coming = next(arrivals, None)
        while heap or coming is not None:
            if coming is not None and (not heap or coming.at <= heap[0][0]):
                self._arrive(coming, coming.at, None)
                coming = next(arrivals, None)
                continue
            now, _, place, run, asker = heapq.heappop(heap)
            if place is not None:
                place.machine.end(run, now, in_vain=run.breaks)
                place.held -= 1
                place.free += 1
                self._serve(place, now)
            if asker is not None and left > 0 and now <= until:
                left -= 1
                self._arrive(next(asker[1]), now, asker)

    def _arrive(self, arrival: Arrival, now: float, asker: _Asker | None) -> None:
        phase = self._tally.comes(now)
        model = self._models[arrival.kind]
        if not self.able[model]:
            in_time = self._traffic.kinds[arrival.kind].limit_s < math.inf
            self._tally.turn_away(phase, "model_not_found", in_time=in_time)
            return
        place = self.take(model, (arrival, now, phase, asker))
        if place is not None and place.free:
            self._serve(place, now)

    def _serve(self, place: Place, now: float) -> None:
        waiting = self.next(place)
        if waiting is None:
            return
        arrival, at, phase, asker = waiting
        place.free -= 1
        run = place.machine.begin(arrival, self._models[arrival.kind], now)
        ends_at = run.first_at if run.breaks else run.ends_at
        heapq.heappush(self._heap, (ends_at, next(self._order), place, run, asker))
        if not run.breaks:
            self._tally.serve(
                arrival,
                at=at,
                phase=phase,
                first_at=run.first_at,
                end_at=ends_at,
                slot_s=ends_at - now,
            )
        else:
            self._tally.end("backend_failed")
            if self._traffic.kinds[arrival.kind].limit_s < math.inf:
                self._tally.keep_deadline(phase, met=False)


class RoundRobin(Rival):
    """See above."""

    def __init__(self, traffic: Traffic, fleet: Sequence[Machine], tally: Tally) -> None:
        """Begin each turn at the first."""
        super().__init__(traffic, fleet, tally)
        self._turns = {model: itertools.cycle(places) for model, places in self.able.items()}

    def take(self, model: str, waiting: _Waiting) -> Place | None:
        """See `Rival`."""
        place = next(self._turns[model])
        place.held += 1
        place.line.append(waiting)
        return place


class LeastConnections(Rival):
    """See above."""

    def take(self, model: str, waiting: _Waiting) -> Place | None:
        """See `Rival`."""
        place = min(self.able[model], key=_load)
        place.held += 1
        place.line.append(waiting)
        return place


def _load(place: Place) -> float:
    return place.held / place.machine.spec.slots


class Fifo(Rival):
    """See above. Who waits is kept by model, so that nobody looks through the line for its own."""

    def __init__(self, traffic: Traffic, fleet: Sequence[Machine], tally: Tally) -> None:
        """Begin with empty lines."""
        super().__init__(traffic, fleet, tally)
        self._lines: dict[str, deque[tuple[int, _Waiting]]] = {m: deque() for m in self.able}
        self._tickets = itertools.count()

    def take(self, model: str, waiting: _Waiting) -> Place | None:
        """See `Rival`."""
        self._lines[model].append((next(self._tickets), waiting))
        return next((place for place in self.able[model] if place.free), None)

    def next(self, place: Place) -> _Waiting | None:
        """See `Rival`."""
        first, line = math.inf, None
        for model, waiting in self._lines.items():
            if waiting and waiting[0][0] < first and model in place.machine.sizes:
                first, line = waiting[0][0], waiting
        return line.popleft()[1] if line is not None else None


RIVALS: dict[str, Callable[[Traffic, Sequence[Machine], Tally], Rival]] = {
    "round-robin": RoundRobin,
    "least-connections": LeastConnections,
    "fifo": Fifo,
}
