"""Where the machine's power comes from, as the kernel tells it: lines, batteries and their states.

Rule 1: a line with power decides: mains, or a USB port that is fed. What a USB port says of
    charging is ignored; it says so of itself.
Rule 2: without one, a battery feeds the machine that discharges, or does not say what it does;
    without any battery, some line that the kernel does not know does.
Rule 3: what contradicts itself changes nothing: it is a plug being pulled, half told.
Rule 4: two batteries are one, by energy. What a mouse or a headset runs on is not the machine's.
"""

import re

import attrs

from ollama_proxy.policy.readings import Draw, Findings, Quality, Scope, Supply
from ollama_proxy.sensors.files import Files, Reading, list_or_nothing, read_number, read_text
from ollama_proxy.sensors.sensor import Sensor

SUPPLIES = "/sys/class/power_supply"
INTERVAL_S = 10.0
MICRO = 1e-6
MOST_WATTS = 300.0
MOST_PERCENT = 110.0  # some count to 104; beyond this it is no percentage
_JOULES_PER_MICROWATTHOUR = 3600 * MICRO
_LINES = {"Mains", "USB", "Wireless"}
_BATTERIES = {"Battery", "UPS"}


@attrs.frozen(kw_only=True)
class _Battery:
    """One battery; what it does not tell is None."""

    status: str
    percent: float | None
    left_j: float | None
    full_j: float | None
    watts: Reading


@attrs.define(kw_only=True)
class PowerSupplies:
    """All supplies of the machine, in one sensor: only together they tell. See `Sensor`."""

    name: str = "power supplies"
    key: str = "power supplies"
    interval_s: float = INTERVAL_S
    _files: Files
    _on_battery: bool | None = None

    def read(self, now: float) -> Findings:  # noqa: ARG002 - see Sensor
        """See `Sensor`."""
        lines, batteries = [], []
        for entry in self._files.list(SUPPLIES):
            path = f"{SUPPLIES}/{entry}"
            kind = read_text(self._files, f"{path}/type")
            if read_text(self._files, f"{path}/scope") == "Device":
                continue
            if kind in _LINES:
                lines.append(read_number(self._files, f"{path}/online").value)
            elif kind in _BATTERIES and _is_the_machines(self._files, path):
                batteries.append(_read_battery(self._files, path))
        told = _is_on_battery([line for line in lines if line is not None], batteries)
        if told is not None:
            self._on_battery = told
        discharging = [b for b in batteries if b.status == "Discharging"]
        draw = _draw(discharging) if self._on_battery and discharging else None
        return Findings(
            supply=Supply(
                on_battery=self._on_battery,
                percent=_percent(batteries),
                to_empty_s=_to_empty_s(batteries, draw),
                source="power_supply",
            ),
            draws=(draw,) if draw else (),
        )

    def close(self) -> None:
        """See `Sensor`: nothing is held open."""


def find_power_supplies(files: Files) -> list[Sensor]:
    """One sensor, where the kernel tells of supplies at all."""
    try:
        files.list(SUPPLIES)
    except OSError:
        return []
    return [PowerSupplies(files=files)]


def _is_on_battery(lines: list[float], batteries: list[_Battery]) -> bool | None:
    """Whether nothing but a battery feeds the machine; None where what is told contradicts it."""
    states = {battery.status for battery in batteries}
    if any(line >= 1 for line in lines) or not batteries:
        return False
    if "Discharging" in states:
        return True
    is_fed = bool(states & {"Charging", "Full", "Not charging"})
    if lines:
        return None if is_fed else True
    return False if is_fed else None


def _is_the_machines(files: Files, path: str) -> bool:
    """Whether a battery is built in and there, not a peripheral's whose driver tells no scope."""
    if read_number(files, f"{path}/present").value == 0:
        return False
    if re.match(r"BAT|CMB", path.rpartition("/")[2]):
        return True
    if read_text(files, f"{path}/scope") == "System":
        return True
    return bool({"energy_full", "charge_full"} & set(list_or_nothing(files, path)))


def _read_battery(files: Files, path: str) -> _Battery:
    capacity = read_number(files, f"{path}/capacity", lowest=0.0, highest=MOST_PERCENT).value
    return _Battery(
        status=read_text(files, f"{path}/status") or "Unknown",
        percent=None if capacity is None else min(capacity, 100.0),
        left_j=_energy_j(files, path, "now"),
        full_j=_energy_j(files, path, "full"),
        watts=_watts(files, path),
    )


def _energy_j(files: Files, path: str, which: str) -> float | None:
    """Energy in joules, from microwatt-hours, or from microampere-hours and a voltage."""
    scale = _JOULES_PER_MICROWATTHOUR
    energy = read_number(files, f"{path}/energy_{which}", scale=scale, lowest=0.0).value
    if energy is not None:
        return energy
    charge = read_number(files, f"{path}/charge_{which}", scale=scale, lowest=0.0).value
    # The design voltage before the present one, which sags under load and would move both ends.
    for voltage in ("voltage_min_design", "voltage_now"):
        volts = read_number(files, f"{path}/{voltage}", scale=MICRO, lowest=1.0).value
        if charge is not None and volts is not None:
            return charge * volts
    return None


def _watts(files: Files, path: str) -> Reading:
    """What flows, whatever its direction: some drivers count what leaves as negative."""
    power = _signed(files, f"{path}/power_now")
    if power.quality is Quality.ABSENT:
        amperes, volts = (
            _signed(files, f"{path}/current_now"),
            _signed(files, f"{path}/voltage_now"),
        )
        if amperes.value is None or volts.value is None:
            return volts if amperes.value is not None else amperes
        power = Reading(amperes.value * volts.value)
    if power.value is None:
        return power
    watts = abs(power.value)
    return Reading(watts) if 0 < watts <= MOST_WATTS else Reading(None, Quality.IMPLAUSIBLE)


def _signed(files: Files, path: str) -> Reading:
    return read_number(files, path, scale=MICRO, lowest=-MOST_WATTS, highest=MOST_WATTS)


def _draw(discharging: list[_Battery]) -> Draw:
    """What the machine takes from its batteries; unknown if one of them does not say."""
    known = [b.watts.value for b in discharging if b.watts.value is not None]
    lost = [b.watts.quality for b in discharging if b.watts.value is None]
    return Draw(
        name="battery",
        scope=Scope.SYSTEM,
        watts=None if lost else sum(known),
        quality=lost[0] if lost else Quality.OK,
        source="battery",
    )


def _percent(batteries: list[_Battery]) -> float | None:
    """The charge of all together, 0 to 100."""
    left = [b.left_j for b in batteries if b.left_j is not None]
    full = [b.full_j for b in batteries if b.full_j is not None]
    if batteries and len(left) == len(full) == len(batteries) and sum(full) > 0:
        return min(100.0 * sum(left) / sum(full), 100.0)
    said = [b.percent for b in batteries if b.percent is not None]
    return sum(said) / len(said) if said else None


def _to_empty_s(batteries: list[_Battery], draw: Draw | None) -> float | None:
    left = [b.left_j for b in batteries if b.left_j is not None]
    if draw is None or draw.watts is None or len(left) < len(batteries):
        return None
    return sum(left) / draw.watts
