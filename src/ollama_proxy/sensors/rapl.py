"""The processor's own energy counters: RAPL, by way of powercap.

Only domains of the top level are read: a package contains its cores, graphics and often memory, and
`psys` contains the packages, so no two levels may be added. `intel-rapl-mmio` is the same package by
another way.

The kernel lets only root read them, unless its owner opened them: they are a side channel. Denied is
the ordinary answer. It is asked again at the next discovery, not each second.
"""

import errno
import re

import attrs

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Findings, Quality, Scope
from ollama_proxy.sensors.files import Files, Reading, list_or_nothing, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor

POWERCAP = "/sys/class/powercap"
MICRO = 1e-6
INTERVAL_S = 1.0
DENIED_INTERVAL_S = 60.0
SHORTEST_S = 0.05  # of less, the counter's own steps would make watts
LONGEST_S = 60.0  # the machine slept, or the counter may have wrapped more than once
MOST_WATTS = 1000.0


@attrs.define(kw_only=True)
class RaplDomain:
    """One package, or the whole platform. See `Sensor`.

    `_range_j` is where the counter starts again at zero; None: it does not say.
    """

    name: str
    key: str
    interval_s: float
    _files: Files
    _path: str
    _scope: Scope
    _range_j: float | None
    _denied: bool
    _counter_j: float | None = None
    _read_at: float = 0.0
    _joules: float = 0.0
    _marked_j: float = 0.0
    _marked_at: float = 0.0

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        if self._denied:
            return self._found(None, Quality.DENIED)
        counter = _read_counter(self._files, self._path)
        if counter.quality is Quality.ABSENT:
            raise OSError(errno.ENODEV, "the domain is gone", self._path)
        if counter.value is None:
            return self._found(None, counter.quality)
        rise = self._rise(counter.value, now)
        self._counter_j, self._read_at = counter.value, now
        if rise is None:
            self._mark(now)
            return self._found(None, Quality.OK)
        self._joules += rise
        return self._found(self._watts(now), Quality.OK)

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""

    def _rise(self, counter_j: float, now: float) -> float | None:
        """Joules since the last reading; None where the difference tells nothing."""
        if self._counter_j is None or now - self._read_at > LONGEST_S:
            return None
        rise = counter_j - self._counter_j
        if rise < 0:
            # It wrapped, unless that would be a leap: then the counter was set back.
            if self._range_j is None or rise + self._range_j >= self._range_j / 2:
                return None
            rise += self._range_j
        return rise if rise <= MOST_WATTS * max(now - self._read_at, 1.0) else None

    def _watts(self, now: float) -> float | None:
        """The mean since the last time; None too soon after it, or where the counter stands."""
        if now - self._marked_at < SHORTEST_S:
            return None
        watts = (self._joules - self._marked_j) / (now - self._marked_at)
        self._mark(now)
        return watts or None

    def _mark(self, now: float) -> None:
        self._marked_j, self._marked_at = self._joules, now

    def _found(self, watts: float | None, quality: Quality) -> Findings:
        draw = Draw(
            name=self.name,
            scope=self._scope,
            part=PACKAGE if self._scope is Scope.PACKAGE else None,
            watts=watts,
            joules=self._joules if quality is Quality.OK else None,
            quality=quality,
            source="rapl",
        )
        return Findings(draws=(draw,))


def find_rapl_domains(files: Files) -> list[Sensor]:
    """Every package, and the platform where it is measured."""
    found = (_domain(files, entry) for entry in list_or_nothing(files, POWERCAP))
    return [domain for domain in found if domain is not None]


def _domain(files: Files, entry: str) -> RaplDomain | None:
    path = f"{POWERCAP}/{entry}"
    named = read_text(files, f"{path}/name") or ""
    is_package = re.fullmatch(r"package-[0-9]{1,4}(-die-[0-9]{1,4})?", named)
    if not re.fullmatch(r"intel-rapl:[^:]+", entry) or not (is_package or named == "psys"):
        return None
    counter = _read_counter(files, path)
    if counter.quality is Quality.ABSENT:  # containers hide what the links lead to
        return None
    denied = counter.quality is Quality.DENIED
    return RaplDomain(
        name=f"rapl {named}",
        # The owner who opens the counter later makes another sensor of it.
        key=f"rapl {named} at {path}{', denied' if denied else ''}",
        interval_s=DENIED_INTERVAL_S if denied else INTERVAL_S,
        files=files,
        path=path,
        scope=Scope.PACKAGE if is_package else Scope.SYSTEM,
        range_j=read_number(files, f"{path}/max_energy_range_uj", scale=MICRO, lowest=1.0).value,
        denied=denied,
    )


def _read_counter(files: Files, path: str) -> Reading:
    return read_number(files, f"{path}/energy_uj", scale=MICRO, lowest=0.0)
