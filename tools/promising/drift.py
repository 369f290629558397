"""What it costs that several pickers know of each other only by what nodes tell, in virtual time.

The scenario is tools/scenarios/fleet.toml: a hundred nodes, and 1, 2 and 4 pickers against one that knows
all. Here it is run at several loads, with nodes that are asked more and less often, that lie, that are
lost, and whose answers come late. Some minutes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from ollama_proxy.simulate.rounds import compare, picked
from ollama_proxy.simulate.scenario import (
    Absence,
    FleetConfig,
    MachineConfig,
    Scenario,
    fleet_of,
    load,
)

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "fleet.toml"
LOADS = (0.3, 0.6, 0.9)
REFRESHES_S = (0.2, 1.0, 5.0)
USUAL_LOAD, USUAL_REFRESH_S = 0.6, 1.0
SHARE = 0.1  # of the nodes that lie, or leave
LEAVE_S, RETURN_S = 60.0, 80.0
# Of the deadlines that one who knows all keeps, four pickers lose so much at the most, in the usual case.
MOST_LOST = 0.03
COLUMNS = (
    "deadlines",
    "joules_per_answer",
    "first_p50_s",
    "first_p99_s",
    "refused",
    "failed",
    "misplaced",
    "declined",
)


def _set(scenario: Scenario, change: Callable[[FleetConfig], FleetConfig]) -> Scenario:
    return attrs.evolve(scenario, fleet=change(fleet_of(scenario)))


def _asked(scenario: Scenario, share: float, refresh_s: float) -> Scenario:
    """The same at another load, where nodes are asked more or less often."""
    return _set(scenario, lambda fleet: attrs.evolve(fleet, load=share, refresh_s=refresh_s))


def _some(scenario: Scenario, change: Callable[[MachineConfig], MachineConfig]) -> Scenario:
    """The same where a share of each kind of node is different."""
    backends = []
    for backend in scenario.backends:
        count = round(backend.count * SHARE)
        backends += [
            attrs.evolve(backend, count=backend.count - count),
            change(attrs.evolve(backend, id=f"other-{backend.id}", count=count)),
        ]
    return attrs.evolve(scenario, backends=tuple(backends))


def cases(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """What is run, and how it is called."""
    for share in LOADS:
        for refresh_s in REFRESHES_S:
            yield (
                f"{share:.0%} load, asked every {refresh_s:g} s",
                _asked(scenario, share, refresh_s),
            )
    usual = _asked(scenario, USUAL_LOAD, USUAL_REFRESH_S)
    yield "a tenth lie", _some(usual, lambda backend: attrs.evolve(backend, lies=True))
    away = (Absence(at_s=LEAVE_S, until_s=RETURN_S),)
    yield (
        "a tenth are lost for 20 s",
        _some(usual, lambda backend: attrs.evolve(backend, absent=away)),
    )
    yield (
        "answers are a second old, and come irregularly",
        _set(usual, lambda fleet: attrs.evolve(fleet, late_s=1.0, jitter=0.5)),
    )


def measure(*, only: str = "") -> bool:
    """Print what came of it; whether the promise is kept."""
    is_kept = True
    for name, scenario in cases(load(SCENARIO)):
        if only not in name:
            continue
        figures = compare(scenario)
        print(f"{name}: {', '.join(COLUMNS)}", flush=True)
        for who, told in figures.items():
            cells = ["-" if told[key] is None else f"{told[key]['mean']:.4g}" for key in COLUMNS]
            print(f"    {who:>12}  {'  '.join(cells)}", flush=True)
        if name.startswith(f"{USUAL_LOAD:.0%} load, asked every {USUAL_REFRESH_S:g} s"):
            lost = -figures[picked(4)]["deadlines"]["against"]
            is_kept = lost <= MOST_LOST
    return is_kept
