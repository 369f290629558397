"""RAPL's energy counters: joules that never go back, watts only from true differences."""

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Quality, Scope
from ollama_proxy.sensors.rapl import MOST_WATTS, find_rapl_domains
from ollama_proxy.sensors.sensor import Sensor
from tests.fakes.machine import Machine, recorded
from tests.sensors.rounds import only_draw

POWERCAP = "/sys/class/powercap"
PACKAGE_0 = f"{POWERCAP}/intel-rapl:0"
RANGE_J = 65_532.610987


class Domain:
    """The package domain of a machine, and the sensor that reads it."""

    def __init__(self, joules: float = 1000.0) -> None:
        """Begin with a counter."""
        self.machine = Machine({f"{PACKAGE_0}/name": "package-0"})
        self.machine.write(f"{PACKAGE_0}/max_energy_range_uj", str(round(RANGE_J * 1e6)))
        self.set_to(joules)
        self.sensor: Sensor = found(self.machine)

    def set_to(self, joules: float) -> None:
        """Let the counter stand so."""
        self.machine.write(f"{PACKAGE_0}/energy_uj", str(round(joules * 1e6)))

    def at(self, now: float, joules: float | None = None) -> Draw:
        """What is told at a time, of a counter."""
        if joules is not None:
            self.set_to(joules)
        return only_draw(self.sensor.read(now))


def found(machine: Machine) -> Sensor:
    """The one domain of a machine."""
    (sensor,) = find_rapl_domains(machine)
    return sensor


def near(joules: float | None) -> object:
    """Within the counter's own step."""
    return pytest.approx(joules, abs=1e-5)


def test_watts_are_the_mean_since_the_last_reading() -> None:
    """The first one has nothing to compare with: it is unknown, not zero."""
    domain = Domain()

    assert (None, 0.0) == (domain.at(0.0).watts, domain.at(0.0).joules)
    assert 15.0 == near(domain.at(2.0, 1030.0).watts)
    assert 45.0 == near(domain.at(3.0, 1075.0).watts)
    assert 75.0 == near(domain.at(3.0).joules)


def test_a_wrap_is_taken_out() -> None:
    """The joules over the end of the range are counted, once."""
    domain = Domain(RANGE_J - 10.0)
    domain.at(0.0)

    draw = domain.at(1.0, 20.0)

    assert (30.0, 30.0) == (near(draw.watts), near(draw.joules))


def test_a_counter_that_was_set_back_is_no_wrap() -> None:
    """From the lower half, whatever watts it would make; right again from then on."""
    domain = Domain(20_000.0)
    domain.at(0.0)

    back = domain.at(55.0, 10.0)

    assert (None, 0.0) == (back.watts, back.joules)
    assert 30.0 == near(domain.at(56.0, 40.0).watts)


def test_a_leap_that_looks_like_a_wrap_is_none() -> None:
    """Set back from the upper half, it would have drawn tens of kilowatts."""
    domain = Domain(RANGE_J * 0.8)
    domain.at(0.0)

    back = domain.at(1.0, 10.0)

    assert (None, 0.0) == (back.watts, back.joules)


@pytest.mark.parametrize("content", ["", "N/A", "-5"])
def test_a_failed_read_is_no_wrap(content: str) -> None:
    """Nothing is known meanwhile; afterwards the whole difference counts."""
    domain = Domain(60_000.0)
    domain.at(0.0)
    domain.machine.write(f"{PACKAGE_0}/energy_uj", content)
    lost = domain.at(1.0)

    after = domain.at(2.0, 60_030.0)

    assert (None, None) == (lost.watts, lost.joules)
    assert lost.quality is not Quality.OK
    assert (15.0, 30.0) == (near(after.watts), near(after.joules))


def test_two_readings_in_a_moment_make_no_watts() -> None:
    """The joules count; the watts wait for a difference that means something."""
    domain = Domain()
    domain.at(0.0)
    domain.at(1.0, 1010.0)

    at_once, soon = domain.at(1.0, 1010.0), domain.at(1.001, 1011.0)
    later = domain.at(2.0, 1020.0)

    assert (None, None) == (at_once.watts, soon.watts)
    assert 11.0 == near(soon.joules)
    assert (10.0, 20.0) == (near(later.watts), near(later.joules))


