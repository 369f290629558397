"""Programs that may be killed, stopped, denied descriptors and memory: the parts of a house under fault."""

import os
import resource
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import attrs

from tests.real.processes import ROOT

READY_MAX_S = 60.0
GOODBYE_MAX_S = 30.0


@attrs.define(eq=False)
class Program:
    """One that says `ready http=HOST:PORT ...` once it serves.

    Attributes:
        command: after the interpreter.
        directory: where it runs, and what it takes for its user's home.
        variables: added to its environment.
        errors: where its stderr goes; None: into `stderr` in its directory.
    """

    command: Sequence[str]
    directory: Path
    variables: Mapping[str, str] = attrs.field(factory=dict)
    errors: Path | None = None
    said: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its number, for signals; it must have been started."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs still, though it may be stopped."""
        return self.process is not None and self.process.poll() is None

    def door(self, name: str) -> tuple[str, int]:
        """Host and port of one of its doors."""
        words = dict(word.partition("=")[::2] for word in self.said.split())
        host, _, port = words[name].rpartition(":")
        return host, int(port)

    @property
    def url(self) -> str:
        """Of its HTTP door."""
        return "http://{}:{}".format(*self.door("http"))

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with (self.errors or self.directory / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *self.command],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.directory,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
                    "HOME": str(self.directory),
                    **self.variables,
                },
            )
        assert self.process.stdout is not None
        self.said = _first_line(self.process.stdout)
        assert self.said.startswith("ready http="), (self.said, self.log())

    def start_again(self) -> None:
        """Start it behind the door that it had, once it has been killed."""
        port = str(self.door("http")[1])
        given = list(self.command)
        self.command = given if "--port" in given else [*given, "--port", port]
        self.start()

    def log(self) -> str:
        """What it wrote on stderr."""
        return (self.directory / "stderr").read_text() if self.errors is None else ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, and see it gone."""
        if self.process is not None:
            self.process.kill()
            self.see_off()

    def stop(self) -> int:
        """End it politely; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        return self.see_off()

    def see_off(self) -> int:
        """Wait for its end; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it does not end.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        try:
            return self.process.wait(GOODBYE_MAX_S)
        finally:
            self.process.stdout.close()

    def limit(self, what: int, most: int) -> int:
        """Let it have so much of something and no more; returns what it was let have before."""
        before, hard = resource.prlimit(self.pid, what)
        resource.prlimit(self.pid, what, (most, hard))
        return before


def _first_line(output: IO[bytes]) -> str:
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        return output.readline().decode() if selector.select(READY_MAX_S) else ""
