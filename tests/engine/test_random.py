"""Whatever happens in whatever order: slots are kept, and each job ends exactly once."""

import functools
import math
from typing import Any, cast

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from trio.testing import MockClock

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Errand,
    Fault,
    Head,
    ModelMissing,
    Probe,
    Served,
    Tap,
)
from ollama_proxy.engine.dispatcher import (
    CallerGone,
    CallerStalled,
    DeadlinePassed,
    Dispatcher,
    DispatchSettings,
    Ending,
)
from ollama_proxy.engine.job import Caller, Job, Stage
from ollama_proxy.engine.ledger import Fact, Ledger
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Ask, Call, Priority, Wishes
from ollama_proxy.policy.refusal import Refusal
from tests.engine.floor import backend, open_floor
from tests.fakes.backend import ScriptedBackend
from tests.fleet import MODEL

NAMES = ("npu", "igpu", "cpu")
SLOTS = {"npu": 1, "igpu": 2, "cpu": 3}
CAPACITY = 3


class NoNursery:
    """Starts nobody: the test itself is every worker."""

    def start_soon(self, *_: object, name: object = None) -> None:
        """Start nobody."""


async def nobody(station: Station, jobs: trio.MemoryReceiveChannel[Job]) -> None:
    """Do no work."""


@attrs.define(eq=False)
class Witness(Caller):
    """Counts how often it was told that its job is over, and why."""

    ends: int = 0
    refusals: int = 0

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """Nothing comes: no worker writes."""

    async def write(self, data: bytes, *, complete: bool) -> None:
        """As above."""

    def tap(self) -> Tap | None:
        """There is no socket."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Caller` has it
        """Count."""
        assert 0 == self.ends
        self.refusals += 1

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """Count."""
        self.ends += 1


ENDINGS = st.sampled_from([
    Served(status=200),
    Served(status=400),
    BackendFailed(Fault.BROKE, "it broke"),
    BackendFailed(Fault.SILENT, "it said nothing"),
    CallUnserved(),
    ModelMissing(),
    CallRejected(400, "it makes no sense"),
    CallerGone(),
    CallerStalled(),
    DeadlinePassed(),
])


WISHES = st.builds(
    Wishes,
    max_latency_s=st.sampled_from([None, 0.001, 3.0, 10.0, 1e300]),
    priority=st.sampled_from(Priority),
    target=st.sampled_from([None, None, None, *NAMES, "nobody"]),
)


class Dispatching(RuleBasedStateMachine):
    """A dispatcher whose every event is the test's, on a clock that is the test's too."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.facts: list[Fact] = []
        ledger = Ledger()
        ledger.read_by(self.facts.append)
        self.dispatcher = Dispatcher(DispatchSettings(), ledger, clock=lambda: self.now)
        self.jobs: list[Job] = []
        self.running: list[tuple[Station, Job]] = []
        self.opened: list[Station] = []
        for name in NAMES:
            self.join(name)

    def witness(self, job: Job) -> Witness:
        """A job's caller."""
        return cast("Witness", job.caller)

    def take_handed(self) -> None:
        """Note which jobs were handed to workers."""
        for station in self.opened:
            while True:
                try:
                    job = station._jobs_out.receive_nowait()
                except trio.WouldBlock:
                    break
                self.running.append((station, job))

    @rule(
        call=st.sampled_from([Call.OPENAI_CHAT, Call.OLLAMA_CHAT]),
        stream=st.booleans(),
        wishes=WISHES,
        late_s=st.sampled_from([0.0, 0.0, 5.0]),
    )
    def submit(self, call: Call, stream: bool, wishes: Wishes, late_s: float) -> None:
        """A request comes."""
        job = Job(
            errand=Errand(call=call, model=MODEL, body=b"{}", stream=stream),
            ask=Ask(call=call, model=MODEL, stream=stream),
            wishes=wishes,
            caller=Witness(),
            request_id=str(len(self.jobs)),
            door="test",
            arrived=self.now - late_s,
        )
        self.jobs.append(job)
        self.dispatcher.submit(job)
        self.take_handed()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller goes, if it has not gone long since."""
        self.dispatcher.withdraw(data.draw(st.sampled_from(self.jobs)))
        self.take_handed()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), begun=st.booleans(), ending=ENDINGS)
    def end(self, data: st.DataObject, begun: bool, ending: Ending) -> None:
        """An attempt ends."""
        station, job = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if begun and job.begun is None:
            job.begun = self.now
        self.dispatcher.finished(station, job, CallerGone() if job.left else ending)
        self.take_handed()

    @rule(seconds=st.sampled_from([0.01, 1.0, 5.0, 400.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and the deadlines with it."""
        self.now += seconds
        self.dispatcher._expire(self.now)
        self.take_handed()

    @rule(name=st.sampled_from(NAMES), is_up=st.booleans())
    def probe(self, name: str, is_up: bool) -> None:
        """A probe ends."""
        station = self.dispatcher.stations.get(name)
        if station is None:
            return
        if is_up:
            station.is_well(Probe(models=frozenset({MODEL})))
        else:
            station.is_down("it was stopped")
        self.dispatcher.health_changed(station)
        self.take_handed()

    @rule(name=st.sampled_from(NAMES))
    def join(self, name: str) -> None:
        """A backend joins, or takes the place of the one that had its id."""
        station = Station(
            backend(name, slots=SLOTS[name]), queue_capacity=CAPACITY, jitter=lambda: 0.0
        )
        station.open(cast("trio.Nursery", NoNursery()), nobody)
        station.is_well(Probe(models=frozenset({MODEL})))
        self.opened.append(station)
        self.dispatcher.add(station)
        self.take_handed()

    @rule(name=st.sampled_from(NAMES))
    def go(self, name: str) -> None:
        """A backend is taken out of the configuration."""
        station = self.dispatcher.stations.get(name)
        if station is not None:
            self.dispatcher.remove(station)
            self.take_handed()

    @precondition(lambda self: len(self.jobs) > 25)  # or little else would ever happen
    @rule()
    def stop(self) -> None:
        """The router stops; the workers learn it later."""
        self.dispatcher.stop()
        self.take_handed()

    @invariant()
    def slots_are_kept(self) -> None:
        """As many are in flight as were handed over, within the slots; who could start has."""
        for station in self.opened:
            at_work = sum(station is each for each, _ in self.running)
            waiting = len(station.line)

            assert station.in_flight == at_work <= station.spec.slots
            assert waiting <= CAPACITY
            assert not (waiting and station.has_free_slot)
            if self.dispatcher.stations.get(station.spec.id) is not station:
                assert 0 == waiting

    @invariant()
    def none_is_lost(self) -> None:
        """Each job is at exactly one place, or has ended exactly once."""
        for job in self.jobs:
            at_work = sum(job is each for _, each in self.running)
            in_line = sum(job in station.line for station in self.opened)
            booked = sum(fact.request_id == job.request_id for fact in self.facts)
            ends = self.witness(job).ends
            expected = {
                Stage.WAITING: (0, 1, 0, 0),
                Stage.RUNNING: (1, 0, 0, 0),
                Stage.DONE: (0, 0, 1, 1),
            }[job.stage]

            assert expected == (at_work, in_line, booked, ends)
            assert (job.stage is Stage.DONE) == (job not in self.dispatcher.jobs)
            assert self.witness(job).refusals <= 1

    @invariant()
    def nobody_waits_past_a_deadline(self) -> None:
        """Who waits with a deadline is remembered by it."""
        remembered = {ref() for _, _, ref in self.dispatcher._deadlines}
        for job in self.jobs:
            if job.stage is Stage.WAITING and job.deadline < math.inf:
                assert job.deadline > self.now
                assert job in remembered

    def teardown(self) -> None:
        """At the end, all who are still there can end."""
        self.dispatcher.stop()
        while self.running:
            station, job = self.running.pop()
            self.dispatcher.finished(station, job, Served(status=200))
            self.take_handed()
        self.none_is_lost()
        self.slots_are_kept()
        for station in self.opened:
            station.close()

        assert set() == self.dispatcher.jobs


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
