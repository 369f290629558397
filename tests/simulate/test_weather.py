"""The real climate under recorded conditions, in virtual time."""

from pathlib import Path
from typing import Any

import pytest

from ollama_proxy.simulate.report import table
from tests.simulate.stage import backend, play, request

CPU = backend("cpu", hardware="cpu", watts_busy=40, watts_idle=4)
CARD = backend("card", hardware="nvidia", watts_busy=10, watts_idle=2)


def climate(directory: Path, *requests: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """What came of the weather."""
    found: dict[str, Any] = play(directory, *requests, **keys)["climate"]
    return found


def each(seconds: float, until: float) -> list[dict[str, Any]]:
    """A request so often."""
    return [request(n * seconds) for n in range(int(until / seconds))]


def test_without_conditions_there_is_no_climate(tmp_path: Path) -> None:
    """The figures are those of before, and no more."""
    assert "climate" not in play(tmp_path, request(0))


def test_the_mode_follows_the_mains(tmp_path: Path) -> None:
    """Unplugged at 100 s, by 104 s it is believed; each second and each joule is some mode's."""
    found = climate(
        tmp_path,
        *each(10, 200),
        backends=[CPU],
        conditions=[
            {"at_s": 0, "on_battery": False, "percent": 90},
            {"at_s": 100, "on_battery": True},
        ],
    )

    assert [{"at_s": 104.0, "to": "efficiency", "why": "on battery (90 %)"}] == found["switches"]
    assert {"balanced": 104.0, "efficiency": 88.0} == found["mode_s"]
    assert 192 * 4 + 40 * 36 == pytest.approx(sum(found["mode_joules"].values()))
    assert 90.0 == found["percent_left"]


def test_quiet_hours_begin_by_the_clock(tmp_path: Path) -> None:
    """A scenario says what time it is at its start."""
    found = climate(
        tmp_path,
        *each(10, 120),
        starts_at="21:59",
        conditions=[{"at_s": 0, "on_battery": False}],
    )

    assert [(60.0, "quiet")] == [(each["at_s"], each["to"]) for each in found["switches"]]


def test_a_mode_that_was_chosen_stays(tmp_path: Path) -> None:
    """Whatever happens to the machine."""
    found = climate(
        tmp_path,
        *each(10, 120),
        efficiency={"mode": "performance"},
        conditions=[{"at_s": 0, "on_battery": True, "percent": 5}],
    )

    assert (["performance"], []) == (list(found["mode_s"]), found["switches"])


def test_nothing_starts_on_a_critical_part(tmp_path: Path) -> None:
    """At its limit from 20 s to 60 s, and graded so for a minute at least; the card serves."""
    found = play(
        tmp_path,
        *each(3, 120),
        backends=[CPU | {"priority": 9, "watts_busy": 1, "watts_idle": 0}, CARD],
        conditions=[
            {"at_s": 0, "limits": {"package": 100}, "zones": {"package": 50, "nvidia": 40}},
            {"at_s": 20, "zones": {"package": 101}},
            {"at_s": 60, "zones": {"package": 50}},
        ],
    )
    told = found["climate"]

    assert (40.0, 0) == (told["over_limit_s"]["package"], told["started_on_critical"])
    assert 60.0 == told["critical_s"]["package"]
    assert {"cpu", "card"} == set(told["metered"])
    assert (40, {}) == (found["served"], found["refused"])


def test_where_every_part_is_critical_nobody_is_served(tmp_path: Path) -> None:
    """Who comes then is refused; nothing waits for ever."""
    found = play(
        tmp_path,
        *each(5, 60),
        conditions=[{"at_s": 0, "limits": {"package": 100}, "zones": {"package": 105}}],
    )

    assert 0 == found["climate"]["started_on_critical"]
    assert found["served"] + sum(found["refused"].values()) == found["arrived"]
    assert found["served"] < 5


@pytest.mark.parametrize(
    ("on_battery", "others", "expected"),
    [
        (True, [CPU], (0, 0)),  # it would have been the thriftier one
        (False, [CPU], (3, 0)),
        (True, [], (3, 0)),  # nobody else could
    ],
)
def test_a_card_that_sleeps(
    tmp_path: Path, *, on_battery: bool, others: list[Any], expected: tuple[int, int]
) -> None:
    """On battery it is let sleep while another can serve."""
    found = climate(
        tmp_path,
        request(5),
        request(30),
        request(60),
        backends=[CARD, *others],
        conditions=[{"at_s": 0, "on_battery": on_battery, "awake": {"nvidia": False}}],
    )

    assert expected == (found["woken"], found["woken_in_vain"])


def test_a_backend_that_has_its_part_alone_pays_what_it_cost(tmp_path: Path) -> None:
    """What it draws at rest is learned from the pauses, and nobody's."""
    found = climate(
        tmp_path,
        *each(40, 400),
        backends=[CARD],
        conditions=[{"at_s": 0, "zones": {"nvidia": 40}}],
    )

    assert 160.0 == found["metered"]["card"]["true_j"]
    assert 160.0 == pytest.approx(found["metered"]["card"]["paid_j"], rel=0.05)


def test_two_on_a_package_share_by_their_time(tmp_path: Path) -> None:
    """The thrifty one pays for the other: together they are right."""
    found = climate(
        tmp_path,
        *(request(30.0 * n, model=model) for n in range(10) for model in "mn"),
        models=[{"name": "m"}, {"name": "n"}],
        backends=[
            CPU | {"models": ["m"]},
            backend("npu", hardware="npu", models=["n"], watts_busy=4),
        ],
        conditions=[{"at_s": 0, "zones": {"package": 40}}],
    )["metered"]

    assert (720.0, 80.0) == (found["cpu"]["true_j"], found["npu"]["true_j"])
    assert 800.0 == pytest.approx(found["cpu"]["paid_j"] + found["npu"]["paid_j"], rel=0.02)
    assert found["npu"]["off"] > 1


def test_people_read_it_in_the_table(tmp_path: Path) -> None:
    """The rivals, who know of no climate, have none of it."""
    figures = play(tmp_path, *each(10, 60), conditions=[{"at_s": 0, "on_battery": True}])
    rival = play(tmp_path, *each(10, 60), only="fifo")
    shown = {name: cells for name, *cells in table({"ours": figures, "fifo": rival}, [])}

    assert ["52 / 120", "-"] == shown["  efficiency, s / J"]
    assert ["0 / 0", "-"] == shown["sleeping cards woken / in vain"]
    assert ["-", "-"] == shown["battery left, %"]


# -- what is computed ------------------------------------------------------------------------------


def test_work_drains_the_battery(tmp_path: Path) -> None:
    """1 Wh is 3600 J: half a minute of rest on mains is free, the 150 s thereafter are not."""
    found = climate(
        tmp_path,
        request(178),
        backends=[CPU],
        battery_wh=1,
        base_watts=6,
        conditions=[{"at_s": 0, "on_battery": False}, {"at_s": 30, "on_battery": True}],
    )

    assert 100 * (1 - (150 * 10 + 72) / 3600) == pytest.approx(found["percent_left"])


def test_a_part_grows_warm_by_its_work_and_slows_down(tmp_path: Path) -> None:
    """A batch that would make 127 °C is held at the limit, and takes twice as long from then on."""
    requests = each(2, 200)
    hot = backend("cpu", hardware="cpu", watts_busy=42)
    keys: dict[str, Any] = {"backends": [hot], "efficiency": {"mode": "performance"}}
    found = play(tmp_path, *requests, parts=[{"name": "package"}], **keys)
    cool = play(tmp_path, *requests, parts=[{"name": "package", "ambient_c": -20}], **keys)

    assert found["climate"]["over_limit_s"]["package"] > 10
    assert 0 == found["climate"]["started_on_critical"]
    assert ({}, 200.0) == (cool["climate"]["over_limit_s"], cool["ended_at_s"])
