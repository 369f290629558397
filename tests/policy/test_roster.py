"""Who is in the fleet: one list out of what several sources say, whatever they say and when."""

from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.roster import (
    MOST_NODES,
    STRANGERS_TOLD,
    Configured,
    FoundNode,
    Member,
    Review,
    Roster,
    Source,
)

LOST_S, DWELL_S = 60.0, 15.0
A, B, C = "http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://10.0.0.3:8080"
NOBODY = Configured()


def new(**changes: object) -> Roster:
    given: dict[str, object] = {"own_id": "me", "lost_s": LOST_S, "dwell_s": DWELL_S}
    return Roster(**(given | changes))  # type: ignore[arg-type]


def at(*urls: str) -> list[FoundNode]:
    return [FoundNode(url=url) for url in urls]


def urls(members: Iterable[Member]) -> list[str]:
    return sorted(member.url for member in members)


def test_a_fleet_of_none_is_one() -> None:
    """Before anybody was found, and when a source finds nobody."""
    roster = new()
    before = roster.review(0, NOBODY)
    roster.saw(Source.DNS, [], 0)

    assert before == roster.review(0, NOBODY) == Review(members=(), joined=(), left=(), remarks=())


def test_1_who_is_listed_is_in_at_once() -> None:
    """And joins once."""
    roster = new()
    roster.saw(Source.DNS, at(A, B), 0)
    first, second = roster.review(0, NOBODY), roster.review(1, NOBODY)

    assert [A, B] == urls(first.joined) == urls(second.members)
    assert () == second.joined == second.left


@pytest.mark.parametrize(
    ("source", "answers", "stays_s"),
    [
        (Source.NODES, True, 0.0),
        (Source.KUBERNETES, True, 0.0),
        (Source.DNS, False, LOST_S),
        (Source.DNS, True, LOST_S),
        (Source.AVAHI, False, LOST_S),
        (Source.AVAHI, True, 1000.0),
    ],
)
def test_1_who_is_listed_no_more_leaves(source: Source, answers: bool, stays_s: float) -> None:
    """At once where the source knows; after a while where it may not; never one that the network hides."""
    roster = new(trusts_all=True)
    roster.saw(source, at(A), 0)
    roster.review(0, NOBODY)
    left_at = None
    for now in range(1, 1000):
        roster.saw(source, [], now)
        if answers:
            roster.heard(A, now)
        if left_at is None and not roster.review(now, NOBODY).members:
            left_at = now - 1

    assert stays_s == (1000.0 if left_at is None else left_at)


@pytest.mark.parametrize("source", list(Source))
def test_1_a_lost_source_is_believed_on(source: Source) -> None:
    """For `lost_s`, of each of them."""
    roster = new(trusts_all=True)
    roster.saw(source, at(A, B), 0)
    roster.lost(source, 10)
    roster.lost(source, 30)  # it is no less lost for being tried again

    assert [A, B] == urls(roster.review(10 + LOST_S - 1, NOBODY).members)
    assert [A, B] == urls(roster.review(10 + LOST_S, NOBODY).left)


def test_1_who_answers_stays_while_a_source_is_lost() -> None:
    """That nobody tells of it is not its fault."""
    roster = new()
    roster.saw(Source.KUBERNETES, at(A, B), 0)
    roster.lost(Source.KUBERNETES, 0)
    for now in range(1, 500):
        roster.heard(A, now)

    assert [A] == urls(roster.review(500, NOBODY).members)


def test_2_a_router_does_not_find_itself() -> None:
    """By what is told of it, or by what it tells itself."""
    roster = new(trusts_all=True)
    roster.saw(Source.AVAHI, [FoundNode(url=A, id="me")], 0)
    roster.saw(Source.DNS, at(B), 0)

    assert [B] == urls(roster.review(0, NOBODY).members)
    roster.heard(B, 1, "me")
    assert [] == urls(roster.review(1, NOBODY).members)


