"""Another router at work for this one: what it says of itself, and what becomes of what it refuses."""

from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.endings import FULL_LEAST_S, FULL_MOST_S
from ollama_proxy.engine.health import HealthSettings, watch_health
from ollama_proxy.engine.news import News
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Call, MediaType, Priority
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.readings import Findings, Kind, Quality, Zone
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Decision, choose
from ollama_proxy.policy.thermal import ThermalState
from tests.engine.floor import Floor, Listener, backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL, ask

SETTINGS = HealthSettings(interval_s=5.0, first_interval_s=0.5, timeout_s=2.0)
MODELS = frozenset({MODEL})


def router(**changes: Any) -> ScriptedBackend:
    """A router with as many slots as it says."""
    given: dict[str, Any] = {"type": BackendType.ROUTER, "slots_max": 1024}
    return backend("nvidia", **(given | changes))


def says(**told: Any) -> Probe:
    """What it says of itself."""
    return Probe(models=MODELS, node=Node(**told))


async def watch(floor: Floor, played: ScriptedBackend) -> Station:
    """Put it to work, and return after its first probe."""
    station = floor.open(played, healthy=False)
    limiter = trio.CapacityLimiter(8)
    await floor.nursery.start(partial(watch_health, floor.dispatcher, station, SETTINGS, limiter))
    return station


async def open_node(
    nursery: trio.Nursery, clock: MockClock, played: ScriptedBackend, *others: ScriptedBackend
) -> tuple[Floor, Station]:
    """One that is watched, with others beside it."""
    floor = open_floor(nursery, clock, *others)
    return floor, await watch(floor, played)


