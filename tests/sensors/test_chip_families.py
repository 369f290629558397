"""Finding every sensor, whatever is wrong with some of them."""

import errno
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_proxy.policy.readings import Findings
from ollama_proxy.sensors.chip_families import CHIPS, discover_chips
from ollama_proxy.sensors.files import Files
from ollama_proxy.sensors.sensor import Sensor
from tests.fakes.machine import Machine, _Link, names, recorded
from tests.sensors.rounds import read_all

P1 = "thinkpad-p1-gen4i-intel-nvidia-optimus"
ERRORS = [
    errno.ENOENT,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENODATA,
    errno.EIO,
    errno.EBUSY,
    errno.EPERM,
    errno.EACCES,
    errno.EAGAIN,
    errno.ELOOP,
]


def test_a_machine_without_any_sensor_is_well() -> None:
    """A virtual one: nothing is found, nothing is told."""
    assert [] == discover_chips(Machine())


def test_a_family_that_fails_loses_no_other() -> None:
    """Whichever it is."""

    def fail(files: Files) -> list[Sensor]:
        raise OSError(errno.EIO, "it fails")

    everything = {sensor.key for sensor in discover_chips(recorded(P1))}

    for family in CHIPS:
        its_own = {sensor.key for sensor in family(recorded(P1))}
        families = tuple(fail if f is family else f for f in CHIPS)
        left = {sensor.key for sensor in discover_chips(recorded(P1), families)}
        assert everything - its_own == left


@pytest.mark.parametrize("name", names())
def test_finding_again_finds_the_same(name: str) -> None:
    """Same keys, each once: the engine keeps those that it has."""
    machine = recorded(name)
    keys = [sensor.key for sensor in discover_chips(machine)]

    assert keys == [sensor.key for sensor in discover_chips(machine)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", names())
def test_names_are_told_once(name: str) -> None:
    """So that history and hysteresis have something to hold on to."""
    told = read_all(discover_chips(recorded(name)))

    for readings in (told.zones, told.fans, told.draws):
        assert len(readings) == len({reading.name for reading in readings})


@pytest.mark.parametrize("name", names())
def test_no_card_is_touched(name: str) -> None:
    """Reading a card may wake it: of its hwmon chip only the name is read."""
    machine = recorded(name)
    sensors = discover_chips(machine)
    read_all(sensors)

    cards = {
        path.removesuffix("/name")
        for path, entry in machine._entries.items()
        if path.endswith("/name") and entry == b"amdgpu\n"
    }
    touched = {path for path in machine.opened if path.rpartition("/")[0] in cards}
    assert {f"{card}/name" for card in cards} == touched


@pytest.mark.parametrize("error", ERRORS)
def test_every_file_may_fail_at_once(error: int) -> None:
    """Then each sensor tells of it, or that its device is gone; nothing else comes out."""
    machine = recorded(P1)
    sensors = discover_chips(machine)
    read_all(sensors)
    for path, entry in list(machine._entries.items()):
        if not isinstance(entry, _Link):
            machine.fail(path, error)

    for sensor in sensors:
        told = read_or_gone(sensor, 2.0)
        assert told is None or all(zone.temperature_c is None for zone in told.zones)
    discover_chips(machine)


def read_or_gone(sensor: Sensor, now: float) -> Findings | None:
    """What a sensor tells; None if it says that its device is gone."""
    try:
        return sensor.read(now)
    except OSError:
        return None


NASTY = st.one_of(
    st.binary(max_size=80),
    st.integers(-(10**26), 10**26).map(lambda n: b"%d\n" % n),
    st.sampled_from([b"", b"N/A\n", b"12 34", b"0x1f", b"1e3", b"\0", b"-273150\n", b"65535\n"]),
    st.text(max_size=30).map(str.encode),
)


@settings(deadline=None)
@given(st.data())
def test_any_bytes_in_any_files_never_raise(data: st.DataObject) -> None:
    """Before and after discovery; who is given another name says that it is gone, no more."""
    machine = recorded(data.draw(st.sampled_from(names())))
    files = sorted(p for p, entry in machine._entries.items() if isinstance(entry, bytes))
    spoil = st.dictionaries(st.sampled_from(files), NASTY, max_size=6)
    for path, content in data.draw(spoil).items():
        machine.write(path, content)
    sensors = discover_chips(machine)
    for now in (0.0, 0.01, 2.0):
        renamed = False
        for path, content in data.draw(spoil).items():
            machine.write(path, content)
            renamed = renamed or path.endswith(("/name", "/type"))
        for sensor in sensors:
            told = read_or_gone(sensor, now) if renamed else sensor.read(now)
            assert told is None or is_sane(told)
        if renamed:
            sensors = discover_chips(machine)


def is_sane(told: Findings) -> bool:
    """Whether every number is one, and within what can be."""
    numbers = [draw.watts for draw in told.draws] + [draw.joules for draw in told.draws]
    numbers += [zone.limit_c for zone in told.zones] + [fan.rpm for fan in told.fans]
    supply = told.supply
    return (
        all(number is None or (math.isfinite(number) and number >= 0) for number in numbers)
        and all(-20 <= z.temperature_c <= 125 for z in told.zones if z.temperature_c is not None)
        and all(0 <= fan.share <= 1 for fan in told.fans if fan.share is not None)
        and (supply is None or supply.percent is None or 0 <= supply.percent <= 100)
    )
