"""A choice among hundreds: what is kept from one to the next changes none, and what each further one costs."""

import math
from collections.abc import Callable

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import NO_WISHES
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.route import Decision, RouteSettings, choose
from tests.counted import calls_made
from tests.fleet import Standing, Taken, ask, view

SETTINGS = RouteSettings()
SECONDS = st.floats(0.01, 100)
NOW = 3.0
SLOTS = 4


@attrs.frozen(kw_only=True)
class State:
    """How busy a node of four slots is."""

    ends: tuple[float, ...]
    at_work: int
    waiting: int
    in_line: int
    each_s: float

    def of(self, node: BackendView) -> BackendView:
        """The same node, in this state; what was made of it is forgotten."""
        others = Others(
            at_work=self.at_work,
            waiting=[0, self.waiting, 0, 0],
            count=self.at_work + self.waiting,
        )
        is_full = len(self.ends) + self.at_work + self.waiting >= SLOTS
        # Nobody is in line where a slot is free.
        line = Standing(count=self.in_line if is_full else 0, each_s=self.each_s)
        return attrs.evolve(node, busy=tuple(map(Taken, self.ends)), line=line, others=others)


STATES = st.builds(
    State,
    ends=st.lists(SECONDS, max_size=4).map(tuple),
    at_work=st.integers(0, 4),
    waiting=st.integers(0, 3),
    in_line=st.integers(0, 3),
    each_s=SECONDS,
)


def only(node: BackendView, *, stream: bool = True) -> Decision:
    """A choice of one."""
    outcome = choose(ask(stream=stream), NO_WISHES, [node], SETTINGS, now=NOW)
    assert isinstance(outcome, Decision)
    return outcome


@given(st.lists(STATES, min_size=1, max_size=6))
def test_what_is_kept_changes_no_choice(states: list[State]) -> None:
    """A node that is judged again and again is judged as one that is seen for the first time."""
    node = view("cpu", spec_slots=SLOTS)
    for state in states:
        fresh = state.of(node)
        kept = state.of(node)
        kept.memo.update(node.memo)
        assert only(fresh) == only(kept)
        node.memo.update(kept.memo)


@given(STATES, SECONDS, SECONDS)
def test_what_a_wait_makes_of_a_node(state: State, latency_s: float, usual_s: float) -> None:
    """Its load and its usual error, as `route` has it in words."""
    idle = view("cpu", spec_slots=SLOTS, spec_avg_latency_s=latency_s, off_s=Learned(usual_s, 0.0))
    node = state.of(idle)
    assume(node.busy or (node.others and node.others.count))
    alone, loaded = only(idle).candidates[0], only(node).candidates[0]
    wait_s = loaded.predicted_s - alone.predicted_s
    octaves = max(math.log2(1 + node.taken / SLOTS), math.log2(1 + wait_s / alone.alone_s))
    off_s = 0.0
    if not node.has_room(NO_WISHES.priority):
        off_s = usual_s * math.sqrt(max(1.0, wait_s / alone.whole_s))

    assert loaded.terms.load == pytest.approx(-octaves, abs=1e-6)
    assert loaded.off_s == pytest.approx(off_s, rel=1e-6, abs=1e-9)
    assert loaded.score == pytest.approx(alone.score - octaves, abs=1e-6)


def idle(number: int) -> BackendView:
    """One of many."""
    return view("cpu", spec_id=f"node-{number}", spec_slots=2)


def shared(number: int) -> BackendView:
    """One with room beside another request."""
    return attrs.evolve(idle(number), busy=(Taken(9.0),))


def full(number: int) -> BackendView:
    """One at which a request must wait."""
    return attrs.evolve(idle(number), busy=(Taken(9.0), Taken(9.5)))


@pytest.mark.parametrize(("make", "most"), [(idle, 2.2), (shared, 10), (full, 21)])
def test_each_further_node_costs_a_handful_of_calls(
    make: Callable[[int], BackendView], most: float
) -> None:
    """What was made of a node is looked up; only the wait at a full one is worked out anew."""

    def calls(count: int) -> int:
        fleet = [make(number) for number in range(count)]
        asked = ask()
        choose(asked, NO_WISHES, fleet, SETTINGS, now=NOW)
        return calls_made(lambda: choose(asked, NO_WISHES, fleet, SETTINGS, now=NOW))

    assert (calls(400) - calls(4)) / 396 <= most
