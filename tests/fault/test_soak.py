"""tools/soak, short: that it soaks, that it judges growth rightly, and that it says so when something is broken."""

import subprocess
import sys

import pytest
from soaking.growth import Growth, Look
from soaking.visitors import VISITS

from tests.real.processes import ROOT

MIB = 1 << 20


def looks(*memory_mib: float, minutes: float = 10.0, descriptors: int = 0) -> list[Look]:
    """So many of them, so far apart."""
    return [
        Look(
            at=at * minutes * 60,
            memory_bytes=int(mib * MIB),
            blocks=300_000,
            descriptors=20 + at * descriptors,
            tasks=30,
        )
        for at, mib in enumerate(memory_mib)
    ]


def test_growth_is_told_by_the_hour() -> None:
    """Half a MiB in each ten minutes is three an hour."""
    growth = Growth.of(looks(60, 60.5, 61, 61.5))
    assert (3 * MIB, True, False) == (growth.memory_bytes, growth.is_judged, growth.is_kept)


def test_one_look_that_stands_out_is_no_growth() -> None:
    """What was there for once is not what grows."""
    growth = Growth.of(looks(60, 60, 75, 60, 60))
    assert (0.0, True) == (growth.memory_bytes, growth.is_kept)


def test_a_descriptor_an_hour_is_too_many() -> None:
    """Of those nothing may be left."""
    assert not Growth.of(looks(60, 60, 60, 60, descriptors=1)).is_kept


@pytest.mark.parametrize("memory", [(60.0,), (60.0, 64.0, 68.0)])
def test_what_was_seen_too_shortly_is_not_judged(memory: tuple[float, ...]) -> None:
    """A process that warms up would grow by gigabytes an hour."""
    assert not Growth.of(looks(*memory, minutes=1)).is_judged


def test_a_short_soak_visits_every_door() -> None:
    """And finds nothing left over, nothing lost, no answer cut."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "soak", "--minutes", "0.2", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert set(VISITS) == {
        words[0]
        for line in done.stdout.splitlines()
        if len(words := line.split()) == 3 and words[1] in {"whole", "told", "left"}
    }
    assert "too short a time to judge it" in done.stdout
