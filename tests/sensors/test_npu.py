"""NPUs: busy time as it is counted, and nothing that is not told."""

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.sensors.npu import find_npus
from ollama_proxy.sensors.sensor import Sensor
from tests.fakes.machine import Machine, recorded

BUSY = "/sys/bus/pci/devices/0000:00:0b.0/npu_busy_time_us"


def lunar_lake() -> tuple[Machine, Sensor]:
    """A laptop with an NPU of Intel's."""
    files = recorded("thinkpad-lunarlake-npu")
    (found,) = find_npus(files)
    return files, found


def share(files: Machine, sensor: Sensor, now: float, busy_us: int) -> float | None:
    """The load at a time."""
    files.write(BUSY, str(busy_us))
    (load,) = sensor.read(now).loads
    assert load.hardware is Hardware.NPU
    return load.share


def test_busy_time_is_its_load() -> None:
    """By the time that passed; the first reading tells nothing."""
    files, found = lunar_lake()

    assert [None, 0.25, 1.0] == [
        share(files, found, now, busy)
        for now, busy in ((0.0, 1_000_000), (2.0, 1_500_000), (3.0, 9_000_000))
    ]


def test_a_counter_that_falls_tells_nothing() -> None:
    """Case 53: its driver was loaded anew."""
    files, found = lunar_lake()
    share(files, found, 0.0, 9_000_000)

    assert [None, 0.5] == [share(files, found, 2.0, 0), share(files, found, 4.0, 1_000_000)]


def test_it_is_read_once_a_second_at_most() -> None:
    """Between, the last load stands."""
    files, found = lunar_lake()
    share(files, found, 0.0, 0)
    share(files, found, 1.0, 500_000)
    files.opened.clear()

    assert 0.5 == share(files, found, 1.9, 1_400_000)
    assert [] == files.opened


def test_an_idle_one_is_read_less_often() -> None:
    """Each five seconds; each second while it works."""
    files, found = lunar_lake()
    share(files, found, 0.0, 0)
    idle_s = found.interval_s
    share(files, found, 5.0, 1_000_000)

    assert (5.0, 1.0) == (idle_s, found.interval_s)


def test_of_amds_it_is_known_that_it_is_there() -> None:
    """Nothing else, and nothing of it is opened, as it sleeps."""
    files = recorded("thinkpad-p14s-gen6-amd-strix")
    (found,) = find_npus(files)
    files.opened.clear()

    assert [("amdxdna 0000:c2:00.1", None)] == [(x.name, x.share) for x in found.read(0.0).loads]
    assert [] == files.opened


def test_another_accelerator_is_no_npu() -> None:
    """Case 55: though it may be the first."""
    files = recorded("thinkpad-lunarlake-npu")
    files.write("/sys/devices/pci0000:00/0000:09:00.0/vendor", "0x1da3")
    files.link("/sys/class/accel/accel1/device", "../../../bus/pci/devices/0000:00:0b.0")
    files.remove("/sys/class/accel/accel0/device")
    files.link("/sys/class/accel/accel0/device", "../../../devices/pci0000:00/0000:09:00.0")

    assert ["intel_vpu 0000:00:0b.0"] == [found.name for found in find_npus(files)]


def test_an_older_kernel_tells_no_load() -> None:
    """Case 54: nor does a clock of 0 mean anything."""
    files, found = lunar_lake()
    files.remove(BUSY)

    assert [None] == [load.share for load in found.read(0.0).loads]
