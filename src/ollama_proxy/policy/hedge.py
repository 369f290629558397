"""When a second attempt at a request is worth its work.

Rule 1: only who is in a hurry is hedged: latency-critical requests, and those with a deadline.
Rule 2: only once the first attempt is likely to miss: it has taken half as long again as expected.
Rule 3: where a deadline cannot be met by a second attempt either, there is none.
Rule 4: all second attempts together take at most a share of all work; what is not spent is saved,
        up to a few requests' worth, so that a quiet day does not pay for a storm.
"""

import attrs

from ollama_proxy.policy.ask import Wishes

OVERDUE = 1.5  # times the forecast; a fast backend's jitter is below it
OFFS = 3.0  # and so many of its usual errors, where those are larger
SAVED_MAX_S = 30.0


def hedge_at(wishes: Wishes, *, started: float, expected_s: float, off_s: float) -> float | None:
    """When to make the second attempt, if the first has brought nothing by then; None: never.

    Args:
        wishes: the caller's.
        started: when the first attempt began.
        expected_s: what was forecast for it.
        off_s: by how much such forecasts were wrong lately.
    """
    if not (wishes.latency_critical or wishes.max_latency_s is not None):
        return None
    return started + max(OVERDUE * expected_s, expected_s + OFFS * off_s)


@attrs.define
class Budget:
    """The work that second attempts may take, in seconds.

    Attributes:
        share: of all work, 0 to 1; 0 allows none.
        saved_s: what may be spent now.
    """

    share: float
    saved_s: float = 0.0

    def earn(self, work_s: float) -> None:
        """Work was begun that is no second attempt."""
        self.saved_s = min(self.saved_s + self.share * work_s, SAVED_MAX_S)

    def spend(self, work_s: float) -> bool:
        """Take the work of one second attempt, if there is as much."""
        if work_s > self.saved_s:
            return False
        self.saved_s -= work_s
        return True

    def settle(self, expected_s: float, took_s: float) -> None:
        """A second attempt has ended: what it took counts, not what was expected."""
        self.saved_s += expected_s - took_s
