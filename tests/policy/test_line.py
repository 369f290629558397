"""Who waits for a backend, in which order."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.line import Line


@attrs.frozen(eq=False)
class Person:
    """Somebody who waits."""

    priority: Priority
    arrival: int = 0


@given(st.lists(st.sampled_from(Priority)))
def test_priority_then_arrival(priorities: list[Priority]) -> None:
    """The most urgent come first, and among equals who came first."""
    line: Line[Person] = Line(capacity=1000)
    people = [Person(p, i) for i, p in enumerate(priorities)]
    for person in people:
        line.add(person)

    served = [line.next() for _ in people]

    assert served == sorted(people, key=lambda p: (-p.priority, p.arrival))
    assert line.next() is None


def test_leaving_is_harmless() -> None:
    """Who leaves is not served; leaving twice, or without having come, does nothing."""
    line: Line[Person] = Line(capacity=2)
    first, second = Person(Priority.NORMAL), Person(Priority.NORMAL)
    line.add(first)
    line.add(second)
    line.remove(first)
    line.remove(first)

    assert first not in line
    assert line.everybody() == [second]


def test_a_line_knows_when_it_is_full() -> None:
    """Its capacity counts all priorities together."""
    line: Line[Person] = Line(capacity=2)
    fullness = []
    for priority in (Priority.CRITICAL, Priority.BEST_EFFORT):
        line.add(Person(priority))
        fullness.append(line.is_full)

    assert [False, True] == fullness
    assert {p: n for p, n in line.depths.items() if n} == {
        Priority.CRITICAL: 1,
        Priority.BEST_EFFORT: 1,
    }
