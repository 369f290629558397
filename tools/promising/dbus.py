"""What the door on the bus costs: a call there and back, and nothing happening at all.

The bus, the router and the caller are processes of their own, as on a desktop; the router's figures
are its own.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import Remote
from ollama_proxy.bus.opening import open_bus
from ollama_proxy.inbound.dbus.tree import NAME
from tests.real.buses import PrivateBus, program

MOST_MS = 1.0
MOST_SHARE = 0.003  # of one core
CALLS = 2000
IDLE_S = 30.0
SOON_S = 20.0
_OBJECT = f"/{NAME.replace('.', '/')}/Efficiency"
MODE = Remote(NAME, _OBJECT, f"{NAME}.Efficiency")
_CONFIG = """\
[server]
http_port = 0
[[backends]]
id = "nobody"
hardware = "cpu"
enabled = false
endpoint = "http://127.0.0.1:9"
[sensors]
sysfs_root = "{root}/sys"
procfs_root = "{root}/proc"
system_bus = ""
nvml = false
[dbus]
enabled = {enabled}
bus = "{address}"
"""


async def _round_trips_ms(bus: Bus, calls: int) -> list[float]:
    took = []
    for _ in range(calls):
        begun = time.perf_counter()
        await bus.call(MODE, "GetMode", returns="s", timeout_s=SOON_S)
        took.append((time.perf_counter() - begun) * 1000)
    return took


async def _idle_share(process: psutil.Process, seconds: float) -> float:
    """What a process used of one core while nothing happened."""
    before = process.cpu_times()
    await trio.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


@asynccontextmanager
async def _router(private: PrivateBus, *, with_door: bool) -> AsyncIterator[psutil.Process]:
    """A router in a process of its own, ready."""
    config = private.directory / "config.toml"
    config.write_text(
        _CONFIG.format(
            root=private.directory, enabled=str(with_door).lower(), address=private.address
        )
    )
    command = (sys.executable, "-m", "ollama_proxy", "serve", "--config", str(config))
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = b""
    async with program(*command, variables=variables, stdout=subprocess.PIPE) as router:
        with trio.fail_after(SOON_S):
            while not said.endswith(b"\n") and router.stdout is not None:
                said += await router.stdout.receive_some()
        if (b"dbus=" + NAME.encode() in said) is not with_door:
            raise RuntimeError(f"the router is not ready: {said!r}")
        yield psutil.Process(router.pid)


async def _measure(directory: Path, calls: int, idle_s: float) -> tuple[list[float], list[float]]:
    """Milliseconds of each call; the share of a core with the door, and without."""
    private = PrivateBus(directory)
    took: list[float] = []
    shares = []
    async with private.running():
        for with_door in (True, False):
            async with _router(private, with_door=with_door) as process:
                if with_door:
                    async with open_bus(private.address) as bus:
                        await _round_trips_ms(bus, calls // 10)
                        took += await _round_trips_ms(bus, calls)
                await trio.sleep(min(1.0, idle_s))
                shares.append(await _idle_share(process, idle_s))
    return took, shares


def measure(calls: int = CALLS, idle_s: float = IDLE_S) -> bool:
    """Print the figures; whether the promises are kept."""
    if shutil.which("dbus-daemon") is None:
        print("dbus-daemon is not installed: NOT MEASURED")
        return False
    with tempfile.TemporaryDirectory() as directory:
        took, (with_door, without) = trio.run(_measure, Path(directory), calls, idle_s)
    p50, p99 = statistics.median(took), statistics.quantiles(took, n=100)[98]
    share = max(0.0, with_door - without)
    print(f"{calls} calls: p50 {p50:.2f} ms (promised: {MOST_MS:g} ms), p99 {p99:.2f} ms")
    print(
        f"idle for {idle_s:g} s: {with_door:.2%} of one core, {without:.2%} without the door:"
        f" {share:.2%} (promised: {MOST_SHARE:.1%})"
    )
    return p50 <= MOST_MS and share <= MOST_SHARE
