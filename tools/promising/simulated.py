"""What the scheduler keeps where no machine is at hand: in virtual time, against modelled backends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ollama_proxy.simulate.run import ALONE, NAMES, OURS, simulate

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
MOST_RATIO = 1.2
LEAST_GAIN = 20.0
LEAST_CALIBRATED = 0.99
LEAST_COLD = 0.90
LONGEST_S = 120.0

Runs = Mapping[str, Any]


def _run(name: str, *, requests: int | None = None, only: Sequence[str] = NAMES) -> Runs:
    _, runs = simulate(SCENARIOS / f"{name}.toml", requests=requests, only=only)
    return runs


def _voice(name: str) -> bool:
    runs = _run(name, only=(OURS, "fifo"))
    ours, alone, fifo = (
        runs[each]["by_priority"]["critical"]["first_s"]["p99"] for each in (OURS, ALONE, "fifo")
    )
    print(
        f"{name}: critical first token p99 {ours:.3f} s, alone {alone:.3f} s, first in first out"
        f" {fifo:.3f} s: {ours / alone:.2f} of alone, {fifo / ours:.0f} times better"
    )
    return bool(ours / alone <= MOST_RATIO and fifo / ours >= LEAST_GAIN)


def _deadlines(name: str) -> bool:
    kept = _run(name, only=(OURS,))[OURS]["deadlines"]
    shown = ", ".join(
        f"{phase} {of['met']} of {of['admitted']} ({of['rate']:.2%})" for phase, of in kept.items()
    )
    print(f"{name}: deadlines kept of those admitted: {shown}")
    return bool(
        kept["calibrated"]["rate"] >= LEAST_CALIBRATED and kept["cold"]["rate"] >= LEAST_COLD
    )


def _large(name: str, requests: int) -> bool:
    taken_s = _run(name, requests=requests, only=(OURS,))[OURS]["wall_s"]
    print(f"{name}: {requests} requests in {taken_s:.1f} s (at most {LONGEST_S:.0f})")
    return bool(taken_s <= LONGEST_S)


def measure() -> bool:
    """Print what was kept; whether all was."""
    kept = [
        _voice("voice-and-batch"),
        _voice("voice-and-streams"),
        _deadlines("deadlines"),
        _deadlines("laptop"),
        _large("laptop", 1_000_000),
        _large("hall", 50_000),
    ]
    return all(kept)
