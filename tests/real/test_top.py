"""`ollama-proxy top` in a terminal as people have it: tmux, which tells what is on its screen."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx

import ollama_proxy
from tests.numb import NUMB_TOML
from tests.real.parts import require
from tests.real.processes import started
from tests.real.sessions import wait_until

NOBODY = "http://127.0.0.1:1"
CONFIG = f"""
[server]
http_port = 0
grpc = false
[[backends]]
id = "lonely"
hardware = "npu"
endpoint = "{NOBODY}"
{NUMB_TOML}
"""
SERVE = ("-m", "ollama_proxy", "serve")


@attrs.frozen
class Terminal:
    """One in which a command runs.

    Attributes:
        directory: where its socket is.
    """

    directory: Path

    def do(self, *command: str) -> str:
        """Have tmux do something; returns what it says."""
        return subprocess.run(
            ["tmux", "-f", "/dev/null", "-S", self.directory / "socket", *command],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), "LC_ALL": "C.UTF-8"},
        ).stdout

    @property
    def screen(self) -> str:
        """What is to be seen."""
        return self.do("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        self.do("send-keys", *keys)

    def until(self, word: str) -> None:
        """Wait until a word is to be seen."""
        wait_until(lambda: word in self.screen)


@contextmanager
def terminal(command: str) -> Iterator[Terminal]:
    """A terminal of 80 columns in which a shell runs a command, and then says its exit code."""
    require(shutil.which("tmux") is not None, "tmux is not installed")
    with tempfile.TemporaryDirectory() as directory:
        made = Terminal(Path(directory))
        shown = f"{command}; echo left with $?; read -r _"
        made.do("new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", shown)
        try:
            yield made
        finally:
            made.do("kill-server")


def test_top_is_watched(tmp_path: Path) -> None:
    """It shows a router, outlives its restart and a resize, sets the mode, and leaves with 0."""
    (tmp_path / "config.toml").write_text(CONFIG)
    source = Path(ollama_proxy.__file__).parent.parent
    with started(SERVE, tmp_path) as first:
        address = first.address("http")
        url = f"http://{address}"
        program = shlex.join([sys.executable, "-m", "ollama_proxy", "top", "--url", url])
        with terminal(f"PYTHONPATH={shlex.quote(str(source))} {program}") as seen:
            seen.until("balanced, in force: balanced")
            seen.until("lonely")
            seen.press("m")
            seen.until("ultra-efficiency")
            seen.press("Home", "Enter")
            seen.until("performance, in force: performance")
            set_to = httpx.get(f"{url}/efficiency", trust_env=False).json()["mode"]

            first.process.terminate()
            assert 0 == first.process.wait(30)
            seen.until("no router answers on")
            port = address.rpartition(":")[2]
            with started((*SERVE, "--http-port", port), tmp_path):
                seen.until("balanced, in force: balanced")
                assert "no router answers on" not in seen.screen
                seen.do("resize-window", "-x", "40", "-y", "20")
                seen.until("state")  # each backend a paragraph by now
                seen.do("resize-window", "-x", "120", "-y", "30")
                seen.until("FIRST TOKEN")
                seen.press("q")
                seen.until("left with 0")

    assert "performance" == set_to
