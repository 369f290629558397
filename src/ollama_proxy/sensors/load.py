"""How busy the processor is: the first line of `/proc/stat`.

Not by psutil: its `cpu_percent` remembers the last reading per thread, and this is read on whatever
thread is free; nor would it look where a recorded machine's files are.
"""

import re

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Findings, Load
from ollama_proxy.sensors.files import Files
from ollama_proxy.sensors.sensor import Sensor

INTERVAL_S = 2.0
STAT = "/proc/stat"
_TIMES = 8  # user nice system idle iowait irq softirq steal; guests are counted in user already
_IDLE, _IO_WAIT = 3, 4
_COUNT = re.compile(rb"[0-9]{1,20}")  # what 64 bits hold


@attrs.define
class CpuLoad:
    """All cores together."""

    _files: Files
    name: str = "cpu"
    key: str = STAT
    interval_s: float = INTERVAL_S
    _last: tuple[int, int] | None = None

    def read(self, now: float) -> Findings:  # noqa: ARG002 - the kernel's ticks are the clock here
        """See `Sensor`."""
        before, self._last = self._last, _ticks(self._files.read(STAT))
        share = None
        if before is not None and self._last is not None:
            busy, passed = self._last[0] - before[0], self._last[1] - before[1]
            if passed > 0 and 0 <= busy <= passed:
                share = busy / passed
        return Findings(loads=(Load(name=self.name, hardware=Hardware.CPU, share=share),))

    def close(self) -> None:
        """See `Sensor`. Nothing is held open."""


def _ticks(stat: bytes) -> tuple[int, int] | None:
    """Ticks at work, and all ticks, since the machine started; None where the line is another."""
    fields = stat.partition(b"\n")[0].split()
    times = [int(field) for field in fields[1 : _TIMES + 1] if _COUNT.fullmatch(field)]
    if fields[:1] != [b"cpu"] or len(times) <= _IO_WAIT:
        return None
    return sum(times) - times[_IDLE] - times[_IO_WAIT], sum(times)


def find_load(files: Files) -> list[Sensor]:
    """The processor's load, where the kernel tells it."""
    try:
        files.read(STAT)
    except OSError:
        return []
    return [CpuLoad(files)]
