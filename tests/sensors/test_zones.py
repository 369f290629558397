"""Thermal zones: which are read, and what they tell."""

import errno

import pytest

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Quality
from ollama_proxy.policy.sources import package_zones
from ollama_proxy.sensors.zones import find_thermal_zones
from tests.fakes.machine import Machine
from tests.sensors.rounds import read_all

ZONES = "/sys/class/thermal"


def zones(*types: str, **files: str) -> Machine:
    """A machine with zones of these types at 50 degrees; the first has some files more."""
    machine = Machine()
    for number, typed in enumerate(types):
        machine.write(f"{ZONES}/thermal_zone{number}/type", typed)
        machine.write(f"{ZONES}/thermal_zone{number}/temp", "50000")
    for name, content in files.items():
        machine.write(f"{ZONES}/thermal_zone0/{name}", content)
    return machine


def test_the_package_speaks_and_is_read_often() -> None:
    """The others look on, and are read seldom."""
    package, other = find_thermal_zones(zones("x86_pkg_temp", "SEN1"))

    assert ["x86_pkg_temp zone"] == [
        zone.name for zone in package_zones(read_all([package, other]).zones)
    ]
    assert package.interval_s < other.interval_s


def test_zones_of_one_type_are_told_apart_by_their_order() -> None:
    """By number, not by the alphabet: the tenth comes after the second."""
    machine = zones(*["acpitz"] * 11)
    machine.write(f"{ZONES}/thermal_zone10/temp", "60000")

    told = read_all(find_thermal_zones(machine)).zones

    assert ["acpitz zone", "acpitz zone 2", "acpitz zone 3"] == [z.name for z in told[:3]]
    assert ("acpitz zone 11", 60.0) == (told[-1].name, told[-1].temperature_c)


def test_acpi_decides_only_once_it_moves() -> None:
    """As its hwmon chip, which some kernels do not make."""
    machine = zones("acpitz")
    sensors = find_thermal_zones(machine)
    first = read_all(sensors).zones[0].part
    machine.write(f"{ZONES}/thermal_zone0/temp", "51000")

    assert (None, PACKAGE) == (first, read_all(sensors).zones[0].part)


@pytest.mark.parametrize(
    ("trips", "limit_c"),
    [
        pytest.param({"critical": "105000"}, 105.0, id="critical"),
        pytest.param({"critical": "105000", "hot": "95000"}, 95.0, id="hot-first"),
        pytest.param({"passive": "60000", "active": "50000"}, None, id="only-cooling"),
        pytest.param({"critical": "-274000"}, None, id="bogus"),
        pytest.param({"hot": "0", "critical": "105000"}, 105.0, id="bogus-hot"),
    ],
)
def test_the_limit_is_where_the_kernel_stops(trips: dict[str, str], limit_c: float | None) -> None:
    """Not where it begins to cool."""
    files = {}
    for number, (typed, degrees) in enumerate(trips.items()):
        files[f"trip_point_{number}_type"] = typed
        files[f"trip_point_{number}_temp"] = degrees

    (zone,) = read_all(find_thermal_zones(zones("cpu-thermal", **files))).zones

    assert limit_c == zone.limit_c


def test_a_zone_that_cannot_be_read_now_is_still_there() -> None:
    """It says why."""
    machine = zones("x86_pkg_temp")
    sensors = find_thermal_zones(machine)
    machine.fail(f"{ZONES}/thermal_zone0/temp", errno.EAGAIN)

    (zone,) = read_all(sensors).zones

    assert (None, Quality.ASLEEP, PACKAGE) == (zone.temperature_c, zone.quality, zone.part)


def test_a_zone_whose_number_another_took_is_lost() -> None:
    """Never read under the wrong name."""
    machine = zones("x86_pkg_temp")
    (sensor,) = find_thermal_zones(machine)
    machine.write(f"{ZONES}/thermal_zone0/type", "SEN1")

    with pytest.raises(OSError, match="another zone"):
        sensor.read(1.0)


def test_a_zone_that_is_gone_says_so() -> None:
    """Its driver was unloaded."""
    machine = zones("x86_pkg_temp")
    (sensor,) = find_thermal_zones(machine)
    machine.remove(f"{ZONES}/thermal_zone0/temp")

    with pytest.raises(OSError, match="no temperature"):
        sensor.read(1.0)


def test_a_link_in_a_circle_loses_only_itself() -> None:
    """The other zones are found."""
    machine = zones("SEN1")
    machine.link(f"{ZONES}/thermal_zone3", "thermal_zone3")

    assert ["SEN1 zone"] == [sensor.name for sensor in find_thermal_zones(machine)]
