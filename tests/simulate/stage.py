"""Tiny scenarios, small enough to be worked out by hand."""

import json
from pathlib import Path
from typing import Any

from ollama_proxy.simulate.report import Figures
from ollama_proxy.simulate.run import simulate

# A hundred tokens of prompt take a second, ten of an answer another.
PLAIN = {"prefill_tokens_per_s": 100, "decode_tokens_per_s": 10, "floor_s": 0}


def toml(value: object) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write(directory: Path, **keys: Any) -> Path:
    """A scenario's file."""
    path = directory / "scenario.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in keys.items()))
    return path


def backend(name: str = "a", **changes: Any) -> dict[str, Any]:
    """One whose times are round numbers."""
    return {"id": name} | PLAIN | changes


def request(at_s: float, prompt: int = 100, answer: int = 11, **changes: Any) -> dict[str, Any]:
    """A line of a trace: a second to its first token, and another to its end."""
    return {"at_s": at_s, "prompt_tokens": prompt, "answer_tokens": answer} | changes


def play(
    directory: Path,
    *requests: dict[str, Any],
    backends: list[dict[str, Any]] | None = None,
    only: str = "ours",
    **keys: Any,
) -> Figures:
    """What comes of recorded requests."""
    (directory / "trace.jsonl").write_text("".join(json.dumps(each) + "\n" for each in requests))
    path = write(directory, trace="trace.jsonl", backends=backends or [backend()], **keys)
    return simulate(path, only=[only])[1][only]


def first_s(figures: Figures, priority: str = "normal", quantile: str = "p50") -> float:
    """The time to the first token, to the microsecond."""
    return round(float(figures["by_priority"][priority]["first_s"][quantile]), 6)
