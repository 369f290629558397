"""What one who watches the dashboard costs the router: four backends, fifty requests a second.

Two routers, one without a dashboard and one that is watched, have the same traffic in turns, in
processes of their own; what counts is the processor's time of each.
"""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import trio

from tests.real.processes import ROOT, running, started

BACKENDS = ("npu", "igpu", "nvidia", "cpu")
REQUESTS_PER_S = 50
TURNS = 6
TURN_S = 10.0
MOST_SHARE = 0.02  # of one core
_MODEL = "fake:latest"
_CONFIG = """\
[server]
http_port = 0
grpc = false
[dbus]
enabled = false
[sensors]
sysfs_root = "/nowhere/sys"
procfs_root = "/nowhere/proc"
system_bus = ""
nvml = false
[observability]
access_log = false
dashboard = {shown}
"""
_BACKEND = """
[[backends]]
id = "{name}"
hardware = "{name}"
endpoint = "{url}"
slots = 4
"""


@asynccontextmanager
async def _watching(client: httpx.AsyncClient, url: str) -> AsyncIterator[list[int]]:
    """Somebody who takes all that is told; the bytes of each piece."""
    heard: list[int] = []
    ready = trio.Event()

    async def listen() -> None:
        async with client.stream("GET", f"{url}/events", timeout=None) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_raw():
                heard.append(len(piece))
                ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await ready.wait()
        heard.clear()
        yield heard
        nursery.cancel_scope.cancel()


async def _traffic(client: httpx.AsyncClient, url: str, seconds: float) -> None:
    """Streams at an even pace, to each backend in turn."""

    async def ask(backend: str) -> None:
        answer = await client.post(
            f"{url}/api/chat",
            json={"model": _MODEL, "messages": [{"role": "user", "content": "hi"}]},
            headers={"x-target-backend": backend},
            timeout=30.0,
        )
        answer.raise_for_status()

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(round(seconds * REQUESTS_PER_S)):
            await trio.sleep_until(begun + number / REQUESTS_PER_S)
            nursery.start_soon(ask, BACKENDS[number % len(BACKENDS)])


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _turn(process: psutil.Process, client: httpx.AsyncClient, url: str, s: float) -> float:
    """The share of a core that the traffic took of the router."""
    before, begun = _spent_s(process), time.perf_counter()
    await _traffic(client, url, s)
    return (_spent_s(process) - before) / (time.perf_counter() - begun)


async def _measure(
    plain: tuple[str, int], watched: tuple[str, int], turns: int, turn_s: float
) -> tuple[list[tuple[float, float]], float]:
    """Each turn's shares, without and with; and the bytes a second that were told."""
    shares, heard_bytes = [], 0
    processes = [psutil.Process(pid) for _, pid in (plain, watched)]
    async with httpx.AsyncClient(trust_env=False) as client:
        for url, _ in (plain, watched):
            await _traffic(client, url, min(2.0, turn_s))
        for _ in range(turns):
            without = await _turn(processes[0], client, plain[0], turn_s)
            async with _watching(client, watched[0]) as heard:
                with_one = await _turn(processes[1], client, watched[0], turn_s)
                heard_bytes += sum(heard)
            shares.append((without, with_one))
    return shares, heard_bytes / (turns * turn_s)


def measure(turns: int = TURNS, turn_s: float = TURN_S) -> bool:
    """Print the figures; whether the promise is kept."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backends = ""
        for name in BACKENDS:
            place = home / name
            place.mkdir()
            command = [str(ROOT / "tools" / "fake-ollama")]
            backends += _BACKEND.format(name=name, url=stack.enter_context(running(command, place)))
        routers = []
        for shown in ("false", "true"):
            place = home / shown
            place.mkdir()
            (place / "config.toml").write_text(_CONFIG.format(shown=shown) + backends)
            program = stack.enter_context(started(["-m", "ollama_proxy", "serve"], place))
            routers.append(("http://" + program.address("http"), program.process.pid))
        shares, told = trio.run(_measure, routers[0], routers[1], turns, turn_s)
    without, with_one = (statistics.median(each) for each in zip(*shares, strict=True))
    extra = statistics.median(w - p for p, w in shares)
    print(
        f"{len(BACKENDS)} backends, {REQUESTS_PER_S} requests/s, {turns} turns of {turn_s:g} s:"
        f" {without:.2%} of one core without a dashboard, {with_one:.2%} watched, told"
        f" {told / 1024:.1f} KiB/s"
    )
    print(f"what it adds: {extra:.2%} of one core (promised: {MOST_SHARE:.0%})")
    return extra <= MOST_SHARE
