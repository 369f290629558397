"""Hwmon chips: who they are, what they tell, and how they are lost."""

import errno

import pytest

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Findings, Kind, Quality, Scope
from ollama_proxy.policy.sources import package_zones
from ollama_proxy.sensors.hwmon import find_hwmon_chips
from tests.fakes.machine import Machine, recorded
from tests.sensors.rounds import fan_named, only_draw, read_all, zone_named

P1 = "thinkpad-p1-gen4i-intel-nvidia-optimus"
CORETEMP = "/sys/devices/platform/coretemp.0/hwmon/hwmon8"
THINKPAD = "/sys/devices/platform/thinkpad_hwmon/hwmon/hwmon6"


def chip(
    device: str, number: int, files: dict[str, str], machine: Machine | None = None
) -> Machine:
    """A machine with a chip on a device, linked as the kernel links it."""
    machine = machine or Machine()
    path = f"/sys/devices/{device}/hwmon/hwmon{number}"
    for name, content in files.items():
        machine.write(f"{path}/{name}", content)
    machine.link(f"/sys/class/hwmon/hwmon{number}", f"../../devices/{device}/hwmon/hwmon{number}")
    machine.link(f"{path}/device", "../..")
    return machine


def coretemp(number: int, hwmon: int, degrees: int, machine: Machine | None = None) -> Machine:
    """A machine with an Intel package."""
    files = {"name": "coretemp", "temp1_label": f"Package id {number}"}
    files["temp1_input"] = str(degrees * 1000)
    return chip(f"platform/coretemp.{number}", hwmon, files, machine)


def told_by(machine: Machine) -> Findings:
    """A round of all its chips."""
    return read_all(find_hwmon_chips(machine))


# -- who they are ------------------------------------------------------------------------------


def renumber(machine: Machine, numbers: dict[int, int]) -> None:
    """Give chips other numbers, as another order of probing does."""
    places = {}
    for old, new in numbers.items():
        real = machine.real(f"/sys/class/hwmon/hwmon{old}")
        places[new] = real.rpartition("/")[0]
        machine.move(real, f"{places[new]}/moving{new}")
        machine.remove(f"/sys/class/hwmon/hwmon{old}")
    for new, place in places.items():
        machine.move(f"{place}/moving{new}", f"{place}/hwmon{new}")
        machine.link(f"/sys/class/hwmon/hwmon{new}", f"{place}/hwmon{new}")


def test_renumbered_chips_tell_the_same_under_the_same_names() -> None:
    """Nothing of what is told depends on a number."""
    machine = recorded(P1)
    before = told_by(machine)

    renumber(machine, {0: 5, 1: 7, 2: 0, 3: 8, 4: 1, 5: 2, 6: 3, 7: 6, 8: 4})

    assert before == told_by(machine)


def test_a_renumbered_chip_is_lost_never_mistaken() -> None:
    """Who reads on before anybody looked again gets an error, not another chip's degrees."""
    machine = recorded(P1)
    chips = find_hwmon_chips(machine)

    renumber(machine, {3: 8, 8: 3, 6: 7, 7: 6})

    for sensor in chips:
        if sensor.name != "acpitz":
            with pytest.raises(OSError, match="another chip"):
                sensor.read(1.0)


def test_a_number_that_another_driver_took_on_the_same_device_is_lost() -> None:
    """One device may have two chips, which can change places."""
    machine = chip("platform/asus-nb-wmi", 3, {"name": "asus", "fan1_input": "2000"})
    (sensor,) = find_hwmon_chips(machine)

    machine.write("/sys/devices/platform/asus-nb-wmi/hwmon/hwmon3/name", "asus_custom_fan_curve")

    with pytest.raises(OSError, match="another chip"):
        sensor.read(1.0)


def test_two_drives_keep_their_names_by_their_slots() -> None:
    """Drives are numbered anew at each boot; their PCI addresses stay."""
    one = "pci0000:00/0000:00:06.0/0000:04:00.0/nvme/nvme{}"
    other = "pci0000:00/0000:00:07.0/0000:05:00.0/nvme/nvme{}"

    def machine(first: int, second: int) -> Machine:
        files = {"name": "nvme", "temp1_label": "Composite"}
        found = chip(one.format(first), 1 + first, {**files, "temp1_input": "40000"})
        return chip(other.format(second), 1 + second, {**files, "temp1_input": "50000"}, found)

    assert told_by(machine(0, 1)) == told_by(machine(1, 0))
    assert {"nvme 0000:04:00.0 Composite": 40.0, "nvme 0000:05:00.0 Composite": 50.0} == {
        zone.name: zone.temperature_c for zone in told_by(machine(0, 1)).zones
    }


