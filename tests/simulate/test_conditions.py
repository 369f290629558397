"""Recorded conditions: what a line says, what it leaves as it was, and every fault it may have."""

from pathlib import Path
from typing import Any

import pytest

from ollama_proxy.policy.readings import Quality
from ollama_proxy.simulate.conditions import HELD, Cards, Change, Degrees
from ollama_proxy.simulate.scenario import load
from ollama_proxy.tables import ConfigFaults
from tests.simulate.stage import backend, write

CHAT = {"name": "chat", "rate_per_s": 1}


def loaded(directory: Path, lines: str) -> tuple[Change, ...]:
    """The lines of a file beside a scenario, by their times."""
    (directory / "evening.jsonl").write_text(lines)
    path = write(
        directory,
        conditions="evening.jsonl",
        backends=[backend()],
        traffic=[CHAT],
        starts_at="9:00",
    )
    return load(path).conditions


def test_a_file_is_read_by_its_times(tmp_path: Path) -> None:
    """Comments and empty lines are passed over; null is not the same as nothing said."""
    first, last = loaded(
        tmp_path,
        '# made up\n\n{"at_s": 9, "percent": null}\n{"at_s": 2, "zones": {"nvidia": 70}}\n',
    )

    assert (2.0, 70.0, HELD, HELD) == (
        first.at_s,
        first.zones.nvidia,
        first.zones.package,
        first.percent,
    )
    assert (9.0, None) == (last.at_s, last.percent)


def test_what_a_line_does_not_name_is_held() -> None:
    """Part by part; and null takes it away."""
    before = Change(at_s=0, on_battery=True, zones=Degrees(package=60, nvidia=50))
    after = before.then(Change(at_s=1, percent=80, zones=Degrees(package=None)))

    assert (
        Change(at_s=1, on_battery=True, percent=80, zones=Degrees(package=None, nvidia=50)) == after
    )


def test_nothing_is_told_of_what_no_line_names() -> None:
    """A sensor that nobody mentions is one that the machine does not have."""
    assert {} == Change(at_s=0).findings()


def test_a_reading_that_was_lost_is_not_one_that_never_was() -> None:
    """It leaves its name behind, without a value; a profile is gone."""
    told = Change(at_s=0, zones=Degrees(package=None), fan_share=None, profile=None).findings()
    zones, fan = told["zones"], told["fan"]
    assert zones is not None
    assert fan is not None

    assert [(None, Quality.STALE)] == [(z.temperature_c, z.quality) for z in zones.zones]
    assert [(None, Quality.STALE)] == [(f.share, f.quality) for f in fan.fans]
    assert told["profile"] is None


@pytest.mark.parametrize(
    ("at_work", "expected"),
    [(frozenset(), (False, None, Quality.ASLEEP)), ({"nvidia"}, (True, 40.0, Quality.OK))],
)
def test_a_card_sleeps_until_it_is_used(at_work: set[str], expected: tuple[Any, ...]) -> None:
    """Nobody reads how warm it is meanwhile: that would wake it."""
    change = Change(at_s=0, zones=Degrees(nvidia=40), awake=Cards(nvidia=False))
    told = change.findings(at_work=frozenset(at_work))
    parts, zones = told["parts"], told["zones"]
    assert parts is not None
    assert zones is not None

    assert expected == (
        parts.parts[0].awake,
        zones.zones[0].temperature_c,
        zones.zones[0].quality,
    )


def test_every_fault_of_a_file_is_named(tmp_path: Path) -> None:
    """With its line, as those of a trace are."""
    lines = (
        '{"at_s": -1, "percent": 101}\n'
        '{"at_s": 0, "zones": {"nvidja": 70, "package": "hot"}}\n'
        '{"at_s": 0, "on_battery": 1, "awake": {"package": true}}\n'
        '{"at_s": 3'
    )
    with pytest.raises(ConfigFaults) as caught:
        loaded(tmp_path, lines)

    assert {
        "line 1: at_s: must be >= 0 (got -1)",
        "line 1: percent: must be 0 to 100 (got 101)",
        "line 2: zones.nvidja: unknown key, did you mean nvidia?",
        'line 2: zones.package: must be a number (got "hot")',
        "line 3: on_battery: must be true or false (got 1)",
        "line 3: awake.package: unknown key",
        "line 4: is no complete JSON object",
    } == set(caught.value.faults)
    assert tmp_path / "evening.jsonl" == caught.value.path


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"conditions": [{"at_s": 0, "fan": 1}]}, "conditions[0].fan: unknown key"),
        ({"conditions": 3}, "conditions: must be a list of tables, each headed [[...]] (got 3)"),
        (
            {"starts_at": "24:00"},
            'starts_at: must be a time of the day such as "21:30" (got "24:00")',
        ),
        (
            {"parts": [{"name": "package"}], "conditions": [{"at_s": 0, "zones": {"package": 50}}]},
            "parts[0]: the zone 'package' is told by conditions as well",
        ),
        (
            {"battery_wh": 50, "conditions": [{"at_s": 0, "percent": 50}]},
            "battery_wh: the percent is told by conditions as well",
        ),
        (
            {"parts": [{"name": "package", "tau_s": [4]}]},
            "parts[0].tau_s: must be two numbers > 0 (got a list)",
        ),
        (
            {"efficiency": {"quiet_hours": "late"}},
            (
                'efficiency.quiet_hours: must be two times of the day such as "22:00-07:00", or "" for'
                ' none (got "late")'
            ),
        ),
    ],
)
def test_every_fault_of_a_scenario_is_named(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    """What is told and computed at once, too."""
    with pytest.raises(ConfigFaults) as caught:
        load(write(tmp_path, **({"backends": [backend()], "traffic": [CHAT]} | keys)))

    assert (expected,) == caught.value.faults