def test_2_who_is_described_by_hand_is_not_found() -> None:
    """By its address, or by its id."""
    roster = new(trusts_all=True)
    roster.saw(Source.AVAHI, [FoundNode(url=A), FoundNode(url=B, id="b"), FoundNode(url=C)], 0)

    assert [C] == urls(roster.review(0, Configured(urls=[A], node_ids=["b"])).members)


@pytest.mark.parametrize(("trusts_all", "expected"), [(False, []), (True, [A])])
def test_2_nobody_in_the_network_is_taken_at_its_word(
    trusts_all: bool, expected: list[str]
) -> None:
    """Unless the owner says so; and that it was found is said once."""
    roster = new(trusts_all=trusts_all)
    roster.saw(Source.AVAHI, [FoundNode(url=A, id="a", name="laptop")], 0)
    review = roster.review(0, NOBODY)

    assert expected == urls(review.members)
    assert (not expected) == ("laptop was found in the network and is not used" in str(review))
    assert () == roster.review(1, NOBODY).remarks  # it was said


def test_2_strangers_cannot_fill_the_log() -> None:
    """Not by names that they make up, nor by coming and going."""
    roster = new()
    remarks: list[str] = []
    for now in range(0, 4000, 100):
        names = [f"h{n}" for n in range(now // 10)]
        nodes = [
            FoundNode(url=f"http://10.0.{n // 200}.{n % 200 + 1}:8080", id=f"i{n}", name=name)
            for n, name in enumerate(names)
        ]
        roster.saw(Source.AVAHI, nodes if now % 200 else [], now)
        remarks += roster.review(now, NOBODY).remarks

    assert STRANGERS_TOLD + 1 == len(remarks)
    assert "no more of them will be told of" in remarks[-1]


@pytest.mark.parametrize("trusts_all", [False, True])
def test_2_who_is_paired_is_used_where_it_proves_itself(trusts_all: bool) -> None:
    """Its other door is passed over, and so is a stranger's that says it is such a door."""
    roster = new(paired=["a"], trusts_all=trusts_all)
    announced = [
        FoundNode(url=A, id="a"),
        FoundNode(url=B, id="a", is_proved=True),
        FoundNode(url=C, id="c", is_proved=True),
    ]
    roster.saw(Source.AVAHI, announced, 0)
    review = roster.review(0, NOBODY)

    assert [B] == urls(review.members)
    assert review.members[0].is_proved
    assert () == review.remarks


def test_2_who_is_paired_is_known_by_the_id_it_was_paired_with() -> None:
    """Whatever it says of itself later: its certificate is what counts."""
    roster = new(paired=["a"])
    roster.saw(Source.AVAHI, [FoundNode(url=B, id="a", is_proved=True)], 0)
    roster.review(0, NOBODY)
    roster.heard(B, 1, "another")

    assert [B] == urls(roster.review(1, NOBODY).members)


def test_2_whose_pair_is_dissolved_leaves() -> None:
    """At once."""
    roster = new(paired=["a"])
    roster.saw(Source.AVAHI, [FoundNode(url=B, id="a", is_proved=True)], 0)
    roster.review(0, NOBODY)
    roster.paired = ()

    assert [B] == urls(roster.review(1, NOBODY).left)


def test_2_whom_its_owner_lists_needs_no_pairing() -> None:
    """Though the network tells of it, too."""
    roster = new()
    roster.saw(Source.AVAHI, [FoundNode(url=A, id="a")], 0)
    roster.saw(Source.NODES, at(A), 0)
    review = roster.review(0, NOBODY)

    assert [Source.NODES] == [member.source for member in review.members]
    assert () == review.remarks


def test_3_who_comes_and_goes_is_not_let_in_each_time() -> None:
    """It must have been there for `dwell_s`."""
    roster = new()
    joined = []
    for now in range(100):
        roster.saw(
            Source.KUBERNETES, at(A) if now < 50 and now % 4 < 2 else at(A)[: now >= 50], now
        )
        joined += [now for _ in roster.review(now, NOBODY).joined]

    assert len(joined) == 2


def test_4_two_addresses_of_one_id_are_one_node() -> None:
    """The lowest is used; another when that one leaves."""
    roster = new()
    roster.saw(Source.KUBERNETES, [FoundNode(url=B, id="x"), FoundNode(url=A, id="x")], 0)
    assert [A] == urls(roster.review(0, NOBODY).members)
    roster.saw(Source.KUBERNETES, [FoundNode(url=B, id="x")], 1)
    review = roster.review(1, NOBODY)

    assert ([B], [A], ()) == (urls(review.members), urls(review.left), review.remarks)


def test_4_the_address_in_use_stays() -> None:
    """A lower one that comes later is no reason to change."""
    roster = new()
    roster.saw(Source.DNS, [FoundNode(url=B, id="x")], 0)
    roster.review(0, NOBODY)
    roster.saw(Source.DNS, [FoundNode(url=A, id="x"), FoundNode(url=B, id="x")], 1)

    assert [B] == urls(roster.review(1, NOBODY).members)


def test_4_an_address_that_does_not_answer_gives_way() -> None:
    """A cable was pulled, and the node is on Wi-Fi; where neither answers, they take turns."""
    roster = new()
    both = [FoundNode(url=A, id="x"), FoundNode(url=B, id="x")]
    used = []
    for now in range(0, 240, 10):
        roster.saw(Source.DNS, both, now)
        used += urls(roster.review(now, NOBODY).members)

    assert [A] * 6 + [B] * 6 + [A] * 6 + [B] * 6 == used


def test_4_ids_are_learned_from_the_nodes() -> None:
    """Where a source tells none; both were asked, and one is left."""
    roster = new()
    roster.saw(Source.DNS, at(A, B), 0)
    assert [A, B] == urls(roster.review(0, NOBODY).members)
    roster.heard(A, 1, "x")
    roster.heard(B, 1, "x")

    assert [A] == urls(roster.review(1, NOBODY).members)


def test_4_two_machines_of_one_id_are_told_once() -> None:
    """The first is used, and a third that comes later changes nothing."""
    roster = new()
    twins = [
        FoundNode(url=B, id="x", machine="b"),
        FoundNode(url=A, id="x", machine="a"),
    ]
    roster.saw(Source.KUBERNETES, twins[:1], 0)
    roster.review(0, NOBODY)
    roster.saw(Source.KUBERNETES, twins, 1)
    review = roster.review(1, NOBODY)

    assert [B] == urls(review.members)
    assert 1 == len(review.remarks)
    assert f"{B} and {A} are two machines that tell the same node id" in review.remarks[0]
    assert () == roster.review(2, NOBODY).remarks


def both_hear(roster: Roster, now: float, a: str, b: str) -> Review:
    """Two listed addresses told the same id, and which machine they are; what follows."""
    roster.heard(A, now, "x", a)
    roster.heard(B, now, "x", b)
    return roster.review(now, NOBODY)


def test_4_two_listed_machines_of_one_id_are_told_once() -> None:
    """By their own word, where no source tells: at once, once, and on the one that is used for ever."""
    roster = new()
    roster.saw(Source.NODES, at(A, B), 0)
    roster.review(0, NOBODY)
    first = both_hear(roster, 1, "a", "b")
    later = []
    for now in range(2, 200):
        roster.heard(A, now, "x", "a")
        later.append(roster.review(now, NOBODY))

    assert [[A]] * 199 == [urls(each.members) for each in [first, *later]]
    assert 1 == len(first.remarks)
    assert f"{A} and {B} are two machines that tell the same node id" in first.remarks[0]
    assert {()} == {each.remarks for each in later}
    assert {first.remarks[0]} == {each.members[0].doubt for each in [first, *later]}


def test_4_two_addresses_of_one_machine_are_no_fault() -> None:
    """Nor after it was started anew, when but one of them is asked."""
    roster = new()
    roster.saw(Source.NODES, at(A, B), 0)
    reviews = [roster.review(0, NOBODY), both_hear(roster, 1, "a", "a")]
    for now in range(2, 100):
        roster.heard(A, now, "x", "a" if now < 50 else "after a start")
        reviews.append(roster.review(now, NOBODY))

    assert [[A]] * 99 == [urls(each.members) for each in reviews[1:]]
    assert {()} == {each.remarks for each in reviews}
    assert {""} == {member.doubt for each in reviews for member in each.members}


def test_4_who_came_first_is_not_displaced() -> None:
    """By a machine at a lower address that tells the same id, when it has told it."""
    roster = new()
    roster.saw(Source.NODES, at(B), 0)
    roster.review(0, NOBODY)
    roster.saw(Source.NODES, at(A, B), 5)
    assert [A, B] == urls(roster.review(5, NOBODY).members)

    assert [B] == urls(both_hear(roster, 6, "a", "b").members)


def test_4_another_with_this_routers_id_is_told() -> None:
    """It is not this router that was found, but its copy."""
    roster = new(own_machine="mine")
    roster.saw(Source.NODES, at(A, B), 0)
    roster.review(0, NOBODY)
    roster.heard(A, 1, "me", "mine")
    roster.heard(B, 1, "me", "other")
    review = roster.review(1, NOBODY)

    assert () == review.members
    assert 1 == len(review.remarks)
    assert f"{B} tells this router's own node id" in review.remarks[0]
    assert () == roster.review(2, NOBODY).remarks


def test_5_there_are_only_so_many() -> None:
    """Those with the lowest addresses; and it is said."""
    roster = new()
    roster.saw(Source.DNS, at(*(f"http://10.0.{n >> 8}.{n & 255}:8080" for n in range(5000))), 0)
    review = roster.review(0, NOBODY)

    assert MOST_NODES == len(review.members)
    assert "http://10.0.1.255:8080" == review.members[-1].url
    assert 1 == len(review.remarks)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (FoundNode(url=A), "node-10.0.0.1"),
        (FoundNode(url="http://[fd00::1]:8080"), "node-fd00-1"),
        (FoundNode(url=A, name="Küche.local"), "node-k-che"),
        (FoundNode(url=A, name="cpu"), "node-cpu"),
        (FoundNode(url=A, name="----"), "node-x"),
        (FoundNode(url=A, name="x" * 200), "node-" + "x" * 58),
        (FoundNode(url="http://10.0.0.1:9090", name="taken"), "node-taken-9090"),
        (FoundNode(url="http://10.0.0.1:9090"), "node-10.0.0.1-9090"),
        (FoundNode(url=A, id="ABCDEF0123456789", name="taken"), "node-taken-8080"),
        (FoundNode(url=C, id="ABCDEF0123456789", name="twice"), "node-abcdef01"),
        (FoundNode(url=A, name="twice"), "node-twice-2"),
    ],
)
def test_a_node_has_a_name_that_a_backend_can_have(node: FoundNode, expected: str) -> None:
    """Its own if it has one, made fit, and nobody else's."""
    roster = new()
    roster.saw(Source.DNS, [node], 0)
    review = roster.review(
        0, Configured(backend_ids=["node-taken", "node-twice", "node-twice-8080"])
    )

    assert [expected] == [member.backend_id for member in review.members]


