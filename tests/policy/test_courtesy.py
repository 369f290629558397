"""What the desktop is asked for while requests run."""

import pytest

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.courtesy import GRACE_S, CourtesySettings, Wants, decide

ALL = CourtesySettings(hold_performance=True, inhibit_sleep=True)
NONE = CourtesySettings(hold_performance=False, inhibit_sleep=False)


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ([], Wants()),
        ([(Priority.HIGH, False)], Wants()),
        ([(Priority.CRITICAL, False)], Wants(performance=True)),
        ([(Priority.BEST_EFFORT, True)], Wants(awake=True)),
        (
            [(Priority.BEST_EFFORT, True), (Priority.CRITICAL, False)],
            Wants(performance=True, awake=True),
        ),
    ],
)
def test_1_and_2_each_goes_by_what_runs(
    running: list[tuple[Priority, bool]], expected: Wants
) -> None:
    """The profile by priority, the sleep by streams; and nothing that the owner forbids."""
    assert expected == decide(running, ALL, sleeping_s=None)
    assert Wants() == decide(running, NONE, sleeping_s=None)


@pytest.mark.parametrize(
    ("sleeping_s", "awake"), [(0.0, True), (GRACE_S - 0.01, True), (GRACE_S, False), (9.0, False)]
)
def test_2_a_sleep_is_kept_waiting_for_less_than_a_second(sleeping_s: float, awake: bool) -> None:
    """However long the answer goes on; the profile is no matter of sleep."""
    running = [(Priority.CRITICAL, True)]

    assert Wants(performance=True, awake=awake) == decide(running, ALL, sleeping_s=sleeping_s)
    assert GRACE_S < 1