@pytest.mark.parametrize(
    ("device", "driver", "name"),
    [
        pytest.param("platform/coretemp.0", "coretemp", "coretemp", id="first-package"),
        pytest.param("platform/coretemp.1", "coretemp", "coretemp coretemp.1", id="second-package"),
        pytest.param("pci0000:00/0000:00:18.3", "k10temp", "k10temp 0000:00:18.3", id="pci"),
        pytest.param(
            "pci0000:00/0000:00:1f.4/i2c-12/12-0051", "spd5118", "spd5118 12-0051", id="dimm"
        ),
        pytest.param(
            "pci0000:00/0000:00:1f.0/PNP0C09:00/cros-ec-hwmon.2.auto",
            "cros_ec",
            "cros_ec 0000:00:1f.0",
            id="numbered-platform-device",
        ),
        pytest.param("virtual/thermal/thermal_zone7", "acpitz", "acpitz", id="virtual"),
    ],
)
def test_a_chip_is_named_by_driver_and_place(device: str, driver: str, name: str) -> None:
    """The place only where a driver may have several, and never one that is only a number."""
    machine = chip(device, 4, {"name": driver, "temp1_input": "40000"})

    assert [name] == [sensor.name for sensor in find_hwmon_chips(machine)]


def test_a_driver_loaded_again_is_another_sensor_of_the_same_name() -> None:
    """Another key: what the old one remembered is not the new one's."""
    machine = coretemp(0, 8, 59)
    (before,) = find_hwmon_chips(machine)
    machine.remove("/sys/class/hwmon/hwmon8")
    machine.remove(CORETEMP)
    with pytest.raises(OSError, match="another chip"):
        before.read(1.0)

    (after,) = find_hwmon_chips(coretemp(0, 9, 61, machine))

    assert before.name == after.name
    assert before.key != after.key
    assert 61.0 == zone_named("coretemp Package id 0", after.read(2.0)).temperature_c


def test_a_link_in_a_circle_loses_only_itself() -> None:
    """The other chips are found."""
    machine = coretemp(0, 8, 59)
    machine.link("/sys/class/hwmon/hwmon1", "hwmon2")
    machine.link("/sys/class/hwmon/hwmon2", "hwmon1")

    assert ["coretemp"] == [sensor.name for sensor in find_hwmon_chips(machine)]


@pytest.mark.parametrize("driver", ["amdgpu", "i915", "xe", "nouveau", "drivetemp"])
def test_what_reading_would_wake_is_left_alone(driver: str) -> None:
    """Not a file of it is opened but its name."""
    machine = chip("pci0000:00/0000:01:00.0", 1, {"name": driver, "temp1_input": "40000"})

    assert [] == find_hwmon_chips(machine)
    assert ["/sys/devices/pci0000:00/0000:01:00.0/hwmon/hwmon1/name"] == machine.opened


def test_batteries_are_not_told_twice() -> None:
    """The kernel gives each supply a chip, by its own name with the dashes replaced."""
    machine = Machine({"/sys/class/power_supply/qcom-battmgr-bat/type": "Battery"})
    machine.write("/sys/class/hwmon/hwmon2/name", "qcom_battmgr_bat")
    machine.write("/sys/class/hwmon/hwmon2/temp1_input", "30000")

    assert [] == find_hwmon_chips(machine)


def test_two_chips_on_no_device_are_still_two() -> None:
    """For want of anything better, by number."""
    machine = Machine()
    for number in (1, 2):
        machine.write(f"/sys/class/hwmon/hwmon{number}/name", "odd")
        machine.write(f"/sys/class/hwmon/hwmon{number}/temp1_input", "30000")

    assert 2 == len({sensor.key for sensor in find_hwmon_chips(machine)})
    assert {"odd temp1", "odd hwmon2 temp1"} == {z.name for z in told_by(machine).zones}


def test_a_name_that_is_no_text_is_shown_as_such() -> None:
    """Bytes that cannot be decoded are marked, and the chip is read."""
    machine = chip("platform/odd", 1, {"name": "", "temp1_input": "30000"})
    machine.write("/sys/devices/platform/odd/hwmon/hwmon1/name", b"odd\xff\n")

    assert ["odd\ufffd temp1"] == [zone.name for zone in told_by(machine).zones]