# -- whatever happens ------------------------------------------------------------------------------

_URLS = [f"http://10.0.0.{n}:8080" for n in range(6)] + ["http://[fd00::1]:8080", "http://b:1"]
_NODES = st.builds(
    FoundNode,
    url=st.sampled_from(_URLS),
    id=st.sampled_from(["", "me", "x", "y", "z"]),
    machine=st.sampled_from(["", "m1", "m2"]),
    name=st.sampled_from(["", "laptop", "Büro", "cpu"]),
    is_proved=st.booleans(),
)


@attrs.frozen
class Step:
    """Something that happens so long after what happened before."""

    after_s: float
    source: Source
    kind: str
    nodes: tuple[FoundNode, ...]


_STEPS = st.lists(
    st.builds(
        Step,
        after_s=st.sampled_from([0.0, 1.0, 5.0, 20.0, 100.0]),
        source=st.sampled_from(Source),
        kind=st.sampled_from(["saw", "saw", "lost", "forget", "heard", "told"]),
        nodes=st.lists(_NODES, max_size=6).map(tuple),
    ),
    max_size=30,
)


def happen(roster: Roster, step: Step, now: float) -> None:
    match step.kind:
        case "saw":
            roster.saw(step.source, step.nodes, now)
        case "lost":
            roster.lost(step.source, now)
        case "forget":
            roster.forget(step.source)
        case kind:
            for node in step.nodes:
                roster.heard(node.url, now, node.id if kind == "told" else "")


