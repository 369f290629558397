"""The real router on a recorded laptop, on a bus of the test's own."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.fakes.machine import recorded
from tests.real.buses import SOON_S, PrivateBus, program
from tests.real.processes import ROOT

LAPTOP = "framework16-amd-rx7700s"
# Watts, and milliseconds: one saves, the other is fast.
FIGURES = {"npu": (3.0, 800), "cpu": (60.0, 100)}


@asynccontextmanager
async def real_router(
    private: PrivateBus, urls: dict[str, str], *, on_bus: bool = True
) -> AsyncIterator[tuple[trio.Process, str]]:
    """`ollama-proxy serve` on a recorded laptop, as a process of its own; and its URL."""
    machine = private.directory / "machine"
    if not machine.exists():
        recorded(LAPTOP).unpack(machine)
    written = private.directory / "config.toml"
    written.write_text(
        f"""
[server]
http_port = 0
[dbus]
enabled = {str(on_bus).lower()}
bus = "{private.address}"
[efficiency]
quiet_hours = ""
[sensors]
sysfs_root = "{machine}/sys"
procfs_root = "{machine}/proc"
system_bus = ""
"""
        + "".join(
            f"""
[[backends]]
id = "ollama-{name}"
name = "Ollama {name.upper()}"
type = "ollama"
hardware = "{name}"
endpoint = "{url}"
[backends.characteristics]
power_watts = {FIGURES[name][0]}
avg_latency_ms = {FIGURES[name][1]}
"""
            for name, url in urls.items()
        )
    )
    command = (sys.executable, "-m", "ollama_proxy", "serve", "--config", str(written))
    variables = {"PYTHONPATH": str(ROOT / "src"), "HOME": str(private.directory)}
    async with program(*command, variables=variables, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with trio.fail_after(SOON_S):
            line = (await process.stdout.receive_some()).decode()
        assert line.startswith("ready http="), line
        yield process, "http://" + line.split()[1].removeprefix("http=")
