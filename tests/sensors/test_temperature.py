"""How one temperature is read, and when it is believed."""

import pytest

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Kind, Quality
from ollama_proxy.sensors.temperature import Thermometer, read_limit
from tests.fakes.machine import Machine

PATH = "/sys/class/hwmon/hwmon0/temp1_input"


def thermometer(*, must_move: bool = False) -> Thermometer:
    """One that speaks for the package."""
    return Thermometer(
        path=PATH, name="it", kind=Kind.CPU, source="it", speaks=True, must_move=must_move
    )


def read_of(content: str | bytes) -> tuple[float | None, Quality]:
    """What is told of a file's content."""
    machine = Machine()
    machine.write(PATH, content)
    zone = thermometer().read(machine)
    return zone.temperature_c, zone.quality


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"N/A\n", id="words"),
        pytest.param(b"12 34\n", id="two"),
        pytest.param(b"0x1f\n", id="hexadecimal"),
        pytest.param(b"1e3\n", id="exponent"),
        pytest.param(b"9" * 40 + b"\n", id="endless"),
        pytest.param(b"\0\0\0\0", id="nul"),
        pytest.param(b"\xff\xfe", id="bytes"),
    ],
)
def test_what_is_no_number_is_an_error(content: bytes) -> None:
    """Never zero, never an exception."""
    assert (None, Quality.ERROR) == read_of(content)


@pytest.mark.parametrize(
    ("content", "degrees"),
    [
        pytest.param(b"45000", 45.0, id="no-newline"),
        pytest.param(b"45000  \n", 45.0, id="trailing-spaces"),
        pytest.param(b"+45000\n", 45.0, id="plus"),
        pytest.param(b"-0\n", 0.0, id="minus-zero"),
        pytest.param(b"-19000\n", -19.0, id="winter"),
    ],
)
def test_odd_numbers_are_numbers(content: bytes, degrees: float) -> None:
    """However they are written."""
    assert (degrees, Quality.OK) == read_of(content)


@pytest.mark.parametrize("content", ["-44000", "126000", "-273150", "65261850", "20001000"])
def test_what_no_working_sensor_tells_is_implausible(content: str) -> None:
    """Also if it is only one sample."""
    assert (None, Quality.IMPLAUSIBLE) == read_of(content)


@pytest.mark.parametrize(
    ("first", "second", "speaks"),
    [
        pytest.param("32000", "32000", False, id="constant"),
        pytest.param("32000", "33000", True, id="moves"),
        pytest.param("12000", "0", False, id="moves-to-zero"),
        pytest.param("-44000", "32000", False, id="first-was-implausible"),
    ],
)
def test_a_constant_speaks_for_nothing(first: str, second: str, speaks: bool) -> None:
    """Where it must move to be believed: from one plausible value to another, above freezing."""
    machine = Machine()
    meter = thermometer(must_move=True)
    machine.write(PATH, first)
    assert meter.read(machine).part is None

    machine.write(PATH, second)

    assert (PACKAGE if speaks else None) == meter.read(machine).part


def test_one_that_moved_once_is_believed_when_it_rests() -> None:
    """Also if it is lost between, so that its loss is noticed."""
    machine = Machine()
    meter = thermometer(must_move=True)
    parts = []
    for content in ("32000", "33000", "", "32000", "32000"):
        machine.write(PATH, content)
        parts.append(meter.read(machine).part)

    assert [None, PACKAGE, PACKAGE, PACKAGE, PACKAGE] == parts


@pytest.mark.parametrize("bogus", ["-273150", "65261850", "0", "20800", "N/A", ""])
def test_a_limit_that_cannot_be_one_is_passed_over(bogus: str) -> None:
    """The next file is asked; if there is none, there is no limit."""
    machine = Machine({"/sys/a_crit": bogus, "/sys/a_max": "95000"})

    assert 95.0 == read_limit(machine, ["/sys/a_crit", "/sys/a_max"])
    assert read_limit(machine, ["/sys/a_crit", "/sys/nowhere"]) is None
