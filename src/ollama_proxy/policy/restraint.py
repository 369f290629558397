"""Who is set aside while another can serve: the warm, the sleeping, the hungry.

Nobody is refused here: whoever is set aside comes after the others, and leads again where all are.

Rule 1, heat: a part that is warm is spared, the sooner the less urgent the work: best effort is kept
        from moderate heat, all but critical requests from severe. The mode may ask for cooler.
        Where every part is warmer than that, the coolest are taken.
Rule 2, sleep: on battery, a card that sleeps is left asleep.
Rule 3, watts: who draws more than the mode or its owner's budget lets.

The rules are applied in this order, each to what the former left: a hot part is worse than a card
that is woken, and that costs more than the watts of one request.
"""

import enum
from collections.abc import Callable, Sequence

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
    allowed = max(allowed, min(candidate.warmth for candidate in ordered))
    rules: list[tuple[Restraint, Callable[[Candidate], bool]]] = [
        (Restraint.HEAT, lambda c: c.warmth <= allowed)
    ]
    if lets_sleep:
        rules.append((Restraint.SLEEP, lambda c: not c.asleep))
    if watts_cap is not None:
        rules.append((Restraint.WATTS, lambda c: c.watts <= watts_cap))
    left, why = list(ordered), None
    aside: list[Candidate] = []
    for restraint, may_lead in rules:
        leading = [candidate for candidate in left if may_lead(candidate)]
        if not leading or len(leading) == len(left):
            continue
        if why is None and leading[0] is not left[0]:
            why = restraint
        aside = [candidate for candidate in left if not may_lead(candidate)] + aside
        left = leading
    return left + aside, why
