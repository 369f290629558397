"""A dispatcher whose every event is somebody's choice, on a clock that is theirs too, and its books.

Nobody works here: attempts are handed to a crew that keeps them until they are told how they end.
So a storm of events costs no task, and can be a million long.
"""

import math
from typing import cast

import attrs

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
    Transcript,
)
from ollama_proxy.engine import worker
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings, Note
from ollama_proxy.engine.endings import CallerGone, CallerStalled, DeadlinePassed, Ending
from ollama_proxy.engine.job import Caller, Job, Stage
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Ask, Call, Priority, Wishes
from ollama_proxy.policy.preempt import PUT_BACK_MAX, Started
from ollama_proxy.policy.refusal import Code, Refusal
from tests.engine.floor import backend
from tests.fleet import MODEL

NAMES = ("npu", "igpu", "cpu")
SLOTS = {"npu": 1, "igpu": 2, "cpu": 3}
CONTINUING = {"npu", "cpu"}
CAPACITY = 3
# How an attempt may end that nobody told to.
ENDINGS: tuple[Ending, ...] = (
    Served(status=200, tokens=20),
    Served(status=200, tokens=20),
    Served(status=400),
    BackendFailed(Fault.BROKE, "it broke"),
    BackendFailed(Fault.SILENT, "it said nothing"),
    CallUnserved(),
    ModelMissing(),
    CallRejected(400, "it makes no sense"),
    CallerGone(),
    CallerStalled(),
    DeadlinePassed(),
)


