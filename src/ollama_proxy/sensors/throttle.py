"""Intel's counters of thermal throttling, as evidence that the package is slowed down by heat.

Rule 1: only a rise tells something. A laptop at rest may show tens of thousands since it started.
Rule 2: a package's counters are the same on each of its CPUs: one CPU is asked for all, and another
    where that one is offline. What another CPU counted is no rise.
Rule 3: where the time is counted, a tenth of the last half minute is throttling; a single event is
    an everyday matter. Elsewhere any event since the last reading is.

The kernel adds the time when an event ends, not while it lasts: a throttling of minutes without a
break shows late. Its temperature shows it meanwhile.
"""

import errno
import re
from collections import deque

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Findings, Kind, Quality, Zone
from ollama_proxy.sensors.chips import INTERVAL_S
from ollama_proxy.sensors.files import Files, list_or_nothing, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor

CPUS = "/sys/devices/system/cpu"
WINDOW_S = 30.0
SHARE = 0.1


@attrs.define(kw_only=True)
class _Counters:
    """The counters of one package, or of one core that counts alone.

    Attributes:
        paths: of each CPU that has them, up to the last underscore.
        path: whose were read last.
        count: of events, at the last reading.
        times_s: when, and how long it was throttled in all until then.
    """

    paths: tuple[str, ...]
    path: str = ""
    count: float = 0.0
    times_s: deque[tuple[float, float]] = attrs.field(factory=deque)

    def read(self, files: Files, now: float) -> tuple[bool | None, Quality]:
        """Whether it is throttled; None where nothing is known to compare with."""
        quality = Quality.ABSENT
        for path in self.paths:
            count = read_number(files, f"{path}_count", lowest=0.0)
            if count.value is not None:
                total = read_number(files, f"{path}_total_time_ms", lowest=0.0, scale=1e-3)
                return self._judge(path, count.value, total.value, now), Quality.OK
            if count.quality is not Quality.ABSENT:
                quality = count.quality
        return None, quality

    def _judge(self, path: str, count: float, total_s: float | None, now: float) -> bool | None:
        was_path, was_count = self.path, self.count
        self.path, self.count = path, count
        if path != was_path or count < was_count:  # a CPU that was offline counts from zero
            self.times_s.clear()
            if total_s is not None:
                self.times_s.append((now, total_s))
            return None
        if total_s is None:
            return count > was_count
        if self.times_s and total_s < self.times_s[-1][1]:
            self.times_s.clear()
        self.times_s.append((now, total_s))
        while len(self.times_s) > 1 and self.times_s[1][0] <= now - WINDOW_S:
            self.times_s.popleft()
        return total_s - self.times_s[0][1] >= SHARE * WINDOW_S


@attrs.define(kw_only=True)
class ThrottleCounters:
    """The counters of all CPUs. See `Sensor`."""

    name: str = "cpu throttle"
    key: str
    interval_s: float = INTERVAL_S
    _files: Files
    _counters: tuple[_Counters, ...]

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        read = [counters.read(self._files, now) for counters in self._counters]
        qualities = {quality for _, quality in read}
        if qualities == {Quality.ABSENT}:
            raise OSError(errno.ENODEV, "no CPU counts any more", CPUS)
        known = [throttling for throttling, _ in read if throttling is not None]
        zone = Zone(
            name=self.name,
            kind=Kind.CPU,
            part=PACKAGE,
            hardware=Hardware.CPU,
            throttling=any(known) if known else None,
            quality=Quality.OK if Quality.OK in qualities else read[0][1],
            source="thermal_throttle",
        )
        return Findings(zones=(zone,))

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""


def find_throttle_counters(files: Files) -> list[Sensor]:
    """One sensor for all CPUs, if any counts."""
    groups: dict[str, list[str]] = {}
    entries = (re.fullmatch(r"cpu([0-9]{1,6})", name) for name in list_or_nothing(files, CPUS))
    for number in sorted(int(entry[1]) for entry in entries if entry):
        cpu = f"{CPUS}/cpu{number}"
        there = list_or_nothing(files, f"{cpu}/thermal_throttle")
        if "package_throttle_count" in there:
            package = read_text(files, f"{cpu}/topology/physical_package_id") or "0"
            paths = groups.setdefault(f"package {package}", [])
            paths.append(f"{cpu}/thermal_throttle/package_throttle")
        elif "core_throttle_count" in there:
            groups[f"cpu {number}"] = [f"{cpu}/thermal_throttle/core_throttle"]
    if not groups:
        return []
    counters = tuple(_Counters(paths=tuple(paths)) for paths in groups.values())
    return [
        ThrottleCounters(key=f"cpu throttle of {', '.join(groups)}", files=files, counters=counters)
    ]
