"""The processor's load from the kernel's ticks."""

import pytest

from ollama_proxy.sensors.load import STAT, find_load
from tests.fakes.machine import Machine


def shares(*lines: str) -> list[float | None]:
    """The loads that a sensor tells from one content of the file after the other."""
    files = Machine({STAT: lines[0]})
    (found,) = find_load(files)
    told = []
    for line in lines:
        files.write(STAT, line)
        told.append(found.read(0.0).loads[0].share)
    return told


def test_load_is_the_share_of_ticks_at_work() -> None:
    """Waiting for a disk is none; guests are counted as users already."""
    assert [None, 0.25] == shares(
        "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1", "cpu  120 0 105 760 115 0 0 0 70 0"
    )


@pytest.mark.parametrize("line", ["cpu  100 0 100 700 100", "cpu  90 0 90 800 100", "nonsense", ""])
def test_ticks_that_make_no_sense_tell_nothing(line: str) -> None:
    """No time passed, a counter fell (as they may), or the line is another."""
    assert [None, None] == shares("cpu  100 0 100 700 100", line)


def test_without_the_file_there_is_no_sensor() -> None:
    """A recorded machine may lack it."""
    assert [] == find_load(Machine())
