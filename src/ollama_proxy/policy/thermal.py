"""How hot a part of the machine is, in six words that do not flap.

Rule 1: temperature alone says at most `moderate` until it is within a few degrees of the limit;
    `severe` is evidence that the part is slowed down: throttling seen twice, an emergency flag, or
    10 s near the limit. A laptop that sits at 94 °C by design is not in trouble.
Rule 2: up when two looks in a row agree, on a temperature or on a rise to it, so that one wild
    reading changes nothing; down one level at a time, after a dwell, when it is well below.
Rule 3: no reading is not cooling. Who fell silent keeps its level for a minute, then counts as
    `moderate`; who never spoke is `unknown`, treated as `nominal` and never shown as such.
"""

import enum
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Quality, Zone

LOST_AFTER_S = 60.0
HOLD_S = 60.0
_LOOKS = 2  # in a row: one wild reading changes nothing
_SUSTAINED_S = 10.0
_THROTTLED_S = 15.0
_THROTTLED_WITHIN_C = 10.0  # throttling farther below the limit has another reason than this part's
_SMOOTHED_S = 2.0  # the time in which the smoothed temperature makes half of the way
_RISE_MAX_C_PER_S = 1.5  # a die rises faster, but not for as long as is thought on
_SAME_LOOK_S = 0.5  # a second look so soon is told the same readings
_GAP_COUNTS_S = 5.0  # at most, towards "for 10 s": nobody looked what was between


class ThermalState(enum.Enum):
    """How hot something is, after Android's levels, whose last two belong to firmware."""

    # By identity, in C: what comes along hashes the name, in a call of Python's own.
    __hash__ = object.__hash__

    NOMINAL = "nominal"
    LIGHT = "light"  # nobody feels it
    MODERATE = "moderate"  # work that can wait should not be here
    SEVERE = "severe"  # it is slowed down
    CRITICAL = "critical"  # at its limit
    UNKNOWN = "unknown"  # it never had a sensor

    @property
    def rank(self) -> int:
        """0 to 4, hotter is more; what is unknown is treated as nominal."""
        return _RANKS[self]


WARM = frozenset({
    ThermalState.LIGHT,
    ThermalState.MODERATE,
    ThermalState.SEVERE,
    ThermalState.CRITICAL,
})
_LEVELS = (
    ThermalState.NOMINAL,
    ThermalState.LIGHT,
    ThermalState.MODERATE,
    ThermalState.SEVERE,
    ThermalState.CRITICAL,
)
_RANKS = {state: rank for rank, state in enumerate(_LEVELS)} | {ThermalState.UNKNOWN: 0}


def worst(states: Iterable[ThermalState]) -> ThermalState:
    """The hottest of some states; unknown only where none of them is known."""
    return max(
        states,
        key=lambda state: (state.rank, state is not ThermalState.UNKNOWN),
        default=ThermalState.UNKNOWN,
    )


class Machine(enum.Enum):
    """What a package is built into: it says how hot it may become, where it does not say itself."""

    LAPTOP = "laptop"  # there is a battery
    DESKTOP = "desktop"
    BOARD = "board"  # a Raspberry Pi and its like


@attrs.frozen(kw_only=True)
class Thresholds:
    """What the owner says of one kind of part; None (or 0): nothing. Degrees Celsius, seconds.

    Attributes:
        warning_c: where `moderate` begins; `light` begins 10 below, `severe` half way to critical.
        critical_c: where `critical` begins.
        hysteresis_c: how far below its line a level ends.
        dwell_s: how long a level lasts at the least.
    """

    warning_c: float | None = None
    critical_c: float | None = None
    hysteresis_c: float | None = None
    dwell_s: float | None = None


@attrs.frozen(kw_only=True)
class ThermalSettings:
    """The owner's settings; None (or 0) of the first three: as the part itself says.

    Attributes:
        warning_c, critical_c, hysteresis_c, dwell_s: as in `Thresholds`, for every part.
        lookahead_s: how far the rise is thought on; 0: not at all.
        per_hardware: what is said of one kind of part goes before what is said of all.
    """

    warning_c: float | None = None
    critical_c: float | None = None
    hysteresis_c: float | None = None
    dwell_s: float = 60.0
    lookahead_s: float = 5.0
    per_hardware: Mapping[Hardware, Thresholds] = attrs.field(factory=dict)

    def of(self, hardware: Hardware) -> Thresholds:
        """What holds for a kind of part."""
        own = self.per_hardware.get(hardware, Thresholds())
        return Thresholds(
            warning_c=own.warning_c or self.warning_c,
            critical_c=own.critical_c or self.critical_c,
            hysteresis_c=own.hysteresis_c or self.hysteresis_c,
            dwell_s=own.dwell_s or self.dwell_s,
        )


