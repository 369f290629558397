"""Where the power comes from: lines, batteries, and what contradicts itself."""

import errno

import pytest

from ollama_proxy.policy.readings import Findings, Quality, Supply
from ollama_proxy.sensors.power_supply import find_power_supplies
from ollama_proxy.sensors.sensor import Sensor
from tests.fakes.machine import Machine, recorded
from tests.sensors.rounds import only_draw

SUPPLIES = "/sys/class/power_supply"
BAT0 = f"{SUPPLIES}/BAT0"
HALF_FULL = {"energy_now": "25000000", "energy_full": "50000000", "power_now": "10000000"}


def machine_of(**supplies: dict[str, str]) -> Machine:
    """A machine with these supplies, by name."""
    machine = Machine()
    for name, files in supplies.items():
        for file, content in files.items():
            machine.write(f"{SUPPLIES}/{name}/{file}", content)
    return machine


def mains(online: str) -> dict[str, str]:
    """A power adapter."""
    return {"type": "Mains", "online": online}


def battery(status: str = "Discharging", **files: str) -> dict[str, str]:
    """A battery, half full, of 50 Wh, that moves 10 W."""
    return {"type": "Battery", "present": "1", "status": status, **HALF_FULL, **files}


def bare(status: str = "Discharging", **files: str) -> dict[str, str]:
    """A battery that tells nothing but this."""
    return {"type": "Battery", "present": "1", "status": status, **files}


def sensor_of(machine: Machine) -> Sensor:
    """The one sensor for all supplies."""
    (sensor,) = find_power_supplies(machine)
    return sensor


def told_by(machine: Machine) -> Findings:
    """A first round."""
    return sensor_of(machine).read(0.0)


def supply_of(machine: Machine) -> Supply:
    """The supply that is told in a first round."""
    supply = told_by(machine).supply
    assert supply
    return supply


# -- on battery --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "online", "on_battery"),
    [
        ("Discharging", "1", False),  # the adapter is too weak, or the battery is calibrated
        ("Not charging", "1", False),  # it is held at a threshold
        ("Unknown", "1", False),
        ("Full", "1", False),
        ("Full", "2", False),  # a line with a programmable supply
        ("Discharging", "0", True),
        ("Unknown", "0", True),
        ("", "0", True),
        ("Charging", "0", None),
        ("Full", "0", None),
        ("Not charging", "0", None),
    ],
)
def test_the_line_decides_then_the_battery(
    status: str, online: str, on_battery: bool | None
) -> None:
    """What contradicts itself is unknown while nothing was known before."""
    machine = machine_of(AC=mains(online), BAT0=battery(status))

    assert on_battery is supply_of(machine).on_battery


@pytest.mark.parametrize("before", [True, False])
def test_a_contradiction_changes_nothing(before: bool) -> None:
    """A plug that is being pulled is half told: the line is off, the battery still charges."""
    machine = machine_of(AC=mains("0" if before else "1"), BAT0=battery())
    sensor = sensor_of(machine)
    sensor.read(0.0)
    machine.write(f"{SUPPLIES}/AC/online", "0")
    machine.write(f"{BAT0}/status", "Charging")

    supply = sensor.read(10.0).supply

    assert supply
    assert before is supply.on_battery


@pytest.mark.parametrize(
    ("status", "on_battery"),
    [("Discharging", True), ("Charging", False), ("Full", False), ("Unknown", None)],
)
def test_without_a_line_the_battery_is_believed(status: str, on_battery: bool | None) -> None:
    """Some machines show no adapter."""
    assert on_battery is supply_of(machine_of(BAT0=battery(status))).on_battery


def test_a_desktop_is_not_on_battery() -> None:
    """A keyboard that runs low is nothing to the machine."""
    assert Supply(on_battery=False, source="power_supply") == supply_of(
        recorded("desktop-amd-rx7900xtx")
    )


