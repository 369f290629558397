"""How one fan is read, and what its number means."""

import attrs

from ollama_proxy.policy.readings import Fan, Quality
from ollama_proxy.sensors.files import Files, Reading, read_number

USUAL_MOST_RPM = 5000.0  # of a laptop's; a desktop's large ones turn slower, and are quieter
HIGHEST_RPM = 19_999.0  # an absent fan says 65535, or -1


@attrs.define(kw_only=True)
class Tachometer:
    """One fan.

    Attributes:
        path: its file up to the underscore: `.../fan1`.
        pwm: a file that is above zero while the fan is driven, for a tachometer that misses pulses;
            None where it is not known to lie.
        is_certain: there is a fan; else it may be a header that nothing is plugged into.
        most_rpm: the most it says that it can turn; else the most that was seen, and at the least
            what such fans can turn. With what was seen alone, every fan would be at its most when it
            is read first, and the machine loud.
    """

    path: str
    name: str
    source: str
    pwm: str | None = None
    is_certain: bool = False
    most_rpm: float = USUAL_MOST_RPM
    _has_turned: bool = False

    def read(self, files: Files) -> Fan | None:
        """The fan as it is now; None while nothing shows that there is one."""
        reading = read_number(files, f"{self.path}_input", lowest=0.0, highest=HIGHEST_RPM)
        if reading.value == 0.0 and self._is_driven(files):
            reading = Reading(None, Quality.IMPLAUSIBLE)
        rpm = reading.value
        self._has_turned = self._has_turned or bool(rpm)
        self.most_rpm = max(self.most_rpm, rpm or 0.0)
        if not self.is_certain and not self._has_turned:
            return None
        return Fan(
            name=self.name,
            rpm=rpm,
            share=rpm / self.most_rpm if rpm is not None and not self._is_pump else None,
            quality=reading.quality,
            source=self.source,
        )

    @property
    def _is_pump(self) -> bool:
        """Whether it moves water: it turns fast always, and says nothing of noise."""
        return "pump" in self.name.lower()

    def _is_driven(self, files: Files) -> bool:
        return self.pwm is not None and bool(read_number(files, self.pwm).value)


def read_most_rpm(files: Files, path: str) -> float:
    """What a fan says that it can turn, its file given up to the underscore; else what such can."""
    told = read_number(files, f"{path}_max", lowest=1.0, highest=HIGHEST_RPM).value
    return told or USUAL_MOST_RPM
