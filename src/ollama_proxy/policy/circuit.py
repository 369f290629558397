"""Whether a backend that failed lately is tried again.

Rule 1: five failures in a row open the circuit; one success closes it.
Rule 2: an open circuit lets nothing through until its time is up, then one request at a time.
Rule 3: each opening in a row doubles that time; who left, or asked for nonsense, does not count.
"""

import math

import attrs

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
_DOUBLINGS = 16  # more than enough for the longest pause; unbounded, the power overflows in days
_SHARE_WEIGHT = 0.25
_SHARE_HALF_LIFE_S = 30.0


@attrs.frozen
class Circuit:
    """The recent record of one backend.

    Attributes:
        failures: failures since the last success.
        openings: openings since the last success.
        retry_at: when the next attempt may be made; -inf while closed.
        trying: the one attempt of a half-open circuit is under way.
    """

    failures: int = 0
    openings: int = 0
    retry_at: float = -math.inf
    trying: bool = False
    _share: float = 0.0
    _share_at: float = 0.0

    def is_open(self, now: float) -> bool:
        """Whether a new request must keep away."""
        return self.openings > 0 and (self.trying or now < self.retry_at)

    def failing(self, now: float) -> float:
        """Share of recent requests that failed, 0 to 1; old failures fade."""
        return self._share * math.exp2((self._share_at - now) / _SHARE_HALF_LIFE_S)

    def tried(self) -> "Circuit":
        """A request was sent. Only a half-open circuit remembers it."""
        return attrs.evolve(self, trying=True) if self.openings else self

    def released(self) -> "Circuit":
        """A request ended and proved nothing: its caller left."""
        return attrs.evolve(self, trying=False) if self.trying else self

    def revived(self) -> "Circuit":
        """Its server was down, and is up again: it may be another one, and is tried at once."""
        return attrs.evolve(self, retry_at=-math.inf, trying=False) if self.openings else self

    def succeeded(self, now: float) -> "Circuit":
        """A request was served."""
        if not self.failures and not self._share:
            return self
        share = self.failing(now) * (1 - _SHARE_WEIGHT)
        return Circuit(share=share if share > 0.01 else 0.0, share_at=now)  # noqa: PLR2004 - one percent is nothing

    def failed(self, now: float, *, jitter: float, is_general: bool = True) -> "Circuit":
        """A request failed by the backend's fault.

        Args:
            now: seconds.
            jitter: -1 to 1, spreads the next attempts of many backends by a fifth.
            is_general: any other request would have failed too. If not, it only counts into the
                share of failures.
        """
        share = self.failing(now)
        share += _SHARE_WEIGHT * (1 - share)
        if not is_general:
            return attrs.evolve(self, trying=False, share=share, share_at=now)
        failures = self.failures + 1
        if failures < FAILURES_TO_OPEN:
            return Circuit(failures=failures, share=share, share_at=now)
        # Answers to requests sent before the opening tell nothing new: only an attempt reopens.
        if self.openings and not self.trying:
            return attrs.evolve(self, failures=failures, share=share, share_at=now)
        doubled = FIRST_PAUSE_S * 2.0 ** min(self.openings, _DOUBLINGS)
        pause = min(doubled, LONGEST_PAUSE_S) * (1 + 0.2 * jitter)
        return Circuit(
            failures=failures,
            openings=self.openings + 1,
            retry_at=now + pause,
            share=share,
            share_at=now,
        )
