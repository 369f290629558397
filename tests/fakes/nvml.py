"""NVIDIA's library as tests need it: answers from a table, every call on record, all its errors.

Readings of real cards are in tests/sensors/machines/nvml-laptop-gpus.txt.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs

from tests.fakes.machine import MACHINES

NOT_SUPPORTED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND = 3, 9, 12
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH = 13, 15, 16, 18
_CODES = {"!NOT_SUPPORTED": NOT_SUPPORTED}


class NvmlError(Exception):
    """As the library's: it has a number."""

    def __init__(self, value: int) -> None:
        """Begin with the number."""
        super().__init__(value)
        self.value = value


@attrs.define
class FakeCard:
    """A card. A field that is an error raises it; None is one that this card does not support.

    Attributes are in the library's own units.
    """

    bus_id: str = "00000000:01:00.0"
    name: str = "NVIDIA Test GPU"
    temperature_c: int | NvmlError | None = 50
    slowdown_c: int | NvmlError | None = 93
    power_average_mw: int | NvmlError | None = 20_000
    power_limit_mw: int | NvmlError | None = 80_000
    power_limit_max_mw: int | NvmlError | None = None
    total_energy_mj: int | NvmlError | None = 1_000_000
    clocks_event_reasons: int | NvmlError | None = 0
    utilization_gpu: int | NvmlError | None = 0
    fan: int | NvmlError | None = None


def recorded_card(name: str, **also: Any) -> FakeCard:
    """A card of the recording; what was not recorded is not supported."""
    fields: dict[str, Any] = {
        field.name: None for field in attrs.fields(FakeCard) if field.name not in {"bus_id", "name"}
    }
    for line in (MACHINES / "nvml-laptop-gpus.txt").read_text().splitlines():
        if line.startswith(f"nvml:{name}/"):
            key, _, value = line.partition("/")[2].partition(" = ")
            if key in fields:
                fields[key] = NvmlError(_CODES[value]) if value in _CODES else int(value, 0)
            elif key in {"bus_id", "name"}:
                fields[key] = value
    return FakeCard(**(fields | also))


@attrs.define
class FakeNvml:
    """The library.

    Attributes:
        cards: what it knows.
        calls: the names of all functions that were called, in order.
        refuses: the error that opening it ends with.
        lacks: functions that the driver is too old for.
        is_open: between Init and Shutdown.
    """

    cards: list[FakeCard]
    calls: list[str] = attrs.field(factory=list)
    refuses: NvmlError | None = None
    lacks: set[str] = attrs.field(factory=set)
    is_open: bool = False
    NVMLError: type[Exception] = NvmlError

    def opened(self) -> int:
        """How often it was opened."""
        return self.calls.count("nvmlInit")

    def nvmlInit(self) -> None:  # noqa: D102, N802
        self.calls.append("nvmlInit")
        if self.refuses is not None:
            raise self.refuses
        self.is_open = True

    def nvmlShutdown(self) -> None:  # noqa: D102, N802
        self.calls.append("nvmlShutdown")
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: D102, N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:  # noqa: D102, N802
        return self.cards[index]

    def nvmlDeviceGetPciInfo(self, handle: FakeCard) -> Any:  # noqa: D102, N802
        return SimpleNamespace(busId=handle.bus_id.encode())

    def nvmlDeviceGetName(self, handle: FakeCard) -> str:  # noqa: D102, N802
        return handle.name

    def nvmlDeviceGetTemperatureV(self, handle: FakeCard, sensor: int) -> int:  # noqa: ARG002, D102, N802
        return self._ask("nvmlDeviceGetTemperatureV", lambda: handle.temperature_c)

    def nvmlDeviceGetTemperature(self, handle: FakeCard, sensor: int) -> int:  # noqa: ARG002, D102, N802
        return self._ask("nvmlDeviceGetTemperature", lambda: handle.temperature_c)

    def nvmlDeviceGetTemperatureThreshold(self, handle: FakeCard, threshold: int) -> int:  # noqa: ARG002, D102, N802
        return self._ask("nvmlDeviceGetTemperatureThreshold", lambda: handle.slowdown_c)

    def nvmlDeviceGetPowerUsage(self, handle: FakeCard) -> int:  # noqa: D102, N802
        return self._ask("nvmlDeviceGetPowerUsage", lambda: handle.power_average_mw)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: FakeCard) -> int:  # noqa: D102, N802
        return self._ask("nvmlDeviceGetEnforcedPowerLimit", lambda: handle.power_limit_mw)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: FakeCard) -> list[int]:  # noqa: D102, N802
        name = "nvmlDeviceGetPowerManagementLimitConstraints"
        return [0, self._ask(name, lambda: handle.power_limit_max_mw)]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeCard) -> int:  # noqa: D102, N802
        return self._ask("nvmlDeviceGetTotalEnergyConsumption", lambda: handle.total_energy_mj)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: FakeCard) -> int:  # noqa: D102, N802
        name = "nvmlDeviceGetCurrentClocksEventReasons"
        return self._ask(name, lambda: handle.clocks_event_reasons)

    def nvmlDeviceGetUtilizationRates(self, handle: FakeCard) -> Any:  # noqa: D102, N802
        name = "nvmlDeviceGetUtilizationRates"
        return SimpleNamespace(gpu=self._ask(name, lambda: handle.utilization_gpu))

    def nvmlDeviceGetFanSpeed(self, handle: FakeCard) -> int:  # noqa: D102, N802
        return self._ask("nvmlDeviceGetFanSpeed", lambda: handle.fan)

    def _ask(self, name: str, answer: Callable[[], int | NvmlError | None]) -> int:
        self.calls.append(name)
        if not self.is_open:
            raise NvmlError(1)
        if name in self.lacks:
            raise NvmlError(FUNCTION_NOT_FOUND)
        match answer():
            case NvmlError() as error:
                raise error
            case None:
                raise NvmlError(NOT_SUPPORTED)
            case number:
                return number
