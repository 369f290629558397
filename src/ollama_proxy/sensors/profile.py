"""The firmware's power profile, for machines without a daemon that keeps it."""

import re

import attrs

from ollama_proxy.policy.readings import Findings, Profile
from ollama_proxy.sensors.files import Files, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor

PROFILE = "/sys/firmware/acpi/platform_profile"
ON_A_LAP = "/sys/devices/platform/thinkpad_acpi/dytc_lapmode"
INTERVAL_S = 10.0

# The daemon's words, so that nobody who reads a profile has to know the firmwares' too.
_SAME = {"low-power": "power-saver", "quiet": "power-saver", "cool": "power-saver"}


@attrs.define(kw_only=True)
class PlatformProfile:
    """The profile that the firmware was told. See `Sensor`."""

    name: str = "platform profile"
    key: str = "platform profile"
    interval_s: float = INTERVAL_S
    _files: Files

    def read(self, now: float) -> Findings:  # noqa: ARG002 - see Sensor
        """See `Sensor`."""
        word = read_text(self._files, PROFILE) or ""
        if not re.fullmatch(r"[a-z][a-z-]{0,40}", word):
            return Findings()
        is_on_a_lap = read_number(self._files, ON_A_LAP).value == 1
        profile = Profile(
            active=_SAME.get(word, word),
            degraded="lap-detected" if is_on_a_lap else "",
            source="platform_profile",
        )
        return Findings(profile=profile)

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""


def find_platform_profile(files: Files) -> list[Sensor]:
    """One sensor, where the firmware has profiles."""
    return [] if read_text(files, PROFILE) is None else [PlatformProfile(files=files)]
