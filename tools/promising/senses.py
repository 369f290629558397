"""What the senses cost: all sensors of the largest recorded machine, at the intervals of every day."""

import tempfile
import threading
import time
from pathlib import Path

import attrs
import trio

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.discovery import discover
from ollama_proxy.sensors.files import Files, KernelFiles
from ollama_proxy.sensors.senses import Senses
from ollama_proxy.sensors.sensor import Heed
from tests.fakes.machine import names, recorded

SECONDS = 30.0
MOST_SHARE = 0.005  # of one core
STAT = "cpu  4705 356 584 3699176 23060 0 277 0 0 0"


@attrs.define
class CountedFiles:
    """Files, and how often one was opened, by whichever thread."""

    files: Files
    opens: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def read(self, path: str) -> bytes:
        """See `Files`."""
        with self._lock:
            self.opens += 1
        return self.files.read(path)

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        return self.files.list(path)

    def real(self, path: str) -> str:
        """See `Files`."""
        return self.files.real(path)


async def _sense(files: Files, seconds: float) -> tuple[set[str], int]:
    """Which sensors told something, and how often any did."""
    told: list[str] = []

    def publish(name: str, findings: Findings | None) -> None:
        if findings is not None:
            told.append(name)

    senses = Senses(lambda: discover(files, Heed()), publish)
    async with trio.open_nursery() as nursery:
        await nursery.start(senses.run)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return set(told), len(told)


def measure(seconds: float = SECONDS) -> bool:
    """Print the cost; whether the promise is kept."""
    machine = max((recorded(name) for name in names()), key=lambda each: each.size)
    machine.write("/proc/stat", STAT)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        machine.unpack(root)
        files = CountedFiles(KernelFiles(str(root / "sys"), str(root / "proc")))
        begun, used = time.perf_counter(), time.process_time()
        sensors, reads = trio.run(_sense, files, seconds)
        used_s, wall_s = time.process_time() - used, time.perf_counter() - begun
    print(
        f"{len(sensors)} sensors, {reads} reads, {files.opens / wall_s:.1f} opens a second:"
        f" {used_s:.3f} s of {wall_s:.1f} s, {used_s / wall_s:.2%} of one core"
        f" (promised: {MOST_SHARE:.1%})"
    )
    return used_s / wall_s <= MOST_SHARE