@pytest.mark.parametrize(
    "mouse",
    [
        pytest.param(battery(scope="Device"), id="scope-device"),
        pytest.param(bare(capacity="4"), id="forgot-its-scope"),
    ],
)
def test_a_mouse_is_no_battery_of_the_machines(mouse: dict[str, str]) -> None:
    """Also if its driver does not say so: it knows percents only."""
    supply = supply_of(machine_of(AC=mains("0"), hidpp_battery_0=mouse, BAT0=battery("Full")))

    assert (None, 50.0) == (supply.on_battery, supply.percent)


@pytest.mark.parametrize(("online", "on_battery"), [("0", True), ("1", False)])
def test_a_usb_port_feeds_only_when_it_is_online(online: str, on_battery: bool) -> None:
    """Its status is about itself, on line or not."""
    usb = {"type": "USB", "scope": "System", "status": "Charging", "online": online}
    machine = machine_of(**{"ucsi-source-psy-USBC000:001": usb}, BAT0=battery())

    assert on_battery is supply_of(machine).on_battery


def test_a_usb_port_that_discharges_is_no_battery() -> None:
    """It says so of what is plugged into it, while the adapter feeds the machine."""
    told = told_by(recorded("thinkpad-p1-gen4i-intel-nvidia-optimus"))

    assert told.supply
    assert (False, ()) == (told.supply.on_battery, told.draws)


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EIO, errno.EACCES])
def test_a_line_that_cannot_be_read_is_none(error: int) -> None:
    """The battery is believed then."""
    machine = machine_of(AC=mains("1"), BAT0=battery())
    machine.fail(f"{SUPPLIES}/AC/online", error)

    assert supply_of(machine).on_battery is True


def test_an_uninterruptible_supply_is_a_battery() -> None:
    """Of the machine that it feeds."""
    ups = battery() | {"type": "UPS", "scope": "System"}

    assert supply_of(machine_of(ups=ups)).on_battery is True


# -- percent -----------------------------------------------------------------------------------


def test_two_unlike_batteries_are_one_by_energy() -> None:
    """A big one that is empty and a small one that is full are not half full."""
    machine = machine_of(
        AC=mains("0"),
        BAT0=battery("Unknown", energy_now="20000000", energy_full="20000000", power_now="0"),
        BAT1=battery("Discharging", energy_now="0", energy_full="80000000", power_now="10000000"),
    )
    told = told_by(machine)

    assert Supply(on_battery=True, percent=20.0, to_empty_s=7200.0, source="power_supply") == (
        told.supply
    )
    assert 10.0 == only_draw(told).watts


def test_charge_is_turned_into_energy_by_the_voltage() -> None:
    """The design's, because the present one sags under load; amperes by the present one."""
    files = {"charge_now": "1000000", "charge_full": "4000000", "current_now": "1000000"}
    files |= {"voltage_min_design": "10000000", "voltage_now": "12000000"}
    told = told_by(machine_of(AC=mains("0"), BAT0=bare(**files)))

    assert told.supply
    assert 25.0 == pytest.approx(told.supply.percent)
    assert 3000.0 == pytest.approx(told.supply.to_empty_s)
    assert 12.0 == pytest.approx(only_draw(told).watts)


@pytest.mark.parametrize(
    ("files", "percent"),
    [
        pytest.param({"capacity": "98"}, 98.0, id="only-percent"),
        pytest.param({"capacity": "104"}, 100.0, id="too-full"),
        pytest.param({"capacity": "65535"}, None, id="no-percentage"),
        pytest.param({"capacity": "-1"}, None, id="negative"),
        pytest.param({"capacity": "", "charge_now": "x"}, None, id="nothing"),
        pytest.param({"energy_now": "60000000", "energy_full": "50000000"}, 100.0, id="overfull"),
        pytest.param(
            {"energy_now": "0", "energy_full": "0", "capacity": "55"}, 55.0, id="nothing-in-nothing"
        ),
        pytest.param(
            {"charge_now": "1", "charge_full": "2", "capacity": "50"}, 50.0, id="no-volts"
        ),
    ],
)
def test_percent_is_between_nothing_and_full(files: dict[str, str], percent: float | None) -> None:
    """By energy, else by what the battery says; else unknown, never zero."""
    machine = machine_of(AC=mains("1"), BAT0=bare("Charging", **files))

    assert percent == supply_of(machine).percent


