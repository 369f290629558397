"""Who waits for a backend, in which order."""

import itertools
import math

import attrs
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.line import OVERTAKES_MAX, Line


@attrs.frozen(eq=False, kw_only=True)
class Person:
    """Somebody who waits."""

    priority: Priority = Priority.NORMAL
    arrived: float = 0.0
    deadline: float = math.inf
    client: str = ""
    cost: float = 1.0


def served(line: Line[Person]) -> list[Person]:
    """Everybody, in the order they are served when nobody comes any more."""
    order = []
    while (who := line.next()) is not None:
        order.append(who)
    return order


def line_of(*people: Person, aging_s: float = 10.0) -> Line[Person]:
    """A line they joined in this order."""
    line: Line[Person] = Line(capacity=1000, aging_s=aging_s)
    for person in people:
        line.add(person)
    return line


@given(st.lists(st.sampled_from(Priority), max_size=30))
def test_priority_then_arrival(priorities: list[Priority]) -> None:
    """The most urgent come first, and among equals who came first."""
    people = [Person(priority=p, arrived=i / 100) for i, p in enumerate(priorities)]

    assert sorted(people, key=lambda p: (-p.priority, p.arrived)) == served(line_of(*people))


def test_within_a_priority_the_earliest_deadline_first() -> None:
    """Those without a deadline come after those with one."""
    none, late, soon = (Person(arrived=i, deadline=d) for i, d in enumerate((math.inf, 9.0, 5.0)))

    assert [soon, late, none] == served(line_of(none, late, soon))


def test_a_deadline_is_worth_no_priority() -> None:
    """A normal request in a hurry waits for a high one that has none."""
    hurried = Person(deadline=0.1)
    high = Person(priority=Priority.HIGH, arrived=1.0)

    assert [high, hurried] == served(line_of(hurried, high))


def test_waiting_is_worth_a_priority_each_aging_s() -> None:
    """Best effort is overtaken by all who came within twenty seconds, and by eight more."""
    old = Person(priority=Priority.BEST_EFFORT)
    before = [Person(priority=Priority.HIGH, arrived=19.9) for _ in range(12)]
    after = [Person(priority=Priority.HIGH, arrived=20.1) for _ in range(12)]
    order = served(line_of(old, *before, *after))

    assert len(before) + OVERTAKES_MAX == order.index(old)


def test_an_old_flood_delays_nobody_else() -> None:
    """However long it has waited: another client's single request, or a more urgent one, is next."""
    flood = [Person(client="flood", arrived=i / 1000) for i in range(100)]
    line = line_of(*flood)
    line.next()
    single = Person(client="single", arrived=60.0)
    urgent = Person(client="urgent", arrived=60.0, priority=Priority.HIGH)
    line.add(single)
    line.add(urgent)
    order = served(line)

    assert (0, True) == (order.index(urgent), order.index(single) <= 2)


def test_callers_names_do_not_pile_up() -> None:
    """An empty line owes nobody anything, and remembers nobody."""
    line: Line[Person] = Line(capacity=1000)
    for number in range(1000):
        line.add(Person(client=str(number)))
        line.next()
    rank = line._ranks[Priority.NORMAL]

    assert (0, 0, 0) == (len(rank._clocks), len(rank._clients), len(rank._turns))


def test_a_deadline_cannot_push_back_for_ever() -> None:
    """Who has none goes before hurried ones of its own client that came long after."""
    patient = Person()
    hurried = [Person(arrived=i, deadline=i + 1.0) for i in (5.0, 15.0)]

    assert [hurried[0], patient, hurried[1]] == served(line_of(patient, *hurried))


@given(
    st.lists(
        st.tuples(st.sampled_from(Priority), st.floats(0, 1), st.sampled_from("abc")),
        min_size=1,
        max_size=60,
    )
)
def test_nobody_starves(arrivals: list[tuple[Priority, float, str]]) -> None:
    """Under an endless stream of critical ones, everybody is served within a known time.

    One is served a second and one arrives a second: after thirty seconds all who were there are due,
    and each of them lets at most eight critical ones go before it.
    """
    line = line_of(*(Person(priority=p, arrived=a, client=c) for p, a, c in arrivals))
    waiting = set(line.everybody())
    rounds = 0
    for rounds in itertools.count(1):
        line.add(Person(priority=Priority.CRITICAL, arrived=1.0 + rounds, client="flood"))
        who = line.next()
        if who is not None:
            waiting.discard(who)
        if not waiting:
            break

    assert rounds <= (OVERTAKES_MAX + 1) * (len(arrivals) + 1) + 33


def test_clients_take_turns() -> None:
    """A flood of one client does not delay another's single request."""
    flood = [Person(client="flood", arrived=i / 1000) for i in range(100)]
    single = Person(client="single", arrived=0.5)

    assert 1 == served(line_of(*flood, single)).index(single)


