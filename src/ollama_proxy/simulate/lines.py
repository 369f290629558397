"""Reads a file of one JSON object a line into a class, or into every fault it has at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from ollama_proxy.tables import ConfigFaults, dotted, structure

FAULTS_MAX = 20  # a screenful
T = TypeVar("T")


def read_lines(path: Path, of: type[T]) -> list[T]:
    """Read a recorded log. Empty lines, and those that begin with "#", are passed over.

    Args:
        path: the file.
        of: the class of its lines.

    Raises:
        ConfigFaults: with every fault there is, up to a screenful.
    """
    faults: list[str] = []
    found: list[T] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and not line.startswith("#"):
                    one, wrong = _read(line, of)
                    faults += [": ".join((f"line {number}", *each)) for each in wrong]
                    found += [one] if one is not None else []
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"cannot be read: {error}")
    if not faults and not found:
        faults.append("holds nothing")
    if faults:
        raise ConfigFaults(tuple(faults[:FAULTS_MAX]), path)
    return found


def _read(line: str, of: type[T]) -> tuple[T | None, Iterator[list[str]]]:
    try:
        raw = json.loads(line)
    except ValueError:
        return None, iter([["is no complete JSON object"]])
    one, faults = structure(raw, of)
    return one, ([part for part in (dotted(key), message) if part] for key, message in faults)
