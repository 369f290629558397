"""Which backends another proxy may be sent to that carries the call itself."""

import pytest

from ollama_proxy.policy.ask import Call, Wishes
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import Decision, RouteSettings, choose, explain
from ollama_proxy.policy.sampling import ONE_IN, STALE_S, is_read
from tests.fleet import ask, spec, view

SETTINGS = RouteSettings()


@pytest.mark.parametrize(
    ("type_", "endpoint", "call", "carries"),
    [
        (BackendType.OLLAMA, "http://192.0.2.1:1", Call.OLLAMA_CHAT, True),
        (BackendType.OLLAMA, "http://192.0.2.1:1", Call.OPENAI_CHAT, True),
        (BackendType.OLLAMA, "http://192.0.2.1:1", Call.ANTHROPIC_MESSAGES, True),
        (BackendType.OPENAI, "http://192.0.2.1:1", Call.OPENAI_CHAT, True),
        (BackendType.OPENAI, "http://192.0.2.1:1", Call.OLLAMA_CHAT, False),
        (BackendType.OPENAI, "https://192.0.2.1:1", Call.OPENAI_CHAT, False),
        (BackendType.OPENAI, "unix:/run/it", Call.OPENAI_CHAT, False),
        (BackendType.EMBEDDED, "", Call.OPENAI_CHAT, False),
        (BackendType.ROUTER, "http://192.0.2.1:1", Call.OLLAMA_CHAT, True),
    ],
)
def test_2_who_can_be_asked_by_another(
    type_: BackendType, endpoint: str, call: Call, carries: bool
) -> None:
    """Whoever listens at an address and a port, in plain text, and knows the call as it is."""
    assert carries is spec(type=type_, endpoint=endpoint).carries(call)


def test_2_why_not_is_told() -> None:
    """By the same words for each of the reasons; for a call of our own it is no obstacle."""
    fleet = [view("npu"), view("cpu", spec_type=BackendType.OPENAI)]
    fleet += [view("igpu", uncarried=frozenset({Call.OLLAMA_CHAT}))]
    carried = explain(ask(call=Call.OLLAMA_CHAT, carried=True), Wishes(), fleet, SETTINGS, now=0.0)
    own = explain(ask(call=Call.OLLAMA_CHAT), Wishes(), fleet, SETTINGS, now=0.0)

    why = "cannot be asked /api/chat by another proxy"
    assert [("cpu", why), ("igpu", why)] == [tuple(each) for each in carried.barred]
    assert () == own.barred


def test_1_who_is_not_in_the_subset_is_not_weighed() -> None:
    """Neither as the best nor as an alternative."""
    fleet = [view("npu"), view("cpu"), view("igpu")]
    asked = ask(carried=True, within=frozenset({"npu", "cpu", "gone"}))
    told = explain(asked, Wishes(), fleet, SETTINGS, now=0.0)
    assert isinstance(told.outcome, Decision)

    assert {"npu", "cpu"} == {candidate.id for candidate in told.outcome.candidates}
    assert [("igpu", "is not in the subset of the proxy")] == [tuple(each) for each in told.barred]


def test_1_one_subset_spoils_no_other() -> None:
    """What is kept of a view for one request serves another with another subset."""
    fleet = [view("npu"), view("cpu")]
    picked = []
    for within in ({"npu"}, {"cpu"}, {"npu"}):
        outcome = choose(
            ask(carried=True, within=frozenset(within)), Wishes(), fleet, SETTINGS, now=0.0
        )
        assert isinstance(outcome, Decision)
        picked.append(outcome.backend)

    assert ["npu", "cpu", "npu"] == picked


@pytest.mark.parametrize("within", [(), ("cpu",)])
def test_1_nobody_of_the_subset_is_able(within: tuple[str, ...]) -> None:
    """Never "no such model": the others may have it."""
    fleet = [view("npu"), view("cpu", models=frozenset())]
    refusal = choose(
        ask(carried=True, within=frozenset(within)), Wishes(), fleet, SETTINGS, now=0.0
    )
    assert isinstance(refusal, Refusal)

    assert (Code.NO_BACKEND, True) == (refusal.code, "subset" in refusal.message)


def test_what_is_read_as_it_passes() -> None:
    """All while nothing is known, then few; all again when what is known has grown old."""
    known = Learned(30.0, 100.0)
    read = [nth for nth in range(1, 4 * ONE_IN) if is_read(known, nth, 101.0)]

    assert all(is_read(None, nth, 0.0) for nth in range(1, ONE_IN))
    assert [ONE_IN, 2 * ONE_IN, 3 * ONE_IN] == read
    assert is_read(known, 1, 101.0 + STALE_S)
