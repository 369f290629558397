"""What was drawn between two readings."""

import pytest

from ollama_proxy.policy.gauge import DISTRUST_S, LOST_AFTER_S, STILL_MAX_S, Gauge, Span
from ollama_proxy.policy.readings import Draw, Quality, Scope

Reading = tuple[float, Draw | None]


def card(joules: float | None = None, watts: float | None = None, name: str = "card") -> Draw:
    """What a card's sensor says."""
    return Draw(name=name, scope=Scope.DEVICE, part="c", joules=joules, watts=watts, source="nvml")


def battery(watts: float) -> Draw:
    """What a battery gives."""
    return Draw(name="BAT0", scope=Scope.SYSTEM, watts=watts, source="battery")


def spans(*readings: Reading) -> list[tuple[float, float, float | None]]:
    """All spans of some readings but the one before the first: (since, until, joules)."""
    gauge = Gauge()
    read = [gauge.read(draw, now) for now, draw in readings]
    return [(span.since, span.until, span.joules) for span in read[1:] if span is not None]


def test_a_counter_tells_the_difference() -> None:
    """Whatever it stood at when it was read first."""
    assert [(0, 1, 5), (1, 3, 0.5)] == spans((0, card(100)), (1, card(105)), (3, card(105.5)))


def test_without_a_counter_power_is_held_for_the_time() -> None:
    """Watts are the mean since the last reading."""
    assert [(0, 2, 20), (2, 3, 30)] == spans(
        (0, card(None, 99)), (2, card(None, 10)), (3, card(None, 30))
    )


def test_a_counter_is_believed_before_power() -> None:
    """It misses nothing between two readings."""
    assert [(0, 1, 5)] == spans((0, card(0, 50)), (1, card(5, 50)))


def test_the_first_reading_tells_nothing_of_what_was_before() -> None:
    """A counter that stands high already is no draw."""
    span = Gauge().read(card(1e9), 1.0)

    assert span is not None
    assert span.joules is None


@pytest.mark.parametrize(
    "lost", [None, Draw(name="card", scope=Scope.DEVICE, quality=Quality.DENIED, source="nvml")]
)
def test_a_lost_reading_is_not_a_wrap(lost: Draw | None) -> None:
    """Neither the gap before nor the one after it is measured; then all is well again."""
    found = spans((0, card(100)), (1, lost), (2, card(107)), (3, card(108)))

    assert [(0, 1, None), (1, 2, None), (2, 3, 1)] == found


def test_what_was_denied_and_is_readable_is_read() -> None:
    """From the second good reading on."""
    assert [(1, 2, None), (2, 3, 4)] == spans((0, None), (1, None), (2, card(50)), (3, card(54)))[
        1:
    ]


def test_a_counter_that_was_reset_gives_way_to_power_once() -> None:
    """The driver was loaded anew: no draw below 0, and none of the counter's whole height."""
    readings = [(0, card(100, 8)), (1, card(2, 8)), (2, card(9, 8))]

    assert [(0, 1, 8), (1, 2, 7)] == spans(*readings)
    assert [(0, 1, None), (1, 2, 7)] == spans((0, card(100)), (1, card(2)), (2, card(9)))


def test_another_sensor_is_another_counter() -> None:
    """Between two of them there is no difference."""
    assert [(0, 1, None)] == spans((0, card(100)), (1, card(900, name="other")))


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.049])
def test_too_short_a_time_is_no_span(pause_s: float) -> None:
    """Its joules are in the next: else a clock that jumps makes megawatts."""
    assert [(0, 1, 6)] == spans((0, card(0)), (pause_s, card(5)), (1, card(6)))


def test_a_clock_that_went_back_is_no_span() -> None:
    """Readings may come in another order than they were made."""
    assert [(1, 2, 6)] == spans((1, card(0)), (0.5, card(1)), (2, card(6)))


def test_nobody_can_tell_who_used_what_in_ten_hours() -> None:
    """Readings so far apart measure nothing; the next are measured again."""
    found = spans((0, card(0, 9)), (36_000, card(9000, 9)), (36_001, card(9009, 9)))

    assert [(0, 36_000, None), (36_000, 36_001, 9)] == found
    assert [(0, LOST_AFTER_S, 90)] == spans((0, card(0)), (LOST_AFTER_S, card(90)))


