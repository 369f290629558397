"""The command itself, with a window in it: on SIGUSR1 it writes down what is alive in the process.

On SIGUSR2 its wall clock jumps, an hour ahead or back to where it was, as no test may set the machine's.
Tasks and unfinished requests cannot be seen from outside, and a router that told them to anybody would
pay for it every day. Everything but the window is `ollama_proxy.cli.main`.
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import trio

import ollama_proxy.rooms
from ollama_proxy.cli import main
from ollama_proxy.engine.dispatcher import Dispatcher
from tests.fault.programs import Program

WINDOW = "FAULT_WINDOW"  # the variable that names the file
_dispatchers: list[Dispatcher] = []


class _Seen(Dispatcher):
    """The router's own, which is known here."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        _dispatchers.append(self)


def look(router: Program) -> Callable[[], dict[str, Any] | None]:
    """Ask a router for what is alive in it; what is given back tells that, once it is written down."""
    path = Path(router.variables[WINDOW])
    path.unlink(missing_ok=True)
    router.send(signal.SIGUSR1)

    def read() -> dict[str, Any] | None:
        assert router.is_alive, router.log()
        return json.loads(path.read_text()) if path.exists() else None

    return read


def _names(task: trio.lowlevel.Task) -> list[str]:
    found = [task.name]
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            found += _names(child)
    return found


def _write(number: int, frame: FrameType | None) -> None:
    root = trio.lowlevel.current_root_task()
    names = _names(root) if root is not None else []
    jobs = sum(len(each.jobs) for each in _dispatchers)
    path = Path(os.environ[WINDOW])
    new = path.with_suffix(".new")
    gc.collect()
    seen = {"tasks": sorted(names), "jobs": jobs, "blocks": sys.getallocatedblocks()}
    new.write_text(json.dumps(seen))
    new.replace(path)


class _WallClock:
    """The machine's, and an hour ahead of it after every other signal."""

    def __init__(self) -> None:
        self._machines, self._ahead_s = time.time, 0.0

    def jump(self, *_: object) -> None:
        """By an hour."""
        self._ahead_s = 0.0 if self._ahead_s else 3600.0

    def time(self) -> float:
        """In place of the library's."""
        return self._machines() + self._ahead_s


if __name__ == "__main__":
    clock = _WallClock()
    time.time = clock.time
    signal.signal(signal.SIGUSR2, clock.jump)
    setattr(ollama_proxy.rooms, "Dispatcher", _Seen)  # noqa: B010 - mypy would not have it otherwise
    signal.signal(signal.SIGUSR1, _write)
    sys.exit(main())
