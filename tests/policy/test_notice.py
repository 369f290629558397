"""What a person is told, and what they are spared."""

import math

import pytest

from ollama_proxy.policy.notice import (
    INTERVAL_S,
    BackendBack,
    BackendLost,
    Event,
    HeatChanged,
    Kind,
    ModeChanged,
    Notice,
    Notices,
    Urgency,
)


def shown(notices: Notices, now: float) -> list[Notice]:
    """What is due, all of it seen."""
    due = notices.due(now)
    for notice in due:
        notices.shown(notice)
    return list(due)


def after(*events: Event, now: float = 0.0) -> Notices:
    """Notices of which the first event was shown, and the others came within its minute."""
    notices = Notices()
    notices.happened(events[0], now)
    shown(notices, now)
    for event in events[1:]:
        notices.happened(event, now + 1)
    return notices


@pytest.mark.parametrize(
    ("event", "expected", "urgency"),
    [
        (
            ModeChanged("balanced", "ultra-efficiency", "the battery is low"),
            "Auto went from Balanced to Ultra Efficiency: the battery is low",
            Urgency.LOW,
        ),
        (
            HeatChanged("severe", "Tctl"),
            "The machine is too hot (Tctl). What is hot gets less to do until it cools.",
            Urgency.NORMAL,
        ),
        (
            HeatChanged("critical"),
            "The machine is far too hot. What is hot serves nothing until it cools.",
            Urgency.CRITICAL,
        ),
        (
            BackendLost("npu", "connection refused"),
            "Requests go elsewhere until it is back: connection refused",
            Urgency.NORMAL,
        ),
    ],
)
def test_what_happened_is_told(event: Event, expected: str, urgency: Urgency) -> None:
    """Each event that matters is a sentence, as urgent as it is."""
    notices = Notices()
    notices.happened(event, 0.0)

    (notice,) = shown(notices, 0.0)

    assert (expected, urgency) == (notice.body, notice.urgency)


@pytest.mark.parametrize(
    "event",
    [HeatChanged("light"), HeatChanged("moderate"), HeatChanged("unknown"), BackendBack("npu")],
)
def test_what_is_as_it_should_be_is_no_news(event: Event) -> None:
    """A warm machine, and a backend that came up the first time, are not told."""
    notices = Notices()
    notices.happened(event, 0.0)

    assert not notices.due(0.0)
    assert math.inf == notices.next_at()


@pytest.mark.parametrize(
    ("first", "undoing", "summary"),
    [
        (HeatChanged("severe"), HeatChanged("light"), "The machine has cooled"),
        (BackendLost("npu", "gone"), BackendBack("npu"), "npu is back"),
    ],
)
def test_the_end_of_what_was_told_is_told(first: Event, undoing: Event, summary: str) -> None:
    """Who was worried hears that it is over, in the same slot."""
    notices = after(first, undoing)

    (notice,) = shown(notices, INTERVAL_S)

    assert summary == notice.summary


def test_an_unknown_state_ends_no_heat() -> None:
    """A lost sensor is no cooling."""
    notices = after(HeatChanged("severe"), HeatChanged("unknown"))

    assert not notices.due(INTERVAL_S)


def test_a_kind_is_silent_for_a_minute() -> None:
    """A second notice of a kind waits, and is due when the minute is over; other kinds are not held."""
    notices = after(BackendLost("npu", "gone"), BackendLost("gpu", "gone"), HeatChanged("severe"))

    assert ["thermal"] == [notice.slot for notice in shown(notices, 1.0)]
    assert INTERVAL_S == notices.next_at()
    assert not notices.due(INTERVAL_S - 0.1)
    assert ["backend_down:gpu"] == [notice.slot for notice in shown(notices, INTERVAL_S)]


def test_the_latest_replaces_what_waits() -> None:
    """After a minute of changes only where they led to is told, from where the person knows."""
    notices = after(
        ModeChanged("balanced", "quiet", "it is night"),
        ModeChanged("quiet", "efficiency", "it is day"),
        ModeChanged("efficiency", "performance", "mains is back"),
    )

    (notice,) = shown(notices, INTERVAL_S)

    assert "Auto went from Quiet to Performance: mains is back" == notice.body
    assert math.inf == notices.next_at()


@pytest.mark.parametrize(
    "events",
    [
        (
            ModeChanged("balanced", "quiet", "night"),
            ModeChanged("quiet", "balanced", "day"),
            ModeChanged("balanced", "quiet", "night"),
        ),
        (BackendLost("npu", "gone"), BackendBack("npu"), BackendLost("npu", "again")),
        (BackendLost("npu", "gone"), BackendLost("gpu", "gone"), BackendBack("gpu")),
    ],
    ids=["back to what was told", "down as was told", "never told"],
)
def test_what_was_undone_is_dropped(events: tuple[Event, ...]) -> None:
    """Where the person's knowledge is right, nothing is told."""
    notices = after(*events)

    assert math.inf == notices.next_at()
    assert not notices.due(INTERVAL_S)


def test_who_waits_longest_is_first() -> None:
    """Of several backends the one that was lost first is told first, one a minute."""
    notices = after(*(BackendLost(name, "gone") for name in ("a", "b", "c")))
    notices.happened(BackendLost("b", "another reason"), 2.0)

    told = [shown(notices, INTERVAL_S * minute)[0].slot for minute in (1, 2)]

    assert ["backend_down:b", "backend_down:c"] == told


def test_what_could_not_be_shown_is_due_again() -> None:
    """A notice that no desktop took is tried again after its minute."""
    notices = Notices()
    notices.happened(BackendLost("npu", "gone"), 0.0)
    (lost,) = notices.due(0.0)

    assert INTERVAL_S == notices.next_at()
    assert (lost,) == notices.due(INTERVAL_S)


def test_a_mode_that_the_person_chose_is_known_to_them() -> None:
    """Auto's next change is told from the mode that the person chose, not from Auto's last."""
    notices = after(ModeChanged("balanced", "quiet", "night"))
    notices.happened(ModeChanged("performance", "quiet", "night"), 100.0)

    (notice,) = shown(notices, 100.0)

    assert "Auto went from Performance to Quiet: night" == notice.body


def test_each_kind_can_be_switched_off() -> None:
    """Only what is wanted is told."""
    notices = Notices(frozenset({Kind.HEAT}))
    for event in (ModeChanged("a", "b", "c"), BackendLost("npu", "gone"), HeatChanged("severe")):
        notices.happened(event, 0.0)

    assert [Kind.HEAT] == [notice.kind for notice in shown(notices, 0.0)]
    assert math.inf == notices.next_at()


def test_foreign_text_is_tamed() -> None:
    """An error message is one line of bearable length, without what a bus does not carry."""
    notices = Notices()
    notices.happened(BackendLost("npu", "bad\0\udc80\n\tline " + "x " * 500), 0.0)

    (notice,) = notices.due(0.0)

    assert notice.body.isprintable()
    assert "bad line" in notice.body
    assert 300 > len(notice.body)


@pytest.mark.parametrize("state", ["moderate", "unknown"])
def test_a_fall_that_is_none_is_not_told(state: str) -> None:
    """A sensor that was lost is no cooling, and moderate is not served as usual."""
    notices = Notices()
    notices.happened(HeatChanged("severe"), 0.0)
    for notice in notices.due(0.0):
        notices.shown(notice)
    notices.happened(HeatChanged(state), 1.0)

    assert not notices.due(1000.0)
