"""Programs as their users start them: each a process, from its readiness to its end."""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import ollama_proxy

ROOT = Path(__file__).resolve().parents[2]
READY_MAX_S = 120.0
GOODBYE_MAX_S = 30.0


@contextmanager
def running(
    command: Sequence[str], directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A program that says `ready http=HOST:PORT` and ends with 0 on SIGTERM; yields its URL.

    Args:
        command: after the interpreter.
        directory: where it runs, and what it takes for its user's home.
        variables: added to its environment.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(ollama_proxy.__file__).parent.parent),
        "HOME": str(directory),
        **(variables or {}),
    }
    with (
        (directory / "stderr").open("w+b") as log,
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=directory,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = _first_line(process.stdout)
            log.seek(0)
            assert line.startswith("ready http="), line + log.read().decode()
            yield "http://" + line.split()[1].removeprefix("http=")
            process.send_signal(signal.SIGTERM)
            log.seek(0)
            assert 0 == process.wait(GOODBYE_MAX_S), log.read().decode()
        finally:
            if process.poll() is None:
                process.kill()


def _first_line(output: IO[bytes]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        return output.readline().decode() if selector.select(READY_MAX_S) else ""
