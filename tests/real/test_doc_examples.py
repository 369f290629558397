"""What the documentation tells its readers to type: run as it stands, against a router with fakes.

A fence below a line `<!-- tested: WORDS -->` is an example; WORDS are in what it prints. The addresses
in it are the defaults, which are exchanged for those of the test's router.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import httpx
import pytest

from tests.real.buses import require_bus
from tests.real.parts import require
from tests.real.processes import ROOT, running, started
from tests.routers import FOUR

MODEL = "qwen2.5:0.5b"
LIMIT_S = 60
_EXAMPLE = re.compile(r"<!-- tested: ([^\n]+) -->\n```(sh|python)\n(.*?)\n```", re.DOTALL)
_PROGRAMS = ("curl", "busctl", "gdbus")
_BACKEND = """
[[backends]]
id = "ollama-{name}"
hardware = "{name}"
endpoint = "{url}"
slots = 2
[backends.characteristics]
power_watts = {watts}
avg_latency_ms = {latency_ms}
"""
_CONFIG = """
[server]
http_port = 0
grpc_port = 0
[efficiency]
mode = "balanced"
[sensors]
sysfs_root = "/nowhere/sys"
procfs_root = "/nowhere/proc"
system_bus = ""
[dbus]
bus = "{bus}"
inhibit_sleep = false
[notifications]
mode_change = false
thermal = false
backend_down = false
[wyoming]
enabled = true
port = 0
model = "{model}"
"""


@attrs.frozen
class Example:
    """One, and where it stands."""

    where: str
    expected: str
    language: str
    text: str


def examples() -> list[Example]:
    """All that are marked, in the order of the pages."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for at in _EXAMPLE.finditer(text):
            line = text.count("\n", 0, at.start()) + 1
            found.append(Example(f"{page.name}:{line}", at[1], at[2], at[3]))
    return found


EXAMPLES = examples()


@attrs.frozen
class House:
    """A router whose doors are all open.

    Attributes:
        http, grpc, wyoming: where they are.
        variables: what programs find it by.
    """

    http: str
    grpc: str
    wyoming: int
    variables: dict[str, str]

    def at_home(self, text: str) -> str:
        """An example with our addresses in it."""
        for default, ours in (
            ("127.0.0.1:8080", self.http),
            ("127.0.0.1:50051", self.grpc),
            ('("127.0.0.1", 10400)', f'("127.0.0.1", {self.wyoming})'),
        ):
            text = text.replace(default, ours)
        return text


@contextmanager
def session_bus(directory: Path) -> Iterator[str]:
    """A bus of our own; yields its address."""
    address = f"unix:path={directory}/bus"
    command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1"]
    with subprocess.Popen([*command, f"--address={address}"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "it ended before it was ready"
            yield address
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    require_bus()
    for program in _PROGRAMS:
        require(shutil.which(program) is not None, f"{program} is not installed")
    directory = tmp_path_factory.mktemp("documented")
    with ExitStack() as stack:
        bus = stack.enter_context(
            session_bus(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        )
        config = _CONFIG.format(bus=bus, model=MODEL)
        for name in ("npu", "nvidia"):
            _, watts, latency_ms = FOUR[name]
            command = [str(ROOT / "tools" / "fake-ollama"), "--models", MODEL, "--only-listed"]
            url = stack.enter_context(running(command, tmp_path_factory.mktemp(name)))
            config += _BACKEND.format(name=name, url=url, watts=watts, latency_ms=latency_ms)
        (directory / "config.toml").write_text(config)
        router = stack.enter_context(started(["-m", "ollama_proxy", "serve"], directory))
        assert "dbus=off" not in router.said
        heard = re.search(r"heard on 127\.0\.0\.1:(\d+)", (directory / "stderr").read_text())
        assert heard
        http, grpc = router.address("http"), router.address("grpc")
        variables = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(directory),
            "OLLAMA_PROXY_CONFIG": str(directory / "config.toml"),
            "OLLAMA_PROXY_HTTP_PORT": http.rpartition(":")[2],
            "OLLAMA_PROXY_GRPC_PORT": grpc.rpartition(":")[2],
            "DBUS_SESSION_BUS_ADDRESS": bus,
            "no_proxy": "*",
        }
        yield House(http, grpc, int(heard[1]), variables)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.where)
def test_it_works_as_it_stands(example: Example, house: House, tmp_path: Path) -> None:
    """It ends well, and prints what its page says."""
    httpx.post(f"http://{house.http}/efficiency", json={"mode": "balanced"}, trust_env=False)
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    command = ["sh", "-euc"] if example.language == "sh" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, house.at_home(example.text)],
        env=house.variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert example.expected in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    "door",
    [
        *("/api/", "/v1/chat", "/v1/messages", "/v1/stream/ws", "realtime", "grpcurl"),
        *("grpc_tools", "busctl", "gdbus", "10400", "ollama-proxy say"),
    ],
)
def test_every_door_has_an_example(door: str) -> None:
    """Which a test runs: a mark that is lost would be a test that is."""
    assert any(door in example.text for example in EXAMPLES)
