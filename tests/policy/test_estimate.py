"""How long a backend takes, learned from what it served."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Ask, Call
from ollama_proxy.policy.estimate import (
    HALF_LIFE_S,
    MODELS_MAX,
    OFF_HALF_LIFE_S,
    Estimates,
    Forecast,
    Prior,
    Seen,
)

PRIOR = Prior(first_s=1.0, whole_s=2.0)


def an_ask(model: str = "m", *, stream: bool = True, **changes: Any) -> Ask:
    """A chat with a model."""
    return Ask(call=Call.OPENAI_CHAT, model=model, stream=stream, **changes)


def taught(*seen: Seen, ask: Ask | None = None, now: float = 0.0) -> Estimates:
    """What comes of seeing these, one after the other."""
    estimates = Estimates()
    for each in seen:
        estimates.observe(ask or an_ask(), each, PRIOR, now=now)
    return estimates


def expected(estimates: Estimates, ask: Ask | None = None, **changes: Any) -> Forecast:
    """The forecast for a request."""
    return estimates.forecast(ask or an_ask(), PRIOR, **({"now": 0.0} | changes))


def test_the_prior_stands_until_something_is_measured() -> None:
    """Before the first request the owner's figures are believed."""
    assert expected(Estimates()).first_s == 1.0
    assert expected(Estimates(), an_ask(stream=False)).whole_s == 2.0


def test_observations_move_the_estimate() -> None:
    """A quarter of the way for each, for this model alone."""
    estimates = taught(Seen(first_s=3.0, whole_s=3.0))

    assert expected(estimates).first_s == 1.5
    assert expected(estimates, an_ask("other")).first_s == 1.0


def test_what_was_learned_grows_old() -> None:
    """Unused for its half-life, half of the trust goes back to the prior."""
    estimates = taught(*[Seen(first_s=3.0, whole_s=3.0)] * 50)

    assert expected(estimates, now=HALF_LIFE_S).first_s == pytest.approx(2.0)


def test_streams_and_whole_answers_are_told_apart() -> None:
    """A whole answer's time says nothing of the first token's, where nobody tells its parts."""
    whole = an_ask(stream=False)
    estimates = taught(Seen(whole_s=10.0), ask=whole)

    assert expected(estimates).first_s == 1.0
    assert expected(estimates, whole).whole_s == 4.0


def test_loading_is_learned_apart() -> None:
    """What a cold start took beyond a warm one is expected of the next cold one, and no other."""
    warm, cold = (
        Seen(first_s=first_s, whole_s=first_s, cold=first_s > 1.0) for first_s in (1.0, 6.0)
    )
    estimates = taught(warm, cold)

    assert expected(estimates, loaded=False).first_s == pytest.approx(6.0)
    assert expected(estimates, loaded=False).load_s == pytest.approx(5.0)
    assert expected(estimates, loaded=True).first_s == pytest.approx(1.0)
    assert expected(estimates, loaded=None).first_s == pytest.approx(1.0)


def test_a_server_that_tells_its_loading_is_believed() -> None:
    """Also before any warm answer was seen."""
    estimates = taught(Seen(first_s=6.0, whole_s=6.0, cold=True, load_s=5.0))

    assert expected(estimates, loaded=False).load_s == 5.0
    assert expected(estimates, loaded=True).first_s == pytest.approx(1.0)


def test_an_unloaded_model_costs_nothing_until_it_was_loaded_once() -> None:
    """Nothing is made up: a deadline is not refused for a time that nobody has seen."""
    assert expected(Estimates(), loaded=False).first_s == 1.0


def test_the_prompts_share_is_seen_as_a_slope() -> None:
    """Long prompts take longer by what long prompts took longer, without any server's word."""
    estimates = Estimates()
    for number in range(200):
        tokens = (64, 512, 2048)[number % 3]
        first_s = 0.2 + tokens / 1000
        estimates.observe(
            an_ask(prompt_bytes=tokens * 4),
            Seen(first_s=first_s, whole_s=first_s),
            PRIOR,
            now=0.0,
        )

    forecasts = [expected(estimates, an_ask(prompt_bytes=b)).first_s for b in (256, 2048, 8192)]
    assert forecasts == pytest.approx([0.264, 0.712, 2.248], rel=0.02)


def test_equal_prompts_have_no_slope() -> None:
    """The noise of a hundred equal prompts says nothing of a longer one."""
    estimates = Estimates()
    for number in range(100):
        first_s = 0.5 + 0.1 * (number % 2)
        seen = Seen(first_s=first_s, whole_s=first_s)
        estimates.observe(an_ask(prompt_bytes=1000 + number), seen, PRIOR, now=0.0)

    assert expected(estimates, an_ask(prompt_bytes=100_000)).first_s == pytest.approx(0.55, rel=0.1)


