"""The firmware's power profile, for machines without a daemon that keeps it."""

import pytest

from ollama_proxy.policy.readings import Profile
from ollama_proxy.sensors.profile import ON_A_LAP, PROFILE, find_platform_profile
from tests.fakes.machine import Machine


def told_by(machine: Machine) -> Profile | None:
    """The profile that is told."""
    (sensor,) = find_platform_profile(machine)
    return sensor.read(0.0).profile


@pytest.mark.parametrize(
    ("word", "active"),
    [
        ("low-power", "power-saver"),
        ("quiet", "power-saver"),
        ("balanced", "balanced"),
        ("performance", "performance"),
        ("custom", "custom"),
    ],
)
def test_the_firmwares_words_are_the_daemons(word: str, active: str) -> None:
    """Where the daemon has one for it."""
    assert Profile(active=active, source="platform_profile") == told_by(Machine({PROFILE: word}))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a b", b"x" * 60])
def test_what_is_no_word_is_no_profile(content: bytes) -> None:
    """Unknown."""
    machine = Machine()
    machine.write(PROFILE, content)

    assert told_by(machine) is None


@pytest.mark.parametrize(("lap", "degraded"), [("1", "lap-detected"), ("0", ""), ("N/A", "")])
def test_a_lap_degrades(lap: str, degraded: str) -> None:
    """As the daemon says it."""
    profile = told_by(Machine({PROFILE: "performance", ON_A_LAP: lap}))

    assert profile
    assert degraded == profile.degraded


def test_firmware_without_profiles_has_no_sensor() -> None:
    """A desktop's, mostly."""
    assert [] == find_platform_profile(Machine())