def test_a_suspend_that_nobody_announced_is_no_draw() -> None:
    """The clock stood still while the counter ran: more watts than there can be."""
    found = spans((0, card(0)), (1, card(40_000)), (2, card(40_010)))

    assert [(0, 1, None), (1, 2, 10)] == found


def test_after_a_resume_readings_are_not_believed_for_a_while() -> None:
    """They are of before, or of waking itself."""
    gauge = Gauge()
    gauge.read(card(0), 0.0)

    assert Span(0.0, 1.0) == gauge.distrust(1.0)
    assert Span(1.0, 5.0) == gauge.read(card(70), 5.0)
    assert Span(5.0, 1.0 + DISTRUST_S) == gauge.read(card(80), 1.0 + DISTRUST_S)
    assert Span(16.0, 17.0, 3.0, Scope.DEVICE, is_counted=True) == gauge.read(card(83), 17.0)


def test_a_tick_is_waited_for() -> None:
    """A counter that has not moved yet, while power is drawn, will: the span goes on."""
    assert [(0, 0.3, 6)] == spans(
        (0, card(0, 20)), (0.1, card(0, 20)), (0.2, card(0, 20)), (0.3, card(6, 20))
    )


def test_a_counter_that_stands_still_gives_way_to_power() -> None:
    """Nothing that was drawn meanwhile is lost."""
    readings = [(t, card(0, 20)) for t in range(int(STILL_MAX_S) + 3)]

    assert [(0, 10, 200), (10, 11, 20), (11, 12, 20)] == spans(*readings)


def test_a_counter_that_moves_again_is_not_booked_twice() -> None:
    """What it gained was booked by power already; power at rest between does not change that."""
    still = [(t, card(0, 20)) for t in range(int(STILL_MAX_S) + 1)]
    found = spans(*still, (11, card(0, 0)), (12, card(230, 20)), (13, card(249, 20)))

    assert [(10, 11, 0), (11, 12, 20), (12, 13, 19)] == found[1:]


def test_a_counter_that_moved_lately_is_waited_for() -> None:
    """However long it has been read."""
    moving = [(t, card(20 * t, 20)) for t in range(30)]
    found = spans(*moving, (30, card(580, 20)), (31, card(620, 20)))

    assert (29, 31, 40) == found[-1]


def test_a_counter_that_is_lost_while_it_stands_still_leaves_power() -> None:
    """For all of the time since it moved."""
    assert [(0, 3, 60)] == spans(
        (0, card(5, 20)), (1, card(5, 20)), (2, card(5, 20)), (3, card(None, 20))
    )


def test_a_counter_at_rest_is_at_rest() -> None:
    """No power, or none known: it stands still for good reason."""
    assert [(0, 1, 0), (1, 2, 0)] == spans((0, card(5)), (1, card(5)), (2, card(5, 0)))


def test_a_battery_is_believed_over_a_minute() -> None:
    """It tells late and coarsely."""
    assert [(0, 60, 900)] == spans((0, battery(10)), (30, battery(10)), (60, battery(20)))


def test_a_battery_that_repeats_itself_tells_nothing() -> None:
    """From the first on: else all that it says is rest, and no request costs anything."""
    frozen = [(t, battery(14)) for t in range(0, 121, 10)]

    assert [(0, 60, None), (60, 120, None)] == spans(*frozen)


def test_a_battery_may_repeat_itself_for_minutes() -> None:
    """UPower asks it now and then; only what is never followed by anything new is not believed."""
    news = [(0, battery(10)), (30, battery(14))]
    same = [(t, battery(14)) for t in range(60, 481, 30)]

    assert [*[840.0] * 4, None, None, None] == [joules for _, _, joules in spans(*news, *same)][1:]
    assert 5 == len(spans(*news, *same[:9], (330, battery(15))))


def test_a_battery_at_rest_is_no_mistake() -> None:
    """On mains it gives nothing, for hours."""
    assert [(0, 60, 0)] == spans(*((t, battery(0)) for t in range(0, 61, 10)))
