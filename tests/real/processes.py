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

import attrs

import ollama_proxy

ROOT = Path(__file__).resolve().parents[2]
ANY_PORT = ("--http-port", "0", "--grpc-port", "0")
READY_MAX_S = 120.0
GOODBYE_MAX_S = 30.0


@attrs.frozen
class Program:
    """One that runs.

    Attributes:
        process: to be ended by SIGTERM, which is done for it if nobody has.
        said: its first line.
    """

    process: subprocess.Popen[bytes]
    said: str

    def address(self, door: str) -> str:
        """Where one of its doors is, as in `ready http=HOST:PORT`."""
        return next(w for w in self.said.split() if w.startswith(f"{door}=")).partition("=")[2]


@contextmanager
def running(
    command: Sequence[str], directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The same as `started`; yields the URL of its HTTP door."""
    with started(command, directory, variables) as program:
        yield "http://" + program.address("http")


@contextmanager
def started(
    command: Sequence[str], directory: Path, variables: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """A program that says `ready http=HOST:PORT` and ends with 0 on SIGTERM.

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
            yield Program(process, line)
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