def test_counts_replace_the_guess_from_bytes() -> None:
    """Tokens per byte and seconds per token, as the server reports them."""
    seen = Seen(first_s=2.0, whole_s=2.0, prompt_tokens=1024, prefill_s=1.5)
    estimates = taught(*[seen] * 50, ask=an_ask(prompt_bytes=2048))

    twice = expected(estimates, an_ask(prompt_bytes=4096))
    assert twice.first_s == pytest.approx(3.5, rel=0.01)


def test_what_the_cache_saves_is_not_the_backends_speed() -> None:
    """Tokens from the prefix cache took no time; the others took what they took."""
    seen = Seen(
        first_s=0.3, whole_s=0.3, prompt_tokens=1024, cached_tokens=896, prefill_s=0.2, uncached=0.1
    )
    ask = an_ask(prompt_bytes=4096)
    estimates = taught(*[seen] * 50, ask=ask)

    assert expected(estimates, ask).first_s == pytest.approx(0.1 + 1.6, rel=0.02)
    assert expected(estimates, ask, uncached=0.125).first_s == pytest.approx(0.3, rel=0.02)


def test_a_whole_answer_is_its_parts_where_they_are_told() -> None:
    """Prefill and decode by tokens, so that a short answer is expected to be short."""
    ask = an_ask(stream=False, prompt_bytes=64)
    seen = Seen(whole_s=3.0, prompt_tokens=10, answer_tokens=100, prefill_s=0.5, decode_s=2.0)
    estimates = taught(*[seen] * 50, ask=ask)

    short = an_ask(stream=False, prompt_bytes=64, answer_limit=16)
    assert expected(estimates, ask).whole_s == pytest.approx(3.0, rel=0.02)
    assert expected(estimates, short).whole_s == pytest.approx(1.0 + 15 / 49.5, rel=0.02)


def test_a_streams_end_is_expected_by_its_pace() -> None:
    """How long a slot is taken, by the tokens that such answers had."""
    seen = Seen(first_s=1.0, whole_s=3.0, pieces=21)
    estimates = taught(*[seen] * 20)

    assert expected(estimates).whole_s == pytest.approx(3.0)
    assert expected(estimates, an_ask(answer_limit=1)).whole_s == pytest.approx(1.0)


def test_errors_are_learned_with_the_rest() -> None:
    """A backend that keeps its word has none, one that is erratic has as many as it makes."""
    steady = taught(*[Seen(first_s=1.0, whole_s=1.0)] * 20)
    erratic = taught(*[Seen(first_s=f, whole_s=f) for f in (0.5, 1.5)] * 20)

    assert expected(steady).off_first_s == pytest.approx(0.0)
    assert expected(erratic).off_first_s == pytest.approx(0.55, rel=0.2)


def test_a_wait_given_up_teaches_twice_its_length() -> None:
    """But never that a backend is faster than was thought."""
    estimates = Estimates()
    estimates.keep_waiting(an_ask(), 0.2, PRIOR, now=0.0)
    before = expected(estimates).first_s
    estimates.keep_waiting(an_ask(), 2.5, PRIOR, now=0.0)

    assert (before, expected(estimates).first_s) == (1.0, 2.0)


def test_a_wait_given_up_in_loading_teaches_of_loading() -> None:
    """What the backend is once the model is in memory is believed as before."""
    estimates = Estimates()
    estimates.keep_waiting(an_ask(), 2.5, PRIOR, now=0.0, cold=True)

    assert 1.0 == expected(estimates, loaded=True).first_s
    assert 5.0 == expected(estimates, loaded=False).first_s


def test_coming_early_makes_no_forecast_unsafe() -> None:
    """One that was too gloomy is put right without counting as an error of this size."""
    estimates = taught(*[Seen(first_s=0.1, whole_s=0.1)] * 4)

    assert 0.0 == expected(estimates).off_first_s
    assert expected(estimates).first_s < 0.5


def test_an_error_that_nothing_confirms_fades() -> None:
    """Those whom it keeps away could not show that it was an accident."""
    estimates = taught(Seen(first_s=5.0, whole_s=5.0))

    assert 4.0 == expected(estimates).off_first_s
    assert 2.0 == expected(estimates, now=OFF_HALF_LIFE_S).off_first_s


def test_a_guessed_cache_is_no_divisor() -> None:
    """Where the server does not tell what it had, a guess of ours must not make prompts look slow."""
    ask = an_ask(prompt_bytes=4096)
    counted = Seen(first_s=0.2, whole_s=0.2, prompt_tokens=1000, prefill_s=0.1, uncached=0.02)
    estimates = taught(*[counted] * 50, ask=ask)

    assert expected(estimates, ask).first_s == pytest.approx(0.2, rel=0.02)
    assert expected(estimates, ask, uncached=0.02).first_s == pytest.approx(0.2, rel=0.02)


