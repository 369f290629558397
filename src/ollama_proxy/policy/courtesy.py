"""What the desktop is asked for while requests run: a faster profile, and no sleep just yet.

Rule 1: the profile "performance" while a critical request is at a backend, where the owner allows it.
Rule 2: no sleep while a stream is at a backend; who puts the machine to sleep is kept waiting for
        `GRACE_S` at the most, in which a short answer ends.
"""

from collections.abc import Iterable

import attrs

from ollama_proxy.policy.ask import Priority

GRACE_S = 0.7


@attrs.frozen(kw_only=True)
class CourtesySettings:
    """What the owner allows."""

    hold_performance: bool = False
    inhibit_sleep: bool = True


@attrs.frozen(kw_only=True)
class Wants:
    """What is wanted of the desktop now."""

    performance: bool = False
    awake: bool = False


def decide(
    running: Iterable[tuple[Priority, bool]],
    settings: CourtesySettings,
    *,
    sleeping_s: float | None,
) -> Wants:
    """What is wanted now.

    Args:
        running: of each request at a backend its priority, and whether it streams.
        settings: the owner's.
        sleeping_s: for how long the machine has been about to sleep; None: it is not.
    """
    performance = awake = False
    for priority, streams in running:
        performance |= priority is Priority.CRITICAL
        awake |= streams
    return Wants(
        performance=performance and settings.hold_performance,
        awake=awake and settings.inhibit_sleep and (sleeping_s is None or sleeping_s < GRACE_S),
    )
