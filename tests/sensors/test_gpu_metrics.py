"""amdgpu's table of metrics, and what of it is believed."""

import struct

import pytest

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.sensors.drm import find_cards
from ollama_proxy.sensors.gpu_metrics import Metrics, decode
from ollama_proxy.sensors.sensor import Heed, Sensor
from tests.fakes.machine import Machine, recorded

HOTSPOT = 1 << 36
POWER = 1 << 1
CARD = "0000:03:00.0"
DEVICE = f"/sys/bus/pci/devices/{CARD}"
HWMON = "/sys/class/hwmon/hwmon8"


def of_card(status: int) -> bytes:
    """A table of version 1.3."""
    return struct.pack("<HBB108xQ", 120, 1, 3, status)


def of_strix(*, prochot: int = 0, heat: int = 0, columns: tuple[int, ...] = (0,) * 8) -> bytes:
    """A table of version 3.0."""
    table = bytearray(b"\0" * 264)
    struct.pack_into("<HBB", table, 0, 264, 3, 0)
    struct.pack_into("<8H", table, 46, *columns)
    struct.pack_into("<7I", table, 228, prochot, 0, 0, 0, heat, 0, 0)
    return bytes(table)


def desktop(status: int) -> Machine:
    """An idle desktop whose card sets a flag."""
    files = recorded("desktop-amd-rx7900xtx")
    files.write(f"{DEVICE}/gpu_metrics", of_card(status))
    files.write(f"{DEVICE}/pp_dpm_sclk", "0: 500Mhz *\n1: 2482Mhz")
    return files


def junction_throttles(files: Machine) -> bool | None:
    """Whether the card is told to be slowed down by heat."""
    (found,) = find_cards(files, Heed())
    (zone,) = [z for z in found.read(0.0).zones if z.name.endswith("junction")]
    return zone.throttling


def test_a_flag_on_a_cool_idle_card_is_not_throttling() -> None:
    """Case 52: real cards set it at 1 W."""
    assert junction_throttles(desktop(HOTSPOT)) is False


def test_a_flag_near_the_limit_is() -> None:
    """Within fifteen degrees."""
    files = desktop(HOTSPOT)
    files.write(f"{HWMON}/temp2_input", "94900")
    assert junction_throttles(files) is False
    files.write(f"{HWMON}/temp2_input", "95000")
    assert junction_throttles(files) is True


def test_a_flag_on_a_card_that_works_slowly_is() -> None:
    """Below four fifths of its highest clock while at least half busy."""
    files = desktop(HOTSPOT)
    files.write(f"{DEVICE}/gpu_busy_percent", "90")
    files.write(f"{HWMON}/freq1_input", "1900000000")
    assert junction_throttles(files) is True
    files.write(f"{HWMON}/freq1_input", "2000000000")
    assert junction_throttles(files) is False


def test_the_power_limit_is_not_heat() -> None:
    """However hot it is."""
    files = desktop(POWER)
    files.write(f"{HWMON}/temp2_input", "109000")

    assert junction_throttles(files) is False


def test_without_the_table_nothing_is_known() -> None:
    """Not even that it is not throttling."""
    assert junction_throttles(recorded("desktop-amd-rx7900xtx")) is None


@pytest.mark.parametrize(
    "table",
    [b"", b"\x78", of_card(HOTSPOT)[:119], struct.pack("<HBB260x", 264, 2, 1), of_card(2**64 - 1)],
)
def test_another_table_tells_nothing(table: bytes) -> None:
    """One that is cut off, of another version, or says that it does not know."""
    assert Metrics() == decode(table)


def strix(table: bytes) -> tuple[Machine, Sensor]:
    """A laptop with an NPU, and the sensor of its graphics."""
    files = recorded("thinkpad-p14s-gen6-amd-strix")
    write_strix(files, table)
    (found,) = find_cards(files, Heed())
    return files, found


def write_strix(files: Machine, table: bytes) -> None:
    """Let the table be another."""
    files.write("/sys/bus/pci/devices/0000:c1:00.0/gpu_metrics", table)


def test_time_slowed_by_heat_counts_while_it_rises() -> None:
    """However much there was before."""
    files, found = strix(of_strix(heat=34818))
    seen = []
    for heat in (34818, 34818, 34900, 34900):
        write_strix(files, of_strix(heat=heat))
        seen.append(found.read(0.0).zones[0].throttling)

    assert [None, False, True, False] == seen


def test_a_rise_of_prochot_is_an_emergency() -> None:
    """The hardware itself pulled the brake."""
    files, found = strix(of_strix(prochot=5))
    found.read(0.0)
    write_strix(files, of_strix(prochot=6))

    assert found.read(2.0).zones[0].emergency


def test_the_npus_columns_are_its_load() -> None:
    """Columns that this chip lacks do not count."""
    _, found = strix(of_strix(columns=(100, 50, 50, 0, *(0xFFFF,) * 4)))

    loads = {load.hardware: load.share for load in found.read(0.0).loads}

    assert {Hardware.IGPU: 0.03, Hardware.NPU: 0.5} == loads
