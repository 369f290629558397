"""What a sensor is: one device that is read, in one call, again and again."""

from typing import Protocol

import attrs

from ollama_proxy.policy.readings import Findings


class Sensor(Protocol):
    """One device. `read` blocks: it is called on a thread of its own, never twice at once."""

    @property
    def name(self) -> str:
        """What it is; the same after the kernel has numbered its devices anew."""

    @property
    def key(self) -> str:
        """What it is and where it is read: another key is another sensor to begin with."""

    @property
    def interval_s(self) -> float:
        """How often it is worth reading."""

    def read(self, now: float) -> Findings:
        """Read all of it. `now` is in seconds, the engine's clock.

        A value that cannot be read is a reading without a value; the rest is read all the same.

        Raises:
            OSError: the device itself is gone (ENOENT or ENODEV of all that was known of it).
        """

    def close(self) -> None:
        """Let go of whatever is held open (a driver's handle). It is not read again."""


@attrs.define
class Heed:
    """What sensors must know so as not to wake what they measure. The engine keeps it current.

    Attributes:
        used_at: when a request was last on a part, by its id; `inf` while one is.
        on_battery: as far as it is known.
    """

    used_at: dict[str, float] = attrs.field(factory=dict)
    on_battery: bool | None = None

    def is_used(self, part: str, now: float, *, within_s: float) -> bool:
        """Whether a request is on a part, or was lately."""
        return now - self.used_at.get(part, float("-inf")) <= within_s
