"""What requests cost in joules, and how far such a figure can be trusted.

Rule 1: who pays is decided where it is measured (`policy.meter`); here is what was paid.
Rule 2: a figure never goes without its grade.
Rule 3: a device's own sensor is believed before its package's, and that before the battery's.
"""

import enum
import math
from collections.abc import Iterable, Mapping

import attrs

from ollama_proxy.policy.estimate import MODELS_MAX, Learned, fed
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Quality, Scope

WATTS_MAX = 2000.0  # no part of one machine draws more; what says so spans a suspend, or is broken
MINOR = 0.1  # a share of a request's joules that does not decide how far all of them are trusted


class Grade(enum.Enum):
    """How a figure in joules came about, the best first."""

    MEASURED = "measured"  # a card's own sensor, and no other backend was on the card
    APPORTIONED = "apportioned"  # a share of what the package, or the battery, gave to all
    ESTIMATED = "estimated"  # the owner's watts, for as long as it took


_WORST_FIRST = tuple(reversed(Grade))


@attrs.frozen
class Spent:
    """What one request cost, beyond what its part draws at rest.

    Attributes:
        joules: as far as is known now.
        grade: how they were found.
        is_final: nothing is added any more. If not, a part of them is expected, not yet measured.
    """

    joules: float
    grade: Grade
    is_final: bool = False


def spent(by_grade: Mapping[Grade, float], *, is_final: bool) -> Spent:
    """The sum of joules of several grades: trusted like the worst that is more than a minor part."""
    joules = math.fsum(by_grade.values())
    decisive = (g for g in _WORST_FIRST if g in by_grade and by_grade[g] >= MINOR * joules)
    return Spent(joules, next(decisive, Grade.ESTIMATED), is_final)


@attrs.define
class PartTotals:
    """Joules of one part, since the start: `measured` is what requests paid + the other two.

    Attributes:
        measured: all that its sensor told of.
        idle: what it would have drawn at rest.
        unattributed: what was beyond that while nobody of ours was on it.
    """

    measured: float = 0.0
    idle: float = 0.0
    unattributed: float = 0.0


@attrs.define
class Books:
    """All joules since the start. As many entries as there were backends and parts.

    Attributes:
        backends: what their requests paid, by how it was found.
        parts: where there is a sensor.
    """

    backends: dict[tuple[str, Grade], float] = attrs.field(factory=dict)
    parts: dict[str, PartTotals] = attrs.field(factory=dict)

    def charge(self, backend: str, grade: Grade, joules: float) -> None:
        """A request of a backend paid so much."""
        self.backends[backend, grade] = self.backends.get((backend, grade), 0.0) + joules

    def part(self, name: str) -> PartTotals:
        """The totals of a part, to add to."""
        return self.parts.setdefault(name, PartTotals())


@attrs.define
class Sharing:
    """What the owner's figure for a backend comes to for each who uses it.

    The figure is for the backend at work, not for each of its requests: those that overlap share
    it. What one pays is how much `each` grew meanwhile, so that coming and going costs the same
    however many there are.
    """

    watts: float = 0.0
    users: int = 0
    _each: float = 0.0
    _at: float = -math.inf

    def each(self, now: float) -> float:
        """Joules of one who was there from the first on; only differences mean something."""
        if now > self._at:
            if self.users:
                self._each += self.watts / self.users * (now - self._at)
            self._at = now
        return self._each

    def join(self, watts: float, now: float) -> float:
        """One more uses it; returns `each`. The figure is what the owner says now."""
        each = self.each(now)
        self.watts = watts
        self.users += 1
        return each

    def leave(self, now: float) -> float:
        """One less uses it; returns `each`."""
        each = self.each(now)
        self.users -= 1
        return each


@attrs.define
class JoulesPerToken:
    """What a token costs on one backend, learned by model: as `policy.estimate` learns seconds.

    The owner's watts teach nothing here: they would come back as if they had been measured.
    """

    _subjects: dict[str, Learned] = attrs.field(factory=dict)
    _any: Learned | None = None

    def observe(
        self, subject: str, joules: float, tokens: float | None, grade: Grade, now: float
    ) -> None:
        """Learn from one answer. `tokens`: of the answer; None where nobody counted them."""
        if not tokens or grade is Grade.ESTIMATED:
            return
        cost = joules / tokens
        self._subjects[subject] = fed(self._subjects.pop(subject, None), cost, now)
        self._any = fed(self._any, cost, now)
        if len(self._subjects) > MODELS_MAX:
            del self._subjects[next(iter(self._subjects))]

    def value(self, subject: str | None = None) -> float | None:
        """Joules per token of a model, or of whatever was served; None until it was measured."""
        learned = self._any if subject is None else self._subjects.get(subject)
        return learned.value if learned is not None else None


def is_usable(draw: Draw) -> bool:
    """Whether a draw tells anything that can be booked."""
    if draw.quality is not Quality.OK:
        return False
    if draw.watts is not None and not 0 <= draw.watts <= WATTS_MAX:
        return False
    if draw.joules is not None and not math.isfinite(draw.joules):
        return False
    return draw.watts is not None or draw.joules is not None


def tells_of(draw: Draw) -> str | None:
    """The part that a draw measures alone, now or when it wakes; None where it is none.

    The package's own is that of all that is built into it: a rail of it is no part.
    """
    if draw.scope is not (Scope.PACKAGE if draw.part == PACKAGE else Scope.DEVICE):
        return None
    will_tell = is_usable(draw) or draw.quality in {Quality.ASLEEP, Quality.STALE}
    return draw.part if will_tell else None


def meter_for(part: str | None, draws: Iterable[Draw]) -> Draw | None:
    """Which of a round's draws tells best what a part draws; None if none does.

    (1) the card's own, (2) the package's, for what is built into it, (3) the whole machine's. Of
    several, one whose counter moves, as some cards have one that never does. Never a sum: the
    domains that a processor tells of contain one another.
    """
    if part is None:
        return None
    usable = [draw for draw in draws if is_usable(draw)]
    of_part = [draw for draw in usable if tells_of(draw) == part]
    return min(of_part, key=_doubt, default=whole_machine(usable))


def _doubt(draw: Draw) -> tuple[bool, bool]:
    return not draw.joules, draw.watts is None


def whole_machine(draws: Iterable[Draw]) -> Draw | None:
    """The draw of a round that measures the whole machine; None if none does."""
    return next((draw for draw in draws if draw.scope is Scope.SYSTEM and is_usable(draw)), None)


def remaining(system: Draw, others: Iterable[Draw]) -> Draw:
    """What of a whole machine's draw is left for those parts that have no sensor of their own.

    Where something is taken off, its counter is of no use: the others' may stand at another moment.
    """
    known_watts = [draw.watts for draw in others if draw.watts is not None]
    if not known_watts or system.watts is None:
        return system
    return attrs.evolve(system, joules=None, watts=max(0.0, system.watts - sum(known_watts)))
