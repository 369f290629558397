"""NVIDIA's management library, as far as it is used: what of it is called, and its answers in SI.

It is loaded late and by name, as most machines have none. Its Python module is `pynvml` of the
distribution nvidia-ml-py.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import attrs

from ollama_proxy.policy.readings import Quality
from ollama_proxy.sensors.files import Reading

THERMAL_SLOWDOWN_REASONS = 0x20 | 0x40 | 0x08  # by software, by hardware, and its brake in general
HARDWARE_THERMAL = 0x40
LOWEST_C, HIGHEST_C = -20.0, 125.0
_MOST_FAN_SHARE = 1.2  # fans do turn a little faster than they say they can
_SENSOR_GPU = 0
_THRESHOLD_SLOWDOWN = 1
_MILLI = 1e-3
_T = TypeVar("_T")

_NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND, _NO_DATA = 3, 4, 6, 21
_GPU_IS_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND = 15, 16, 28
_WHY = {
    _NOT_SUPPORTED: Quality.ABSENT,
    _NO_PERMISSION: Quality.DENIED,
    _NOT_FOUND: Quality.ABSENT,
    _GPU_IS_LOST: Quality.ABSENT,
    _GPU_NOT_FOUND: Quality.ABSENT,
    _NO_DATA: Quality.ASLEEP,
}
_GONE = {_NOT_FOUND, _GPU_IS_LOST, _GPU_NOT_FOUND, _RESET_REQUIRED}


class Nvml(Protocol):
    """The functions of `pynvml` that are called. Handles are the library's own."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102, N802 - the library's names
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetPciInfo(self, handle: Any) -> Any: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetTemperatureThreshold(self, handle: Any, threshold: int) -> int: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: Any) -> list[int]: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: ANN401, D102, N802
    def nvmlDeviceGetFanSpeed(self, handle: Any) -> int: ...  # noqa: ANN401, D102, N802


def load_nvml() -> Nvml | None:
    """The library's Python module; None where it is not installed. Calls nothing in it."""
    try:
        return cast("Nvml", importlib.import_module("pynvml"))
    except ImportError:
        return None


class CardLostError(Exception):
    """The library no longer reaches a card: it was pulled out, or must be reset."""


@attrs.frozen
class NvmlCard:
    """One card of an open library. Every question has an answer, if only why there is none.

    Raises (all of them):
        CardLostError: none of its questions would be answered.
    """

    _nvml: Nvml
    _handle: Any

    def temperature_c(self) -> Reading:
        """Of its chip. The function that replaced the older one is not in all versions."""
        newer = getattr(self._nvml, "nvmlDeviceGetTemperatureV", None)
        told = Reading(None)
        if newer is not None:
            told = self._number(lambda: newer(self._handle, _SENSOR_GPU))
        if told.value is None:
            older = self._nvml.nvmlDeviceGetTemperature
            told = self._number(lambda: older(self._handle, _SENSOR_GPU))
        return _within(told, LOWEST_C, HIGHEST_C)

    def slowdown_c(self) -> float | None:
        """Where the hardware slows itself down."""
        ask = self._nvml.nvmlDeviceGetTemperatureThreshold
        return self._number(lambda: ask(self._handle, _THRESHOLD_SLOWDOWN)).value

    def watts(self) -> Reading:
        """The mean of the last second, on most."""
        ask = self._nvml.nvmlDeviceGetPowerUsage
        return self._number(lambda: ask(self._handle) * _MILLI)

    def most_watts(self) -> float | None:
        """The highest limit that it could be given, or has."""
        constraints = self._nvml.nvmlDeviceGetPowerManagementLimitConstraints
        enforced = self._nvml.nvmlDeviceGetEnforcedPowerLimit
        limits = (
            self._number(lambda: constraints(self._handle)[1] * _MILLI).value,
            self._number(lambda: enforced(self._handle) * _MILLI).value,
        )
        return max((limit for limit in limits if limit), default=None)

    def joules(self) -> float | None:
        """Since the driver was loaded."""
        ask = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        return self._number(lambda: ask(self._handle) * _MILLI).value

    def slowdown_reasons(self) -> int | None:
        """Why its clock is not higher; most reasons are no trouble: that it idles is one."""
        newer = "nvmlDeviceGetCurrentClocksEventReasons"
        older = "nvmlDeviceGetCurrentClocksThrottleReasons"  # the same, before version 12
        ask = getattr(self._nvml, newer, None) or getattr(self._nvml, older, None)
        told = None if ask is None else self._ask(lambda: ask(self._handle))
        return told if isinstance(told, int) else None

    def busy(self) -> float | None:
        """The share of the last moments in which anything ran on it."""
        ask = self._nvml.nvmlDeviceGetUtilizationRates
        return self._number(lambda: ask(self._handle).gpu / 100).value

    def fan_share(self) -> Reading:
        """Of its fan's highest speed; most laptops do not tell."""
        ask = self._nvml.nvmlDeviceGetFanSpeed
        return _within(self._number(lambda: ask(self._handle) / 100), 0.0, _MOST_FAN_SHARE)

    def title(self) -> str | None:
        """What it is called in shops."""
        told = self._ask(lambda: self._nvml.nvmlDeviceGetName(self._handle))
        if isinstance(told, bytes):
            return told.decode(errors="replace")
        return told if isinstance(told, str) else None

    def address(self) -> str | None:
        """Its PCI address as the kernel writes it."""
        told = self._ask(lambda: self._nvml.nvmlDeviceGetPciInfo(self._handle).busId)
        return None if isinstance(told, Quality) else kernel_address(told)

    def _number(self, question: Callable[[], float]) -> Reading:
        told = self._ask(question)
        return Reading(None, told) if isinstance(told, Quality) else Reading(float(told))

    def _ask(self, question: Callable[[], _T]) -> _T | Quality:
        try:
            return question()
        except self._nvml.NVMLError as error:
            code = error_code(error)
            if code in _GONE:
                raise CardLostError(str(error)) from error
            return _WHY.get(code, Quality.ERROR)


def error_code(error: Exception) -> int:
    """The library's number of an error; 999 ("unknown") where it has none."""
    code = getattr(error, "value", None)
    return code if isinstance(code, int) else 999


def kernel_address(bus_id: str | bytes) -> str | None:
    """A PCI address as the kernel writes it; None for what is none.

    The library has eight digits for the domain, the kernel four.
    """
    text = bus_id.decode(errors="replace") if isinstance(bus_id, bytes) else bus_id
    found = _BUS_ID.fullmatch(text.strip("\0").lower())
    return None if found is None else f"{int(found[1], 16):04x}:{found[2]}"


_BUS_ID = re.compile(r"([0-9a-f]{1,8}):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])")


def _within(reading: Reading, lowest: float, highest: float) -> Reading:
    """The same, unless no working sensor tells such a number."""
    if reading.value is None or lowest <= reading.value <= highest:
        return reading
    return Reading(None, Quality.IMPLAUSIBLE)
