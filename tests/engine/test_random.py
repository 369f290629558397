"""Whatever happens in whatever order: slots are kept, and each job ends exactly once."""

import functools
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from trio.testing import MockClock

from ollama_proxy.engine.endings import Ending
from ollama_proxy.policy.ask import Call, Priority, Wishes
from ollama_proxy.policy.preempt import Started
from tests.engine import storm
from tests.engine.floor import backend, open_floor
from tests.engine.storm import CAPACITY, NAMES, SLOTS, Storm
from tests.fakes.backend import ScriptedBackend

ENDINGS = st.sampled_from(storm.ENDINGS)


WISHES = st.builds(
    Wishes,
    max_latency_s=st.sampled_from([None, 0.001, 3.0, 10.0, 1e300]),
    priority=st.sampled_from(Priority),
    target=st.sampled_from([None, None, None, *NAMES, "nobody"]),
)


class Dispatching(RuleBasedStateMachine):
    """A storm whose every event hypothesis chooses."""

    @initialize(
        preempts=st.sampled_from([None, *Started]),
        reserve=st.integers(0, 2),
        hedge_budget=st.sampled_from([0.0, 0.5]),
    )
    def open(self, preempts: Started | None, reserve: int, hedge_budget: float) -> None:
        """The router starts."""
        self.storm = Storm(preempts=preempts, reserve=reserve, hedge_budget=hedge_budget)

    @rule(
        call=st.sampled_from([Call.OPENAI_CHAT, Call.OLLAMA_CHAT]),
        stream=st.booleans(),
        wishes=WISHES,
        late_s=st.sampled_from([0.0, 0.0, 5.0]),
        client=st.sampled_from("ab"),
    )
    def submit(self, call: Call, stream: bool, wishes: Wishes, late_s: float, client: str) -> None:
        """A request comes."""
        self.storm.submit(wishes, call=call, stream=stream, late_s=late_s, client=client)

    @precondition(lambda self: self.storm.jobs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller goes, if it has not gone long since; some go twice."""
        job = data.draw(st.sampled_from(self.storm.jobs))
        self.storm.leave(job)
        self.storm.leave(job)

    @precondition(lambda self: self.storm.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """An attempt brings its first bytes."""
        self.storm.answer(data.draw(st.integers(0, len(self.storm.running) - 1)))

    @precondition(lambda self: self.storm.running)
    @rule(data=st.data())
    def say_the_last(self, data: st.DataObject) -> None:
        """An answer comes to a place from where nobody could go on."""
        self.storm.say_the_last(data.draw(st.integers(0, len(self.storm.running) - 1)))

    @precondition(lambda self: self.storm.running)
    @rule(data=st.data(), ending=ENDINGS)
    def end(self, data: st.DataObject, ending: Ending) -> None:
        """An attempt ends."""
        self.storm.end(data.draw(st.integers(0, len(self.storm.running) - 1)), ending)

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 400.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and the deadlines with it."""
        self.storm.wait(seconds)

    @rule(
        name=st.sampled_from(NAMES),
        computing=st.sampled_from([None, 0, 1, 4]),
        is_up=st.booleans(),
    )
    def probe(self, name: str, computing: int | None, is_up: bool) -> None:
        """A probe ends."""
        self.storm.probe(name, computing, is_up=is_up)

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        """A backend joins, or takes the place of the one that had its id."""
        self.storm.join(name)

    @rule(name=st.sampled_from(NAMES))
    def go(self, name: str) -> None:
        """A backend is taken out of the configuration."""
        self.storm.go(name)

    @precondition(lambda self: self.storm.submitted > 25)  # or little else would ever happen
    @rule()
    def stop(self) -> None:
        """The router stops; the workers learn it later."""
        self.storm.dispatcher.stop()

    @invariant()
    def all_is_well(self) -> None:
        """Nothing is lost, nothing is taken twice."""
        self.storm.check()

    def teardown(self) -> None:
        """At the end, all who are still there can end."""
        if hasattr(self, "storm"):  # what fails before the start has none
            self.storm.subside()


Dispatching.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestDispatching = Dispatching.TestCase


STEPS = st.sampled_from([
    "say",
    "say_later",
    "hang",
    "refuse",
    "die",
    "unserved",
    "missing",
    "reject",
    "silence",
])
SCRIPTS = st.lists(st.lists(STEPS, max_size=4), min_size=1, max_size=4)


def scripted(name: str, scripts: list[list[str]]) -> ScriptedBackend:
    """A backend that plays what was drawn."""
    played = backend(name, slots=SLOTS[name])
    for number, script in enumerate(scripts):
        if number:
            played.then()
        begun = False
        for step in script:
            match step:
                case "say" | "say_later":
                    played.say("a", after=0.5 if step == "say_later" else 0.0)
                    begun = True
                case "hang":
                    played.hang()
                case "refuse":
                    played.refuse()
                case "die":
                    played.die_mid_stream()
                case "silence":
                    played.pause(2.0)
                # These may only come before the first byte.
                case "unserved" if not begun:
                    played.not_know_the_call()
                case "missing" if not begun:
                    played.lack_the_model()
                case "reject" if not begun:
                    played.reject()
                case _:
                    continue
    return played


@attrs.frozen
class Visit:
    """One request of a random afternoon. Seconds."""

    at: float
    wishes: dict[str, Any]
    leaves_after: float | None
    is_reading: bool


TIMES = st.integers(0, 12).map(lambda quarters: quarters / 4)
VISITS = st.builds(
    Visit,
    at=TIMES,
    wishes=st.fixed_dictionaries(
        {"stream": st.booleans(), "priority": st.sampled_from(Priority)},
        optional={
            "max_latency_s": st.sampled_from([1.0, 2.5, 1e300]),
            "target": st.sampled_from(NAMES),
            "power_efficient": st.just(value=True),
        },
    ),
    leaves_after=st.none() | TIMES,
    is_reading=st.sampled_from([True, True, True, False]),
)


@settings(max_examples=100, deadline=None)
@given(
    scripts=st.tuples(SCRIPTS, SCRIPTS, SCRIPTS),
    visits=st.lists(VISITS, max_size=25),
    stops_at=st.none() | TIMES,
    outage=st.none() | st.tuples(st.sampled_from(NAMES), TIMES),
)
def test_a_random_afternoon(
    scripts: tuple[list[list[str]], ...],
    visits: list[Visit],
    stops_at: float | None,
    outage: tuple[str, float] | None,
) -> None:
    """With real workers, too, all come to rest, and each was told once that it is over."""
    clock = MockClock(autojump_threshold=0)

    async def afternoon() -> None:
        async with trio.open_nursery() as nursery:
            fleet = [scripted(name, each) for name, each in zip(NAMES, scripts, strict=True)]
            timeouts: dict[str, Any] = {"first_byte_timeout_s": 6.0, "stall_timeout_s": 3.0}
            floor = open_floor(nursery, clock, *fleet, capacity=CAPACITY, **timeouts)
            waits = floor.dispatcher.jobs

            async def visit(visit: Visit) -> None:
                await trio.sleep(visit.at)
                caller = floor.submit(is_reading=visit.is_reading, **visit.wishes)
                if visit.leaves_after is not None:
                    await trio.sleep(visit.leaves_after)
                    floor.dispatcher.withdraw(caller.job)
                await caller.ended.wait()

            async def interrupt() -> None:
                if outage is not None:
                    name, at = outage
                    await trio.sleep(at)
                    floor.station(name).is_down("it was stopped")
                    floor.dispatcher.health_changed(floor.station(name))
                if stops_at is not None:
                    await trio.sleep(stops_at)
                    floor.dispatcher.stop()

            with trio.fail_after(10_000.0):
                async with trio.open_nursery() as visitors:
                    visitors.start_soon(interrupt)
                    for each in visits:
                        visitors.start_soon(visit, each)
            await floor.assert_at_rest()

            assert set() == waits
            assert all(played.busiest <= SLOTS[played.spec.id] for played in fleet)
            nursery.cancel_scope.cancel()

    trio.run(functools.partial(afternoon), clock=clock)