@attrs.frozen
class _Row:
    """The lines of one kind of part: so many degrees below its limit.

    Attributes:
        limit_c: of a part that tells none.
        below: where light, moderate, severe and critical begin.
        clear_c: how far below its line a level ends.
        early: light and moderate begin no later for a part that tells a higher limit.
        capped: such a part is not believed at all.
    """

    limit_c: float
    below: tuple[float, float, float, float]
    clear_c: float = 8.0
    early: bool = False
    capped: bool = False


_PACKAGES = {
    Machine.LAPTOP: _Row(100.0, (20.0, 10.0, 4.0, 0.0)),
    Machine.DESKTOP: _Row(95.0, (20.0, 10.0, 4.0, 0.0)),
    # Its firmware slows down at 80 and 85, whatever trip point the device tree tells.
    Machine.BOARD: _Row(85.0, (20.0, 13.0, 5.0, 1.0), clear_c=5.0, capped=True),
}
_CARDS = {
    # A laptop's card may tell that it slows down at 102, and is held at 87 by its driver.
    Hardware.NVIDIA: _Row(93.0, (15.0, 9.0, 4.0, 0.0), early=True),
    Hardware.AMD: _Row(110.0, (20.0, 12.0, 6.0, 2.0)),
}
_OTHER = _Row(85.0, (20.0, 13.0, 5.0, 1.0), clear_c=5.0)
_LIMIT_LEAST_C, _LIMIT_MOST_C = 50.0, 130.0  # drivers tell -273 and 65261, too


@attrs.frozen(kw_only=True)
class Limits:
    """Where the levels of one part begin, degrees Celsius: light < moderate < severe < critical.

    Attributes:
        clear_c: how far below its line a level ends.
    """

    light_c: float
    moderate_c: float
    severe_c: float
    critical_c: float
    clear_c: float

    @classmethod
    def of(
        cls,
        hardware: Hardware,
        limit_c: float | None,
        settings: ThermalSettings,
        *,
        machine: Machine = Machine.DESKTOP,
    ) -> Self:
        """The limits of a part.

        Args:
            hardware: of the part: CPU is the package with all that is built into it.
            limit_c: what the part says of itself; None, or nonsense, is replaced by a default.
            settings: the owner's word goes before the part's.
            machine: what the package is built into.
        """
        row = _PACKAGES[machine] if hardware is Hardware.CPU else _CARDS.get(hardware, _OTHER)
        said = settings.of(hardware)
        if limit_c is None or not _LIMIT_LEAST_C <= limit_c <= _LIMIT_MOST_C:
            limit_c = row.limit_c
        if row.capped:
            limit_c = min(limit_c, row.limit_c)
        light, moderate, severe, critical = row.below
        if said.critical_c:
            limit_c = said.critical_c + critical
        early_c = min(limit_c, row.limit_c) if row.early else limit_c
        lines = (early_c - light, early_c - moderate, limit_c - severe, limit_c - critical)
        if said.warning_c:
            # A warning at or above what is critical for this part would never come: it comes before.
            warning_c = min(said.warning_c, lines[3] - 2.0)
            lines = (warning_c - 10.0, warning_c, (warning_c + lines[3]) / 2, lines[3])
        return cls(
            light_c=lines[0],
            moderate_c=lines[1],
            severe_c=lines[2],
            critical_c=lines[3],
            clear_c=said.hysteresis_c or row.clear_c,
        )

    def begin(self, level: ThermalState) -> float:
        """Where a level begins, degrees Celsius."""
        match level:
            case ThermalState.LIGHT:
                return self.light_c
            case ThermalState.MODERATE:
                return self.moderate_c
            case ThermalState.SEVERE:
                return self.severe_c
            case ThermalState.CRITICAL:
                return self.critical_c
            case ThermalState.NOMINAL | ThermalState.UNKNOWN:
                return -math.inf


