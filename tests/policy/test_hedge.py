"""When a second attempt is worth its work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Wishes
from ollama_proxy.policy.hedge import SAVED_MAX_S, Budget, hedge_at


def test_only_who_is_in_a_hurry_is_hedged() -> None:
    """Neither priority nor thrift is a hurry."""
    wishes = [
        Wishes(),
        Wishes(power_efficient=True),
        Wishes(latency_critical=True),
        Wishes(max_latency_s=1.0),
    ]
    times = [hedge_at(w, started=10.0, expected_s=0.4, off_s=0.0) for w in wishes]

    assert [None, None, 10.6, 10.6] == times


def test_a_backend_that_is_erratic_is_given_longer() -> None:
    """What is usual for it is no sign of a miss."""
    wishes = Wishes(latency_critical=True)

    assert hedge_at(wishes, started=0.0, expected_s=0.4, off_s=0.2) == pytest.approx(1.0)


def test_savings_are_bounded() -> None:
    """A quiet day does not pay for a storm."""
    budget = Budget(0.5)
    for _ in range(1000):
        budget.earn(60.0)

    assert SAVED_MAX_S == budget.saved_s


@given(
    st.floats(0.01, 1),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1),
)
def test_the_share_is_never_exceeded(share: float, work: list[tuple[float, float]]) -> None:
    """Whatever is asked for, what was spent is at most that share of what was earned."""
    budget = Budget(share)
    spent = earned = 0.0
    for own, second in work:
        earned += own
        budget.earn(own)
        if budget.spend(second):
            spent += second

    assert spent <= share * earned + 1e-6
