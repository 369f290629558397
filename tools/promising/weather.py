"""What the router keeps under battery and heat: recorded conditions, in virtual time."""

from collections.abc import Mapping
from typing import Any

from ollama_proxy.simulate.run import OURS, simulate
from promising.simulated import LEAST_CALIBRATED, SCENARIOS

NAMES = ("evening-on-battery", "hot-afternoon")
MOST_SWITCHES = 2  # in any ten minutes; ten of hot-afternoon's are noise about a line


def _show(name: str, figures: Mapping[str, Any]) -> None:
    told, kept = figures["climate"], figures["deadlines"]["calibrated"]
    seconds = ", ".join(f"{mode} {s:.0f} s" for mode, s in told["mode_s"].items())
    critical = ", ".join(f"{part} {s:.0f} s" for part, s in told["critical_s"].items())
    print(
        f"{name}: {len(told['switches'])} mode switches ({seconds}), at most"
        f" {told['switches_in_10_min']} in ten minutes (at most {MOST_SWITCHES})"
    )
    print(
        f"{name}: critical: {critical or 'nothing'}; started there: {told['started_on_critical']}"
        f" (none); sleeping card woken {told['woken']} times, on battery in vain"
        f" {told['woken_in_vain']} (none)"
    )
    print(
        f"{name}: deadlines kept of those admitted {kept['rate']:.2%}, of all {kept['of_all']:.2%}"
        f" (at least {LEAST_CALIBRATED:.0%})"
    )
    off = ", ".join(f"{backend} {of['off']:+.0%}" for backend, of in told["metered"].items())
    print(f"{name}: metered joules against the model's: {off} (not promised)")


def _is_kept(figures: Mapping[str, Any]) -> bool:
    told, kept = figures["climate"], figures["deadlines"]["calibrated"]
    return bool(
        told["switches_in_10_min"] <= MOST_SWITCHES
        and told["started_on_critical"] == 0
        and told["woken_in_vain"] == 0
        and min(kept["rate"], kept["of_all"]) >= LEAST_CALIBRATED
    )


def measure() -> bool:
    """Print what was kept; whether all was."""
    kept = []
    for name in NAMES:
        _, runs = simulate(SCENARIOS / f"{name}.toml", only=(OURS,))
        _show(name, runs[OURS])
        kept.append(_is_kept(runs[OURS]))
    return all(kept)
