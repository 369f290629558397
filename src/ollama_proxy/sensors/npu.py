"""NPUs: how busy Intel's are; that AMD's are there. Neither tells its temperature, nor its watts."""

from posixpath import basename

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Findings, Load
from ollama_proxy.sensors.files import Files, list_or_nothing, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor

ACCEL = "/sys/class/accel"
BUSY_INTERVAL_S = 1.0  # the kernel's documentation allows no more
IDLE_INTERVAL_S = 5.0
_INTEL, _AMD = "0x8086", "0x1022"


@attrs.define(kw_only=True)
class Npu:
    """One NPU. That of Intel counts its busy time, and may be read while it sleeps."""

    files: Files
    device: str
    driver: str
    _busy_s: float | None = None
    _at: float = float("-inf")
    _share: float | None = None

    @property
    def name(self) -> str:
        """See `Sensor`."""
        return f"{self.driver} {basename(self.device)}"

    @property
    def key(self) -> str:
        """See `Sensor`."""
        return f"{self.name} {self.device}"

    @property
    def interval_s(self) -> float:
        """See `Sensor`."""
        return BUSY_INTERVAL_S if self._share else IDLE_INTERVAL_S

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        self.files.list(self.device)
        if self.driver == "intel_vpu" and now - self._at >= BUSY_INTERVAL_S:
            self._read_busy(now)
        return Findings(loads=(Load(name=self.name, hardware=Hardware.NPU, share=self._share),))

    def _read_busy(self, now: float) -> None:
        busy = read_number(self.files, f"{self.device}/npu_busy_time_us", scale=1e-6, lowest=0)
        before_s, passed_s = self._busy_s, now - self._at
        self._busy_s, self._at = busy.value, now
        self._share = None
        # A counter that fell is a driver that was loaded anew.
        if busy.value is not None and before_s is not None and busy.value >= before_s:
            self._share = min(1.0, (busy.value - before_s) / passed_s)

    def close(self) -> None:
        """See `Sensor`. Nothing is held open."""


def find_npus(files: Files) -> list[Sensor]:
    """The NPUs of Intel and AMD. Other accelerators may be there, too, as first ones."""
    drivers = {_INTEL: "intel_vpu", _AMD: "amdxdna"}
    found: list[Sensor] = []
    for name in list_or_nothing(files, ACCEL):
        device = files.real(f"{ACCEL}/{name}/device")
        driver = drivers.get(read_text(files, f"{device}/vendor") or "")
        if driver is not None:
            found.append(Npu(files=files, device=device, driver=driver))
    return found
