"""What another router says of itself: read as far as it makes sense, and otherwise unknown."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.estimate import Prior
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.node import PROTOCOL, Node, OtherProtocol, read_node
from ollama_proxy.policy.thermal import ThermalState
from tests.fleet import MODEL, ask

WHOLE: dict[str, Any] = {
    "id": "a1",
    "version": "1.2",
    "machine": "b2",
    "protocol": 1,
    "mode": "quiet",
    "slots": 4,
    "in_flight": 2,
    "queued": {"best_effort": 3, "normal": 1, "high": 0, "critical": 0},
    "models": ["a:1", "b:latest"],
    "loaded": ["a:1"],
    "watts": 31.5,
    "heat": "moderate",
    "on_battery": True,
    "battery_percent": 41.0,
    "energy_j_per_token": {"a:1": 0.5},
    "ttft_ms": {"a:1": 250},
    "tokens_per_s": {"a:1": 20.5},
    "calls": ["/v1/chat/completions", "/api/chat"],
    "draining": False,
}
PRIOR = Prior(first_s=0.8, whole_s=0.8)


def node(**fields: object) -> Node:
    """What it says, with what a test changes."""
    read = read_node({**WHOLE, **fields})
    assert read is not None
    return read


def test_all_of_it_is_read() -> None:
    """Each field in the words of the policy: seconds, names of calls, priorities in their order."""
    expected = Node(
        id="a1",
        version="1.2",
        machine="b2",
        mode=Mode.QUIET,
        slots=4,
        at_work=2,
        waiting=(3, 1, 0, 0),
        models=frozenset({"a:1", "b:latest"}),
        loaded=frozenset({"a:1"}),
        watts=31.5,
        heat=ThermalState.MODERATE,
        on_battery=True,
        battery_percent=41.0,
        calls=frozenset({Call.OPENAI_CHAT, Call.OLLAMA_CHAT}),
        token_j={"a:1": 0.5},
        first_s={"a:1": 0.25},
        tokens_per_s={"a:1": 20.5},
    )

    assert expected == node()


def test_what_is_missing_is_unknown() -> None:
    """A version that tells less is no fault; a field that nobody knows here is passed over."""
    assert Node() == read_node({"protocol": PROTOCOL, "color": "red"})


@pytest.mark.parametrize("field", [*(WHOLE.keys() - {"protocol"}), "left_out"])
@pytest.mark.parametrize(
    "value",
    [None, -1, 1.5, 10**30, float("nan"), True, "", "\x00", [], {}, [[]], {"a": []}, "x" * 10**5],
    ids=lambda value: repr(value)[:12],
)
def test_what_makes_no_sense_is_unknown(field: str, value: object) -> None:
    """One field is no reason to doubt the others, and none is a reason to fail."""
    plain, odd = node(), node(**{field: value})
    own = {"in_flight": "at_work", "queued": "waiting", "draining": "is_draining"}
    own |= {"ttft_ms": "first_s", "energy_j_per_token": "token_j"}
    names = {each.name for each in Node.__attrs_attrs__} - {own.get(field, field)}

    assert {n: getattr(plain, n) for n in names} == {n: getattr(odd, n) for n in names}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*WHOLE, "left_out"]), JSON) | JSON)
def test_anything_can_be_read(told: object) -> None:
    """Whatever a server answers that it takes for JSON: a node, none, or one of another version."""
    try:
        read = read_node(told)
    except OtherProtocol:
        return
    assert read is None or all(
        figure > 0
        for table in (read.token_j, read.first_s, read.tokens_per_s)
        for figure in table.values()
    )


@given(st.fixed_dictionaries({name: JSON for name in WHOLE if name != "protocol"}))
def test_whatever_its_fields_are_it_is_a_node(fields: dict[str, object]) -> None:
    """Numbers are finite and of their range, and what is said of models is not mixed up."""
    read = read_node({**fields, "protocol": PROTOCOL})

    assert read is not None
    assert read.slots is None or read.slots >= 0
    assert read.watts is None or 0 < read.watts < 1e6
    assert read.waiting is None or (len(Priority) == len(read.waiting) and min(read.waiting) >= 0)
    assert read.prior(ask(), MODEL, PRIOR).first_s > 0


@pytest.mark.parametrize("number", [0, 2, -1, 10**20])
def test_another_version_is_not_read(number: int) -> None:
    """Its words may mean other things; who runs both is told what to do."""
    with pytest.raises(OtherProtocol, match=f"version {number} .* install the same version"):
        read_node({**WHOLE, "protocol": number})


def test_a_version_that_fills_a_log_is_none() -> None:
    """JSON has numbers of thousands of digits; they would be shown with each error."""
    assert None is read_node({**WHOLE, "protocol": 10**4000})


@pytest.mark.parametrize("told", [None, [], "x", {}, {"protocol": True}, {"protocol": "1"}])
def test_who_names_no_version_is_no_node(told: object) -> None:
    """Another server that answers at that path, say."""
    assert None is read_node(told)


def test_a_list_that_was_cut_is_no_list() -> None:
    """What is not on it may be there all the same."""
    cut = node(left_out={"models": 7})

    assert (None, frozenset({"a:1"})) == (cut.models, cut.loaded)
    assert None is node(left_out={"loaded": 1}).loaded


def test_watts_of_nothing_are_unknown() -> None:
    """Nobody computes for nothing."""
    assert None is node(watts=0).watts


class TestPrior:
    """What it says of its speed."""

    @pytest.mark.parametrize("named", ["q", "q:latest"])
    @pytest.mark.parametrize("asked", ["q", "q:latest"])
    def test_it_goes_before_what_the_owner_wrote(self, named: str, asked: str) -> None:
        """By the model's name, with or without its tag."""
        told = node(ttft_ms={named: 300}, tokens_per_s={named: 9})

        expected = Prior(first_s=0.3, whole_s=0.8, tokens_per_s=9.0)
        assert expected == told.prior(ask(model=asked), asked, PRIOR)

    def test_of_another_model_it_says_nothing(self) -> None:
        """Nor does it of vectors."""
        told = node(ttft_ms={"q": 300}, energy_j_per_token={"q": 0.5})
        vectors = ask(call=Call.OPENAI_EMBEDDING, stream=False, model="q")

        assert PRIOR == told.prior(ask(), MODEL, PRIOR)
        assert (PRIOR, None) == (told.prior(vectors, "q", PRIOR), told.joules_of(vectors, "q"))

    def test_an_answer_takes_no_less_than_its_first_token(self) -> None:
        """What the owner wrote of the whole is not believed where it is less."""
        assert Prior(first_s=2.0, whole_s=2.0) == node(ttft_ms={"q": 2000}, tokens_per_s={}).prior(
            ask(), "q", PRIOR
        )


def test_it_survives_json() -> None:
    """As it comes over the wire."""
    assert node() == read_node(msgspec.json.decode(msgspec.json.encode(WHOLE)))
