"""The last hour as lines: watts, temperatures, times to the first token, queues, battery.

A point each ten seconds. What a backend's requests cost and waited is of those ten seconds, what
sensors tell is of their end. Unknown is None, never 0.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median

import attrs

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Fact, Outcome
from ollama_proxy.inbound.figures import Values

EVERY_S = 10.0
KEPT = 360
_FIRSTS_MAX = 256  # of one backend in one point: their median is known well enough by then
_NAMED = ("temperature_c", "watts", "spent_watts", "first_ms", "waiting")

Line = Mapping[str, float | None]


@attrs.frozen(kw_only=True)
class Point:
    """What was so at one time.

    Attributes:
        at: seconds since 1970.
        temperature_c: the hottest place of each part of the machine.
        watts: what each sensor says is drawn, by its name.
        spent_watts: what each backend's requests cost, spread over the ten seconds.
        first_ms: the median time to the first token of each backend's streams that ended.
        waiting: the most that waited for each backend.
        battery_percent: charge.
    """

    at: float
    temperature_c: Line
    watts: Line
    spent_watts: Line
    first_ms: Line
    waiting: Line
    battery_percent: float | None


def columns(points: Iterable[Point]) -> Values:
    """Points as lines of equal length: what is named in one of them is None in the others."""
    kept = list(points)
    told: Values = {
        "at": [round(point.at, 1) for point in kept],
        "battery_percent": [point.battery_percent for point in kept],
    }
    for field in _NAMED:
        lines: list[Line] = [getattr(point, field) for point in kept]
        names = sorted({name for line in lines for name in line})
        told[field] = {name: [line.get(name) for line in lines] for name in names}
    return told


class Hour:
    """The points, and what the next one is made of."""

    def __init__(
        self, dispatcher: Dispatcher, climate: Climate, wall: Callable[[], float] = time.time
    ) -> None:
        """Begin with none. `look` and `book` are to be called whenever there is something new."""
        self.points: deque[Point] = deque(maxlen=KEPT)
        self._dispatcher = dispatcher
        self._climate = climate
        self._wall = wall
        self._untold = 0
        self._began = wall()
        self._waiting: dict[str, int] = {}
        self._firsts: dict[str, list[float]] = {}
        self._joules: dict[str, float] = {}

    def book(self, fact: Fact) -> None:
        """A request has ended."""
        if fact.backend is None or fact.first_s is None or not fact.stream:
            return
        firsts = self._firsts.setdefault(fact.backend, [])
        if fact.outcome is Outcome.SERVED and len(firsts) < _FIRSTS_MAX:
            firsts.append(fact.first_s)

    def look(self) -> None:
        """Some time has passed: note what is, and make a point where one is due."""
        for name, station in self._dispatcher.stations.items():
            self._waiting[name] = max(self._waiting.get(name, 0), len(station.line))
        now = self._wall()
        if self.points and 0 <= now - self.points[-1].at < EVERY_S:
            return
        self.points.append(self._point(now))
        self._untold = min(self._untold + 1, KEPT)
        self._waiting.clear()
        self._firsts.clear()
        self._began = now

    def take_untold(self) -> list[Point]:
        """The points that are new since this was asked last, oldest first."""
        untold = list(self.points)[len(self.points) - self._untold :]
        self._untold = 0
        return untold

    def _point(self, now: float) -> Point:
        found, stations = self._climate.conditions, self._dispatcher.stations
        return Point(
            at=now,
            temperature_c={
                part: round(grader.hottest.temperature_c, 1)
                for part, grader in self._climate.graders.items()
                if grader.hottest is not None and grader.hottest.temperature_c is not None
            },
            watts={d.name: round(d.watts, 2) for d in found.draws if d.watts is not None},
            spent_watts=self._spent(now),
            first_ms={
                name: round(median(firsts) * 1000, 1)
                for name, firsts in self._firsts.items()
                if firsts and name in stations
            },
            waiting={name: self._waiting.get(name, 0) for name in stations},
            battery_percent=None
            if found.battery_percent is None
            else round(found.battery_percent, 1),
        )

    def _spent(self, now: float) -> Line:
        """What was booked since the last point, as watts."""
        totals: dict[str, float] = {}
        for (backend, _), joules in self._dispatcher.meters.books.backends.items():
            totals[backend] = totals.get(backend, 0.0) + joules
        before, self._joules = self._joules, totals
        passed_s = now - self._began
        if passed_s <= 0:
            return {}
        return {
            name: round((joules - before.get(name, 0.0)) / passed_s, 2)
            for name, joules in totals.items()
            if name in self._dispatcher.stations
        }
