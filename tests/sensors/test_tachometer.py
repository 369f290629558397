"""How one fan is read, and what its number means."""

import errno

import pytest

from ollama_proxy.policy.readings import Quality
from ollama_proxy.sensors.tachometer import USUAL_MOST_RPM, Tachometer, read_most_rpm
from tests.fakes.machine import Machine

FAN = "/sys/class/hwmon/hwmon0/fan1"
PWM = "/sys/class/hwmon/hwmon0/pwm1"


def shares_of(*speeds: str, most_rpm: float = 3000.0) -> list[float | None]:
    """Its share at each speed in turn."""
    machine = Machine()
    meter = Tachometer(path=FAN, name="fan", source="it", is_certain=True, most_rpm=most_rpm)
    shares = []
    for speed in speeds:
        machine.write(f"{FAN}_input", speed)
        fan = meter.read(machine)
        assert fan
        shares.append(fan.share)
    return shares


@pytest.mark.parametrize("content", ["65535", "-1", "20000"])
def test_a_fan_that_cannot_turn_so_is_implausible(content: str) -> None:
    """What an absent one says; it has neither speed nor share."""
    machine = Machine({f"{FAN}_input": content})

    fan = Tachometer(path=FAN, name="fan", source="it", is_certain=True).read(machine)

    assert fan
    assert (None, None, Quality.IMPLAUSIBLE) == (fan.rpm, fan.share, fan.quality)


def test_an_implausible_header_is_no_fan() -> None:
    """Nothing ever turned there."""
    machine = Machine({f"{FAN}_input": "65535"})

    assert Tachometer(path=FAN, name="fan", source="it").read(machine) is None


def test_an_implausible_speed_is_not_the_most_that_was_seen() -> None:
    """Else every share would be small from then on."""
    assert [1.0, None, 0.5] == shares_of("3000", "65535", "1500")


def test_a_share_is_of_the_most_that_it_says_or_that_was_seen() -> None:
    """Whichever is more; unknown before it turned."""
    assert [0.0, 0.5, 1.0, 0.5] == shares_of("0", "1500", "6000", "3000")
    assert [0.0, 0.5, 1.0] == shares_of("0", "2000", "5000", most_rpm=4000.0)


@pytest.mark.parametrize(
    ("content", "most"), [("4900", 4900.0), ("65535", USUAL_MOST_RPM), ("0", USUAL_MOST_RPM)]
)
def test_what_a_fan_says_that_it_can_is_believed_if_it_can(content: str, most: float) -> None:
    """A bogus maximum is none."""
    assert most == read_most_rpm(Machine({f"{FAN}_max": content}), FAN)
    assert USUAL_MOST_RPM == read_most_rpm(Machine(), FAN)


def test_a_driven_fan_that_says_zero_is_unknown() -> None:
    """Where its tachometer is known to miss pulses; it is not stopped."""
    machine = Machine({f"{FAN}_input": "0", PWM: "150"})
    meter = Tachometer(path=FAN, name="fan", source="it", pwm=PWM, is_certain=True)
    driven = meter.read(machine)
    machine.write(PWM, "0")
    stopped = meter.read(machine)

    assert driven
    assert stopped
    assert (None, Quality.IMPLAUSIBLE) == (driven.rpm, driven.quality)
    assert (0.0, Quality.OK) == (stopped.rpm, stopped.quality)


@pytest.mark.parametrize(
    ("error", "quality"), [(errno.ENODATA, Quality.ASLEEP), (errno.EIO, Quality.ERROR)]
)
def test_a_fan_that_cannot_be_read_says_why(error: int, quality: Quality) -> None:
    """Stalled or not powered; it is still a fan."""
    machine = Machine()
    machine.fail(f"{FAN}_input", error)

    fan = Tachometer(path=FAN, name="fan", source="it", is_certain=True).read(machine)

    assert fan
    assert (None, quality) == (fan.rpm, fan.quality)
