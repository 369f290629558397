"""How often is too often: token buckets, as many as a bound allows, each by its own name."""

from collections import OrderedDict

MOST = 4096


class Buckets:
    """A bucket for each name: it holds `burst`, and `rate` a second flow in."""

    def __init__(self, rate: float, burst: float, most: int = MOST) -> None:
        """All are full.

        Args:
            rate: of tokens, a second; > 0.
            burst: how many a full one holds, >= 1.
            most: how many buckets are remembered; those that were used longest ago are forgotten,
                which makes them full.
        """
        self.rate = rate
        self.burst = burst
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def _level(self, name: str, now: float) -> float:
        left, at = self._left.get(name, (self.burst, now))
        return min(self.burst, left + (now - at) * self.rate)

    def wait_s(self, name: str, now: float) -> float:
        """How long until there is a token; 0 where there is one."""
        return max(0.0, 1.0 - self._level(name, now)) / self.rate

    def take(self, name: str, now: float) -> float:
        """Take a token. Returns 0, or, where there was none to take, how long until there is."""
        level = self._level(name, now)
        taken = level >= 1.0
        self._left[name] = (level - 1.0 if taken else level, now)
        self._left.move_to_end(name)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0 if taken else (1.0 - level) / self.rate
