"""What `restrain` promises, rule by rule, and for any candidates."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.candidate import Candidate, Terms
from ollama_proxy.policy.restraint import Restraint, restrain
from ollama_proxy.policy.thermal import ThermalState

NOMINAL, LIGHT, MODERATE, SEVERE = (
    ThermalState.NOMINAL,
    ThermalState.LIGHT,
    ThermalState.MODERATE,
    ThermalState.SEVERE,
)


def candidate(
    name: str, *, heat: ThermalState = NOMINAL, asleep: bool = False, watts: float = 5.0
) -> Candidate:
    """Somebody who could serve."""
    return Candidate(
        id=name,
        score=0.0,
        terms=Terms(0, 0, 0, 0, 0, 0, 0, 0),
        predicted_s=1.0,
        watts=watts,
        alone_s=1.0,
        whole_s=1.0,
        off_s=0.0,
        toil=1.0,
        ties=(0.0, True, name),
        heard_at=0.0,
        prior_s=1.0,
        token_j=None,
        warmth=heat.rank,
        asleep=asleep,
    )


def order(
    *ordered: Candidate,
    priority: Priority = Priority.NORMAL,
    warmest: ThermalState = SEVERE,
    lets_sleep: bool = False,
    watts_cap: float | None = None,
) -> tuple[list[str], Restraint | None]:
    """Their ids in the order that they should be taken in, and why the first is not."""
    found, why = restrain(
        ordered,
        priority=priority,
        warmest=warmest,
        lets_sleep=lets_sleep,
        watts_cap=watts_cap,
    )
    return [each.id for each in found], why


@pytest.mark.parametrize(
    ("priority", "heat", "is_spared"),
    [
        (Priority.BEST_EFFORT, LIGHT, False),
        (Priority.BEST_EFFORT, MODERATE, True),
        (Priority.NORMAL, MODERATE, False),
        (Priority.NORMAL, SEVERE, True),
        (Priority.HIGH, SEVERE, True),
        (Priority.CRITICAL, SEVERE, False),
    ],
)
def test_3_the_less_urgent_is_kept_from_heat_the_sooner(
    priority: Priority, heat: ThermalState, is_spared: bool
) -> None:
    """A warm part is spared the work that can go elsewhere."""
    found = order(candidate("hot", heat=heat), candidate("cool"), priority=priority)

    expected = (["cool", "hot"], Restraint.HEAT) if is_spared else (["hot", "cool"], None)
    assert expected == found


def test_3_a_mode_may_ask_for_cooler() -> None:
    """Quiet spares a part that is hardly warm."""
    found = order(candidate("a", heat=LIGHT), candidate("b"), warmest=NOMINAL)

    assert (["b", "a"], Restraint.HEAT) == found


def test_3_where_all_are_warm_the_coolest_is_taken() -> None:
    """Nobody is refused for heat that is everywhere."""
    found = order(
        candidate("a", heat=SEVERE),
        candidate("b", heat=MODERATE),
        priority=Priority.BEST_EFFORT,
    )

    assert (["b", "a"], Restraint.HEAT) == found


def test_1_on_battery_who_sleeps_is_left_asleep() -> None:
    """A card is not woken for what another can do."""
    found = order(candidate("card", asleep=True), candidate("npu"), lets_sleep=True)

    assert (["npu", "card"], Restraint.SLEEP) == found


def test_1_who_alone_can_serve_is_woken() -> None:
    """Sleep is no excuse."""
    assert (["card"], None) == order(candidate("card", asleep=True), lets_sleep=True)


def test_2_who_draws_more_comes_later() -> None:
    """At the cap is under it."""
    found = order(candidate("a", watts=10.1), candidate("b", watts=10.0), watts_cap=10.0)

    assert (["b", "a"], Restraint.WATTS) == found


def test_neither_a_cap_nor_heat_wakes_a_card_on_battery() -> None:
    """The rules are applied in their order."""
    found = order(
        candidate("asleep", asleep=True),
        candidate("hungry", watts=50.0),
        candidate("hot", heat=SEVERE),
        lets_sleep=True,
        watts_cap=10.0,
    )

    assert (["hot", "hungry", "asleep"], Restraint.SLEEP) == found


def test_heat_sends_nobody_over_a_cap() -> None:
    """Where all that are thrifty are warm, the coolest of them is taken."""
    found = order(
        candidate("warm", heat=SEVERE),
        candidate("cooler", heat=MODERATE),
        candidate("hungry", watts=50.0),
        priority=Priority.BEST_EFFORT,
        watts_cap=10.0,
    )

    assert (["cooler", "warm", "hungry"], Restraint.HEAT) == found


@given(
    st.lists(
        st.builds(
            candidate,
            st.sampled_from("abcdefgh"),
            heat=st.sampled_from([NOMINAL, LIGHT, MODERATE, SEVERE]),
            asleep=st.booleans(),
            watts=st.sampled_from([1.0, 10.0, 50.0]),
        ),
        min_size=1,
    ),
    st.sampled_from(Priority),
    st.booleans(),
    st.sampled_from([None, 10.0]),
)
def test_nobody_is_lost_and_equals_keep_their_order(
    ordered: list[Candidate], priority: Priority, lets_sleep: bool, watts_cap: float | None
) -> None:
    """Whoever could serve still can, and why the first changed is told just when it did."""
    found, why = restrain(
        ordered, priority=priority, warmest=SEVERE, lets_sleep=lets_sleep, watts_cap=watts_cap
    )

    assert sorted(map(id, found)) == sorted(map(id, ordered))
    assert (why is None) == (found[0] is ordered[0])
    places = {id(each): place for place, each in enumerate(ordered)}
    for first, second in itertools.pairwise(found):
        alike = (first.warmth, first.asleep, first.watts) == (
            second.warmth,
            second.asleep,
            second.watts,
        )
        assert not alike or places[id(first)] < places[id(second)]
