"""Energy counters: they never go back here, whatever a driver does to them, and tell mean watts."""

import attrs

SHORTEST_S = 0.05  # below it, a counter's own ticks make absurd watts
LONGEST_S = 120.0  # beyond it, the machine slept, or nobody looked: a mean says nothing of now


@attrs.define
class Counter:
    """A counter of joules without its resets."""

    _joules: float = 0.0
    _last: float | None = None
    _at: float = 0.0

    def advance(self, joules: float, now: float) -> tuple[float, float | None]:
        """What was counted since the first reading, and the mean watts since the last one.

        What a driver counted between its reset and now is not added: a counter that fell and came
        back would count its whole past anew.
        """
        watts = None
        if self._last is not None and joules >= self._last:
            gained, passed_s = joules - self._last, now - self._at
            self._joules += gained
            if SHORTEST_S <= passed_s <= LONGEST_S:
                watts = gained / passed_s
        self._last, self._at = joules, now
        return self._joules, watts
