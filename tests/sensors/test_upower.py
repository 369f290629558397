"""How far UPower is believed."""

import math
from typing import Any

import pytest

from ollama_proxy.bus.message import Properties
from ollama_proxy.policy.readings import Draw, Findings, Quality, Supply
from ollama_proxy.sensors.upower import DISTRUST_S, SETTLING_S, Power, State

CHARGING, FULL = 1, 4


def daemon(on_battery: object) -> Properties:
    return Properties({"OnBattery": ("b", on_battery)})


def display(**changes: Any) -> Properties:
    """A battery of a laptop that is unplugged."""
    variants = {
        "IsPresent": ("b", True),
        "State": ("u", State.DISCHARGING),
        "Percentage": ("d", 64.0),
        "EnergyRate": ("d", 12.5),
        "TimeToEmpty": ("x", 5400),
    }
    return Properties(variants | {name: ("v", value) for name, value in changes.items()})


def findings(**changes: Any) -> Findings:
    power = Power()
    power.heard_daemon(daemon(changes.pop("on_battery", True)), 0.0)
    power.heard_display(display(**changes))
    found = power.findings(0.0)
    assert found is not None
    return found


def supply(**changes: Any) -> Supply:
    found = findings(**changes).supply
    assert found is not None
    return found


def draw(power: Power, now: float) -> Draw:
    found = power.findings(now)
    assert found is not None
    return found.draws[0]


def test_a_battery_in_use_is_told() -> None:
    """Charge, time and watts of a battery that feeds the machine."""
    found = findings()

    assert Supply(on_battery=True, percent=64.0, to_empty_s=5400.0, source="upower") == found.supply
    assert [12.5] == [draw.watts for draw in found.draws]


def test_silence_is_nothing() -> None:
    """Where the daemon says nothing, a battery alone is no supply."""
    power = Power()
    power.heard_display(display())

    assert power.findings(0.0) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"Percentage": 0.0, "State": State.UNKNOWN}, None),
        ({"Percentage": 0.0}, 0.0),
        ({"Percentage": 64.0, "State": State.UNKNOWN}, 64.0),
        ({"IsPresent": False}, None),
        ({"IsPresent": "yes"}, None),
        ({"Percentage": 104.0}, 100.0),
        ({"Percentage": -1.0}, None),
        ({"Percentage": math.nan}, None),
        ({"Percentage": "64"}, None),
        ({"Percentage": True}, None),
    ],
)
def test_a_percentage_is_believed_if_it_is_one(
    changes: dict[str, object], expected: float | None
) -> None:
    """An empty battery at UPower's start is none, nor is one that is not there."""
    assert expected == supply(**changes).percent


@pytest.mark.parametrize(
    ("changes", "watts", "quality"),
    [
        ({"EnergyRate": 0.0}, None, Quality.IMPLAUSIBLE),
        ({"EnergyRate": 588.0}, None, Quality.IMPLAUSIBLE),
        ({"EnergyRate": -4.25}, 4.25, Quality.OK),
        ({"EnergyRate": math.inf}, None, Quality.ABSENT),
        ({"EnergyRate": [1]}, None, Quality.ABSENT),
    ],
)
def test_a_rate_is_believed_if_it_can_be(
    changes: dict[str, object], watts: float | None, quality: Quality
) -> None:
    """A discharging battery that draws nothing is of unknown rate, never of none."""
    (found,) = findings(**changes).draws

    assert (watts, quality) == (found.watts, found.quality)


@pytest.mark.parametrize(
    ("on_battery", "state"),
    [(False, FULL), (False, CHARGING), (False, State.DISCHARGING), (True, FULL), (None, 2)],
)
def test_nothing_is_drawn_of_a_battery_that_is_not_alone(on_battery: object, state: int) -> None:
    """Full, charging, or helping a weak charger: what the machine draws is not known."""
    assert not findings(on_battery=on_battery, State=state).draws


def test_a_time_that_is_not_known_is_none() -> None:
    """UPower's 0 s to empty is its word for unknown, and a charging battery does not empty."""
    assert supply(TimeToEmpty=0).to_empty_s is None
    assert supply(State=CHARGING).to_empty_s is None


@pytest.mark.parametrize("said", [1, "true", None])
def test_a_supply_of_another_type_is_unknown(said: object) -> None:
    """Only a boolean says whether the machine is on battery."""
    assert findings(on_battery=said).supply == Supply(
        on_battery=None, percent=64.0, to_empty_s=5400.0, source="upower"
    )


def told(power: Power, now: float) -> bool | None:
    found = power.findings(now)
    return found.supply.on_battery if found and found.supply else None


@pytest.mark.parametrize("flaps", [4, 5])
def test_a_dock_that_flaps_is_one_change_at_most(flaps: int) -> None:
    """Five changes within four seconds are one or none, once the last has lasted."""
    power = Power()
    power.heard_daemon(daemon(on_battery=True), 0.0)
    said = [told(power, 0.0)]
    for flap in range(flaps):
        power.heard_daemon(daemon(on_battery=bool(flap % 2)), 10 + flap * 0.8)
        said.append(told(power, 10 + flap * 0.8))
    last = 10 + (flaps - 1) * 0.8

    assert {True} == set(said)
    assert told(power, last + SETTLING_S - 0.1)
    assert told(power, last + SETTLING_S) is (flaps % 2 == 0)


def test_it_says_when_a_change_has_lasted() -> None:
    """Who waits until then sees it; a change that was taken back needs no look."""
    power = Power()
    power.heard_daemon(daemon(on_battery=False), 0.0)
    power.heard_daemon(daemon(on_battery=True), 50.0)
    power.heard_daemon(daemon(on_battery=True), 51.0)

    assert 50.0 + SETTLING_S == power.next_at(51.0)
    assert told(power, 50.0 + SETTLING_S)
    assert math.inf == power.next_at(60.0)


def test_what_is_heard_first_counts_at_once() -> None:
    """Also after UPower was gone."""
    power = Power()
    power.heard_daemon(daemon(on_battery=False), 0.0)
    power.heard_daemon(None, 1.0)

    assert power.findings(1.0) is None

    power.heard_daemon(daemon(on_battery=True), 2.0)

    assert told(power, 2.0)


def test_no_rate_is_believed_after_a_sleep() -> None:
    """The watts are unknown for ten seconds, though UPower tells some."""
    power = Power()
    power.heard_daemon(daemon(on_battery=True), 0.0)
    power.heard_display(display(EnergyRate=95.0))
    power.resumed(100.0)

    assert (None, Quality.STALE) == (draw(power, 100.0).watts, draw(power, 100.0).quality)
    assert 100.0 + DISTRUST_S == power.next_at(100.0)
    assert 95.0 == draw(power, 100.0 + DISTRUST_S).watts
