"""How one temperature is read, and when it is believed."""

from collections.abc import Iterable

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Kind, Zone
from ollama_proxy.sensors.files import Files, read_number

MILLI = 1e-3
LOWEST_C, HIGHEST_C = -20.0, 125.0
# Drives without a limit say 65535 K, or absolute zero; nothing slows down at room temperature.
LOWEST_LIMIT_C, HIGHEST_LIMIT_C = 40.0, 150.0

_COMPUTES = {Kind.CPU: Hardware.CPU, Kind.NPU: Hardware.NPU}


@attrs.define(kw_only=True)
class Thermometer:
    """One file that tells a temperature.

    Attributes:
        path: the file, in thousandths of a degree Celsius.
        limit_c: see `Zone`.
        speaks: it is to be trusted for the package.
        must_move: only once it was seen to move, and above freezing: it may be a constant.
    """

    path: str
    name: str
    kind: Kind
    source: str
    limit_c: float | None = None
    speaks: bool = False
    must_move: bool = False
    _first_c: float | None = None
    _moved: bool = False

    def read(self, files: Files) -> Zone:
        """The zone as it is now."""
        reading = read_number(files, self.path, scale=MILLI, lowest=LOWEST_C, highest=HIGHEST_C)
        return Zone(
            name=self.name,
            kind=self.kind,
            part=PACKAGE if self.speaks and self._is_believed(reading.value) else None,
            hardware=_COMPUTES.get(self.kind),
            temperature_c=reading.value,
            limit_c=self.limit_c,
            quality=reading.quality,
            source=self.source,
        )

    def _is_believed(self, temperature_c: float | None) -> bool:
        if not self.must_move:
            return True
        if temperature_c is None:
            return self._moved
        if self._first_c is None:
            self._first_c = temperature_c
        self._moved = self._moved or temperature_c != self._first_c
        return self._moved and temperature_c > 0


def read_limit(files: Files, paths: Iterable[str]) -> float | None:
    """The first limit that can be one, of files in thousandths of a degree Celsius."""
    for path in paths:
        limit = read_number(
            files, path, scale=MILLI, lowest=LOWEST_LIMIT_C, highest=HIGHEST_LIMIT_C
        )
        if limit.value is not None:
            return limit.value
    return None