@pytest.mark.parametrize(
    ("driver", "interval_s"), [("coretemp", 2.0), ("dell_smm", 5.0), ("nvme", 30.0)]
)
def test_slow_chips_are_read_seldom(driver: str, interval_s: float) -> None:
    """Where a read stops a CPU in firmware, or is a command to a drive."""
    machine = chip("platform/it", 1, {"name": driver, "temp1_input": "30000"})

    assert [interval_s] == [sensor.interval_s for sensor in find_hwmon_chips(machine)]


# -- what they tell ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "quality"),
    [
        (errno.ENXIO, Quality.ASLEEP),
        (errno.ENODATA, Quality.ASLEEP),
        (errno.EBUSY, Quality.ASLEEP),
        (errno.EIO, Quality.ERROR),
        (errno.EACCES, Quality.DENIED),
        (errno.EPERM, Quality.DENIED),
        (errno.ENODEV, Quality.ABSENT),
    ],
)
def test_a_file_that_fails_loses_no_other(error: int, quality: Quality) -> None:
    """Its zone says why; the chip's other zones and fans are as they were."""
    machine = recorded(P1)
    before = told_by(machine)
    machine.fail(f"{THINKPAD}/temp1_input", error)

    after = told_by(machine)

    lost = zone_named("thinkpad CPU", after)
    assert (None, quality) == (lost.temperature_c, lost.quality)
    assert set(before.zones) - set(after.zones) == {zone_named("thinkpad CPU", before)}
    assert before.fans == after.fans


def test_a_file_that_is_gone_loses_no_other() -> None:
    """A core that went offline, after it was found."""
    machine = recorded(P1)
    chips = find_hwmon_chips(machine)
    machine.remove(f"{CORETEMP}/temp5_input")

    told = read_all(chips)

    assert Quality.ABSENT is zone_named("coretemp Core 3", told).quality
    assert 59.0 == zone_named("coretemp Package id 0", told).temperature_c


def test_a_device_that_is_gone_says_so() -> None:
    """Unplugged mid-read: its name is still there, and none of its values."""
    machine = coretemp(0, 8, 59)
    (sensor,) = find_hwmon_chips(machine)
    machine.fail(f"{CORETEMP}/temp1_input", errno.ENODEV)

    with pytest.raises(OSError, match="none of its files"):
        sensor.read(1.0)


def test_the_hotter_of_two_packages_is_among_those_that_decide() -> None:
    """Each package has a chip, and both speak."""
    machine = coretemp(1, 5, 80, coretemp(0, 4, 60))

    deciding = package_zones(told_by(machine).zones)

    assert [60.0, 80.0] == sorted(zone.temperature_c or 0.0 for zone in deciding)


def test_the_die_is_believed_before_the_control_value() -> None:
    """Where an AMD processor tells both, one is offset from the other."""
    files = {"name": "k10temp", "temp1_label": "Tctl", "temp1_input": "87000"}
    machine = chip(
        "pci0000:00/0000:00:18.3", 4, {**files, "temp2_label": "Tdie", "temp2_input": "60000"}
    )

    assert [60.0] == [zone.temperature_c for zone in package_zones(told_by(machine).zones)]


def test_an_old_processors_made_up_maximum_is_no_limit() -> None:
    """k10temp says 70 degrees for any processor."""
    files = {"name": "k10temp", "temp1_input": "60000", "temp1_max": "70000"}

    (zone,) = told_by(chip("pci0000:00/0000:00:18.3", 4, files)).zones

    assert zone.limit_c is None
    assert PACKAGE == zone.part


def test_hot_memory_disks_and_radios_do_not_decide() -> None:
    """Only the processor's own thermometer does."""
    machine = coretemp(0, 4, 50)
    hot = {"temp1_input": "95000"}
    chip("pci0000:00/0000:00:1f.4/i2c-1/1-0050", 5, {"name": "spd5118", **hot}, machine)
    chip("virtual/thermal/thermal_zone9", 6, {"name": "iwlwifi_1", **hot}, machine)
    chip("pci0000:00/0000:04:00.0/nvme/nvme0", 7, {"name": "nvme", **hot}, machine)

    told = told_by(machine)

    assert [50.0] == [zone.temperature_c for zone in package_zones(told.zones)]
    assert {Kind.CPU, Kind.MEMORY, Kind.NETWORK, Kind.STORAGE} == {z.kind for z in told.zones}


