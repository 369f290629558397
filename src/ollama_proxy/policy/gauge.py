"""What was drawn between two readings, or that nobody knows.

Rule 1: a span is measured only if both its ends were read; a reading that is lost takes no zero's
place, and what a counter gained over such a gap is nobody's.
Rule 2: a counter is believed before power times time; not if it stands still while power is drawn.
Rule 3: nothing is booked twice: what was booked by power is not booked again when the counter moves.
Rule 4: a battery's power is believed while it changes now and then: what is said again and again,
from the first on or for minutes, is a driver that repeats itself.
"""

import math

import attrs

from ollama_proxy.policy.energy import WATTS_MAX, is_usable
from ollama_proxy.policy.readings import Draw, Scope

# Counters tick, and clocks jump: joules over so short a time give watts that never were.
SHORTEST_S = 0.05
# NVIDIA's counter ticks each 100 ms, and readings are repeated until there are newer ones: within
# this time a counter may stand still, and those who wait for it are told later.
STILL_MAX_S = 10.0
# Of readings farther apart, nobody could say who used what between them. Just beyond a minute: a
# card that is another's work is looked at once in so long.
LOST_AFTER_S = 90.0
# A battery tells its energy in steps of 36 J, and its power as of half a minute ago.
SYSTEM_SPAN_S = 60.0
# UPower asks a battery anew after two minutes at the latest; its last digits are never still.
REPEATS_MAX_S = 300.0
# What sensors say of power right after a resume is of before, or of waking itself.
DISTRUST_S = 15.0


@attrs.frozen
class Span:
    """A stretch of time, seconds, and what was drawn in it.

    Attributes:
        since: its begin; -inf for the first of all.
        until: its end.
        joules: None where that is not known.
        scope: whose joules they are; None where they are not known.
        is_counted: a counter told them, not samples of power.
    """

    since: float
    until: float
    joules: float | None = None
    scope: Scope | None = None
    is_counted: bool = False


@attrs.define
class Gauge:
    """Makes spans of readings. Mutable: it remembers the last.

    Attributes:
        since: the begin of the span that is not over yet.
    """

    since: float = -math.inf
    _last: Draw | None = None
    _read_at: float = -math.inf
    _pending: float = 0.0  # joules since `since`
    _still: float = 0.0  # joules by power, since the counter stands still
    _moved_at: float = -math.inf
    _is_stuck: bool = False
    _is_counted: bool = True
    _news_at: float = -math.inf  # when a reading was last another than the one before
    _trusted_from: float = -math.inf

    def is_live(self, now: float) -> bool:
        """Whether the next reading may still tell what is drawn now."""
        return self._last is not None and now - self._read_at <= LOST_AFTER_S

    def read(self, draw: Draw | None, now: float) -> Span | None:
        """Take one reading; None: it was lost.

        Returns:
            The span that ended with it; None where it goes on.
        """
        if draw is None or not is_usable(draw) or now < self._trusted_from:
            return self._begin_anew(None, now)
        last, elapsed_s = self._last, now - self._read_at
        if last is None or _sensor(last) != _sensor(draw) or elapsed_s > LOST_AFTER_S:
            return self._begin_anew(draw, now)
        if elapsed_s < SHORTEST_S:
            return None
        if (last.watts, last.joules) != (draw.watts, draw.joules):
            self._news_at = now
        self._last, self._read_at = draw, now
        if not self._add(last, draw, elapsed_s, now):
            return self._begin_anew(draw, now)
        is_open = self._still or (draw.scope is Scope.SYSTEM and now - self.since < SYSTEM_SPAN_S)
        if is_open:
            return None
        if draw.scope is Scope.SYSTEM and draw.watts and now - self._news_at > REPEATS_MAX_S:
            return self._begin_anew(draw, now)
        span = Span(self.since, now, self._pending, draw.scope, is_counted=self._is_counted)
        if self._pending > WATTS_MAX * (now - self.since):
            return self._begin_anew(draw, now)
        self.since, self._pending = now, 0.0
        self._is_counted = True
        return span

    def distrust(self, now: float) -> Span:
        """The machine slept until now: what counters gained meanwhile is nobody's."""
        self._trusted_from = now + DISTRUST_S
        return self._begin_anew(None, now)

    def _begin_anew(self, draw: Draw | None, now: float) -> Span:
        span = Span(self.since, max(now, self.since))
        self.since = self._read_at = self._moved_at = span.until
        self._last = draw
        self._pending = self._still = 0.0
        self._is_stuck = False
        self._is_counted = True
        return span

    def _add(self, last: Draw, draw: Draw, elapsed_s: float, now: float) -> bool:
        """Add what was drawn between two readings; False where that is not known."""
        by_power = None if draw.watts is None else draw.watts * elapsed_s
        rise = _rise(last, draw)
        if rise == 0 and by_power:
            self._still += by_power
            if self._is_stuck or now - self._moved_at >= STILL_MAX_S:
                self._is_stuck = True
                self._pending += self._still
                self._still = 0.0
                self._is_counted = False
            return True
        self._moved_at = now
        if rise is not None and not self._is_stuck:
            self._pending += rise
        elif by_power is not None:
            self._pending += self._still + by_power
            self._is_counted = False
        else:
            return False
        self._still = 0.0
        if rise != 0:
            self._is_stuck = False
        return True


def _sensor(draw: Draw) -> tuple[str, str, Scope]:
    return draw.name, draw.source, draw.scope


def _rise(last: Draw, draw: Draw) -> float | None:
    """What a counter gained; None without one, and where another took its place."""
    if last.joules is None or draw.joules is None or draw.joules < last.joules:
        return None
    return draw.joules - last.joules
