"""How fast a backend is, learned from what it served."""

import pytest

from ollama_proxy.policy.estimate import HALF_LIFE_S, Estimates, Prior

PRIOR = Prior(first_s=1.0, whole_s=2.0)


def test_the_prior_stands_until_something_is_measured() -> None:
    """Before the first request the owner's figures are believed."""
    estimates = Estimates()

    assert estimates.predict("m", PRIOR, stream=True, now=0.0) == 1.0
    assert estimates.predict("m", PRIOR, stream=False, now=0.0) == 2.0


def test_observations_move_the_estimate() -> None:
    """A quarter of the way for each, for this model alone."""
    estimates = Estimates()
    estimates.observe("m", now=0.0, first_s=3.0, prior=PRIOR)

    assert estimates.predict("m", PRIOR, stream=True, now=0.0) == 1.5
    assert estimates.predict("other", PRIOR, stream=True, now=0.0) == 1.0


def test_what_was_learned_grows_old() -> None:
    """Unused for its half-life, half of the trust goes back to the prior."""
    estimates = Estimates()
    for _ in range(50):
        estimates.observe("m", now=0.0, first_s=3.0, prior=PRIOR)

    assert estimates.predict("m", PRIOR, stream=True, now=HALF_LIFE_S) == pytest.approx(2.0)


def test_streams_and_whole_answers_are_told_apart() -> None:
    """A whole answer's time says nothing of the first token's."""
    estimates = Estimates()
    estimates.observe("m", now=0.0, whole_s=10.0, prior=PRIOR)

    assert estimates.predict("m", PRIOR, stream=True, now=0.0) == 1.0
    assert estimates.predict("m", PRIOR, stream=False, now=0.0) == 4.0
