"""When a backend is asked how it is, and what its answer changes."""

from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe
from ollama_proxy.engine.health import PLACE_KEPT_S, HealthSettings, watch_health
from ollama_proxy.engine.station import LINGERS_MAX_S, Station
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.circuit import Circuit
from tests.engine.floor import Floor, backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL

WELL = Probe(models=frozenset({MODEL}))
DOWN = BackendFailed(Fault.UNREACHABLE, "no connection could be made to it")
SETTINGS = HealthSettings(interval_s=5.0, first_interval_s=0.5, timeout_s=2.0)


async def watch(floor: Floor, played: ScriptedBackend, *, places: int = 8) -> Station:
    """Put a backend to work of which nothing is known, and return after its first probe."""
    station = floor.open(played, healthy=False)
    limiter = trio.CapacityLimiter(places)
    await floor.nursery.start(partial(watch_health, floor.dispatcher, station, SETTINGS, limiter))
    return station


async def test_one_that_is_well_joins_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The first probe has been answered when the task says that it has started."""
    played = backend().say("a")
    played.health = WELL
    floor = open_floor(nursery, autojump_clock)

    station = await watch(floor, played)

    assert (True, frozenset({MODEL}), None) == (
        station.healthy,
        station.models,
        station.last_error,
    )
    await floor.assert_serves_next()


async def test_one_that_comes_back_is_tried_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Whoever has started a server anew does not wait for the pause that the former one earned."""
    played = backend().say("a")
    played.health = WELL
    station = await watch(open_floor(nursery, autojump_clock), played)
    station.circuit = Circuit(failures=9, openings=5, retry_at=trio.current_time() + 300.0)
    station.touch()
    barred = station.view(trio.current_time()).circuit_open
    played.health = DOWN
    await trio.sleep(6.0)
    was_down = not station.healthy
    played.health = WELL
    await trio.sleep(30.0)

    assert barred
    assert was_down
    assert not station.view(trio.current_time()).circuit_open


