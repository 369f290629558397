"""A part of a machine that grows warm by what computes on it: a die on its heat sink in the air.

Each of the two goes exponentially to its resistance times the watts; the part is as warm as the air
and both together. At its limit the firmware holds it there, and what starts meanwhile is slower.
"""

import math

import attrs

from ollama_proxy.simulate.conditions import PARTS
from ollama_proxy.tables import ABOVE_0, Check, within

_PAIR = Check("two numbers > 0", lambda pair: len(pair) == 2 and min(pair) > 0)  # noqa: PLR2004 - a pair


@attrs.frozen(kw_only=True)
class PartConfig:
    """A part whose temperature is computed.

    Attributes:
        name: which.
        r_k_per_w: thermal resistances of die and heat sink; together with `ambient_c` the usual
            ones make 94 °C of 28.2 W, as a Framework 13 has (tests/sensors/machines).
        tau_s: their time constants.
        ambient_c: of the air.
        limit_c: where its firmware slows it down, and what it says of itself.
        throttled_speed: share of its speed that is left then.
    """

    name: str = attrs.field(validator=Check("one of " + ", ".join(PARTS), PARTS.__contains__))
    r_k_per_w: tuple[float, ...] = attrs.field(default=(0.95, 1.5), validator=_PAIR)
    tau_s: tuple[float, ...] = attrs.field(default=(4.0, 33.0), validator=_PAIR)
    ambient_c: float = attrs.field(default=25.0, validator=within(-30, 60))
    limit_c: float = attrs.field(default=100.0, validator=within(61, 130))
    throttled_speed: float = attrs.field(default=0.5, validator=(ABOVE_0))


@attrs.define
class Body:
    """One of them, in some state. `is_throttled`: it is held at its limit."""

    given: PartConfig
    is_throttled: bool = False
    _rises: list[float] = attrs.field(factory=lambda: [0.0, 0.0])

    @property
    def degrees_c(self) -> float:
        """How warm it is."""
        return self.given.ambient_c + sum(self._rises)

    def draw(self, watts: float, elapsed_s: float) -> None:
        """It drew so many watts for so long."""
        given = self.given
        self._rises = [
            r * watts + (rise - r * watts) * math.exp(-elapsed_s / tau)
            for rise, r, tau in zip(self._rises, given.r_k_per_w, given.tau_s, strict=True)
        ]
        self.is_throttled = self.degrees_c >= given.limit_c
        if self.is_throttled:
            share = (given.limit_c - given.ambient_c) / sum(self._rises)
            self._rises = [rise * share for rise in self._rises]
