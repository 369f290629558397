"""How much more of something there is an hour later, from looks at it while nothing happens.

The slope is Theil's and Sen's: the median of those between all pairs of looks. A least-squares line
through a resident size would be pulled by the one look that a garbage collection preceded.
"""

from collections.abc import Sequence
from statistics import median

import attrs

HOUR_S = 3600.0
JUDGED_FROM_S = 1800.0
MOST_BYTES_PER_HOUR = float(1 << 20)


@attrs.frozen(kw_only=True)
class Look:
    """What there was at a time, in seconds of any clock."""

    at: float
    memory_bytes: int
    blocks: int
    descriptors: int
    tasks: int


def per_hour(points: Sequence[tuple[float, float]]) -> float:
    """The growth an hour of what was (when, how much); 0 where there is but one look."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for at, earlier in enumerate(points)
        for later in points[at + 1 :]
    ]
    return median(slopes) * HOUR_S if slopes else 0.0


@attrs.frozen(kw_only=True)
class Growth:
    """Each an hour, and from how long a time that was learned.

    Attributes:
        blocks: of the interpreter's own, which are not judged: where they stay and memory does not,
            it is the heap that scatters, and nothing that is kept.
    """

    memory_bytes: float
    blocks: float
    descriptors: float
    tasks: float
    seen_s: float

    @classmethod
    def of(cls, looks: Sequence[Look]) -> "Growth":
        """What the looks tell; there is at least one."""
        return cls(
            memory_bytes=per_hour([(each.at, each.memory_bytes) for each in looks]),
            blocks=per_hour([(each.at, each.blocks) for each in looks]),
            descriptors=per_hour([(each.at, each.descriptors) for each in looks]),
            tasks=per_hour([(each.at, each.tasks) for each in looks]),
            seen_s=looks[-1].at - looks[0].at,
        )

    @property
    def is_judged(self) -> bool:
        """Whether it was seen for long enough that an hour's growth follows from it."""
        return self.seen_s >= JUDGED_FROM_S

    @property
    def is_kept(self) -> bool:
        """Whether it is within the promise."""
        return (
            self.memory_bytes <= MOST_BYTES_PER_HOUR and self.descriptors <= 0 and self.tasks <= 0
        )

    def told(self) -> str:
        """In a line."""
        return (
            f"growth an hour, from {self.seen_s / 60:.1f} minutes after warming up: memory"
            f" {self.memory_bytes / 2**20:+.2f} MiB (at most +1; {self.blocks:+.0f} blocks in use), descriptors"
            f" {self.descriptors:+.1f}, tasks {self.tasks:+.1f} (at most 0)"
        )