@attrs.define(eq=False)
class Witness(Caller):
    """Counts how often it was told that its job is over, and why."""

    ends: int = 0
    refusals: list[Code] = attrs.field(factory=list)

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """Nothing comes: no worker writes."""

    async def write(self, data: bytes, *, complete: bool) -> None:
        """As above."""

    def tap(self) -> Tap | None:
        """There is no socket."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Caller` has it
        """Note it."""
        assert 0 == self.ends
        self.refusals.append(refusal.code)

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """Count."""
        self.ends += 1


@attrs.define(eq=False)
class Gist(Transcript):
    """A transcript of nothing, which can be gone on with until `is_continuable` says otherwise."""

    errand: Errand
    pieces: int = 1
    is_continuable: bool = True

    def continued(self) -> Errand | None:
        """The same again, and longer."""
        return attrs.evolve(self.errand, body=bytes(self.errand.body) + b"{}")

    def open(self, head: Head) -> None:
        """Nothing comes: no worker writes."""

    def feed(self, data: bytes, *, complete: bool) -> bytes:  # noqa: ARG002 - as `Transcript` has it
        """As above."""
        return data


@attrs.define(eq=False)
class Bench:
    """A crew that works on nothing until it is told to."""

    storm: "Storm"
    station: Station

    def give(self, attempt: Attempt, at_work: int) -> None:
        """Keep it."""
        assert at_work <= self.station.spec.slots
        self.storm.running.append((self.station, attempt))

    def close(self) -> None:
        """Nobody is here."""


@attrs.define(eq=False, kw_only=True)
class Storm:
    """What happens, and what must be true whatever happens.

    Attributes:
        jobs: all that have not ended when they were last looked at.
        running: who is at work where.
        opened: every station that ever was, while somebody is at its slots.
        continued: how often an answer was seen that went on, or will.
    """

    preempts: Started | None = Started.STOP
    reserve: int = 0
    hedge_budget: float = 0.0
    capacity: int = CAPACITY
    names: tuple[str, ...] = NAMES
    note: Note | None = None
    now: float = 0.0
    facts: dict[str, int] = attrs.field(factory=dict)
    jobs: list[Job] = attrs.field(factory=list)
    running: list[tuple[Station, Attempt]] = attrs.field(factory=list)
    opened: list[Station] = attrs.field(factory=list)
    submitted: int = 0
    outcomes: dict[str, Outcome] = attrs.field(factory=dict)
    continued: int = 0
    dispatcher: Dispatcher = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ledger = Ledger()
        ledger.read_by(self._note)
        self.dispatcher = Dispatcher(
            DispatchSettings(hedge_budget=self.hedge_budget),
            ledger,
            clock=lambda: self.now,
            transcribe=Gist,
            note=self.note,
        )
        for name in self.names:
            self.join(name)

    def _note(self, fact: Fact) -> None:
        self.facts[fact.request_id] = self.facts.get(fact.request_id, 0) + 1
        self.outcomes[fact.request_id] = fact.outcome

    # -- what may happen ---------------------------------------------------------------------------

    def submit(
        self, wishes: Wishes, *, call: Call, stream: bool, late_s: float, client: str
    ) -> Job:
        """A request comes; `late_s` after its arrival."""
        job = self.job(wishes, call=call, stream=stream, late_s=late_s, client=client)
        self.jobs.append(job)
        self.dispatcher.submit(job)
        return job

    def job(self, wishes: Wishes, *, call: Call, stream: bool, late_s: float, client: str) -> Job:
        """A request that nobody has seen yet."""
        self.submitted += 1
        return Job(
            errand=Errand(call=call, model=MODEL, body=b"{}", stream=stream),
            ask=Ask(call=call, model=MODEL, stream=stream),
            wishes=wishes,
            caller=Witness(),
            request_id=str(self.submitted),
            door="test",
            arrived=self.now - late_s,
            client=client,
        )

    def leave(self, job: Job) -> None:
        """A caller goes, if it has not gone long since."""
        self.dispatcher.withdraw(job)

    def answer(self, number: int) -> None:
        """An attempt brings its first bytes, unless it was told to end."""
        _, attempt = self.running[number]
        if attempt.halted is None and not attempt.answered:
            attempt.win(self.now)

    def say_the_last(self, number: int) -> None:
        """An answer comes to a place from where nobody could go on."""
        _, attempt = self.running[number]
        if isinstance(attempt.job.transcript, Gist):
            attempt.job.transcript.is_continuable = False

    def end(self, number: int, ending: Ending) -> None:
        """An attempt ends: as it was told to, if it was."""
        station, attempt = self.running.pop(number)
        if attempt.halted is not None:
            ending = worker.ENDINGS[attempt.halted]
        elif isinstance(ending, Served | CallerStalled) and not attempt.answered:
            attempt.win(self.now)
        self.dispatcher.finished(station, attempt, ending)

    def wait(self, seconds: float) -> None:
        """Time passes, and what is due happens."""
        self.now += seconds
        self.dispatcher.ring(self.now)

    def probe(self, name: str, computing: int | None, *, is_up: bool) -> None:
        """A probe ends."""
        station = self.dispatcher.stations.get(name)
        if station is None:
            return
        if is_up:
            station.is_well(Probe(models=frozenset({MODEL})))
            station.settle(computing, station.lingering, self.now)
        else:
            station.is_down("it was stopped")
        self.dispatcher.health_changed(station)

    def join(self, name: str) -> None:
        """A backend joins, or takes the place of the one that had its id."""
        station = Station(
            backend(name, slots=SLOTS[name], continues_chat=name in CONTINUING),
            queue_capacity=self.capacity,
            preempts=self.preempts,
            reserve_critical_slots=self.reserve,
            jitter=lambda: 0.0,
        )
        station.open(Bench(self, station))
        station.watch = lambda: None  # the probes are the storm's
        station.is_well(Probe(models=frozenset({MODEL})))
        self.opened.append(station)
        self.dispatcher.add(station)

    def go(self, name: str) -> None:
        """A backend is taken out of the configuration."""
        station = self.dispatcher.stations.get(name)
        if station is not None:
            self.dispatcher.remove(station)

    # -- what must be true -------------------------------------------------------------------------

    def check(self) -> None:
        """Everything, at the cost of looking at everybody."""
        self.check_slots()
        self.check_jobs()
        self.check_alarms()
        done = {job for job in self.jobs if job.stage is Stage.DONE}
        self.jobs = [job for job in self.jobs if job not in done]
        for job in done:
            del self.facts[job.request_id], self.outcomes[job.request_id]
        present = self.dispatcher.stations.values()
        self.opened = [s for s in self.opened if s in present or s.running]

    def check_slots(self) -> None:
        """As many are in flight as were handed over, within the slots; who could start has."""
        for station in self.opened:
            at_work = sum(station is each for each, _ in self.running)

            assert len(station.running) == at_work
            assert at_work + station.lingering == station.in_flight <= station.spec.slots
            assert (
                len(station.line) <= self.capacity * len(Priority) + PUT_BACK_MAX * self.submitted
            )
            if station.in_flight < station.spec.slots - station.reserved:
                assert 0 == len(station.line)
            if station.has_free_slot:
                assert 0 == station.line.depth(Priority.CRITICAL)
            if self.dispatcher.stations.get(station.spec.id) is not station:
                assert 0 == len(station.line)

    def check_jobs(self) -> None:
        """Each job is at exactly one place, or has ended exactly once."""
        at_work: dict[Job, int] = {}
        for _, attempt in self.running:
            at_work[attempt.job] = at_work.get(attempt.job, 0) + 1
        for job in self.jobs:
            witness = cast("Witness", job.caller)
            in_line = sum(job in station.line for station in self.opened)
            booked = self.facts.get(job.request_id, 0)
            ended = int(job.stage is Stage.DONE)

            assert (int(job.stage is Stage.WAITING), ended, ended) == (
                in_line,
                booked,
                witness.ends,
            )
            assert (job.stage is Stage.DONE) == (job not in self.dispatcher.jobs)
            assert len(witness.refusals) <= 1
            assert job.put_back <= PUT_BACK_MAX
            assert len(job.attempts) == at_work.get(job, 0) <= 2
            if job.stage is Stage.RUNNING:
                assert job.attempts
            if job.stage is Stage.WAITING:
                assert not job.attempts
            if job.stage is Stage.WAITING and job.begun is not None:
                assert job.decision is not None
                assert Started.CONTINUE is self.preempts
                assert job.decision.backend in CONTINUING
                assert (True, 1) == (job.ask.continues, job.given)
            if job.ask.continues:
                assert 1 <= job.put_back
                assert len(job.attempts) <= 1
                self.continued += 1

    def check_alarms(self) -> None:
        """Who waits with a deadline is remembered by it."""
        remembered = {entry[2]() for entry in self.dispatcher.alarms._heap}
        for job in self.jobs:
            if job.stage is Stage.WAITING and job.deadline < math.inf:
                assert job.deadline > self.now
                assert job in remembered

    def subside(self) -> None:
        """At the end, all who are still there can end."""
        self.dispatcher.stop()
        while self.running:
            self.end(len(self.running) - 1, BackendFailed(Fault.BROKE, "it broke"))
        self.check()

        assert set() == self.dispatcher.jobs
