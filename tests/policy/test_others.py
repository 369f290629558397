"""What a node tells of its load, and what a choice makes of it."""

from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import NO_WISHES, Priority
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.route import Decision, RouteSettings, choose
from tests.fleet import ask, view

COUNTS = st.integers(0, 9)


def others(at_work: int, *waiting: int) -> Others:
    """As a node told that serves nobody of ours."""
    told = Others()
    told.hear(at_work, waiting or (0, 0, 0, 0), 0)
    return told


@given(COUNTS, st.tuples(COUNTS, COUNTS, COUNTS, COUNTS), COUNTS)
def test_what_is_ours_is_not_others(at_work: int, waiting: tuple[int, ...], own: int) -> None:
    """Others have all that is there but ours, at work or in line, and never less than nothing."""
    told = Others()
    told.hear(at_work, waiting, own)

    assert told.count == max(0, at_work + sum(waiting) - own)
    assert told.count == told.at_work + sum(told.waiting)
    assert min(told.at_work, *told.waiting) >= 0


def test_less_than_was_thought_is_news() -> None:
    """Those who wait elsewhere may rather go there."""
    told = others(2)

    assert (False, True) == (told.hear(3, (0, 1, 0, 0), 0), told.hear(1, (0, 0, 0, 0), 0))


def test_what_is_too_old_is_forgotten() -> None:
    """Unknown is not full."""
    told = others(2, 0, 3, 0, 0)
    told.forget()

    assert (0, 0, 0) == (told.count, told.at_work, told.ahead(Priority.BEST_EFFORT))


def test_who_declines_has_no_slot_left() -> None:
    """As many as it has are others', at the least, and those who wait stay."""
    told = others(1, 2, 0, 0, 0)
    told.fill(3)
    told.fill(2)

    assert (3, 5) == (told.at_work, told.count)


def chosen(*fleet: object) -> Decision:
    """Who is chosen of some backends."""
    outcome = choose(ask(), NO_WISHES, fleet, RouteSettings(), now=0.0)  # type: ignore[arg-type] # views, as `fleet` makes them
    assert isinstance(outcome, Decision)
    return outcome


def test_a_node_that_others_fill_is_left_to_them() -> None:
    """Of two alike the one that is free is chosen, and a wait is foreseen at the other."""
    full = view("cpu", spec_id="a", others=others(1))
    free = view("cpu", spec_id="b", others=others(0))
    decision = chosen(full, free)

    assert "b" == decision.backend
    assert decision.candidates[0].predicted_s < decision.candidates[1].predicted_s


def test_those_who_wait_there_count_by_their_priority() -> None:
    """Whoever is less urgent is no wait; whoever is as urgent is."""
    batch = view("cpu", spec_id="a", spec_slots=2, others=others(1, 5, 0, 0, 0))
    chats = view("cpu", spec_id="b", spec_slots=2, others=others(1, 0, 5, 0, 0))

    assert "a" == chosen(batch, chats).backend
    assert batch.has_room(Priority.NORMAL)
    assert not chats.has_room(Priority.NORMAL)


def test_what_we_sent_counts_before_the_node_tells_it() -> None:
    """One of ours and one of others are two, at a node of two slots."""
    node = view("cpu", spec_slots=2, in_flight=1, others=others(1))

    assert 2 == node.taken
    assert not node.has_room(Priority.NORMAL)


def test_a_backend_that_is_ours_alone_is_judged_as_ever() -> None:
    """A node where nobody else is costs a request what a backend does, to the last digit."""
    for in_flight in (0, 1):
        alone, shared = (
            chosen(view("cpu", in_flight=in_flight, others=told)) for told in (None, others(0))
        )
        assert alone == shared
