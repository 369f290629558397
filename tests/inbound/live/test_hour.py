"""The lines of the last hour."""

import pytest

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.inbound.live.hour import EVERY_S, KEPT, Line, Point, columns
from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Draw, Findings, Kind, Scope, Supply, Zone
from tests.inbound.live.watched import MORNING, Watched, fact

FIRSTS = [0.1, 0.2, 0.9]


@pytest.fixture
def seen() -> Watched:
    """A router that was looked at once."""
    seen = Watched()
    seen.picture.look()
    return seen


def pass_by(seen: Watched, seconds: float = EVERY_S) -> Point:
    """Look again after some time; the newest point."""
    seen.now += seconds
    seen.picture.look()
    return seen.picture.hour.points[-1]


def test_points_are_ten_seconds_apart(seen: Watched) -> None:
    """However often it is looked."""
    for _ in range(30):
        pass_by(seen, 2.0)

    assert [MORNING + 10 * n for n in range(7)] == [p.at for p in seen.picture.hour.points]


def test_an_hour_is_kept(seen: Watched) -> None:
    """The oldest make room."""
    for _ in range(KEPT + 5):
        pass_by(seen)

    points = seen.picture.hour.points
    assert (KEPT, 3590.0) == (len(points), points[-1].at - points[0].at)


def test_a_clock_that_is_set_back_is_no_silence(seen: Watched) -> None:
    """Points go on at once."""
    assert MORNING - 3600 == pass_by(seen, -3600.0).at


def test_the_machine_is_in_it(seen: Watched) -> None:
    """Each part's heat, each sensor's watts, the battery; no watts are no 0."""
    seen.climate.publish(
        "all",
        Findings(
            zones=(
                Zone(
                    name="cpu",
                    kind=Kind.CPU,
                    hardware=Hardware.CPU,
                    part=PACKAGE,
                    temperature_c=61.25,
                    source="coretemp",
                ),
            ),
            draws=(
                Draw(name="package-0", scope=Scope.PACKAGE, watts=14.567, source="rapl"),
                Draw(name="battery", scope=Scope.SYSTEM, watts=None, source="battery"),
            ),
            supply=Supply(on_battery=True, percent=80.04, source="upower"),
        ),
    )
    seen.climate.look()
    point = pass_by(seen)

    assert {PACKAGE: 61.2} == point.temperature_c
    assert {"package-0": 14.57} == point.watts
    assert 80.0 == point.battery_percent


def test_first_tokens_are_a_median_of_served_streams(seen: Watched) -> None:
    """Of the ten seconds before the point, by backend; none is no 0."""
    for first_s in FIRSTS:
        seen.picture.book(fact(first_s=first_s))
    seen.picture.book(fact(first_s=50.0, outcome=Outcome.LEFT))
    seen.picture.book(fact(first_s=50.0, stream=False))
    seen.picture.book(fact(first_s=None))

    assert {"npu": 200.0} == pass_by(seen).first_ms
    assert {} == pass_by(seen).first_ms


def test_what_requests_cost_is_watts(seen: Watched) -> None:
    """Joules of ten seconds, spread over them."""
    seen.spend(20.0)
    seen.spend(5.0, "gone")

    assert {"npu": 2.0} == pass_by(seen).spent_watts
    assert {"npu": 0.0} == pass_by(seen).spent_watts


def test_lines_are_as_long_as_their_times() -> None:
    """What one point does not know is a gap."""
    empty: dict[str, Line] = {"temperature_c": {}, "spent_watts": {}, "first_ms": {}, "waiting": {}}
    one = Point(at=1.0, watts={"a": 1.0}, battery_percent=None, **empty)
    two = Point(at=2.0, watts={"b": 2.0}, battery_percent=50.0, **empty)

    told = columns([one, two])

    assert ([1.0, 2.0], [None, 50.0]) == (told["at"], told["battery_percent"])
    assert {"a": [1.0, None], "b": [None, 2.0]} == told["watts"]


def test_points_are_told_once(seen: Watched) -> None:
    """And none is left out."""
    pass_by(seen)
    hour = seen.picture.hour

    assert 2 == len(hour.take_untold())
    assert [] == hour.take_untold()
    assert [pass_by(seen)] == hour.take_untold()
