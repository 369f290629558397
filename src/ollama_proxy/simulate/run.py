"""A scenario from its file to its figures: ours, each rival, and ours without the background; or a fleet."""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from ollama_proxy.policy.ask import Priority
from ollama_proxy.simulate import rounds
from ollama_proxy.simulate.arrivals import Traffic, traffic
from ollama_proxy.simulate.model import Machine, machines
from ollama_proxy.simulate.report import Figures, Tally, table
from ollama_proxy.simulate.rivals import RIVALS
from ollama_proxy.simulate.scenario import Scenario, load, read_trace
from ollama_proxy.simulate.weather import Weather
from ollama_proxy.simulate.world import World

OURS = "ours"
ALONE = "ours, alone"
NAMES = (OURS, *RIVALS)


def names(scenario: Scenario) -> Sequence[str]:
    """What a scenario compares: routers, or numbers of pickers."""
    return NAMES if scenario.fleet is None else rounds.names(scenario)


def read(path: Path, *, requests: int | None = None, seed: int | None = None) -> Scenario:
    """Read a scenario, with another number of requests or another seed than its file's.

    Raises:
        ConfigFaults: with every fault that the file has.
    """
    scenario = load(path)
    if requests is not None:
        scenario = attrs.evolve(scenario, requests=requests)
    return scenario if seed is None else attrs.evolve(scenario, seed=seed)


def simulate(
    path: Path,
    *,
    requests: int | None = None,
    seed: int | None = None,
    only: Sequence[str] | None = None,
) -> tuple[Scenario, dict[str, Figures]]:
    """Run a scenario.

    Args:
        path: its file.
        requests: in place of the file's number.
        seed: in place of the file's.
        only: which of its `names`; None: all.

    Returns:
        The scenario, and the figures of each run. "ours, alone" is ours without what the file calls
        background: what the others would see on an idle fleet.

    Raises:
        ConfigFaults: with every fault that the file has.
    """
    scenario = read(path, requests=requests, seed=seed)
    recorded = read_trace(path.parent / scenario.trace) if scenario.trace else ()
    if scenario.fleet is not None:
        return scenario, rounds.compare(scenario, recorded=recorded, only=only)
    comes = traffic(scenario, recorded)
    figures: dict[str, Figures] = {}
    for name in NAMES:
        if only is not None and name not in only:
            continue
        figures[name] = _run(name, scenario, comes)
        if name == OURS and any(kind.background for kind in comes.kinds):
            figures[ALONE] = _run(OURS, scenario, comes.without_background())
    return scenario, figures


def _run(name: str, scenario: Scenario, comes: Traffic) -> Figures:
    fleet = machines(scenario)
    tally = Tally(
        comes.kinds,
        warm_up_s=scenario.warm_up_s,
        warm_up_requests=scenario.warm_up_requests,
    )
    # What is made here ends with its last name; looking for rings among a million of it costs more
    # than all of the deciding in a large fleet.
    gc.disable()
    try:
        begun = time.perf_counter()
        run, weather = _open(name, scenario, comes, fleet, tally)
        run()
        took_s = time.perf_counter() - begun
    finally:
        gc.enable()
    figures = tally.figures(fleet) | {"wall_s": took_s}
    return figures if weather is None else figures | {"climate": weather.figures()}


def _open(
    name: str, scenario: Scenario, comes: Traffic, fleet: Sequence[Machine], tally: Tally
) -> tuple[Callable[[], None], Weather | None]:
    if name == OURS:
        world = World(scenario, comes, fleet, tally)
        return world.run, world.weather
    return RIVALS[name](comes, fleet, tally).run, None


def rows(scenario: Scenario, figures: dict[str, Figures]) -> list[list[str]]:
    """The figures as a table for a terminal."""
    if scenario.fleet is not None:
        return rounds.rows(figures)
    return table(figures, [priority.label for priority in reversed(Priority)])