def test_turns_are_shares_of_time() -> None:
    """Who asks for ten times as much gets a tenth of the turns."""
    costly = [Person(client="costly", arrived=i / 1000, cost=10.0) for i in range(20)]
    cheap = [Person(client="cheap", arrived=i / 1000, cost=1.0) for i in range(100)]
    first = served(line_of(*costly, *cheap))[:55]

    assert 5 == sum(who.client == "costly" for who in first)


def test_who_was_idle_has_saved_up_nothing() -> None:
    """A client that comes back takes turns, as one that was there all the time."""
    line = line_of(*(Person(client="a", arrived=i / 1000) for i in range(50)))
    for _ in range(20):
        line.next()
    for i in range(20):
        line.add(Person(client="b", arrived=1 + i / 1000))
    turns = "".join(who.client for who in served(line)[:10])

    assert turns.count("b") in {5, 6}


def test_who_is_put_back_has_its_old_place() -> None:
    """One that was taken out and comes back is before those who came after it."""
    first, second = Person(arrived=1.0), Person(arrived=2.0)
    line = line_of(first, second)
    line.next()
    line.add(first)

    assert [first, second] == served(line)


def test_leaving_is_harmless() -> None:
    """Who leaves is not served; leaving twice, or without having come, does nothing."""
    first, second = Person(), Person(arrived=1.0)
    line = line_of(first, second)
    for who in (first, first, Person()):
        line.remove(who)

    assert first not in line
    assert [second] == line.everybody()
    assert [second] == served(line)


def test_critical_ones_go_before_the_due_but_not_for_ever() -> None:
    """However long a batch job has waited, a voice goes first; after eight of them it is let in."""
    old = [Person(priority=Priority.BEST_EFFORT, arrived=float(i)) for i in range(2)]
    voices = [Person(priority=Priority.CRITICAL, arrived=1000.0 + i) for i in range(20)]
    order = served(line_of(*old, *voices))

    assert [OVERTAKES_MAX, 2 * OVERTAKES_MAX + 1] == [order.index(who) for who in old]


def test_slots_for_the_critical_alone_count_for_nobody() -> None:
    """Who takes a reserved slot passes nobody over, and only the critical take one."""
    old = Person(priority=Priority.BEST_EFFORT)
    voices = [Person(priority=Priority.CRITICAL, arrived=1000.0 + i) for i in range(20)]
    line = line_of(old, *voices)
    reserved = [line.next(Priority.CRITICAL) for _ in range(11)]
    rest = served(line)

    assert voices[:11] == reserved
    assert OVERTAKES_MAX == rest.index(old)
    assert line_of(old).next(Priority.CRITICAL) is None


def test_a_line_knows_for_whom_it_is_full() -> None:
    """Its capacity counts those who would be served before the next one, or with it."""
    line: Line[Person] = Line(capacity=2)
    for _ in range(2):
        line.add(Person(priority=Priority.NORMAL))

    full = [line.is_full_for(priority) for priority in Priority]
    assert [True, True, False, False] == full


def test_the_foremost_are_the_most_urgent() -> None:
    """A few of them, without anybody being taken out."""
    people = [Person(priority=Priority(i % 3), arrived=float(i)) for i in range(9)]
    line = line_of(*people)

    assert [people[2], people[5], people[8], people[1]] == line.foremost(4)
    assert 9 == len(line)


def test_a_line_counts_its_priorities() -> None:
    """How many wait, by priority."""
    line = line_of(Person(priority=Priority.CRITICAL), Person(priority=Priority.BEST_EFFORT))

    assert (1, 0) == (line.depth(Priority.CRITICAL), line.depth(Priority.NORMAL))
    assert {Priority.CRITICAL: 1, Priority.BEST_EFFORT: 1} == {
        p: n for p, n in line.depths.items() if n
    }


@given(st.lists(st.tuples(st.sampled_from("arn"), st.integers(0, 9), st.sampled_from(Priority))))
def test_nobody_is_lost_nor_served_twice(steps: list[tuple[str, int, Priority]]) -> None:
    """Whatever the order of coming, leaving and serving."""
    line: Line[Person] = Line(capacity=1000)
    people = [Person(arrived=float(i), priority=p, client=str(i % 3)) for _, i, p in steps]
    inside: set[Person] = set()
    for (step, i, _), person in zip(steps, people, strict=True):
        if step == "a":
            line.add(person)
            inside.add(person)
        elif step == "r":
            line.remove(people[i % len(people)])
            inside.discard(people[i % len(people)])
        else:
            who = line.next()
            assert (who is None) == (not inside)
            inside.discard(who)

    assert inside == set(line.everybody()) == set(served(line))
