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

    # By identity, in C: what comes along hashes the name, in a call of Python's own.
    __hash__ = object.__hash__

    MEASURED = "measured"  # a card's own counter, and no other backend was on the card
    APPORTIONED = "apportioned"  # a share of what the package or the battery gave, or of samples
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
class Appetite:
    """What one backend takes beyond rest, learned by model: as `policy.estimate` learns seconds.

    Watts are those of a request from its begin to its end. Of joules a token and tokens a second
    they could only be made where prompts cost nothing: the joules of a token hold its share of
    the prompt, its seconds do not.

    The owner's watts teach nothing here: they would come back as if they had been measured.
    """

    _token_j: dict[str, Learned] = attrs.field(factory=dict)
    _watts: dict[str, Learned] = attrs.field(factory=dict)
    _any_token_j: Learned | None = None
    _any_watts: Learned | None = None

    def observe(
        self,
        subject: str,
        joules: float,
        grade: Grade,
        now: float,
        *,
        seconds: float,
        tokens: float | None = None,
    ) -> None:
        """Learn from one answer.

        Args:
            subject: its model, mostly.
            joules: what it cost.
            grade: how they were found.
            now: seconds.
            seconds: how long it took.
            tokens: of the answer; None where nobody counted them.
        """
        if grade is Grade.ESTIMATED:
            return
        if seconds >= SHORTEST_S:
            watts = joules / seconds
            _feed(self._watts, subject, watts, now)
            self._any_watts = fed(self._any_watts, watts, now)
        if tokens:
            _feed(self._token_j, subject, joules / tokens, now)
            self._any_token_j = fed(self._any_token_j, joules / tokens, now)

    def token_j(self, subject: str | None = None) -> float | None:
        """Joules per token of a model, or of whatever was served; None until they were measured."""
        return _known(self._any_token_j if subject is None else self._token_j.get(subject))

    def watts(self, subject: str | None = None) -> float | None:
        """Watts at such work, or at any; None until they were measured."""
        return _known(self._any_watts if subject is None else self._watts.get(subject))


SHORTEST_S = 0.05  # what is shorter is shorter than sensors can tell apart


def _feed(table: dict[str, Learned], subject: str, value: float, now: float) -> None:
    table[subject] = fed(table.pop(subject, None), value, now)
    if len(table) > MODELS_MAX:
        del table[next(iter(table))]


def _known(learned: Learned | None) -> float | None:
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


_WILL_TELL = {Quality.ASLEEP, Quality.STALE, Quality.LEFT_ALONE}


def tells_of(draw: Draw) -> str | None:
    """The part that a draw measures alone, now or when it wakes; None where it is none.

    The package's own is that of all that is built into it: a rail of it is no part.
    """
    if draw.scope is not (Scope.PACKAGE if draw.part == PACKAGE else Scope.DEVICE):
        return None
    will_tell = is_usable(draw) or draw.quality in _WILL_TELL
    return draw.part if will_tell else None


def meter_for(part: str | None, draws: Iterable[Draw]) -> Draw | None:
    """Which of a round's draws tells best what a part draws; None if none does.

    (1) the card's own, (2) the package's, for what is built into it, (3) the whole machine's. Of
    several sources, one whose counter moves, as some cards have one that never does. A sum only over
    the packages that one source tells of: what different sources tell of contains one another.
    """
    if part is None:
        return None
    usable = [draw for draw in draws if is_usable(draw)]
    of_part = [draw for draw in usable if tells_of(draw) == part]
    best = min(of_part, key=_doubt, default=whole_machine(usable))
    if best is None or part != PACKAGE or best.scope is not Scope.PACKAGE:
        return best
    packages = [d for d in of_part if d.source == best.source and "package" in d.name]
    return _together(packages) if packages else best


def _together(packages: list[Draw]) -> Draw:
    """Several packages as one."""
    if len(packages) == 1:
        return packages[0]
    return attrs.evolve(
        packages[0],
        name=" + ".join(sorted(draw.name for draw in packages)),
        watts=_sum(draw.watts for draw in packages),
        joules=_sum(draw.joules for draw in packages),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else math.fsum(v for v in known if v is not None)


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
