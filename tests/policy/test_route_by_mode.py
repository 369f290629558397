"""What the mode and the machine's state make of a choice."""

import itertools
from typing import Any

import pytest

from ollama_proxy.policy.ask import Priority, Wishes
from ollama_proxy.policy.energy import Appetite, Grade
from ollama_proxy.policy.estimate import Estimates, Seen
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.modes import STANCES, Mode
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import (
    COOLING_S,
    Decision,
    Reason,
    RouteSettings,
    Steering,
    choose,
    explain,
)
from ollama_proxy.policy.thermal import ThermalState
from tests.fleet import ask, laptop, spec, view

CRITICAL = ThermalState.CRITICAL


def steered(mode: Mode = Mode.BALANCED, reason: Reason = Reason.BALANCED, **more: Any) -> Any:
    """Settings with a mode in force; `budget` is the owner's."""
    budget = more.pop("budget", None)
    return RouteSettings(
        power_budget_watts=budget, steering=Steering(stance=STANCES[mode], reason=reason, **more)
    )


def decide(
    fleet: list[BackendView], settings: RouteSettings, wishes: Wishes | None = None
) -> Decision:
    """The choice; a refusal is a failure of the test."""
    outcome = choose(ask(), wishes or Wishes(), fleet, settings, now=0.0)
    assert isinstance(outcome, Decision), outcome
    return outcome


class TestModes:
    """The laptop of the contract: npu 3 W 0.8 s, igpu 12 W 0.4 s, nvidia 55 W 0.15 s, cpu 28 W 2 s."""

    @pytest.mark.parametrize(
        ("mode", "chosen"),
        [
            (Mode.PERFORMANCE, "nvidia"),
            (Mode.BALANCED, "npu"),
            (Mode.EFFICIENCY, "npu"),
            (Mode.QUIET, "npu"),
            (Mode.ULTRA_EFFICIENCY, "npu"),
        ],
    )
    def test_each_has_its_favourite(self, mode: Mode, chosen: str) -> None:
        """Time alone, joules, or watts above all."""
        assert chosen == decide(laptop(), steered(mode)).backend

    @pytest.mark.parametrize(
        ("mode", "chosen"),
        [
            (Mode.PERFORMANCE, "fast"),
            (Mode.BALANCED, "middle"),
            (Mode.EFFICIENCY, "thrifty"),
            (Mode.QUIET, "thrifty"),
            (Mode.ULTRA_EFFICIENCY, "thriftiest"),
        ],
    )
    def test_they_differ_among_themselves(self, mode: Mode, chosen: str) -> None:
        """Where every backend trades time for watts, the weights decide."""
        fleet = [
            view(id_, spec_id=id_, spec_power_watts=watts, spec_avg_latency_s=seconds)
            for id_, watts, seconds in (
                ("fast", 64.0, 0.125),
                ("middle", 16.0, 0.25),
                ("thrifty", 8.0, 1.0),
                ("thriftiest", 4.0, 64.0),
            )
        ]

        assert chosen == decide(fleet, steered(mode)).backend

    def test_ultra_efficiency_stays_under_ten_watts_while_anything_can(self) -> None:
        """Not even a long line leads to more; nothing under it is no refusal."""
        settings = steered(Mode.ULTRA_EFFICIENCY)
        swamped = view("npu", in_flight=1, waiting=60)
        others = [view("igpu"), view("nvidia")]

        assert "npu" == decide([swamped, *others], settings).backend
        assert "igpu" == decide(others, settings).backend

    def test_quiet_keeps_to_the_thrifty_while_the_fans_are_loud(self) -> None:
        """The cap of a loud fan is one of watts."""
        fleet = [
            view("igpu", in_flight=1, waiting=100),
            view("cpu", spec_power_watts=16.0, spec_avg_latency_s=0.1),
        ]

        assert "cpu" == decide(fleet, steered(Mode.QUIET)).backend
        assert "igpu" == decide(fleet, steered(Mode.QUIET, is_loud=True)).backend

    def test_the_mode_is_the_reason(self) -> None:
        """Whoever asks why is told what moved it."""
        settings = steered(Mode.QUIET, Reason.MODE_QUIET)

        assert Reason.MODE_QUIET is decide(laptop(), settings).reason

    @pytest.mark.parametrize("mode", STANCES)
    def test_latency_critical_and_targets_keep_their_meaning(self, mode: Mode) -> None:
        """What a request asks for stands in every mode, loud or on battery."""
        settings = steered(mode, is_loud=True, on_battery=True, all_cool=False, budget=4.0)
        fleet = [
            view("npu"),
            view("nvidia", asleep=True, heat=ThermalState.SEVERE, spec_wake_s=0.1),
        ]

        fastest = decide(fleet, settings, Wishes(latency_critical=True))
        named = decide(fleet, settings, Wishes(target="nvidia"))

        assert ("nvidia", Reason.LATENCY_CRITICAL) == (fastest.backend, fastest.reason)
        assert ("nvidia", Reason.EXPLICIT_TARGET) == (named.backend, named.reason)


