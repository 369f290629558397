"""What drift costs: the same requests to one that knows all, and to so many pickers, seed by seed.

How each figure is meant:

    deadlines    of all requests that had one, the share that kept it. Who was refused did not.
    joules       of all nodes until the last answer's end, at rest and at work; per answer.
    at work      the same without what they draw at rest.
    first token  from arrival, every wait included, of all but best effort, which may wait long for a
                 thrifty node; of an answer that is not streamed, its end.
    refused      not taken on, of all who came.
    failed       taken on, and not answered.
    misplaced    sent to a node that had no slot for it while another had, for each who came. Whoever
                 knows all sends nobody so.
    declined     sent to a node that would not take it, so that another was tried; as above.
    against      the mean of the differences to the one that knows all, seed by seed.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

from ollama_proxy.policy.ask import Priority
from ollama_proxy.simulate.arrivals import traffic
from ollama_proxy.simulate.model import machines, quantiles
from ollama_proxy.simulate.pickers import Fleet
from ollama_proxy.simulate.report import Figures, Tally
from ollama_proxy.simulate.scenario import Recorded, Scenario, fleet_of
from ollama_proxy.simulate.sizing import sized
from ollama_proxy.simulate.world import World

ALL_KNOWING = "all-knowing"
FIGURES = {
    "deadlines": "deadlines kept",
    "joules": "joules",
    "joules_per_answer": "joules per answer",
    "joules_at_work": "joules at work",
    "first_p50_s": "first token p50, s",
    "first_p99_s": "first token p99, s",
    "refused": "refused",
    "failed": "failed",
    "misplaced": "misplaced",
    "declined": "declined by a node",
}
_SHARES = {"deadlines", "refused", "failed", "misplaced", "declined"}


def names(scenario: Scenario) -> list[str]:
    """What is compared."""
    return [ALL_KNOWING, *map(picked, fleet_of(scenario).pickers)]


def picked(count: int) -> str:
    """What a run of so many pickers is called."""
    return "1 picker" if count == 1 else f"{count} pickers"


def compare(
    scenario: Scenario, *, recorded: Sequence[Recorded] = (), only: Sequence[str] | None = None
) -> dict[str, Figures]:
    """Run a fleet with each number of pickers, on the same requests, for each seed.

    Args:
        scenario: one with a fleet.
        recorded: its trace.
        only: of `names`; None: all.

    Returns:
        For each, its `FIGURES`: `mean`, `least`, `most` and `against`, and `by_seed`. None where there
        is nothing to tell: no request had a deadline, say.
    """
    fleet = fleet_of(scenario)
    chosen = [name for name in names(scenario) if only is None or name in only]
    runs: dict[str, list[Figures]] = {name: [] for name in chosen}
    for seed in range(scenario.seed, scenario.seed + fleet.seeds):
        one = sized(scenario, seed)
        for name in chosen:
            runs[name].append(_run(name, one, recorded))
    known = runs.get(ALL_KNOWING)
    return {name: _summed(each, known) for name, each in runs.items()}


def _run(name: str, scenario: Scenario, recorded: Sequence[Recorded]) -> Figures:
    comes, fleet = traffic(scenario, recorded), machines(scenario)
    tally = Tally(
        comes.kinds,
        warm_up_s=scenario.warm_up_s,
        warm_up_requests=scenario.warm_up_requests,
    )
    counts = {picked(count): count for count in fleet_of(scenario).pickers}
    # See `run`: nothing here lives longer than a run.
    gc.disable()
    try:
        begun = time.process_time()
        run: World | Fleet
        if name == ALL_KNOWING:
            run = World(scenario, comes, fleet, tally)
        else:
            run = Fleet(scenario, comes, fleet, tally, counts[name])
        run.run()
        took_s = time.process_time() - begun
    finally:
        gc.enable()
    told = tally.figures(fleet)
    joules = sum(machine.joules(tally.ended_at) for machine in fleet)
    urgent = list(itertools.chain(*tally.first_s[Priority.NORMAL :]))
    first_p50_s, first_p99_s = quantiles(urgent, 0.5, 0.99)
    arrived, served = tally.arrived, tally.served
    return {
        "deadlines": told["deadlines"]["calibrated"]["of_all"],
        "joules": joules,
        "joules_per_answer": joules / served if served else None,
        "joules_at_work": sum(machine.extra_joules(machine.busy_s) for machine in fleet),
        "first_p50_s": first_p50_s,
        "first_p99_s": first_p99_s,
        "refused": sum(told["refused"].values()) / arrived if arrived else None,
        "failed": sum(told["failed"].values()) / arrived if arrived else None,
        "misplaced": run.misplaced / arrived if isinstance(run, Fleet) and arrived else 0.0,
        "declined": run.declined / arrived if isinstance(run, Fleet) and arrived else 0.0,
        "arrived": arrived,
        "served": served,
        "refusals": told["refused"],
        "failures": told["failed"],
        "cpu_s": took_s,
    }


def _summed(runs: Sequence[Figures], known: Sequence[Figures] | None) -> Figures:
    summed: Figures = {"by_seed": list(runs)}
    for key in FIGURES:
        values = [run[key] for run in runs]
        if None in values:
            summed[key] = None
            continue
        summed[key] = {
            "mean": statistics.fmean(values),
            "least": min(values),
            "most": max(values),
            "against": None
            if known is None or any(run[key] is None for run in known)
            else statistics.fmean(
                run[key] - other[key] for run, other in zip(runs, known, strict=True)
            ),
        }
    return summed


def rows(figures: Mapping[str, Figures]) -> list[list[str]]:
    """The figures as a table for a terminal: the mean, and the least and most of all seeds."""
    table = [["", *figures]]
    for key, title in FIGURES.items():
        table.append([title, *(_cell(run[key], key) for run in figures.values())])
    table.append(["requests", *(str(sum(_all(run, "arrived"))) for run in figures.values())])
    table.append([
        "processor time, s",
        *(f"{sum(_all(run, 'cpu_s')):.1f}" for run in figures.values()),
    ])
    return table


def _all(run: Figures, key: str) -> Iterator[float]:
    return (one[key] for one in run["by_seed"])


def _cell(told: Figures | None, key: str) -> str:
    if told is None:
        return "-"
    mean, least, most = (_shown(told[which], key) for which in ("mean", "least", "most"))
    return mean if least == most else f"{mean} ({least} to {most})"


def _shown(value: float, key: str) -> str:
    if key in _SHARES:
        return f"{value:.2%}"
    return f"{value:.0f}" if key.startswith("joules") else f"{value:.3f}"
