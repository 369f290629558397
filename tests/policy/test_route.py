"""Which backend serves a request, and why: by the numbers in `policy.route`."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.ask import Call, Wishes
from ollama_proxy.policy.estimate import Estimates, Seen
from ollama_proxy.policy.fleet import BackendType, BackendView
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import Decision, Reason, RouteSettings, choose, explain
from tests.fleet import FIGURES, MODEL, ask, laptop, spec, view

SETTINGS = RouteSettings()


def decide(fleet: list[BackendView], wishes: Wishes | None = None, **asked: Any) -> Decision:
    """The decision, where there must be one."""
    outcome = choose(ask(**asked), wishes or Wishes(), fleet, SETTINGS, now=0.0)
    assert isinstance(outcome, Decision), outcome
    return outcome


def refuse(fleet: list[BackendView], wishes: Wishes | None = None, **asked: Any) -> Refusal:
    """The refusal, where there must be one."""
    outcome = choose(ask(**asked), wishes or Wishes(), fleet, SETTINGS, now=0.0)
    assert isinstance(outcome, Refusal), outcome
    return outcome


class TestTarget:
    """Step 1."""

    @pytest.mark.parametrize("target", ["cpu", "CPU"])
    def test_1_a_hardware_name_is_a_target(self, target: str) -> None:
        """A hardware name, in any case, chooses the backend that computes there."""
        fleet = [view("cpu", spec_id="ollama-cpu"), view("npu")]

        decision = decide(fleet, Wishes(target=target))

        assert ("ollama-cpu", Reason.EXPLICIT_TARGET) == (decision.backend, decision.reason)

    def test_1_an_id_is_a_target(self) -> None:
        """A backend's id chooses it, however slow and hungry it is."""
        assert decide(laptop(), Wishes(target="cpu")).backend == "cpu"

    def test_1_an_unknown_target_is_the_callers_fault(self) -> None:
        """A name that is neither id nor hardware is refused, naming the backends there are."""
        refusal = refuse(laptop(), Wishes(target="tpu"))

        assert refusal.code is Code.UNKNOWN_BACKEND
        assert "npu" in refusal.message

    def test_1_an_unhealthy_target_is_unavailable(self) -> None:
        """A target that is down is refused for now, with a time to come back."""
        fleet = [view("npu", healthy=False), view("cpu")]

        refusal = refuse(fleet, Wishes(target="npu"))

        assert refusal.code is Code.NO_BACKEND
        assert refusal.retry_after_s is not None

    def test_1_a_target_excuses_from_nothing(self) -> None:
        """A target that draws too much power is still refused."""
        refusal = refuse(laptop(), Wishes(target="nvidia", max_power_watts=15.0))

        assert refusal.code is Code.NO_BACKEND


