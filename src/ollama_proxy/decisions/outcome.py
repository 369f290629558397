"""What was decided, as a log has it, and how it differs from what is decided now."""

import math
from collections.abc import Mapping

from ollama_proxy.decisions.form import Gave
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

_SAME = 1e-9  # relative: another machine's logarithm may differ in its last bit


def gave(outcome: Decision | Refusal) -> Gave:
    """What was decided. Of a refusal its code alone: sentences may be put better."""
    if isinstance(outcome, Refusal):
        return Gave(code=outcome.code.value)
    best = outcome.candidates[0]
    return Gave(
        backend=outcome.backend,
        reason=outcome.reason.value,
        alternatives=list(outcome.alternatives),
        score=best.score,
        predicted_s=best.predicted_s,
        whole_s=best.whole_s,
        watts=best.watts,
    )


def differences(gave: Gave, outcome: Decision | Refusal) -> Mapping[str, tuple[object, object]]:
    """What came out otherwise, by name: what it was, and what it is. Empty: all is the same."""
    if isinstance(outcome, Refusal):
        was = gave.code or f"{gave.backend} ({gave.reason})"
        return {} if gave.code == outcome.code.value else {"outcome": (was, outcome.code.value)}
    if gave.backend is None:
        return {"outcome": (gave.code, f"{outcome.backend} ({outcome.reason.value})")}
    best = outcome.candidates[0]
    found: dict[str, tuple[object, object]] = {
        "backend": (gave.backend, outcome.backend),
        "reason": (gave.reason, outcome.reason.value),
        "alternatives": (", ".join(gave.alternatives), ", ".join(outcome.alternatives)),
        "score": (gave.score, best.score),
        "predicted_s": (gave.predicted_s, best.predicted_s),
        "whole_s": (gave.whole_s, best.whole_s),
        "watts": (gave.watts, best.watts),
    }
    return {name: pair for name, pair in found.items() if not _is_same(*pair)}


def _is_same(was: object, now: object) -> bool:
    if isinstance(was, float) and isinstance(now, float):
        return math.isclose(was, now, rel_tol=_SAME, abs_tol=_SAME)
    return was == now
