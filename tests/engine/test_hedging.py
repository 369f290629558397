"""A second attempt for who is in a hurry, within a budget; in exact virtual times."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.ledger import Outcome
from ollama_proxy.policy.ask import Priority
from tests.engine.floor import Floor, backend, open_floor
from tests.fakes.backend import ScriptedBackend


def slow_for_once(name: str = "nvidia") -> ScriptedBackend:
    """Takes a minute for its first answer, and what it is believed to take for the others."""
    return backend(name).say("slow", after=60.0).then().say("quick", after=0.15)


async def earn(floor: Floor) -> None:
    """Work is done, a share of which second attempts may take."""
    for _ in range(10):
        await floor.ask(target="cpu")


def hedging(nursery: trio.Nursery, clock: MockClock, *played: ScriptedBackend) -> Floor:
    """A floor with two backends to hedge between, and a third that earns the budget."""
    return open_floor(
        nursery, clock, *played, backend("cpu").say("cpu", after=2.0), hedge_budget=0.05
    )


async def test_the_second_attempt_may_win(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Once the first is overdue, another backend is tried as well; the first byte wins."""
    nvidia, igpu = slow_for_once(), backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)
    begun = autojump_clock.current_time()

    caller = await floor.ask(latency_critical=True)

    assert [(begun + 1.5 * 0.15 + 0.4, "igpu")] == caller.heard[:1]
    fact = floor.fact(caller)
    assert ("igpu", True, Outcome.SERVED) == (fact.backend, fact.hedged, fact.outcome)
    await floor.assert_at_rest()
    assert 1 == nvidia.left


async def test_the_first_attempt_may_win_after_all(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Then the second is cancelled, unseen."""
    nvidia = backend("nvidia").say("late", after=0.3)
    igpu = backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)

    caller = await floor.ask(latency_critical=True)

    assert ["late", "done"] == caller.said
    await floor.assert_at_rest()
    assert (1, 1) == (igpu.left, len(igpu.errands))


@pytest.mark.parametrize(
    "wanted",
    [{}, {"priority": Priority.CRITICAL}, {"max_latency_s": 0.2}],
    ids=["easy", "critical", "too-late"],
)
async def test_who_is_not_helped_is_not_hedged(
    nursery: trio.Nursery, autojump_clock: MockClock, wanted: dict[str, Any]
) -> None:
    """Those who are in no hurry, and those whom no second attempt could save."""
    igpu = backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, slow_for_once(), igpu)
    await earn(floor)

    await floor.ask(target=None, **({"max_power_watts": 60.0} | wanted))

    assert not any(fact.hedged for fact in floor.facts)


async def test_without_savings_there_is_none(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The budget is a share of work that was done, and nothing was."""
    igpu = backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, slow_for_once(), igpu)

    caller = await floor.ask(latency_critical=True)

    assert (["slow", "done"], []) == (caller.said, igpu.errands)


async def test_it_is_off_unless_wanted(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """No second attempt is made by default."""
    igpu = backend("igpu").say("igpu")
    floor = open_floor(
        nursery, autojump_clock, slow_for_once(), igpu, backend("cpu").say("cpu", after=2.0)
    )
    await earn(floor)

    caller = await floor.ask(latency_critical=True)

    assert (["slow", "done"], []) == (caller.said, igpu.errands)


async def test_a_hedge_never_waits(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Where no slot is free, others would wait for the sake of one that is served already."""
    igpu = backend("igpu").hang()
    floor = hedging(nursery, autojump_clock, slow_for_once(), igpu)
    await earn(floor)
    floor.submit(target="igpu")
    floor.submit(target="cpu")

    caller = await floor.ask(latency_critical=True)

    assert (["slow", "done"], 1) == (caller.said, len(igpu.errands))


async def test_a_first_attempt_that_fails_leaves_the_second(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its failure is the backend's affair: the caller is served by the other, and tried once."""
    nvidia = backend("nvidia").pause(0.3).die_mid_stream()
    igpu = backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)

    caller = await floor.ask(latency_critical=True)

    assert ["igpu", "done"] == caller.said
    assert (1, 1) == (len(igpu.errands), floor.station("nvidia").errors_total)
    await floor.assert_at_rest()


async def test_both_attempts_may_fail(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Then the job is tried elsewhere, as ever, but at neither of them again."""
    nvidia = backend("nvidia").pause(0.3).die_mid_stream()
    igpu = backend("igpu").pause(0.4).die_mid_stream()
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)

    caller = await floor.ask(latency_critical=True)

    assert ["cpu", "done"] == caller.said
    assert (1, 1) == (len(nvidia.errands), len(igpu.errands))
    await floor.assert_at_rest()


@pytest.mark.parametrize("after", [0.1, 0.3, 0.7], ids=["before", "both", "answered"])
async def test_leaving_frees_both(
    nursery: trio.Nursery, autojump_clock: MockClock, after: float
) -> None:
    """Whoever leaves leaves every backend that works for it."""
    nvidia = backend("nvidia").hang()
    igpu = backend("igpu").say("igpu", after=0.4).hang()
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)
    caller = floor.submit(latency_critical=True)

    await trio.sleep(after)
    floor.dispatcher.withdraw(caller.job)

    await floor.assert_at_rest()
    assert Outcome.LEFT is floor.outcome(caller)


async def test_a_deadline_ends_both(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The caller hears once that it is too late, at exactly that time."""
    nvidia, igpu = backend("nvidia").hang(), backend("igpu").hang()
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    await earn(floor)
    begun = autojump_clock.current_time()

    caller = await floor.ask(max_latency_s=1.0, latency_critical=True)

    assert [(begun + 1.0, "deadline_exceeded"), (begun + 1.0, "done")] == caller.heard
    assert (1, 1) == (nvidia.left, igpu.left)
    await floor.assert_at_rest()


async def test_second_attempts_stay_within_their_share(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """However many are overdue, what the losers took is a twentieth of all work at the most."""
    nvidia = backend("nvidia").say("late", after=0.5)
    igpu = backend("igpu").say("igpu", after=0.4)
    floor = hedging(nursery, autojump_clock, nvidia, igpu)
    for _ in range(200):
        await floor.ask(target="nvidia")
        floor.station("nvidia").estimates.subjects.clear()
        floor.station("nvidia").touch()
        await floor.ask(latency_critical=True)

    hedged = [fact for fact in floor.facts if fact.hedged]
    extra_s = sum(0.5 if fact.backend == "igpu" else 0.275 for fact in hedged)
    all_s = sum(fact.whole_s for fact in floor.facts)
    assert 0 < extra_s <= 0.05 * all_s
