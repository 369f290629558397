"""How often is too often: token buckets, one for whoever it is, or as many as a bound allows by name."""

import math
from collections import OrderedDict

import attrs

MOST = 4096


@attrs.define
class Bucket:
    """It holds `burst` tokens, and `rate` a second flow in; at first it is full.

    Attributes:
        rate: of tokens, a second; > 0.
        burst: how many a full one holds, >= 1.
    """

    rate: float
    burst: float
    _left: float = 0.0
    _at: float = -math.inf

    def _level(self, now: float) -> float:
        # A wall clock may go back; nothing flows out by that.
        return min(self.burst, self._left + max(0.0, now - self._at) * self.rate)

    def wait_s(self, now: float) -> float:
        """How long until there is a token; 0 where there is one."""
        return max(0.0, 1.0 - self._level(now)) / self.rate

    def take(self, now: float) -> float:
        """Take a token. Returns 0, or, where there was none to take, how long until there is."""
        level = self._level(now)
        taken = level >= 1.0
        self._left, self._at = level - 1.0 if taken else level, now
        return 0.0 if taken else (1.0 - level) / self.rate


class Buckets:
    """A bucket for each name."""

    def __init__(self, rate: float, burst: float, most: int = MOST) -> None:
        """All are full.

        Args:
            rate: of each, as a bucket has it.
            burst: the same.
            most: how many buckets are remembered; those that were used longest ago are forgotten,
                which makes them full.
        """
        self.rate = rate
        self.burst = burst
        self._most = most
        self._known: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def wait_s(self, name: str, now: float) -> float:
        """How long until there is a token; 0 where there is one."""
        bucket = self._known.get(name)
        return 0.0 if bucket is None else bucket.wait_s(now)

    def take(self, name: str, now: float) -> float:
        """Take a token. Returns 0, or, where there was none to take, how long until there is."""
        bucket = self._known.get(name)
        if bucket is None:
            bucket = self._known[name] = Bucket(self.rate, self.burst)
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return bucket.take(now)