def test_each_core_of_a_snapdragon_has_a_chip_and_the_hottest_counts() -> None:
    """There is no chip for the package as a whole."""
    machine = Machine()
    for n, (name, degrees) in enumerate([
        ("cpu0_thermal", 51),
        ("cpu7_thermal", 63),
        ("gpu_thermal", 70),
        ("mem_thermal", 55),
    ]):
        files = {"name": name, "temp1_input": str(degrees * 1000)}
        chip(f"virtual/thermal/thermal_zone{n}", n, files, machine)

    told = told_by(machine)

    assert {51.0, 63.0} == {zone.temperature_c for zone in package_zones(told.zones)}
    assert Kind.GPU is zone_named("gpu_thermal temp1", told).kind
    assert Kind.MEMORY is zone_named("mem_thermal temp1", told).kind


def test_acpi_alone_decides_once_it_moves() -> None:
    """Where nothing else is there, and only if it is no constant."""
    machine = chip("virtual/thermal/thermal_zone0", 1, {"name": "acpitz", "temp1_input": "32000"})
    path = "/sys/devices/virtual/thermal/thermal_zone0/hwmon/hwmon1/temp1_input"
    sensors = find_hwmon_chips(machine)
    assert () == package_zones(read_all(sensors).zones)
    assert () == package_zones(read_all(sensors).zones)

    machine.write(path, "33000")

    assert [33.0] == [zone.temperature_c for zone in package_zones(read_all(sensors).zones)]


def test_two_channels_of_one_label_are_two_zones() -> None:
    """By number, where a board's maker gave the same label twice."""
    files = {"name": "it87", "temp1_input": "30000", "temp2_input": "40000"}
    machine = chip("platform/it87.656", 1, {**files, "temp1_label": "Aux", "temp2_label": "Aux"})

    assert ["it87 it87.656 temp1", "it87 it87.656 temp2"] == [
        zone.name for zone in told_by(machine).zones
    ]


def test_a_label_that_cannot_be_shown_is_left_out() -> None:
    """Control characters and essays are no names."""
    files = {"name": "it87", "temp1_input": "30000", "temp1_label": "A\x07ux"}
    machine = chip("platform/it87.0", 1, files)
    chip("platform/it87.0", 1, {"temp2_input": "30000", "temp2_label": "long " * 100}, machine)

    assert ["it87 temp1", "it87 temp2"] == [zone.name for zone in told_by(machine).zones]


def test_an_empty_header_is_no_fan_until_something_turns_there() -> None:
    """On a desktop's board; then it stays one, also when it stands."""
    machine = recorded("desktop-amd-rx7900xtx")
    fan = "/sys/class/hwmon/hwmon4/fan3_input"
    sensors = find_hwmon_chips(machine)
    assert "nct6687 System Fan #1" not in {f.name for f in read_all(sensors).fans}

    machine.write(fan, "800")
    turning = fan_named("nct6687 System Fan #1", read_all(sensors))
    machine.write(fan, "0")
    standing = fan_named("nct6687 System Fan #1", read_all(sensors))

    assert (800.0, 0.16) == (turning.rpm, turning.share)
    assert (0.0, 0.0) == (standing.rpm, standing.share)


# -- power -------------------------------------------------------------------------------------

ZENPOWER = "/sys/devices/pci0000:00/0000:00:18.3/hwmon/hwmon4"


def zenpower(**rails: str) -> Machine:
    """A machine with that driver, and rails by their labels, in microwatts."""
    files = {"name": "zenpower", "temp1_label": "Tdie", "temp1_input": "60000"}
    for n, (label, microwatts) in enumerate(rails.items(), 1):
        files |= {f"power{n}_label": label, f"power{n}_input": microwatts}
    return chip("pci0000:00/0000:00:18.3", 4, files)


def test_the_rails_of_a_package_are_added() -> None:
    """The cores' and the rest's are beside each other, not within."""
    expected = Draw(
        name="zenpower 0000:00:18.3",
        scope=Scope.PACKAGE,
        part=PACKAGE,
        watts=45.0,
        source="zenpower",
    )

    assert expected == only_draw(told_by(zenpower(SVI2_P_Core="40000000", SVI2_P_SoC="5000000")))


def test_a_rail_that_is_lost_makes_the_sum_unknown() -> None:
    """Half of it would be a smaller package, not an unknown one."""
    machine = zenpower(SVI2_P_Core="40000000", SVI2_P_SoC="5000000")
    machine.fail(f"{ZENPOWER}/power2_input", errno.EIO)

    draw = only_draw(told_by(machine))

    assert (None, Quality.ERROR) == (draw.watts, draw.quality)


def test_the_whole_package_is_not_added_to_its_rails() -> None:
    """Where a version of the driver tells both."""
    machine = zenpower(SVI2_P_Core="40000000", SVI2_P_SoC="5000000", RAPL_P_Package="48000000")

    assert 48.0 == only_draw(told_by(machine)).watts
