"""How often is too often."""

import hypothesis
from hypothesis import strategies as st

from ollama_proxy.policy.rates import Buckets


def test_a_burst_and_then_the_rate() -> None:
    """As many at once as a bucket holds; then one whenever a token has flowed in."""
    buckets = Buckets(2.0, 3)

    at_once = [buckets.take("a", 10.0) for _ in range(4)]
    later = [buckets.take("a", now) for now in (10.49, 10.5, 10.99, 11.0)]

    assert [0.0, 0.0, 0.0, 0.5] == at_once
    assert [True, False, True, False] == [wait > 0 for wait in later]


@hypothesis.given(
    st.floats(0.01, 100), st.integers(1, 10), st.lists(st.floats(0, 5), min_size=1, max_size=30)
)
def test_the_wait_is_honest(rate: float, burst: int, gaps: list[float]) -> None:
    """Who comes when told finds a token; who comes clearly sooner does not."""
    buckets, now = Buckets(rate, burst), 0.0
    for gap in gaps:
        now += gap
        buckets.take("a", now)
    while not (wait_s := buckets.take("a", now)):
        pass

    assert buckets.wait_s("a", now + 0.9 * wait_s) > 0
    assert buckets.take("a", now + wait_s * 1.0001) == 0


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_nobody_gets_more_than_the_rate(gaps: list[float]) -> None:
    """However it is asked: a burst, and the rate since."""
    buckets, now, taken = Buckets(3.0, 5), 0.0, 0
    for gap in gaps:
        now += gap
        taken += not buckets.take("a", now)

    assert taken <= 5 + 3.0 * now + 1e-6


def test_each_name_has_its_own() -> None:
    """What one takes is nobody else's loss."""
    buckets = Buckets(1.0, 1)

    assert [0.0, 1.0, 0.0] == [buckets.take(name, 0.0) for name in "aab"]


def test_a_refused_one_costs_nothing() -> None:
    """Who asks in vain does not wait longer for it."""
    buckets = Buckets(1.0, 1)
    buckets.take("a", 0.0)
    for tenth in range(1, 10):
        buckets.take("a", tenth / 10)

    assert 0.0 == buckets.take("a", 1.0)


def test_only_so_many_are_remembered() -> None:
    """However many come; those who were there last are the ones who are."""
    buckets = Buckets(1.0, 1, most=3)
    for name in "abcad":
        buckets.take(name, 0.0)

    assert 3 == len(buckets)
    assert [True, False] == [buckets.wait_s(name, 0.0) > 0 for name in "ab"]