@attrs.define
class _Streak:
    """For how many looks in a row something was so, and for how long."""

    looks: int = 0
    seconds: float = 0.0

    def look(self, is_so: bool, elapsed_s: float) -> None:  # noqa: FBT001 - one thing, so or not
        self.seconds = self.seconds + elapsed_s if is_so and self.looks else 0.0
        self.looks = self.looks + 1 if is_so else 0


class _Heading(NamedTuple):
    """Where a part stood at a look, in degrees above its critical line, and where it was heading."""

    margin: float
    smooth: float
    rise: float


def _streaks() -> dict[ThermalState, _Streak]:
    return {level: _Streak() for level in _LEVELS[1:]}


_SILENT = frozenset({Quality.STALE, Quality.ABSENT, Quality.ASLEEP, Quality.LEFT_ALONE})


@attrs.define
class Grader:
    """Grades one part of the machine from what its sensors tell, look after look.

    What is smoothed and compared is the distance to the line where `critical` begins, of the zone
    that is nearest to its own: two zones of a card have different limits, and which of them is
    nearest may change from look to look.

    Attributes:
        name: of the part, for people.
        hardware: what the part is; the package: CPU.
        settings: the owner's; may be replaced at any time.
        machine: what the package is built into; known better once a battery was seen.
        can_sleep: it loses its power when nobody uses it; else its sensors' silence is a loss.
        level: the grade.
        since: when this level began, seconds; -inf before the first look.
        hottest: the zone nearest to its limit, at the last look that told of one; None where there
            was none yet, or its sensor was lost, or sleeps.
        why: what the grade rests on, for people: "package 96 °C, limit 100 °C".
    """

    name: str
    hardware: Hardware
    settings: ThermalSettings
    machine: Machine = Machine.DESKTOP
    can_sleep: bool = False
    level: ThermalState = attrs.field(default=ThermalState.UNKNOWN, init=False)
    since: float = attrs.field(default=-math.inf, init=False)
    hottest: Zone | None = attrs.field(default=None, init=False)
    why: str = attrs.field(init=False)
    _last: _Heading | None = attrs.field(default=None, init=False)
    _streaks: dict[ThermalState, _Streak] = attrs.field(factory=_streaks, init=False)
    _throttled: _Streak = attrs.field(factory=_Streak, init=False)
    _looked_at: float = attrs.field(default=-math.inf, init=False)
    _heard_at: float = attrs.field(default=-math.inf, init=False)
    _held_until: float = attrs.field(default=-math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self.why = f"{self.name} has no sensor"

    def grade(self, zones: Sequence[Zone], now: float, *, looks_ahead: bool = True) -> ThermalState:
        """Take in one look at the part's sensors.

        Args:
            zones: those that decide about this part; stale, missing or implausible ones are none.
            now: seconds, a clock that never goes back.
            looks_ahead: whether a rise is thought on.
        """
        telling = [zone for zone in zones if zone.quality not in _SILENT]
        if any(zone.emergency for zone in telling) and self.level.rank < ThermalState.SEVERE.rank:
            self._become(ThermalState.SEVERE, now)
        elapsed_s = now - self._looked_at
        if elapsed_s < _SAME_LOOK_S:
            return self.level
        self._looked_at = now
        is_throttled = any(zone.throttling or zone.emergency for zone in telling)
        self._throttled.look(is_throttled, min(elapsed_s, _GAP_COUNTS_S))
        measured = [
            (zone.temperature_c - limits.critical_c, zone, limits)
            for zone in telling
            if zone.quality is Quality.OK and zone.temperature_c is not None
            for limits in (self._limits(zone),)
        ]
        if measured:
            margin, self.hottest, limits = max(measured, key=operator.itemgetter(0))
            self._measure(margin, limits, now, self.settings.lookahead_s if looks_ahead else 0.0)
        elif any(zone.quality is Quality.LEFT_ALONE for zone in zones):
            self._heard_at = now  # nobody looked: that is no loss, and no cooling
        elif self.can_sleep and zones and all(z.quality is Quality.ASLEEP for z in zones):
            self._rest(now)
        else:
            self._miss(now)
        return self.level

    def hold(self, now: float) -> None:
        """The machine slept: do not lower for a minute, and forget where it was heading."""
        self._held_until = now + HOLD_S
        self._heard_at = now
        self._forget()

    def _limits(self, zone: Zone) -> Limits:
        return Limits.of(self.hardware, zone.limit_c, self.settings, machine=self.machine)

    def _measure(self, margin: float, limits: Limits, now: float, lookahead_s: float) -> None:
        elapsed_s, self._heard_at = now - self._heard_at, now
        ahead = self._foreseen(margin, elapsed_s, lookahead_s)
        for level, streak in self._streaks.items():
            is_over = margin >= limits.begin(level) - limits.critical_c
            streak.look(is_over, min(elapsed_s, _GAP_COUNTS_S))
        reached = self._reached(margin, ahead + limits.critical_c, limits)
        if self.level is ThermalState.UNKNOWN:
            # One look that is hot does not prove heat, and must not be shown as cool either.
            if reached is not ThermalState.NOMINAL or not self._streaks[ThermalState.LIGHT].looks:
                self._become(reached, now)
        elif reached.rank > self.level.rank:
            self._become(reached, now)
        elif reached.rank < self.level.rank and self._is_clear(limits):
            self._lower(now)
        slowed = ", slowed down by heat" if self._throttled.looks else ""
        self.why = (
            f"{self.name} {margin + limits.critical_c:.0f} °C,"
            f" limit {limits.critical_c:.0f} °C{slowed}"
        )

    def _foreseen(self, margin: float, elapsed_s: float, lookahead_s: float) -> float:
        """Smooth the margin, and say where it will be if it goes on rising; -inf: it does not.

        Level and rise are what this look and the last agree on, so that one wild reading weighs
        nothing, and yet a rise is seen in time: to wait for a second forecast over the line would
        spend most of what looking ahead wins.
        """
        last = self._last or _Heading(margin, margin, 0.0)
        smooth = margin + (last.smooth - margin) * math.exp2(-elapsed_s / _SMOOTHED_S)
        rise = (smooth - last.smooth) / elapsed_s
        self._last = _Heading(margin, smooth, rise)
        agreed = min(rise, last.rise, _RISE_MAX_C_PER_S)
        if agreed <= 0 or lookahead_s <= 0:
            return -math.inf
        return min(smooth, last.margin) + agreed * lookahead_s

    def _reached(self, margin: float, ahead_c: float, limits: Limits) -> ThermalState:
        """The level that is proved now; what is only foreseen is moderate at most."""
        near, at_limit = self._streaks[ThermalState.SEVERE], self._streaks[ThermalState.CRITICAL]
        is_stifled = self._throttled.seconds >= _THROTTLED_S and margin >= -_THROTTLED_WITHIN_C
        if at_limit.seconds >= _SUSTAINED_S or is_stifled:
            return ThermalState.CRITICAL
        if near.seconds >= _SUSTAINED_S or self._throttled.looks >= _LOOKS:
            return ThermalState.SEVERE
        for level in (ThermalState.MODERATE, ThermalState.LIGHT):
            if self._streaks[level].looks >= _LOOKS or ahead_c >= limits.begin(level):
                return level
        return ThermalState.NOMINAL

    def _is_clear(self, limits: Limits) -> bool:
        """Whether the smoothed temperature is well below where the level begins."""
        line = limits.begin(self.level) - limits.clear_c - limits.critical_c
        return self._last is not None and self._last.smooth < line

    def _rest(self, now: float) -> None:
        """It has no power: it cools, though nothing tells so."""
        self._forget()
        self._heard_at = now
        self.hottest = None
        self.why = f"{self.name} is asleep"
        if self.level is not ThermalState.UNKNOWN:
            self._lower(now)

    def _miss(self, now: float) -> None:
        """Nothing told its temperature."""
        if self._throttled.looks:
            self._heard_at = now
            self.why = f"{self.name} is slowed down by heat"
            if self._throttled.looks >= _LOOKS and self.level.rank < ThermalState.SEVERE.rank:
                self._become(ThermalState.SEVERE, now)
        elif self.level is not ThermalState.UNKNOWN and now - self._heard_at >= LOST_AFTER_S:
            self._forget()
            self.hottest = None
            self.why = f"{self.name} lost its sensor"
            if self.level is not ThermalState.MODERATE:
                self._become(ThermalState.MODERATE, now)

    def _lower(self, now: float) -> None:
        dwell_s = self.settings.of(self.hardware).dwell_s or 0.0
        if self.level.rank and now >= max(self.since + dwell_s, self._held_until):
            self._become(_LEVELS[self.level.rank - 1], now)

    def _become(self, level: ThermalState, now: float) -> None:
        self.level, self.since = level, now

    def _forget(self) -> None:
        self._last = None
        self._streaks = _streaks()
