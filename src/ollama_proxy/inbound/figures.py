"""What every door tells of the router itself: its backends, its decisions, its mode.

Plain values with the names of the contract. Each door puts them in its own words, so that no two can
tell different things. Unknown is None, never 0.
"""

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import trio

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.candidate import Candidate
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import Explanation

Values = dict[str, object]

_SHOWN_MAX = 100  # characters of what somebody else gave


# -- backends --------------------------------------------------------------------------------------


def state_of(station: Station) -> str:
    """Whether a backend is `healthy`, `unhealthy` or `disabled`."""
    if not station.spec.enabled:
        return "disabled"
    return "healthy" if station.healthy else "unhealthy"


def status_of(dispatcher: Dispatcher) -> str:
    """`ok`, `degraded` where a backend is not well, `down` where none is; switched-off ones aside."""
    enabled = [s for s in dispatcher.stations.values() if s.spec.enabled]
    healthy = sum(s.healthy for s in enabled)
    return "down" if not healthy else "ok" if healthy == len(enabled) else "degraded"


def _without_credentials(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def latest(learned: Iterable[Learned | None]) -> Learned | None:
    """What was learned last, of whichever model."""
    return max(filter(None, learned), key=lambda each: each.at, default=None)


def _rounded(learned: Learned | None) -> float | None:
    return None if learned is None else round(learned.value, 4)


def _calibration(station: Station) -> Values:
    """How the forecasts came true; errors are shares of what came, unknown is None."""
    found = station.calibration
    return {
        "requests": found.requests,
        "mean_error": _rounded(found.error),
        "bias": _rounded(found.bias),
        "deadlines_met": found.deadlines_met,
        "deadlines_missed": found.deadlines_missed,
    }


def listed(names: frozenset[str] | None) -> list[str] | None:
    """Names in order; None where they are not known."""
    return None if names is None else sorted(names)


def watts_of(station: Station, climate: Climate) -> Values:
    """What a backend draws: its card's sensor, else what its requests drew, else what is said of it."""
    live = climate.card_watts(station.part)
    if live is not None:
        return {"value": round(live, 2), "source": "measured"}
    learned = station.energy.watts()
    if learned is not None:
        return {"value": round(learned, 2), "source": "learned"}
    if station.node is not None and station.node.watts is not None:
        return {"value": round(station.node.watts, 2), "source": "told"}
    return {"value": station.spec.power_watts, "source": "configured"}


def first_token_of(station: Station) -> tuple[float, str]:
    """Seconds to a first token there, of the model that was served last, and how they are known."""
    learned = latest(speeds.first_s for speeds in station.estimates.subjects.values())
    if learned is not None:
        return learned.value, "learned"
    told = None if station.node is None else next(iter(station.node.first_s.values()), None)
    return (station.spec.avg_latency_s, "configured") if told is None else (told, "told")


def _pace_of(station: Station) -> Values:
    """Tokens a second, as above; None where nobody knows."""
    learned = latest(speeds.decode for speeds in station.estimates.subjects.values())
    if learned is not None:
        return {"value": learned.value, "source": "learned"}
    told = None if station.node is None else next(iter(station.node.tokens_per_s.values()), None)
    return {"value": told, "source": None if told is None else "told"}


def _token_j_of(station: Station) -> float | None:
    """Joules a token, as above."""
    learned = station.energy.token_j()
    if learned is not None or station.node is None:
        return learned
    return next(iter(station.node.token_j.values()), None)


def _node_of(station: Station) -> Values | None:
    """What a router says of itself, beyond what is known of any backend; None where it says nothing."""
    node = station.node
    if node is None:
        return None
    waiting = node.waiting
    return {
        "id": node.id,
        "version": node.version,
        "mode": None if node.mode is None else node.mode.value,
        "in_flight": node.at_work,
        "queued": None if waiting is None else {p.name.lower(): waiting[p] for p in Priority},
        "on_battery": node.on_battery,
        "battery_percent": node.battery_percent,
        "draining": node.is_draining,
    }


def figures_of(station: Station, climate: Climate) -> Values:
    """One backend with the fields of the contract, and how it kept its word; unknown is None."""
    spec = station.spec
    grader = climate.grade_of(station.part)
    hottest = grader.hottest if grader is not None else None
    first_s, first_source = first_token_of(station)
    return {
        "id": spec.id,
        "name": spec.name or spec.id,
        "type": spec.type.value,
        "hardware": spec.hardware.value,
        "endpoint": _without_credentials(spec.endpoint),
        "enabled": spec.enabled,
        "healthy": spec.enabled and station.healthy,
        "last_error": station.last_error,
        "models": listed(station.models),
        "loaded_models": listed(station.loaded),
        "slots": spec.slots,
        "in_flight": station.in_flight,
        "queued": {p.name.lower(): depth for p, depth in sorted(station.line.depths.items())},
        "latency": {
            "ttft_ms": {"value": first_s * 1000, "source": first_source},
            "tokens_per_s": _pace_of(station),
        },
        "power_watts": watts_of(station, climate),
        "temperature_c": hottest.temperature_c if hottest is not None else None,
        "thermal_state": station.heat.value,
        "throttled": climate.is_throttled(station.part),
        "asleep": station.asleep,
        "energy_j_per_token": _token_j_of(station),
        "calibration": _calibration(station),
        "node": _node_of(station),
        "requests_total": station.requests_total,
        "errors_total": station.errors_total,
    }


# -- decisions -------------------------------------------------------------------------------------


def _eligible(candidate: Candidate) -> Values:
    return {
        "backend": candidate.id,
        "eligible": True,
        "why_not": None,
        "score": candidate.score,
        "terms": candidate.terms._asdict(),
        "predicted_ttft_ms": candidate.predicted_s * 1000,
        "predicted_watts": candidate.watts,
    }


def _barred(backend: str, why_not: str) -> Values:
    unknown = ("score", "terms", "predicted_ttft_ms", "predicted_watts")
    return {"backend": backend, "eligible": False, "why_not": why_not} | dict.fromkeys(unknown)


def barred_of(explanation: Explanation) -> list[Values]:
    """Who could not have served it, and why."""
    return [_barred(each.id, each.why_not) for each in explanation.barred]


def decision_of(explanation: Explanation) -> Values | Refusal:
    """What would be decided, and everything that was weighed."""
    outcome = explanation.outcome
    if isinstance(outcome, Refusal):
        return outcome
    return {
        "backend": outcome.backend,
        "reason": outcome.reason.value,
        "alternatives": outcome.alternatives,
        "candidates": [*map(_eligible, outcome.candidates), *barred_of(explanation)],
    }


# -- the mode --------------------------------------------------------------------------------------


def efficiency_of(climate: Climate, dispatcher: Dispatcher) -> Values:
    """The mode with the fields of the contract: which one is chosen, which is in force, and why."""
    effective, found = climate.effective, climate.conditions
    since = datetime.fromtimestamp(time.time() - (trio.current_time() - climate.since), UTC)
    return {
        "mode": climate.mode.value,
        "effective_mode": effective.mode.value,
        "reason": effective.reason,
        "modes": [
            {"name": mode.value, "title": mode.title, "description": mode.description}
            for mode in Mode
        ],
        "on_battery": found.on_battery,
        "battery_to_empty_s": None if found.supply is None else found.supply.to_empty_s,
        "battery_percent": None
        if found.battery_percent is None
        else round(found.battery_percent, 1),
        "power_budget_watts": dispatcher.settings.route.watts_cap,
        "since": since.isoformat(timespec="seconds"),
    }


def unknown_mode(given: object) -> Refusal:
    """Why a mode is not set that is none."""
    names = ", ".join(each.value for each in Mode)
    shown = repr(given)[:_SHOWN_MAX]
    return Refusal(
        Code.INVALID_REQUEST, f"mode: expected one of {names}, got {shown}.", param="mode"
    )