def test_more_than_there_was_is_not_believed() -> None:
    """A server whose clock is broken says nothing of loading, prompts and tokens."""
    for lie in ({"prefill_s": 80_000.0}, {"decode_s": 80_000.0}, {"load_s": 80_000.0}):
        seen = Seen(first_s=0.1, whole_s=0.2, prompt_tokens=10, answer_tokens=5, cold=True, **lie)  # type: ignore[arg-type]  # times
        estimates = taught(seen, ask=an_ask(prompt_bytes=40))

        assert expected(estimates, an_ask(prompt_bytes=40), loaded=False).whole_s < 2.0


def test_the_impatient_teach_nothing() -> None:
    """Who leaves within the forecast has not shown that it was wrong; many in a row, unanswered, do."""
    estimates = taught(Seen(first_s=1.0, whole_s=1.0))
    after = []
    for _ in range(5):
        estimates.keep_waiting(an_ask(), 0.9, PRIOR, now=0.0)
        after.append(expected(estimates).first_s)

    assert [1.0, 1.0, 1.0] == after[:3]
    assert after[4] > after[3] > 1.0


def test_a_long_prompts_wait_is_not_the_short_ones() -> None:
    """Of a wait that was given up the prompt's share is taken off first."""
    slow = Seen(first_s=4.1, whole_s=4.1, prompt_tokens=1000, prefill_s=4.0)
    long, short = an_ask(prompt_bytes=4000), an_ask(prompt_bytes=4)
    estimates = taught(*[slow] * 50, ask=long)
    before = expected(estimates, short).first_s
    estimates.keep_waiting(long, 4.2, PRIOR, now=0.0)

    assert expected(estimates, short).first_s < before + 0.25 * (2 * 4.2 - 4.0)


def test_answers_cut_short_by_their_callers_are_no_measure() -> None:
    """Pings of a token do not make an unlimited answer look short."""
    estimates = taught(
        *[Seen(whole_s=3.0, answer_tokens=100, decode_s=2.9)] * 20, ask=an_ask(stream=False)
    )
    before = expected(estimates, an_ask(stream=False)).whole_s
    ping = an_ask(stream=False, answer_limit=1)
    for _ in range(25):
        estimates.observe(ping, Seen(whole_s=0.08, answer_tokens=1), PRIOR, now=0.0)

    assert expected(estimates, an_ask(stream=False)).whole_s > before - 1.0


def test_a_limit_stands_for_a_length_that_nobody_knows() -> None:
    """The pace was learned from streams: a whole answer of so many tokens takes so long."""
    estimates = taught(*[Seen(first_s=1.0, whole_s=3.0, pieces=41)] * 20)
    whole = an_ask(stream=False, answer_limit=64)

    assert expected(estimates, whole).whole_s == pytest.approx(1.0 + 40 / 20, rel=0.1)


def test_waits_on_made_up_names_do_not_pile_up() -> None:
    """Whoever gives up leaves no more behind than whoever was served."""
    estimates = Estimates()
    for number in range(MODELS_MAX + 10):
        estimates.keep_waiting(an_ask(f"m{number}"), 60.0, PRIOR, now=0.0)

    assert MODELS_MAX == len(estimates.subjects)


def test_made_up_names_do_not_pile_up() -> None:
    """The model that was used least lately is forgotten."""
    estimates = Estimates()
    for number in range(MODELS_MAX + 1):
        seen = Seen(first_s=1.0, whole_s=1.0)
        estimates.observe(an_ask(f"m{number}"), seen, PRIOR, now=0.0)

    assert (MODELS_MAX, False) == (len(estimates.subjects), "m0" in estimates.subjects)


_times = st.floats(0, 1e6)
_maybe_times = st.none() | _times
_counts = st.none() | st.integers(0, 10**9)
_seen = st.builds(
    Seen,
    first_s=_maybe_times,
    whole_s=_times,
    pieces=_counts,
    cold=st.none() | st.booleans(),
    uncached=st.floats(0, 1),
    prompt_tokens=_counts,
    cached_tokens=_counts,
    answer_tokens=_counts,
    load_s=_maybe_times,
    prefill_s=_maybe_times,
    decode_s=_maybe_times,
)
_asks = st.builds(
    an_ask,
    stream=st.booleans(),
    prompt_bytes=st.integers(0, 2**30),
    answer_limit=st.none() | st.integers(1, 10**9),
)


@given(st.lists(st.tuples(_asks, _seen), max_size=20), _asks)
def test_a_forecast_is_always_a_time(observed: list[tuple[Ask, Seen]], asked: Ask) -> None:
    """Whatever servers report, however absurd: finite, and never less than nothing."""
    estimates = Estimates()
    for ask, seen in observed:
        estimates.observe(ask, seen, PRIOR, now=0.0)

    forecast = expected(estimates, asked, loaded=False)
    values = (forecast.first_s, forecast.whole_s, forecast.load_s, forecast.off_first_s)
    assert all(0 <= value < math.inf for value in (*values, forecast.off_whole_s))