async def test_one_that_is_well_is_asked_at_the_interval(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """No more often than its owner says."""
    played = backend()
    played.health = WELL
    await watch(open_floor(nursery, autojump_clock), played)

    await trio.sleep(16.0)

    assert [0.0, 5.0, 10.0, 15.0] == played.probed


async def test_one_that_is_down_is_asked_ever_less_often(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Soon at first, since it may just be starting; at the interval in the end."""
    played = backend()
    played.health = DOWN
    station = await watch(open_floor(nursery, autojump_clock), played)

    await trio.sleep(18.0)

    assert [0.0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5] == played.probed
    assert (False, str(DOWN)) == (station.healthy, station.last_error)


async def test_one_that_was_down_joins_when_it_comes_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The probe that finds it well is enough; until then its requests are refused."""
    played = backend().say("a")
    played.health = DOWN
    floor = open_floor(nursery, autojump_clock)
    await watch(floor, played)
    said = [(await floor.ask()).said[0]]

    await trio.sleep(1.0)
    played.health = WELL
    for pause_s in (0.25, 0.3):
        await trio.sleep(pause_s)
        said.append((await floor.ask()).said[0])

    assert ["no_backend", "no_backend", "a"] == said
    assert [0.0, 0.5, 1.5] == played.probed


async def test_one_that_goes_down_is_asked_soon_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A server that is started anew is missed for no longer than one that just starts."""
    played = backend()
    played.health = DOWN
    await watch(open_floor(nursery, autojump_clock), played)
    for seconds, is_well in [(3.0, True), (7.0, False), (7.0, True), (8.0, True)]:
        await trio.sleep(seconds)
        played.health = WELL if is_well else DOWN

    assert [0.0, 0.5, 1.5, 3.5, 8.5, 13.5, 14.0, 15.0, 17.0, 22.0] == played.probed


async def test_one_that_does_not_answer_is_down(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A probe has so much time, and the next comes after the usual pause."""
    played = backend()
    played.health = None
    station = await watch(open_floor(nursery, autojump_clock), played)

    assert 2.0 == autojump_clock.current_time()
    assert (False, "it did not answer a probe within 2 s") == (station.healthy, station.last_error)
    await trio.sleep(1.0)
    assert [0.0, 2.5] == played.probed


async def test_probes_take_turns(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """No more begin at once than there are places; one that is silent gives up its own."""
    fleet = [backend("npu"), backend("igpu")]
    floor = open_floor(nursery, autojump_clock)
    limiter = trio.CapacityLimiter(1)
    for played in fleet:
        played.health = None
        station = floor.open(played, healthy=False)
        nursery.start_soon(watch_health, floor.dispatcher, station, SETTINGS, limiter)

    await trio.sleep(3.0)

    assert [0.0, PLACE_KEPT_S] == sorted(played.probed[0] for played in fleet)


async def test_those_in_line_of_one_that_goes_down(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """They are placed elsewhere or refused when the probe fails; who is at work goes on."""
    npu, igpu = backend("npu").say("n", after=8.0), backend("igpu").say("i", after=1.0)
    npu.health = WELL
    floor = open_floor(nursery, autojump_clock, igpu)
    await watch(floor, npu)
    running, refused = floor.submit(target="npu"), floor.submit(target="npu")
    moved = floor.submit(power_efficient=True)

    npu.health = DOWN
    await running.ended.wait()

    assert [(8.0, "n"), (5.0, "no_backend"), (6.0, "i")] == [
        caller.heard[0] for caller in (running, refused, moved)
    ]
    assert 5.0 == floor.fact(refused).queue_s
    await floor.assert_at_rest()


async def test_a_new_model_is_known_with_the_next_probe(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What was pulled meanwhile is served, what was deleted is not."""
    played = backend().say("a")
    played.health = WELL
    floor = open_floor(nursery, autojump_clock)
    await watch(floor, played)

    played.health = Probe(models=frozenset({"other"}))
    await trio.sleep(5.5)

    said = [(await floor.ask(model=model)).said[0] for model in (MODEL, "other")]
    assert ["model_not_found", "a"] == said


@pytest.mark.parametrize("health", [WELL, DOWN], ids=["well", "down"])
async def test_a_state_is_told_once(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    health: Probe | BackendFailed,
) -> None:
    """The log says when a backend comes or goes, not that it is still there or not."""
    caplog.set_level("INFO", logger="ollama_proxy.health")
    played = backend()
    played.health = health
    await watch(open_floor(nursery, autojump_clock), played)

    await trio.sleep(60.0)
    await wait_all_tasks_blocked()

    word = "up" if health is WELL else "down"
    assert [True] == [f"backend npu is {word}" in line for line in caplog.messages]


class TestLingering:
    """A backend that may still compute what was cancelled."""

    async def test_a_slot_is_taken_until_a_probe_is_answered(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The next one starts when the backend has answered, not when the last caller left."""
        played = backend().hang().then().say("a", after=1.0)
        played.health = WELL
        floor = open_floor(nursery, autojump_clock)
        station = await watch(floor, played)
        gone, waiting = floor.submit(), floor.submit()
        await trio.sleep(1.0)
        played.health = None  # it answers nothing while it computes

        floor.dispatcher.withdraw(gone.job)
        await trio.sleep(1.0)
        busy = station.in_flight
        played.health = WELL
        await waiting.ended.wait()

        # The probe that was not answered took its two seconds; busy is not down.
        assert (1, ["a", "done"]) == (busy, waiting.said)
        assert 4.0 <= waiting.heard[0][0] <= 5.0
        await floor.assert_at_rest()

    async def test_a_quick_answer_costs_no_time(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """It is asked at once, not at the interval."""
        played = backend().hang().then().say("a", after=1.0)
        played.health = WELL
        floor = open_floor(nursery, autojump_clock)
        await watch(floor, played)
        gone, waiting = floor.submit(), floor.submit()
        await trio.sleep(1.0)

        floor.dispatcher.withdraw(gone.job)
        await waiting.ended.wait()

        assert (2.0, "a") == waiting.heard[0]
        assert [0.0, 1.0] == played.probed

    async def test_one_that_says_it_computes_is_asked_again(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Every twentieth of a second, until it says that it does not."""
        played = backend().hang().then().say("a", after=1.0)
        played.health = WELL
        floor = open_floor(nursery, autojump_clock)
        await watch(floor, played)
        gone, waiting = floor.submit(), floor.submit()
        await trio.sleep(1.0)
        played.health = attrs.evolve(WELL, computing=1)

        floor.dispatcher.withdraw(gone.job)
        await trio.sleep(0.52)
        played.health = attrs.evolve(WELL, computing=0)
        await waiting.ended.wait()

        assert waiting.heard[0][0] == pytest.approx(2.55)
        await floor.assert_at_rest()

    async def test_others_work_on_it_is_not_taken_for_ours(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A server that always computes something for somebody else is not waited for for ever."""
        played = backend().hang().then().say("a", after=1.0)
        played.health = attrs.evolve(WELL, computing=1)
        floor = open_floor(nursery, autojump_clock)
        await watch(floor, played)
        gone, waiting = floor.submit(), floor.submit()
        await trio.sleep(1.0)

        floor.dispatcher.withdraw(gone.job)
        await waiting.ended.wait()

        assert LINGERS_MAX_S + 1.0 < waiting.heard[0][0] < LINGERS_MAX_S + 3.0

    async def test_a_stream_that_has_begun_leaves_nothing_behind(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """Closing its connection ends it: no probe is sent for it."""
        played = backend().say("a", after=0.5).hang().then().say("b", after=1.0)
        played.health = WELL
        floor = open_floor(nursery, autojump_clock)
        await watch(floor, played)
        gone, waiting = floor.submit(), floor.submit()
        await trio.sleep(1.0)

        floor.dispatcher.withdraw(gone.job)
        await waiting.ended.wait()

        assert ((2.0, "b"), [0.0]) == (waiting.heard[0], played.probed)

    async def test_a_critical_request_goes_elsewhere_rather_than_wait_for_it(
        self, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """A backend that does not let go of what was cancelled is as good as busy."""
        stubborn = backend("nvidia").hang().then().say("late", after=0.15)
        stubborn.health = attrs.evolve(WELL, computing=1)
        igpu = backend("igpu").say("igpu", after=0.4)
        igpu.health = WELL
        floor = open_floor(nursery, autojump_clock)
        await watch(floor, stubborn)
        await watch(floor, igpu)
        floor.submit(priority=Priority.BEST_EFFORT, target="nvidia")
        await trio.sleep(1.0)

        voice = floor.submit(priority=Priority.CRITICAL, latency_critical=True)
        await voice.ended.wait()

        assert ["igpu", "done"] == voice.said
        assert voice.heard[0][0] < 2.0


async def test_a_place_is_given_back_whatever_happens(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A backend that is taken out of the file in the middle of its probe leaves its place free."""
    played = backend()
    played.health = None
    floor = open_floor(nursery, autojump_clock)
    station = floor.open(played, healthy=False)
    limiter = trio.CapacityLimiter(1)

    with trio.move_on_after(PLACE_KEPT_S / 2):
        await watch_health(floor.dispatcher, station, SETTINGS, limiter)

    assert 0 == limiter.borrowed_tokens
