"""Who is set aside while another can serve: the warm, the sleeping, the hungry.

Nobody is refused here: whoever is set aside comes after the others, and leads again where all are.

Rule 1, sleep: on battery, a card that sleeps is left asleep.
Rule 2, watts: who draws more than the mode or its owner's budget lets.
Rule 3, its own mode: a router is spared where its mode would spare what it computes on.
Rule 4, heat: a part that is warm is spared, the sooner the less urgent the work: best effort is kept
        from moderate heat, all but critical requests from severe. The mode may ask for cooler.
        Where every part is warmer than that, the coolest are taken.

The rules are applied in this order, each to what the former left. The first three are promises, and the
thrifty heat the least: heat wakes no card on battery, and sends nobody over a cap.
"""

import enum
from collections.abc import Sequence

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.candidate import Candidate
from ollama_proxy.policy.thermal import ThermalState

_WARMEST = {
    Priority.BEST_EFFORT: ThermalState.LIGHT,
    Priority.NORMAL: ThermalState.MODERATE,
    Priority.HIGH: ThermalState.MODERATE,
    Priority.CRITICAL: ThermalState.SEVERE,
}


class Restraint(enum.Enum):
    """Why the one that would have led was set aside."""

    HEAT = "heat"
    SLEEP = "sleep"
    WATTS = "watts"
    NODE = "node"


def restrain(
    ordered: Sequence[Candidate],
    *,
    priority: Priority,
    warmest: ThermalState,
    lets_sleep: bool,
    watts_cap: float | None,
) -> tuple[list[Candidate], Restraint | None]:
    """Put those who should be spared behind the others.

    Args:
        ordered: the candidates, best first; at least one.
        priority: of the request.
        warmest: how warm a part may be in the mode that is in force.
        lets_sleep: cards that sleep are left asleep.
        watts_cap: who draws more is set aside; None: nobody for that.

    Returns:
        All of them, best first, and why the first of `ordered` no longer is.
    """
    allowed = min(warmest.rank, _WARMEST[priority].rank)

    def thrifty(left: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in left if watts_cap is None or c.watts <= watts_cap]

    def cool(left: Sequence[Candidate]) -> list[Candidate]:
        warmest_rank = max(allowed, min(c.warmth for c in left))
        return [c for c in left if c.warmth <= warmest_rank]

    def willing(left: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in left if not c.spared]

    def awake(left: Sequence[Candidate]) -> list[Candidate]:
        return [c for c in left if not (lets_sleep and c.asleep)]

    left, why = list(ordered), None
    aside: list[Candidate] = []
    for restraint, leaders in (
        (Restraint.SLEEP, awake),
        (Restraint.WATTS, thrifty),
        (Restraint.NODE, willing),
        (Restraint.HEAT, cool),
    ):
        leading = leaders(left)
        if not leading or len(leading) == len(left):
            continue
        if why is None and leading[0] is not left[0]:
            why = restraint
        kept = set(map(id, leading))
        aside = [candidate for candidate in left if id(candidate) not in kept] + aside
        left = leading
    return left + aside, why
