"""How hot a part of the machine is, in six words that do not flap.

Rule 1: temperature alone says at most `moderate` until it is within a few degrees of the limit;
    `severe` is evidence that the part is slowed down: throttling seen twice, an emergency flag, or
    10 s near the limit. A laptop that sits at 94 °C by design is not in trouble.
Rule 2: up after two looks in a row, so that one wild reading changes nothing; down one level at a
    time, after a dwell, when the smoothed temperature is well below.
Rule 3: no reading is not cooling. Who fell silent keeps its level for a minute, then counts as
    `moderate`; who never spoke is `unknown`, treated as `nominal` and never shown as such.
"""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Zone

LOST_AFTER_S = 60.0
HOLD_S = 60.0
SUSTAINED_S = 10.0
THROTTLED_S = 15.0
THROTTLED_WITHIN_C = 10.0


class ThermalState(enum.Enum):
    """How hot something is, after Android's levels, whose last two belong to firmware."""

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
        raise NotImplementedError


@attrs.define
class Grader:
    """Grades one part of the machine from what its sensors tell, look after look.

    Attributes:
        name: of the part, for people.
        hardware: what the part is; the package: CPU.
        settings: the owner's; may be replaced at any time.
        machine: what the package is built into.
        level: the grade.
        since: when this level began, seconds; -inf before the first look.
        hottest: the zone nearest to its limit at the last look that told one; None: there was none.
    """

    name: str
    hardware: Hardware
    settings: ThermalSettings
    machine: Machine = Machine.DESKTOP
    level: ThermalState = attrs.field(default=ThermalState.UNKNOWN, init=False)
    since: float = attrs.field(default=-math.inf, init=False)
    hottest: Zone | None = attrs.field(default=None, init=False)

    def grade(self, zones: Sequence[Zone], now: float, *, looks_ahead: bool = True) -> ThermalState:
        """Take in one look at the part's sensors.

        Args:
            zones: those that decide about this part; stale, missing or implausible ones are none.
            now: seconds, a clock that never goes back.
            looks_ahead: whether a rise is thought on.
        """
        raise NotImplementedError

    def hold(self, now: float) -> None:
        """The machine slept: do not lower for a minute, and forget where it was heading."""
        raise NotImplementedError

    @property
    def why(self) -> str:
        """What the grade rests on, for people: "package 96 °C, limit 100 °C"."""
        raise NotImplementedError
