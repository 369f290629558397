"""Counters of thermal throttling: a rise is evidence, a value is none."""

import errno

import pytest

from ollama_proxy.policy.readings import Quality, Zone
from ollama_proxy.sensors.sensor import Sensor
from ollama_proxy.sensors.throttle import find_throttle_counters
from tests.fakes.machine import Machine, recorded
from tests.sensors.rounds import read_all

CPUS = "/sys/devices/system/cpu"


def cpus(*counts: int, packages: tuple[int, ...] = (), ms: int | None = None) -> Machine:
    """A machine whose CPUs have counted so many events of their packages."""
    machine = Machine()
    for n, count in enumerate(counts):
        set_count(machine, count, cpu=n, ms=ms)
        if packages:
            machine.write(f"{CPUS}/cpu{n}/topology/physical_package_id", str(packages[n]))
    return machine


def set_count(machine: Machine, count: int, cpu: int = 0, ms: int | None = None) -> None:
    """Let a CPU have counted so many events, and so much time."""
    counters = f"{CPUS}/cpu{cpu}/thermal_throttle/package_throttle"
    machine.write(f"{counters}_count", str(count))
    if ms is not None:
        machine.write(f"{counters}_total_time_ms", str(ms))


def counters_of(machine: Machine) -> Sensor:
    """The one sensor for all CPUs."""
    (sensor,) = find_throttle_counters(machine)
    return sensor


def told_by(sensor: Sensor, now: float) -> Zone:
    """Its one zone."""
    (zone,) = sensor.read(now).zones
    return zone


def is_throttled(sensor: Sensor, now: float) -> bool | None:
    """What its zone says."""
    return told_by(sensor, now).throttling


def test_rule_1_a_large_count_at_the_start_is_no_event() -> None:
    """A laptop at rest shows 34818; nothing is known before it was read twice."""
    machine = recorded("thinkpad-prometheus-procfs")
    sensor = counters_of(machine)

    assert is_throttled(sensor, 0.0) is None
    assert is_throttled(sensor, 2.0) is False


def test_rule_1_one_more_is_an_event_until_the_next_reading() -> None:
    """Where no time is counted."""
    machine = cpus(34818)
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    set_count(machine, 34819)

    assert [True, False] == [is_throttled(sensor, 2.0), is_throttled(sensor, 4.0)]


def test_rule_1_a_counter_that_went_back_is_no_event() -> None:
    """Its CPU was offline, and counts anew; the next rise is one."""
    machine = cpus(34818)
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    set_count(machine, 3)
    back = is_throttled(sensor, 2.0)
    set_count(machine, 4)

    assert (None, True) == (back, is_throttled(sensor, 4.0))


def test_rule_2_one_cpu_is_asked_for_its_package() -> None:
    """A hundred would tell the same."""
    machine = cpus(5, 5, 7, 7, packages=(0, 0, 1, 1))
    sensor = counters_of(machine)
    machine.opened.clear()
    is_throttled(sensor, 0.0)

    assert {"cpu0", "cpu2"} == {path.removeprefix(CPUS).split("/")[1] for path in machine.opened}


def test_rule_2_either_package_counts() -> None:
    """A rise of the second one's is throttling."""
    machine = cpus(5, 7, packages=(0, 1))
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    set_count(machine, 8, cpu=1)

    assert is_throttled(sensor, 2.0) is True


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_rule_2_where_a_cpu_went_offline_another_is_asked(how: str) -> None:
    """What that one counted meanwhile, or not, is no rise; a racing read finds an empty file."""
    machine = cpus(5, 50)
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    if how == "gone":
        machine.remove(f"{CPUS}/cpu0/thermal_throttle")
    else:
        machine.write(f"{CPUS}/cpu0/thermal_throttle/package_throttle_count", b"")
    other = is_throttled(sensor, 2.0)
    set_count(machine, 51, cpu=1)
    risen = is_throttled(sensor, 4.0)
    set_count(machine, 0, cpu=0)

    assert (None, True) == (other, risen)
    assert is_throttled(sensor, 6.0) is None


def test_rule_3_a_short_event_is_no_throttling_where_time_is_counted() -> None:
    """Under a tenth of the last half minute."""
    machine = cpus(0, ms=0)
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    set_count(machine, 34, ms=2999)

    assert is_throttled(sensor, 2.0) is False


def test_rule_3_a_tenth_of_the_last_half_minute_is_throttling() -> None:
    """And it is over half a minute after it."""
    machine = cpus(0, ms=0)
    sensor = counters_of(machine)
    was = {}
    for now in range(0, 60, 2):
        if now == 10:
            set_count(machine, 99, ms=3000)
        was[now] = is_throttled(sensor, float(now))

    assert {now for now, told in was.items() if told} == set(range(10, 40, 2))
    assert was[0] is None
    assert was[40] is False


def test_rule_3_a_time_that_went_back_begins_anew() -> None:
    """Not a rise, and no debt either: three seconds more are throttling."""
    machine = cpus(5, ms=90_000)
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    set_count(machine, 5, ms=10)
    back = is_throttled(sensor, 2.0)
    set_count(machine, 6, ms=3010)

    assert (False, True) == (back, is_throttled(sensor, 4.0))


def test_cores_count_where_packages_do_not() -> None:
    """Old processors: each core for itself."""
    machine = Machine()
    for n in (0, 1):
        machine.write(f"{CPUS}/cpu{n}/thermal_throttle/core_throttle_count", "7")
    sensor = counters_of(machine)
    is_throttled(sensor, 0.0)
    machine.write(f"{CPUS}/cpu1/thermal_throttle/core_throttle_count", "8")

    assert is_throttled(sensor, 2.0) is True


def test_counters_that_cannot_be_read_tell_nothing() -> None:
    """Unknown, and not: no throttling."""
    machine = cpus(5)
    sensor = counters_of(machine)
    machine.fail(f"{CPUS}/cpu0/thermal_throttle/package_throttle_count", errno.EIO)

    zone = told_by(sensor, 2.0)

    assert (None, Quality.ERROR) == (zone.throttling, zone.quality)


def test_counters_that_are_gone_say_so() -> None:
    """All of them: a discovery finds what is left."""
    machine = cpus(5)
    sensor = counters_of(machine)
    machine.remove(f"{CPUS}/cpu0")

    with pytest.raises(OSError, match="no CPU counts"):
        sensor.read(2.0)


def test_a_processor_without_counters_has_no_sensor() -> None:
    """AMD's and ARM's."""
    assert [] == find_throttle_counters(Machine({f"{CPUS}/cpu0/online": "1"}))
    assert () == read_all(find_throttle_counters(Machine())).zones