class TestMayServe:
    """Step 2."""

    @pytest.mark.parametrize(
        "obstacle",
        [
            {"healthy": False},
            {"circuit_open": True},
            {"spec_enabled": False},
            {"spec_models": ("llama*",)},
            {"spec_exclude": ("qwen*",)},
            {"spec_max_prompt_tokens": 10},
            {"models": frozenset({"llama3:latest"})},
            {"unserved": frozenset({Call.OPENAI_CHAT})},
        ],
        ids=lambda o: next(iter(o)),
    )
    def test_2_who_may_not_serve_is_not_chosen(self, obstacle: dict[str, Any]) -> None:
        """Each obstacle alone takes the backend out of the choice, and is told."""
        fleet = [view("npu", **obstacle), view("cpu")]

        explanation = explain(ask(prompt_bytes=100), Wishes(), fleet, SETTINGS, now=0.0)

        assert isinstance(explanation.outcome, Decision)
        assert explanation.outcome.backend == "cpu"
        assert [b.id for b in explanation.barred] == ["npu"]
        assert explanation.barred[0].why_not

    @pytest.mark.parametrize(
        ("call", "type_", "continues_chat", "can"),
        [
            (Call.OPENAI_COMPLETION, BackendType.OPENAI, False, True),
            (Call.OPENAI_COMPLETION, BackendType.EMBEDDED, False, True),
            (Call.OPENAI_COMPLETION, BackendType.OLLAMA, True, False),
            (Call.OPENAI_COMPLETION, BackendType.ROUTER, False, False),
            (Call.OPENAI_CHAT, BackendType.OPENAI, False, False),
            (Call.OPENAI_CHAT, BackendType.OPENAI, True, True),
            (Call.OPENAI_CHAT, BackendType.OLLAMA, True, True),
            (Call.OLLAMA_CHAT, BackendType.OLLAMA, True, False),
        ],
    )
    def test_2_an_answer_is_only_continued_by_who_can(
        self, call: Call, type_: BackendType, continues_chat: bool, can: bool
    ) -> None:
        """Texts by who does not ask them as questions, as Ollama does; chats by those of whom it is said."""
        fleet = [view(spec_type=type_, spec_continues_chat=continues_chat)]
        rest = ask(call=call, continues=True)

        explanation = explain(rest, Wishes(), fleet, SETTINGS, now=0.0)

        assert can is isinstance(explanation.outcome, Decision)
        why_not = [] if can else ["cannot continue an answer"]
        assert why_not == [b.why_not for b in explanation.barred]
        assert isinstance(
            explain(ask(call=call), Wishes(), fleet, SETTINGS, now=0.0).outcome, Decision
        )

    def test_2_a_backend_that_lists_nothing_is_trusted(self) -> None:
        """A server that does not tell its models may serve what its owner allows."""
        assert decide([view(models=None)]).backend == "npu"

    def test_2_latest_is_implied(self) -> None:
        """A name without a tag means the tag `latest`, as Ollama has it."""
        fleet = [view(models=frozenset({"llama3:latest"}))]

        assert decide(fleet, model="llama3").backend == "npu"

    def test_2_an_alias_stands_for_the_real_name(self) -> None:
        """A model is found under the alias its owner gave it."""
        fleet = [view(spec_aliases={"gpt-4o-mini": MODEL}), view("cpu")]

        assert decide(fleet, model="gpt-4o-mini").backend == "npu"

    def test_2_an_unknown_model_names_its_neighbours(self) -> None:
        """A model nobody has is not found, and near names are offered."""
        refusal = refuse(laptop(), model="qwen2.5:0.5")

        assert refusal.code is Code.MODEL_NOT_FOUND
        assert MODEL in refusal.message

    def test_2_a_model_whose_backends_are_down_is_unavailable(self) -> None:
        """The model exists, so the answer is to come back, not that it does not exist."""
        assert refuse(laptop(healthy=False)).code is Code.NO_BACKEND

    def test_2_a_prompt_too_long_for_all_says_so(self) -> None:
        """Where only the prompt's length is in the way, that is what the caller reads."""
        refusal = refuse([view(spec_max_prompt_tokens=10)], prompt_bytes=1000)

        assert refusal.code is Code.BODY_TOO_LARGE

    def test_2_no_backend_at_all(self) -> None:
        """An empty fleet refuses rather than fails."""
        assert refuse([]).code is Code.NO_BACKEND

    def test_2_a_call_nobody_serves(self) -> None:
        """A call that every backend was seen to refuse is refused at once."""
        fleet = laptop(unserved=frozenset({Call.OPENAI_RESPONSES}))

        refusal = refuse(fleet, call=Call.OPENAI_RESPONSES)

        assert refusal.code is Code.NO_BACKEND
        assert "/v1/responses" in refusal.message


class TestCaps:
    """Step 3."""

    def test_3_a_power_budget_is_never_exceeded(self) -> None:
        """Only backends at or under the budget are candidates; at it counts as under."""
        decision = decide(laptop(), Wishes(max_power_watts=12.0))

        assert {c.id for c in decision.candidates} == {"npu", "igpu"}
        assert decision.reason is Reason.POWER_BUDGET

    def test_3_an_unmeetable_budget_names_the_best(self) -> None:
        """The refusal says what the thriftiest draws."""
        refusal = refuse(laptop(), Wishes(max_power_watts=2.5))

        assert refusal.code is Code.NO_BACKEND
        assert "3 W" in refusal.message

    def test_3_a_deadline_leaves_those_predicted_to_make_it(self) -> None:
        """Backends predicted over the deadline are no candidates."""
        decision = decide(laptop(), Wishes(max_latency_s=0.5))

        assert {c.id for c in decision.candidates} == {"igpu", "nvidia"}
        assert decision.reason is Reason.DEADLINE

    def test_3_the_wait_in_line_counts(self) -> None:
        """A fast backend that is busy may be too late."""
        fleet = [view("nvidia", in_flight=1, waiting=3), view("igpu")]

        assert decide(fleet, Wishes(max_latency_s=0.5)).backend == "igpu"

    def test_3_an_unmeetable_deadline_tells_the_best_prediction(self) -> None:
        """The refusal carries what could have been had."""
        refusal = refuse(laptop(), Wishes(max_latency_s=0.05))

        assert refusal.code is Code.DEADLINE_UNMEETABLE
        assert "150 ms" in refusal.message
        assert refusal.retry_after_s is not None

    def test_3_a_bad_day_is_not_for_ever(self) -> None:
        """An idle backend that was late for once may show now and then that it can be in time."""
        learned = Estimates()
        learned.observe(ask(), Seen(first_s=30.0, whole_s=30.0), spec("nvidia").prior, now=0.0)
        wishes = Wishes(max_latency_s=1.0)
        idle, busy = (view("nvidia", estimates=learned, in_flight=n) for n in (0, 1))
        outcomes = [
            choose(ask(), wishes, [standing], SETTINGS, now=now)
            for standing, now in ((idle, 5.0), (idle, 10.0), (busy, 10.0))
        ]

        assert [Refusal, Decision, Refusal] == [type(outcome) for outcome in outcomes]

    def test_3_nobody_tries_what_its_owner_thinks_it_cannot(self) -> None:
        """A backend that was never said to be so fast is refused at once, however long ago."""
        learned = Estimates()
        learned.observe(ask(), Seen(first_s=2.0, whole_s=2.0), spec("cpu").prior, now=0.0)
        wishes = Wishes(max_latency_s=1.0)

        outcome = choose(ask(), wishes, [view("cpu", estimates=learned)], SETTINGS, now=1000.0)

        assert isinstance(outcome, Refusal)


