"""Those who wait go where it has become better; in exact virtual times."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import Probe
from tests.engine.floor import backend, open_floor
from tests.fleet import MODEL


async def test_a_slot_that_is_free_asks_the_other_lines(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who waits behind a slow request goes to the equal that has just become free."""
    floor = open_floor(
        nursery,
        autojump_clock,
        backend("a").say("slow", after=60.0).then().say("a", after=1.0),
        backend("b").say("b", after=3.0),
    )
    floor.submit(target="a")
    floor.submit(target="b")
    for name in ("a", "b"):
        floor.submit(target=name)
    waiting = floor.submit()
    assert waiting.job.decision is not None
    chosen = waiting.job.decision.backend

    await waiting.ended.wait()

    assert ("a", [(9.0, "b"), (9.0, "done")]) == (chosen, waiting.heard)


async def test_who_named_its_backend_stays(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A target is a target, however long its line is."""
    floor = open_floor(
        nursery, autojump_clock, backend("a").say("a", after=30.0), backend("b").say("b", after=1.0)
    )
    floor.submit(target="a")
    named = floor.submit(target="a")

    await floor.ask(target="b")
    await named.ended.wait()

    assert [(60.0, "a"), (60.0, "done")] == named.heard


async def test_a_backend_that_joins_is_used_by_those_who_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whoever is first in line goes there at once."""
    floor = open_floor(nursery, autojump_clock, backend("a").say("a", after=30.0))
    floor.submit()
    waiting = floor.submit()
    await trio.sleep(1.0)

    floor.open(backend("b").say("b", after=1.0))
    await waiting.ended.wait()

    assert [(2.0, "b"), (2.0, "done")] == waiting.heard


async def test_a_backend_that_comes_up_is_used_by_those_who_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A probe that is answered again is a change as any other."""
    floor = open_floor(nursery, autojump_clock, backend("a").say("a", after=30.0))
    late = floor.open(backend("b").say("b", after=1.0), healthy=False)
    floor.submit()
    waiting = floor.submit()
    await trio.sleep(1.0)

    late.is_well(Probe(models=frozenset({MODEL})))
    floor.dispatcher.health_changed(late)
    await waiting.ended.wait()

    assert [(2.0, "b"), (2.0, "done")] == waiting.heard


async def test_nobody_is_invited_by_a_backend_that_has_not_joined(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A new one is probed before it joins; what that finds concerns nobody yet."""
    floor = open_floor(nursery, autojump_clock, backend("a").say("a", after=30.0))
    floor.submit()
    waiting = floor.submit()
    late = floor.open(backend("b").say("b", after=1.0), healthy=False)
    del floor.dispatcher.stations["b"]
    late.is_well(Probe(models=frozenset({MODEL})))

    floor.dispatcher.health_changed(late)
    floor.dispatcher.stayed_busy(late)
    await waiting.ended.wait()

    assert "a" == floor.fact(waiting).backend


async def test_the_last_moment_is_one_to_look_elsewhere(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who must start now to be in time goes where it still can."""
    slow = backend("npu", avg_latency_s=1.0).say("npu", after=60.0)
    quick = backend("cpu", avg_latency_s=1.0, power_watts=300.0).say("cpu", after=1.0)
    floor = open_floor(nursery, autojump_clock, slow, quick)
    floor.submit(target="npu")
    hurried = floor.submit(max_latency_s=5.0)
    assert hurried.job.decision is not None
    chosen = hurried.job.decision.backend

    await hurried.ended.wait()

    assert ("npu", [(4.75, "cpu"), (4.75, "done")]) == (chosen, hurried.heard)


async def test_who_can_go_nowhere_keeps_its_place(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A forecast may be wrong: what was promised is tried until its time is over."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=1.4))
    floor.submit()
    hurried = floor.submit(max_latency_s=3.0)

    await hurried.ended.wait()

    assert [(2.8, "a"), (2.8, "done")] == hurried.heard


async def test_a_conversation_goes_back_to_where_it_was(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Of equals, the one that has computed the beginning of the prompt."""
    floor = open_floor(nursery, autojump_clock, backend("a").say("a"), backend("b").say("b"))
    first = floor.job(target="b")
    first.job.ask = floor.asked(prefix=(1, 2, 3), prompt_bytes=2000)
    floor.dispatcher.submit(first.job)
    await first.ended.wait()

    second = floor.job()
    second.job.ask = floor.asked(prefix=(1, 2, 3, 4), prompt_bytes=2500)
    explained = floor.dispatcher.explain(second.job)
    floor.dispatcher.submit(second.job)
    await second.ended.wait()

    assert "b" == floor.fact(second).backend
    assert [c.terms.prefix > 0 for c in explained.outcome.candidates] == [True, False]  # type: ignore[union-attr]  # it was decided


async def test_a_model_that_was_used_is_loaded(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Before any probe says so, and so the next one is not expected to wait for it."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=6.0))
    station = floor.station()
    station.is_well(Probe(models=frozenset({MODEL}), loaded=frozenset()))

    await floor.ask()
    await wait_all_tasks_blocked()

    learned = station.estimates.forecast(
        floor.asked(), station.spec.prior, loaded=False, now=autojump_clock.current_time()
    )
    assert (frozenset({MODEL}), False) == (station.loaded, station.must_load(MODEL))
    assert 5.2 == round(learned.load_s, 3)