class TestHeat:
    """A part that is too hot gets nothing, whatever is asked for."""

    @pytest.mark.parametrize("mode", STANCES)
    @pytest.mark.parametrize("wishes", [Wishes(), Wishes(latency_critical=True)])
    def test_critical_overrules_every_mode_and_says_so(self, mode: Mode, wishes: Wishes) -> None:
        """The one that would have been taken is not, and the reason is heat."""
        settings = steered(mode, all_cool=False)
        cool = {view.spec.id: view for view in laptop()}
        first = decide(list(cool.values()), settings, wishes).backend
        cool[first] = view(first, heat=CRITICAL, hot="processor 101 °C")

        second = decide(list(cool.values()), settings, wishes)

        assert second.backend != first
        assert Reason.THERMAL is second.reason

    def test_a_target_that_is_too_hot_is_refused_for_a_while(self) -> None:
        """Its name is no way round, and the caller learns when to ask again."""
        hot = view("nvidia", heat=CRITICAL, hot="GeForce 93 °C")
        outcome = choose(
            ask(), Wishes(target="nvidia"), [hot, view("npu")], steered(all_cool=False), now=0.0
        )

        assert isinstance(outcome, Refusal)
        assert Code.NO_BACKEND is outcome.code
        assert "GeForce 93 °C" in outcome.message
        assert COOLING_S == outcome.retry_after_s

    def test_heat_elsewhere_changes_nothing(self) -> None:
        """A hot card does not punish the NPU, nor is it blamed where it would not have been taken."""
        fleet = [view("npu"), view("nvidia", heat=CRITICAL, hot="93 °C")]

        decision = decide(fleet, steered(all_cool=False))

        assert ("npu", Reason.ONLY_CANDIDATE) == (decision.backend, decision.reason)

    def test_best_effort_leaves_a_moderate_part_alone(self) -> None:
        """What can wait for coolness goes elsewhere, for heat's sake."""
        fleet = [view("npu", heat=ThermalState.MODERATE), view("nvidia")]
        settings = steered(all_cool=False)

        decision = decide(fleet, settings, Wishes(priority=Priority.BEST_EFFORT))

        assert ("nvidia", Reason.THERMAL) == (decision.backend, decision.reason)
        assert ("npu",) == decision.alternatives

    def test_the_explanation_names_the_heat(self) -> None:
        """Whoever asks why not is told how hot it is."""
        fleet = [view("npu", heat=CRITICAL, hot="processor 101 °C"), view("nvidia")]

        told = explain(ask(), Wishes(), fleet, steered(all_cool=False), now=0.0)

        assert [("npu", "is too hot: processor 101 °C")] == [tuple(each) for each in told.barred]


class TestSleep:
    """A suspended card costs time and joules to wake."""

    def test_its_wake_is_waited_for(self) -> None:
        """The prediction, and hence the deadline, holds it."""
        awake, asleep = view("nvidia"), view("nvidia", asleep=True)
        settings = steered(all_cool=False)

        before, after = decide([awake], settings), decide([asleep], settings)

        assert before.predicted_s + spec("nvidia").wake_s == pytest.approx(after.predicted_s)
        assert after.candidates[0].terms.wake < -1

    def test_on_battery_it_is_left_alone_while_another_can(self) -> None:
        """Performance would take the card on mains; on battery it sleeps on."""
        fleet = [view("npu"), view("nvidia", asleep=True, spec_wake_s=0.1)]

        on_mains = decide(fleet, steered(Mode.PERFORMANCE, all_cool=False))
        on_battery = decide(fleet, steered(Mode.PERFORMANCE, all_cool=False, on_battery=True))

        assert "nvidia" == on_mains.backend
        assert ("npu", Reason.BATTERY) == (on_battery.backend, on_battery.reason)


def measured(joules_per_token: float, tokens_per_s: float) -> dict[str, Any]:
    """What was learned of a backend's energy and speed."""
    energy, estimates = Appetite(), Estimates()
    whole_s = 0.1 + 99 / tokens_per_s
    energy.observe(
        ask().subject,
        joules_per_token * 100,
        Grade.MEASURED,
        0.0,
        seconds=100 / tokens_per_s,
        tokens=100,
    )
    estimates.observe(
        ask(), Seen(first_s=0.1, whole_s=whole_s, answer_tokens=100), spec().prior, now=0.0
    )
    return {"energy": energy, "estimates": estimates}


class TestEnergy:
    """What was measured takes the place of the owner's figures."""

    def test_watts_are_those_that_were_measured(self) -> None:
        """The owner's 3 watts were too few by far."""
        fleet = [view("npu", **measured(2.0, 20.0))]

        assert decide(fleet, steered()).watts == pytest.approx(40.0)

    def test_a_budget_goes_by_what_was_measured(self) -> None:
        """Who was written down as hungry and is not, is let in; and the other way round."""
        fleet = [view("npu", **measured(2.0, 20.0)), view("nvidia", **measured(0.2, 50.0))]

        decision = decide(fleet, steered(), Wishes(max_power_watts=12.0))

        assert (("nvidia",), ()) == ((decision.backend,), decision.alternatives)

    @pytest.mark.parametrize("fleet", [*itertools.permutations(["npu", "nvidia"])])
    def test_power_efficient_takes_the_least_joules_once_all_are_measured(
        self, fleet: tuple[str, ...]
    ) -> None:
        """A fast hungry card may well need less for an answer than a slow thrifty one."""
        views = {
            "npu": view("npu", **measured(1.5, 2.0)),
            "nvidia": view("nvidia", **measured(0.5, 100.0)),
        }
        wishes = Wishes(power_efficient=True)

        by_joules = decide([views[name] for name in fleet], steered(), wishes)
        by_watts = decide([views["npu"], view("nvidia")], steered(), wishes)

        assert "nvidia" == by_joules.backend
        assert "npu" == by_watts.backend

    def test_the_owners_budget_sets_the_hungry_aside(self) -> None:
        """They serve when nobody else can, and the budget is the reason why not before."""
        fleet = [view("nvidia"), view("igpu", in_flight=1, waiting=200)]
        settings = steered(Mode.PERFORMANCE, budget=15.0)

        decision = decide(fleet, settings)

        assert ("igpu", Reason.POWER_BUDGET) == (decision.backend, decision.reason)
        assert "nvidia" == decide([view("nvidia")], settings).backend