CONFIGURED = Configured(urls=[_URLS[0]], node_ids=["z"], backend_ids=["node-laptop"])


@given(_STEPS)
def test_whatever_happens_nobody_is_in_twice(steps: list[Step]) -> None:
    """Addresses, ids and names are unique; this router and what is described by hand are not in."""
    roster, now = new(trusts_all=True, paired=["x", "z"]), 0.0
    for step in steps:
        now += step.after_s
        happen(roster, step, now)
        members = roster.review(now, CONFIGURED).members
        ids = [member.node_id for member in members if member.node_id]
        names = [member.backend_id for member in members]
        assert len(set(urls(members))) == len(members) == len(set(names))
        assert len(set(ids)) == len(ids)
        assert not {"me", "z"} & set(ids)
        assert _URLS[0] not in urls(members)
        assert "node-laptop" not in names
        assert all(each.node_id == "x" for each in members if each.is_proved)


@given(_STEPS)
def test_whatever_happens_who_joins_was_not_in_and_who_leaves_was(steps: list[Step]) -> None:
    """What is told as joined and left leads from one list to the next, and nothing else does."""
    roster, now = new(trusts_all=True, paired=["x", "z"]), 0.0
    inside: dict[str, str] = {}
    for step in steps:
        now += step.after_s
        happen(roster, step, now)
        review = roster.review(now, CONFIGURED)
        assert {each.url for each in review.left} <= inside.keys()
        assert not {each.url for each in review.joined} & inside.keys()
        for each in review.left:
            del inside[each.url]
        inside |= {each.url: each.backend_id for each in review.joined}
        assert inside == {each.url: each.backend_id for each in review.members}
        again = roster.review(now, CONFIGURED)
        assert ((), (), ()) == (again.joined, again.left, again.remarks)


@given(_STEPS)
def test_whatever_happens_nobody_returns_at_once(steps: list[Step]) -> None:
    """Between a node's leaving and its coming back there are `dwell_s` at least."""
    roster, now = new(trusts_all=True, paired=["x", "z"]), 0.0
    left: dict[str, float] = {}
    for step in steps:
        now += step.after_s
        happen(roster, step, now)
        review = roster.review(now, CONFIGURED)
        assert all(now - left.get(each.url, -1e9) >= DWELL_S for each in review.joined)
        left |= {each.url: now for each in review.left}


@given(_STEPS)
def test_when_all_are_silent_for_long_enough_nobody_is_left(steps: list[Step]) -> None:
    """Sources that are lost and nodes that say nothing are forgotten, and nothing is kept of them."""
    roster, now = new(trusts_all=True, paired=["x", "z"]), 0.0
    for step in steps:
        now += step.after_s
        happen(roster, step, now)
        roster.review(now, CONFIGURED)
    for source in Source:
        roster.lost(source, now)
    roster.review(now + LOST_S, CONFIGURED)
    review = roster.review(now + 3 * LOST_S, CONFIGURED)

    assert () == review.members
    assert not roster._alive
    assert not roster._told
    assert not roster._left