class TestOrder:
    """Step 4."""

    @pytest.mark.parametrize("order", list(itertools.permutations(FIGURES)), ids="-".join)
    def test_4_latency_critical_takes_the_fastest(self, order: tuple[str, ...]) -> None:
        """The flag dominates, in whatever order the backends are configured."""
        fleet = [view(name) for name in order]

        decision = decide(fleet, Wishes(latency_critical=True))

        assert ("nvidia", Reason.LATENCY_CRITICAL) == (decision.backend, decision.reason)

    @pytest.mark.parametrize("order", list(itertools.permutations(FIGURES)), ids="-".join)
    def test_4_power_efficient_takes_the_thriftiest(self, order: tuple[str, ...]) -> None:
        """The flag dominates, in whatever order the backends are configured."""
        fleet = [view(name) for name in order]

        decision = decide(fleet, Wishes(power_efficient=True))

        assert ("npu", Reason.POWER_EFFICIENT) == (decision.backend, decision.reason)

    @given(
        st.lists(
            st.tuples(st.floats(0.1, 500), st.floats(0.001, 100), st.integers(0, 9)),
            min_size=1,
            max_size=12,
        ),
        st.randoms(),
    )
    def test_4_a_flag_dominates_every_other_term(
        self, figures: list[tuple[float, float, int]], random: Any
    ) -> None:
        """With any figures, in any order, a flag picks the least of what it names."""
        fleet = [
            view(f"b{i}", spec_power_watts=watts, spec_avg_latency_s=latency, spec_preference=liked)
            for i, (watts, latency, liked) in enumerate(figures)
        ]
        random.shuffle(fleet)

        fastest = decide(fleet, Wishes(latency_critical=True))
        thriftiest = decide(fleet, Wishes(power_efficient=True))

        assert fastest.predicted_s == min(latency for _, latency, _ in figures)
        assert thriftiest.watts == min(watts for watts, _, _ in figures)

    def test_4_latency_critical_avoids_a_full_backend(self) -> None:
        """The fastest to answer is the one that is free, not the one that would be if it were."""
        fleet = [view("nvidia", in_flight=1, waiting=5), view("igpu")]

        assert decide(fleet, Wishes(latency_critical=True)).backend == "igpu"

    def test_4_learned_latency_replaces_the_prior(self) -> None:
        """A backend that was seen to be slow is no longer the fastest."""
        learned = Estimates()
        for _ in range(12):
            learned.observe(ask(), Seen(first_s=5.0, whole_s=5.0), spec("nvidia").prior, now=0.0)
        fleet = [view("nvidia", estimates=learned), view("igpu")]

        assert decide(fleet, Wishes(latency_critical=True)).backend == "igpu"

    def test_4_without_wishes_time_and_power_are_traded(self) -> None:
        """The least product of seconds and watts wins, and is called balanced."""
        decision = decide(laptop())

        assert ("npu", Reason.BALANCED) == (decision.backend, decision.reason)
        assert decision.alternatives == ("igpu", "nvidia", "cpu")

    def test_4_a_loaded_model_beats_one_that_must_be_loaded(self) -> None:
        """Of equals, the one with the model in memory wins, and the reason says so."""
        fleet = [
            view("a", loaded=frozenset()),
            view("b", loaded=frozenset({MODEL})),
        ]

        decision = decide(fleet)

        assert ("b", Reason.MODEL_LOADED) == (decision.backend, decision.reason)

    def test_4_load_spreads_over_equals(self) -> None:
        """Of equals, the idle one wins."""
        assert decide([view("a", in_flight=1), view("b")]).backend == "b"

    def test_4_a_failing_backend_does_not_attract(self) -> None:
        """A backend that fails half of its requests loses to one sixteen times worse."""
        fleet = [view("npu", failing=0.6), view("cpu")]

        assert decide(fleet).backend == "cpu"

    def test_4_the_terms_explain_the_score(self) -> None:
        """Each candidate's score is the sum of the terms that are shown for it."""
        for candidate in decide(laptop(loaded=frozenset(), in_flight=1)).candidates:
            assert candidate.score == pytest.approx(sum(candidate.terms))