def test_a_battery_that_is_pulled_is_gone_not_empty() -> None:
    """Before its files vanish it says that it is not present, and the rest fails."""
    machine = machine_of(AC=mains("1"), BAT0=battery(), BAT1=battery(energy_now="50000000"))
    sensor = sensor_of(machine)
    machine.write(f"{BAT0}/present", "0")
    for file in ("energy_now", "energy_full", "power_now", "status"):
        machine.fail(f"{BAT0}/{file}", errno.ENODEV)
    absent = sensor.read(0.0).supply
    machine.remove(BAT0)
    gone = sensor.read(10.0).supply

    assert absent
    assert gone
    assert (100.0, 100.0) == (absent.percent, gone.percent)


def test_a_battery_that_fails_is_unknown_not_empty() -> None:
    """It is present, and its values cannot be had."""
    machine = machine_of(AC=mains("0"), BAT0=battery())
    for file in ("energy_now", "energy_full", "power_now"):
        machine.fail(f"{BAT0}/{file}", errno.ENODEV)
    told = told_by(machine)

    assert Supply(on_battery=True, source="power_supply") == told.supply
    assert (None, Quality.ABSENT) == (only_draw(told).watts, only_draw(told).quality)


def test_a_full_battery_on_line_draws_nothing() -> None:
    """There is no reading of the machine's power then: none, not zero."""
    full = battery("Full", energy_now="50000000", power_now="0")
    told = told_by(machine_of(AC=mains("1"), BAT0=full))

    assert Supply(on_battery=False, percent=100.0, source="power_supply") == told.supply
    assert () == told.draws


# -- watts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "watts", "quality"),
    [
        pytest.param({"power_now": "4830000"}, 4.83, Quality.OK, id="power"),
        pytest.param({"power_now": "-4250000"}, 4.25, Quality.OK, id="negative-power"),
        pytest.param(
            {"current_now": "-500000", "voltage_now": "12000000"},
            6.0,
            Quality.OK,
            id="negative-current",
        ),
        pytest.param({"power_now": "0"}, None, Quality.IMPLAUSIBLE, id="zero-while-discharging"),
        pytest.param({"power_now": "301000000"}, None, Quality.IMPLAUSIBLE, id="too-much"),
        pytest.param({"power_now": "N/A"}, None, Quality.ERROR, id="no-number"),
        pytest.param({"current_now": "500000"}, None, Quality.ABSENT, id="no-voltage"),
    ],
)
def test_watts_of_a_battery(files: dict[str, str], watts: float | None, quality: Quality) -> None:
    """What leaves it, whatever the sign; unknown is never zero."""
    draw = only_draw(told_by(machine_of(AC=mains("0"), BAT0=bare(**files))))

    assert watts == pytest.approx(draw.watts)
    assert quality is draw.quality


def test_on_line_a_battery_does_not_tell_the_machines_watts() -> None:
    """It only helps the adapter out."""
    assert () == told_by(machine_of(AC=mains("1"), BAT0=battery())).draws


def test_two_that_discharge_are_added_or_unknown() -> None:
    """Half of the machine's watts would be a wrong number."""
    machine = machine_of(AC=mains("0"), BAT0=battery(), BAT1=battery())
    both = only_draw(told_by(machine))
    machine.fail(f"{BAT0}/power_now", errno.EIO)
    one = only_draw(told_by(machine))

    assert 20.0 == both.watts
    assert (None, Quality.ERROR) == (one.watts, one.quality)


def test_a_kernel_without_supplies_has_no_sensor() -> None:
    """Nothing is known there, not even that it is no laptop."""
    assert [] == find_power_supplies(Machine({"/sys/class/hwmon/hwmon0/name": "x"}))
