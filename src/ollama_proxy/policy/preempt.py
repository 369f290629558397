"""Whose work is put back when a critical request finds every slot taken.

Rule 1: only best effort yields, and only to critical requests.
Rule 2: nobody is put back more than twice: a batch job under a busy voice still ends.
Rule 3: of those who may be put back, the one that began last: the least work is lost.
Rule 4: an answer that has begun is only broken into where the owner says so, and only when nobody
        who has not begun could yield instead.

The limit is where the voice pays for the batch: it waits to the end of whoever has reached it. So
the voice's 99th of a hundred is as on an idle backend where a batch job takes a twelfth of the
voice's pauses or less, and some times that where it takes half (`ollama-proxy simulate
tools/scenarios/voice-and-batch.toml` shows both; keeping a slot, or a second backend, helps then).
A higher limit would mend it at the price of work thrown away again and again.
"""

import enum
from collections.abc import Iterable
from typing import Protocol, TypeVar

PUT_BACK_MAX = 2


class Started(enum.StrEnum):
    """What becomes of a best-effort stream that has begun, when its slot is wanted."""

    KEEP = "keep"  # it goes on
    STOP = "stop"  # its caller is told so, and may ask again
    CONTINUE = "continue"  # it goes on later, where it broke off; its caller sees a pause


class Yielding(Protocol):
    """What must be known of work at a slot. `put_back`: how often it was put back already."""

    @property
    def yields(self) -> bool:
        """Whether it is best effort, still wanted, and not on its way out already."""

    @property
    def put_back(self) -> int:
        """How often it was put back."""

    @property
    def has_begun(self) -> bool:
        """Whether its caller has the first byte."""

    @property
    def is_continuable(self) -> bool:
        """Whether another attempt could go on where it breaks off."""

    @property
    def started(self) -> float:
        """When it began, in seconds."""


T = TypeVar("T", bound=Yielding)


def may_yield(work: Yielding, started: Started) -> bool:
    """Whether work at a slot may be put back, or stopped, for a critical request."""
    if not work.yields:
        return False
    if not work.has_begun:
        return work.put_back < PUT_BACK_MAX
    match started:
        case Started.KEEP:
            return False
        case Started.STOP:
            return True
        case Started.CONTINUE:
            return work.is_continuable and work.put_back < PUT_BACK_MAX


def choose_victim(running: Iterable[T], started: Started) -> T | None:
    """Who gives up a slot; None if nobody may."""
    return max(
        (work for work in running if may_yield(work, started)),
        key=lambda work: (not work.has_begun, work.started),
        default=None,
    )
