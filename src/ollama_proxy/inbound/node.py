"""What this router tells of itself to others that send it work: the counterpart of `policy.node`.

Rule 1: it tells of its own backends alone, and of no router behind it: what comes from a router goes
        to no other.
Rule 2: figures are those that were measured or learned here. What an owner wrote down is no news to
        another owner.
Rule 3: whatever its backends list, it stays small; what had to be left out is counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.station import Station
from ollama_proxy.inbound.figures import Values
from ollama_proxy.inbound.inventory import names
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.estimate import Speeds
from ollama_proxy.policy.modes import STANCES, Stance
from ollama_proxy.policy.node import PROTOCOL
from ollama_proxy.policy.thermal import ThermalState

# Bytes of each list and table: all of them together, and the rest, stay below 64 KiB.
MODELS_BYTES = 24 << 10
LOADED_BYTES = 8 << 10
FIGURES_BYTES = 8 << 10
_FIGURE_BYTES = 24
_LEAST = 1e-6
_OF_VECTORS = " (embedding)"


def node_of(
    dispatcher: Dispatcher, climate: Climate, *, node_id: str, machine: str, version: str
) -> Values:
    """The router in few words; unknown is None, never 0.

    Args:
        dispatcher: has the backends.
        climate: has the machine's state, and the mode.
        node_id: what it is called.
        machine: what tells it from another that is called so; empty: nothing does.
        version: of its software.
    """
    own = [s for s in dispatcher.stations.values() if not s.is_router]
    up = [s for s in own if s.spec.enabled and s.healthy]
    effective = climate.effective.mode
    loaded = _loaded(up)
    listed = _models(up)
    models, models_out = _cut(_first_loaded(listed, loaded), MODELS_BYTES)
    in_memory, loaded_out = _cut(sorted(loaded or ()), LOADED_BYTES)
    figures = _figures(up, STANCES[effective])
    told = {
        "energy_j_per_token": {m: f.token_j for m, f in figures.items() if f.token_j is not None},
        "ttft_ms": {m: f.first_s * 1000 for m, f in figures.items() if f.first_s is not None},
        "tokens_per_s": {m: f.per_s for m, f in figures.items() if f.per_s is not None},
    }
    cut = {key: _cut_figures(table) for key, table in told.items()}
    left_out = {
        "models": models_out,
        "loaded": loaded_out,
        **{key: missing for key, (_, missing) in cut.items()},
    }
    found = climate.conditions
    percent = found.battery_percent
    return {
        "id": node_id,
        "version": version,
        "machine": machine or None,
        "protocol": PROTOCOL,
        "mode": effective.value,
        "slots": sum(station.spec.slots for station in up),
        "in_flight": sum(station.in_flight for station in own),
        "queued": {
            priority.name.lower(): sum(station.line.depth(priority) for station in own)
            for priority in Priority
        },
        "models": None if listed is None else models,
        "loaded": None if loaded is None else in_memory,
        "watts": _watts(up, STANCES[effective]),
        "heat": _coolest(up).value,
        "on_battery": found.on_battery,
        "battery_percent": None if percent is None else round(percent, 1),
        **{key: table for key, (table, _) in cut.items()},
        "calls": [call.path for call in Call if any(call not in s.unserved for s in up)],
        "draining": dispatcher.is_draining,
        "left_out": {key: count for key, count in left_out.items() if count},
    }


def _models(up: Sequence[Station]) -> set[str] | None:
    """By the names that callers may use; None where no backend lists what it has."""
    if up and all(station.models is None for station in up):
        return None
    return {name for station in up for name in names(station, station.models)}


def _loaded(up: Sequence[Station]) -> set[str] | None:
    telling = [station for station in up if station.loaded is not None]
    if up and not telling:
        return None
    return {
        name for station in telling for name in station.loaded or () if station.spec.may_serve(name)
    }


def _first_loaded(models: set[str] | None, loaded: set[str] | None) -> list[str]:
    """In order, those in memory before the others: whatever is left out, it is not these."""
    return sorted(models or (), key=lambda name: (name not in (loaded or ()), name))


def _coolest(up: Sequence[Station]) -> ThermalState:
    """Where a request would go: it is the hottest part that the router spares."""
    known = [s.heat for s in up if s.heat is not ThermalState.UNKNOWN]
    return min(known, key=lambda heat: heat.rank, default=ThermalState.UNKNOWN)


# -- figures ---------------------------------------------------------------------------------------


@attrs.frozen
class _Figures:
    """Of a model, at the backend that would most likely answer it. None: not known."""

    heard_at: float
    first_s: float | None
    per_s: float | None
    token_j: float | None


def _figures(up: Iterable[Station], stance: Stance) -> dict[str, _Figures]:
    """Of each model that was served, the one that was served last first."""
    best: dict[str, tuple[float, _Figures]] = {}
    for station in up:
        for model, speeds in station.estimates.subjects.items():
            if model.endswith(_OF_VECTORS) or not station.spec.may_serve(model):
                continue
            score = _score(station, model, speeds, stance)
            known = best.get(model)
            if known is None or score > known[0]:
                best[model] = score, _of(station, model, speeds)
    figures = {model: found for model, (_, found) in best.items()}
    return dict(sorted(figures.items(), key=lambda item: -item[1].heard_at))


def _of(station: Station, model: str, speeds: Speeds) -> _Figures:
    first, decode = speeds.first_s, speeds.decode
    return _Figures(
        heard_at=speeds.heard_at,
        first_s=None if first is None else first.value,
        per_s=None if decode is None else decode.value,
        token_j=station.energy.token_j(model),
    )


def _score(station: Station, model: str, speeds: Speeds, stance: Stance) -> float:
    """As a choice weighs time against watts in the mode in force, as far as both are known."""
    first = speeds.first_s
    first_s = station.spec.avg_latency_s if first is None else first.value
    watts = station.energy.watts(model) or station.spec.power_watts
    return -stance.time_weight * math.log2(max(first_s, _LEAST)) - stance.power_weight * math.log2(
        max(watts, _LEAST)
    )


def _watts(up: Sequence[Station], stance: Stance) -> float | None:
    """What a request draws, where that was measured: of the backend that was best lately."""
    measured = [(station, station.energy.watts()) for station in up]
    scored = [
        (max(_score(s, m, speeds, stance) for m, speeds in s.estimates.subjects.items()), watts)
        for s, watts in measured
        if watts is not None and s.estimates.subjects
    ]
    return round(max(scored)[1], 2) if scored else None


# -- what fits -------------------------------------------------------------------------------------


def _cut(given: Sequence[str], most: int) -> tuple[list[str], int]:
    """As many as fit into so many bytes of JSON, from the first on; and how many do not."""
    kept: list[str] = []
    for name in given:
        most -= _size(name)
        if most < 0:
            break
        kept.append(name)
    return kept, len(given) - len(kept)


def _cut_figures(given: Mapping[str, float]) -> tuple[dict[str, float], int]:
    kept: dict[str, float] = {}
    most = FIGURES_BYTES
    for model, figure in given.items():
        most -= _size(model) + _FIGURE_BYTES
        if most < 0:
            break
        kept[model] = float(f"{figure:.4g}")
    return kept, len(given) - len(kept)


def _size(name: str) -> int:
    """Bytes in a list or table, at the most: what must be escaped takes six."""
    escaped = sum(not char.isprintable() or char in '"\\' for char in name)
    return len(name.encode(errors="replace")) + 5 * escaped + 3