def test_ten_hours_of_sleep_are_nobodys_watts() -> None:
    """The counter may have wrapped often; it begins anew."""
    domain = Domain()
    domain.at(0.0)

    slept = domain.at(36_000.0, 50_000.0)

    assert (None, 0.0) == (slept.watts, slept.joules)
    assert 30.0 == near(domain.at(36_001.0, 50_030.0).watts)


def test_a_counter_that_stands_tells_no_watts() -> None:
    """A package never draws nothing: a virtual machine shows such a counter."""
    domain = Domain()
    domain.at(0.0)

    assert domain.at(1.0, 1000.0).watts is None


def test_a_counter_without_a_range_cannot_wrap() -> None:
    """What goes back is dropped."""
    domain = Domain(60_000.0)
    domain.machine.remove(f"{PACKAGE_0}/max_energy_range_uj")
    domain.sensor = found(domain.machine)
    domain.at(0.0)

    assert (None, 0.0) == (domain.at(1.0, 10.0).watts, domain.at(1.0).joules)


def test_denied_is_told_and_not_asked_again() -> None:
    """It is the ordinary answer, and stays until a discovery."""
    machine = recorded("thinkpad-lunarlake-npu")
    sensor = found(machine)
    machine.opened.clear()

    draw = only_draw(sensor.read(0.0))

    assert (None, None, Quality.DENIED) == (draw.watts, draw.joules, draw.quality)
    assert [] == machine.opened


def test_an_owner_who_opens_it_later_is_noticed_at_discovery() -> None:
    """Another key, so that the denied one is not kept; the same name."""
    machine = recorded("thinkpad-lunarlake-npu")
    denied = found(machine)
    machine.write(f"{PACKAGE_0}/energy_uj", "1000000")
    opened = found(machine)

    assert (denied.name, denied.interval_s > opened.interval_s) == (opened.name, True)
    assert denied.key != opened.key
    assert Quality.OK is only_draw(opened.read(0.0)).quality


def test_levels_are_not_mixed() -> None:
    """A package's own domains, the same package by another way, and what is neither, are left."""
    machine = Machine()
    for entry, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "psys",
        "intel-rapl:2": "package-1-die-0",
        "intel-rapl-mmio:0": "package-0",
        "dtpm": "package-0",
    }.items():
        machine.write(f"{POWERCAP}/{entry}/name", name)
        machine.write(f"{POWERCAP}/{entry}/energy_uj", "1000000")

    draws = [only_draw(sensor.read(0.0)) for sensor in find_rapl_domains(machine)]

    assert {
        ("rapl package-0", Scope.PACKAGE, PACKAGE),
        ("rapl package-1-die-0", Scope.PACKAGE, PACKAGE),
        ("rapl psys", Scope.SYSTEM, None),
    } == {(draw.name, draw.scope, draw.part) for draw in draws}
    assert 3 == len(draws)


def test_a_container_that_hides_the_counters_has_none() -> None:
    """The links are there and lead nowhere."""
    machine = Machine()
    machine.link(PACKAGE_0, "../../devices/virtual/powercap/intel-rapl/intel-rapl:0")

    assert [] == find_rapl_domains(machine)


def test_a_domain_that_is_gone_says_so() -> None:
    """Its driver was unloaded."""
    domain = Domain()
    domain.machine.fail(f"{PACKAGE_0}/energy_uj", errno.ENODEV)

    with pytest.raises(OSError, match="gone"):
        domain.sensor.read(1.0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.06, 50.0), st.floats(0.1, MOST_WATTS / 2)), min_size=1, max_size=30
    ),
    st.floats(0.0, RANGE_J),
)
def test_joules_are_conserved_over_any_number_of_wraps(
    spans: list[tuple[float, float]], start: float
) -> None:
    """Whatever is drawn, as long as it is read in time, comes out again, and its watts too."""
    domain = Domain(start)
    domain.at(0.0)
    now = drawn = 0.0
    for seconds, watts in spans:
        now += seconds
        drawn += seconds * watts
        draw = domain.at(now, (start + drawn) % RANGE_J)

        assert pytest.approx(drawn, abs=1e-4) == draw.joules
        assert pytest.approx(watts, abs=1e-3) == draw.watts