class TestTies:
    """Step 5."""

    @pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
    def test_5_ties_do_not_depend_on_order(self, order: tuple[str, ...]) -> None:
        """Equal backends are always ranked the same way: preference, default, id."""
        preferences = {"a": 0, "b": 0, "c": 1}
        fleet = [view(name, spec_preference=preferences[name]) for name in order]
        settings = RouteSettings(default_backend="b")

        outcome = choose(ask(), Wishes(), fleet, settings, now=0.0)

        assert isinstance(outcome, Decision)
        assert [c.id for c in outcome.candidates] == ["c", "b", "a"]


def test_one_candidate_is_called_that() -> None:
    """With one backend and no wish there was nothing to weigh."""
    assert decide([view("cpu")]).reason is Reason.ONLY_CANDIDATE


def test_failover_leaves_out_who_was_tried() -> None:
    """A second attempt goes elsewhere, and is called failover whatever was wished."""
    outcome = choose(
        ask(), Wishes(latency_critical=True), laptop(), SETTINGS, now=0.0, tried=["nvidia"]
    )

    assert isinstance(outcome, Decision)
    assert ("igpu", Reason.FAILOVER) == (outcome.backend, outcome.reason)


def test_power_may_be_no_concern() -> None:
    """With `power_aware` off, the score is about time."""
    outcome = choose(ask(), Wishes(), laptop(), RouteSettings(power_aware=False), now=0.0)

    assert isinstance(outcome, Decision)
    assert outcome.backend == "nvidia"


def test_learning_may_be_turned_off() -> None:
    """With `auto_optimize` off, the owner's figures stand."""
    learned = Estimates()
    learned.observe(ask(), Seen(first_s=60.0, whole_s=60.0), spec("nvidia").prior, now=0.0)
    fleet = [view("nvidia", estimates=learned), view("igpu")]

    outcome = choose(
        ask(), Wishes(latency_critical=True), fleet, RouteSettings(auto_optimize=False), now=0.0
    )

    assert isinstance(outcome, Decision)
    assert outcome.backend == "nvidia"


class TestMemory:
    """What was made of a view is kept with it."""

    def test_it_grows_old(self) -> None:
        """What was learned fades with time, so a view that nothing touches is judged anew."""
        learned = Estimates()
        for _ in range(12):
            learned.observe(ask(), Seen(first_s=60.0, whole_s=60.0), spec("nvidia").prior, now=0.0)
        fleet = [view("nvidia", estimates=learned), view("igpu")]
        wishes = Wishes(latency_critical=True)
        chosen = [
            choose(ask(), wishes, fleet, SETTINGS, now=now) for now in (0.0, 1.0, 10 * 1800.0)
        ]

        assert ["igpu", "igpu", "nvidia"] == [c.backend for c in chosen if isinstance(c, Decision)]

    def test_it_is_by_settings(self) -> None:
        """Settings that were reloaded hold at once."""
        fleet = laptop()
        chosen = [
            choose(ask(), Wishes(), fleet, settings, now=0.0)
            for settings in (SETTINGS, RouteSettings(power_aware=False))
        ]

        assert ["npu", "nvidia"] == [c.backend for c in chosen if isinstance(c, Decision)]

    def test_it_is_bounded(self) -> None:
        """Callers choose the models' names, and must not fill the memory with them."""
        fleet = [view(models=None)]
        for number in range(1000):
            decide(fleet, model=f"model-{number}")

        assert len(fleet[0].memo) <= 64