class TestSlots:
    """How many of its slots are used."""

    @pytest.mark.parametrize(
        ("told", "most", "used"), [(4, 1024, 4), (4, 2, 2), (0, 1024, 1), (None, 1024, 1)]
    )
    async def test_they_are_its_own(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        told: int | None,
        most: int,
        used: int,
    ) -> None:
        """As many as it says, no more than the owner wants, and one where it says nothing."""
        played = router(slots_max=most).hang()
        played.health = says(slots=told)
        floor, _ = await open_node(nursery, autojump_clock, played)
        for _ in range(6):
            floor.submit()
        await wait_all_tasks_blocked()

        assert used == played.busiest

    async def test_more_of_them_are_used_at_once(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Those who wait here start as soon as it says that there is room."""
        played = router().hang()
        played.health = says(slots=1)
        floor, station = await open_node(nursery, autojump_clock, played)
        for _ in range(3):
            floor.submit()
        played.health = says(slots=3)
        await trio.sleep(SETTINGS.interval_s + 0.1)

        assert (3, 3, 0) == (station.spec.slots, played.busiest, len(station.line))

    async def test_fewer_end_no_request(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """What is under way goes on; only then there are fewer."""
        played = router().say("a", after=7.0)
        played.health = says(slots=3)
        floor, station = await open_node(nursery, autojump_clock, played)
        callers = [floor.submit() for _ in range(5)]
        played.health = says(slots=1)
        await trio.sleep(6.0)
        assert (1, 3, 2) == (station.spec.slots, station.in_flight, len(station.line))

        for caller in callers:
            await caller.ended.wait()
        assert [["a", "done"]] * 5 == [caller.said for caller in callers]
        assert 7.0 * 3 == trio.current_time()
        await floor.assert_at_rest()


class TestState:
    """What it says holds while it says so."""

    async def test_whose_it_is_is_known(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Once it has said so; nobody's before."""
        played = router()
        played.health = says(id="a1")
        floor, station = await open_node(nursery, autojump_clock, played)

        assert ("a1", "") == (station.node_id, floor.open(backend("cpu")).node_id)

    async def test_what_is_not_told_any_more_is_unknown(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """One that is down, and one that has become an old version, tell nothing."""
        played = router()
        hot = says(slots=4, heat=ThermalState.SEVERE, watts=9.0, at_work=3, waiting=(0, 2, 0, 0))
        played.health = hot
        _, station = await open_node(nursery, autojump_clock, played)
        assert station.others is not None
        known = (station.heat, station.usual_watts, station.spec.slots, station.others.count)
        unknown = []
        for silent in (BackendFailed(Fault.UNREACHABLE, "gone"), Probe(models=MODELS)):
            played.health = silent
            await trio.sleep(6.0)
            unknown.append((
                station.heat,
                station.usual_watts,
                station.spec.slots,
                station.others.count,
            ))
            played.health = hot
            await trio.sleep(6.0)

        assert (ThermalState.SEVERE, 9.0, 4, 5) == known
        assert [(ThermalState.UNKNOWN, 55.0, 1, 0)] * 2 == unknown

    @pytest.mark.parametrize(
        ("told", "is_anew"),
        [
            ({"at_work": 2, "waiting": (1, 0, 0, 0), "battery_percent": 40.0}, False),
            ({"first_s": {MODEL: 0.2}}, True),
            ({"mode": Mode.QUIET}, True),
            ({"calls": frozenset({Call.OPENAI_CHAT})}, True),
            ({"slots": 3}, True),
        ],
    )
    async def test_only_news_has_it_judged_anew(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        told: dict[str, Any],
        is_anew: bool,
    ) -> None:
        """Its load is live: with each word of a hundred nodes a choice would else begin from nothing."""
        played = router()
        played.health = says(slots=2, at_work=0, waiting=(0, 0, 0, 0))
        _, station = await open_node(nursery, autojump_clock, played)
        before = station.view(trio.current_time())
        played.health = says(**({"slots": 2, "at_work": 0, "waiting": (0, 0, 0, 0)} | told))
        await trio.sleep(SETTINGS.interval_s + 0.1)

        assert is_anew is (station.view(trio.current_time()) is not before)

    async def test_one_that_may_compute_what_was_cancelled_answers_all_the_same(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Unlike a server of models. So one that does not answer is down, and gets nothing more."""
        played = router().hang()
        played.health = says(slots=2, heat=ThermalState.SEVERE)
        floor, station = await open_node(nursery, autojump_clock, played)
        caller = floor.submit()
        await trio.sleep(1.0)
        played.health = None
        floor.dispatcher.withdraw(caller.job)
        await trio.sleep(SETTINGS.timeout_s + 0.5)

        assert (False, None, ThermalState.UNKNOWN) == (station.healthy, station.node, station.heat)
        assert 0 == station.in_flight

    async def test_one_that_is_about_to_end_is_given_nothing_new(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Its own drain begins: what it has, it finishes."""
        played, other = router().say("far", after=8.0), backend("cpu").say("near")
        played.health = says(slots=2)
        floor, station = await open_node(nursery, autojump_clock, played, other)
        before = floor.submit()
        played.health = says(slots=2, is_draining=True)
        await trio.sleep(6.0)
        after = await floor.ask()
        told = floor.dispatcher.explain(floor.job().job)
        floor.callers.pop()
        await before.ended.wait()

        assert (["far", "done"], ["near", "done"]) == (before.said, after.said)
        assert [("nvidia", "is shutting down")] == list(told.barred)
        assert station.healthy

    async def test_calls_that_it_does_not_serve_go_elsewhere(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It says which it serves."""
        played, other = router().say("far"), backend("cpu").say("near")
        played.health = says(calls=frozenset({Call.OPENAI_CHAT}))
        floor, _ = await open_node(nursery, autojump_clock, played, other)

        said = [(await floor.ask(call=c)).said[0] for c in (Call.OPENAI_CHAT, Call.OLLAMA_CHAT)]
        assert ["far", "near"] == said

    async def test_this_machines_heat_is_not_its_own(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A look at our sensors leaves what it says of itself alone, and is not taken for it."""
        played = router()
        played.health = says(heat=ThermalState.LIGHT)
        floor, station = await open_node(nursery, autojump_clock, played)
        climate = Climate(floor.dispatcher, ClimateSettings(), News(), minute_of_day=lambda: 0)
        hot = Zone(
            name="cpu",
            kind=Kind.CPU,
            hardware=station.spec.hardware,
            temperature_c=99.0,
            quality=Quality.OK,
            source="test",
        )
        climate.publish("sensor", Findings(zones=(hot,)))
        climate.look()

        assert (ThermalState.LIGHT, None) == (station.heat, station.part)
        assert not floor.dispatcher.settings.route.is_calm


class TestChoice:
    """What it says weighs as what is seen of our own."""

    async def _chosen(
        self, nursery: trio.Nursery, clock: MockClock, **told: Any
    ) -> tuple[Floor, Decision]:
        """A node that is as good as our own, but for what it says; ours would be second."""
        played, other = router(preference=1), backend("igpu")
        played = ScriptedBackend(
            attrs.evolve(played.spec, power_watts=12.0, avg_latency_s=0.4, slots_max=8)
        )
        played.health = says(**told)
        floor, _ = await open_node(nursery, clock, played, other)
        now = trio.current_time()
        views = [s.view(now) for s in floor.dispatcher.stations.values()]
        settings = floor.dispatcher.settings.route
        outcome = choose(ask(), floor.job().job.wishes, views, settings, now=now)
        assert isinstance(outcome, Decision)
        return floor, outcome

    @pytest.mark.parametrize(
        ("told", "chosen"),
        [
            ({}, "nvidia"),
            ({"mode": Mode.BALANCED}, "nvidia"),
            ({"watts": 3.0}, "nvidia"),
            ({"watts": 48.0}, "igpu"),
            ({"first_s": {MODEL: 0.1}}, "nvidia"),
            ({"first_s": {MODEL: 1.6}}, "igpu"),
            ({"heat": ThermalState.NOMINAL, "mode": Mode.QUIET}, "igpu"),  # 12 watts weigh double
            ({"heat": ThermalState.NOMINAL, "mode": Mode.QUIET, "watts": 0.5}, "nvidia"),
            ({"heat": ThermalState.LIGHT, "mode": Mode.QUIET, "watts": 0.5}, "igpu"),
            ({"mode": Mode.ULTRA_EFFICIENCY, "watts": 9.0, "first_s": {MODEL: 0.001}}, "nvidia"),
            ({"mode": Mode.ULTRA_EFFICIENCY, "watts": 11.0, "first_s": {MODEL: 1e-6}}, "igpu"),
            ({"heat": ThermalState.SEVERE, "watts": 0.1}, "igpu"),
            ({"heat": ThermalState.CRITICAL, "watts": 0.1}, "igpu"),
            ({"at_work": 9, "waiting": (0, 9, 0, 0), "slots": 1}, "igpu"),
        ],
        ids=repr,
    )
    async def test_of_two_the_better_one_is_taken(
        self, nursery: trio.Nursery, autojump_clock: MockClock, told: dict[str, Any], chosen: str
    ) -> None:
        """By its watts, its times, its heat, its mode and its line."""
        _, decision = await self._chosen(nursery, autojump_clock, **told)

        assert chosen == decision.backend

    async def test_what_was_learned_here_goes_before(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It says a millisecond, and takes seconds: after some answers that is known."""
        played, other = router().say("far", after=4.0), backend("cpu").say("near", after=1.0)
        played.health = says(first_s={MODEL: 0.001}, slots=1)
        floor, _ = await open_node(nursery, autojump_clock, played, other)
        said = [(await floor.ask(latency_critical=True)).said[0] for _ in range(8)]

        assert "far" == said[0]
        assert ["near"] * 4 == said[-4:]

    async def test_heat_moves_who_waits(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It becomes too hot: those in its line here go elsewhere as soon as it says so."""
        played, other = router().say("far", after=60.0), backend("cpu").say("near")
        played.health = says(slots=1, watts=0.1, first_s={MODEL: 0.001})
        floor, station = await open_node(nursery, autojump_clock, played, other)
        floor.submit()
        floor.station("cpu").is_down("not yet")
        waiting = floor.submit()
        assert 1 == len(station.line)
        floor.station("cpu").is_well(Probe(models=MODELS))
        played.health = says(slots=1, heat=ThermalState.CRITICAL)
        await trio.sleep(SETTINGS.interval_s + 0.1)

        assert ["near", "done"] == waiting.said


class TestRefusal:
    """A refusal of one that is well."""

    async def test_it_is_full_and_somebody_else_serves(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It lied, or filled up since: unseen by the caller, and it is not asked until it says."""
        played = router().turn_away(Code.QUEUE_FULL, retry_after_s=30.0).then().say("far")
        other = backend("cpu").say("near")
        played.health = says(slots=8, first_s={MODEL: 0.001}, watts=1.0)
        floor, station = await open_node(nursery, autojump_clock, played, other)
        caller = await floor.ask()
        meanwhile = await floor.ask()
        circuit = station.circuit
        await trio.sleep(31.0)
        after = await floor.ask()

        assert ["near", "done"] == caller.said == meanwhile.said
        assert [("nvidia", "cpu")] == list(floor.fact(caller).failovers)
        assert ["far", "done"] == after.said
        assert (0, 0.0) == (circuit.failures, circuit.failing(0.0))
        assert 2 == len(played.errands)

    async def test_who_is_more_urgent_is_not_turned_away(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Its line is full for the priority that was refused and those below, no more."""
        played = router().turn_away(Code.QUEUE_FULL, retry_after_s=30.0).then().say("far")
        played.health = says(slots=8)
        floor, _ = await open_node(nursery, autojump_clock, played)
        first = await floor.ask(priority=Priority.NORMAL)
        below = await floor.ask(priority=Priority.BEST_EFFORT)
        above = await floor.ask(priority=Priority.HIGH)

        assert ["queue_full", "done"] == first.said == below.said
        assert ["far", "done"] == above.said

    @pytest.mark.parametrize("code", [Code.RATE_LIMITED, Code.SHUTTING_DOWN])
    async def test_or_everybody_is(
        self, nursery: trio.Nursery, autojump_clock: MockClock, code: Code
    ) -> None:
        """Where the reason is not its line."""
        played = router().turn_away(code, retry_after_s=30.0).then().say("far")
        played.health = says(slots=8)
        floor, _ = await open_node(nursery, autojump_clock, played)
        await floor.ask()
        above = await floor.ask(priority=Priority.CRITICAL)

        assert ["queue_full", "done"] == above.said

    @pytest.mark.parametrize(
        ("told_s", "held_s"),
        [(None, FULL_LEAST_S), (0.0, FULL_LEAST_S), (9.0, 9.0), (1e6, FULL_MOST_S)],
    )
    async def test_it_is_left_alone_for_as_long_as_it_says(
        self,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        told_s: float | None,
        held_s: float,
    ) -> None:
        """Within reason."""
        played = router().turn_away(Code.QUEUE_FULL, retry_after_s=told_s).then().say("far")
        played.health = says(slots=8)
        floor, _ = await open_node(nursery, autojump_clock, played)
        await floor.ask()
        said = []
        for pause_s in (held_s - 0.1, 0.2):
            await trio.sleep(pause_s)
            said.append((await floor.ask()).said[0])

        assert ["queue_full", "far"] == said

    async def test_its_words_reach_the_caller(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Where nobody else is left: its code, its sentence, its time to come again."""
        played = router().turn_away(Code.NO_BACKEND, retry_after_s=7.0)
        played.health = says(slots=8, mode=Mode.QUIET)
        floor, station = await open_node(nursery, autojump_clock, played)
        caller = await floor.ask()

        assert caller.refusal is not None
        assert (Code.NO_BACKEND, 7.0) == (caller.refusal.code, caller.refusal.retry_after_s)
        assert "nvidia: it answered 503: no_backend, in its own words" == caller.refusal.message
        assert (0, None) == (station.circuit.failures, station.turned_away)

    @pytest.mark.parametrize("code", [Code.QUEUE_FULL, Code.DEADLINE_UNMEETABLE])
    async def test_nobody_is_sent_away_for_longer_than_it_is_left_alone(
        self, nursery: trio.Nursery, autojump_clock: MockClock, code: Code
    ) -> None:
        """A node may say days; its caller's next request may be served by another, or by itself."""
        played = router().turn_away(code, retry_after_s=999_999.0)
        played.health = says(slots=8)
        floor, _ = await open_node(nursery, autojump_clock, played)
        caller = await floor.ask()

        assert caller.refusal is not None
        assert (code, FULL_MOST_S) == (caller.refusal.code, caller.refusal.retry_after_s)

    @pytest.mark.parametrize("code", [Code.DEADLINE_UNMEETABLE, Code.DEADLINE_EXCEEDED])
    async def test_a_deadline_that_it_cannot_meet_another_may(
        self, nursery: trio.Nursery, autojump_clock: MockClock, code: Code
    ) -> None:
        """In time, and it is asked again: the refusal was about that one deadline."""
        played = router().turn_away(code).then().say("far")
        other = backend("igpu").say("near")
        played.health = says(slots=8, first_s={MODEL: 0.001}, watts=1.0)
        floor, _ = await open_node(nursery, autojump_clock, played, other)
        caller = await floor.ask(max_latency_s=2.0)
        after = await floor.ask()

        assert (["near", "done"], ["far", "done"]) == (caller.said, after.said)

    async def test_one_that_would_be_late_is_taken_for_busy_until_it_tells_anew(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """What it told last is out of date: whoever comes before the next probe would be declined, too."""
        played = router().turn_away(Code.DEADLINE_UNMEETABLE, retry_after_s=3.0).then().say("far")
        other = backend("igpu").say("near", after=0.4)
        # A little better than the other, where nobody is there.
        node = Node(slots=2, at_work=0, waiting=(0, 0, 0, 0), first_s={MODEL: 0.35}, watts=12.0)
        played.health = Probe(models=MODELS, node=node)
        floor, station = await open_node(nursery, autojump_clock, played, other)
        said = [(await floor.ask(max_latency_s=1.0)).said[0] for _ in range(2)]
        assert station.others is not None
        believed = station.others.at_work
        await trio.sleep(SETTINGS.interval_s + 0.1)
        said.append((await floor.ask(max_latency_s=1.0)).said[0])

        assert (["near", "near", "far"], 2) == (said, believed)

    async def test_what_it_takes_to_load_is_learned_of_a_refusal(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """One that must load the model, and would be late by that, is not asked in vain again."""
        played = router().turn_away(Code.DEADLINE_UNMEETABLE, retry_after_s=9.0).then().say("far")
        other = backend("igpu").say("near")
        node = Node(slots=2, at_work=0, waiting=(0, 0, 0, 0), first_s={MODEL: 0.001}, watts=1.0)
        played.health = Probe(models=MODELS, loaded=frozenset(), node=node)
        floor, station = await open_node(nursery, autojump_clock, played, other)
        said = []
        for _ in range(3):
            said.append((await floor.ask(max_latency_s=1.0)).said[0])
            await trio.sleep(SETTINGS.interval_s + 0.1)
        forecast = station.estimates.forecast(
            ask(), station.prior(ask()), loaded=False, now=trio.current_time()
        )

        assert (["near"] * 3, 1) == (said, len(played.errands))
        assert forecast.first_s == pytest.approx(9.0)

    async def test_those_in_line_here_go_where_there_is_room(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Or keep their places, and start when it takes requests again."""
        played = router().say("a", after=1.0)
        played.then().turn_away(Code.QUEUE_FULL, retry_after_s=4.0).then().say("b")
        played.health = says(slots=1)
        floor, station = await open_node(nursery, autojump_clock, played)
        callers: list[Listener] = [floor.submit() for _ in range(4)]
        await trio.sleep(2.0)
        assert (2, 2) == (len(station.line), len(played.errands))

        for caller in callers:
            await caller.ended.wait()
        assert ["a", "queue_full", "b", "b"] == [caller.said[0] for caller in callers]
        await floor.assert_at_rest()


class TestWishes:
    """What goes along."""

    async def test_they_go_along_with_what_is_left_of_the_deadline(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Counted when it is sent, after the wait in line here."""
        played = router().say("a", after=1.5)
        played.health = says(slots=1)
        floor, _ = await open_node(nursery, autojump_clock, played)
        callers = [
            floor.submit(),
            floor.submit(
                max_latency_s=10.0,
                priority=Priority.HIGH,
                media_type=MediaType.AUDIO,
                target="nvidia",
            ),
        ]
        for caller in callers:
            await caller.ended.wait()

        assert () == played.errands[0].headers
        assert {
            b"x-priority": b"high",
            b"x-media-type": b"audio",
            b"x-max-latency-ms": b"8500.000",
        } == dict(played.errands[1].headers)

    async def test_nobody_else_is_told(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Other servers know nothing of them."""
        played = backend().say("a")
        floor = open_floor(nursery, autojump_clock, played)
        await floor.ask(priority=Priority.HIGH, max_latency_s=9.0)

        assert () == played.errands[0].headers


async def test_a_request_from_a_router_goes_to_no_router(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """One hop: it is served here, or refused, and the reason is told."""
    played = router().say("far")
    played.health = says(slots=4)
    floor, _ = await open_node(nursery, autojump_clock, played)
    caller = floor.job()
    caller.job.ask = attrs.evolve(caller.job.ask, forwarded=True)
    told = floor.dispatcher.explain(caller.job)
    floor.dispatcher.submit(caller.job)
    await caller.ended.wait()

    assert ["no_backend", "done"] == caller.said
    assert [("nvidia", "is a router, and the request came through one")] == list(told.barred)
    assert [] == played.errands


async def test_a_request_from_a_router_for_what_a_router_has(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A model that our own backends lack is not here, for a router: it looks elsewhere."""
    played, own = router().say("far"), backend("cpu").say("near")
    played.health = says(slots=4)
    floor, _ = await open_node(nursery, autojump_clock, played, own)
    floor.station("cpu").is_well(Probe(models=frozenset({"other:1"})))
    caller = floor.job()
    caller.job.ask = attrs.evolve(caller.job.ask, forwarded=True)
    floor.dispatcher.submit(caller.job)
    await caller.ended.wait()

    assert ["model_not_found", "done"] == caller.said
    assert [] == played.errands == own.errands
