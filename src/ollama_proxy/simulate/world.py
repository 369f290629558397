"""Ours: the real dispatcher over modelled backends, on a clock that jumps to whatever is next.

A crew that is no task: what a worker would wait for is an event in a heap, and what it would report
is reported when that event is due. Of probes, only those are made that would tell something new.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from ollama_proxy.backends.backend import BackendFailed, Fault, Head, Served, Tap
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import (
    DeadlinePassed,
    Dispatcher,
    DispatchSettings,
    Ending,
)
from ollama_proxy.engine.health import LINGER_INTERVAL_S
from ollama_proxy.engine.job import Caller, Job
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import ENDINGS
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import RouteSettings
from ollama_proxy.simulate.arrivals import Arrival, Kept, Kind, Traffic
from ollama_proxy.simulate.conditions import Change
from ollama_proxy.simulate.model import Facade, Machine, Run
from ollama_proxy.simulate.report import Tally
from ollama_proxy.simulate.scenario import Scenario
from ollama_proxy.simulate.weather import BEAT_S, Weather

ASKS_AGAIN_S = 1.0  # one who is kept waiting, after a refusal


@attrs.define(eq=False)
class Request(Caller):
    """One request, and the caller of its job."""

    world: "World"
    arrival: Arrival
    kind: Kind
    at: float
    phase: int
    kept: "Asker | None"
    refusal: Code | None = None
    attempts: int = 0
    spent_s: float = 0.0
    slot_s: float = 0.0

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`. No worker writes here."""
        raise NotImplementedError

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        raise NotImplementedError

    def tap(self) -> Tap | None:
        """See `Caller`."""
        return None

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Caller` has it
        """Note why."""
        self.refusal = refusal.code

    def done(self, job: Job) -> None:
        """Let the world book it."""
        self.world.book(self, job)


@attrs.define(eq=False)
class Asker:
    """Keeps a class of requests waiting: who was answered asks again."""

    kept: Kept
    contents: Any = None


@attrs.define(eq=False)
class Crew:
    """Nobody: what a worker would do is done by the world when it is due."""

    world: "World"
    station: Station
    machine: Machine

    def give(self, attempt: Attempt, at_work: int) -> None:  # noqa: ARG002 - as `Crew` has it
        """See `Crew`."""
        self.world.start(self, attempt)

    def close(self) -> None:
        """See `Crew`."""


class World:
    """A run of ours."""

    def __init__(
        self, scenario: Scenario, traffic: Traffic, fleet: Sequence[Machine], tally: Tally
    ) -> None:
        """Open the router; nothing has happened."""
        self.now = 0.0
        self.tally = tally
        self._traffic, self._kinds = traffic, traffic.kinds
        self._scenario = scenario
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = itertools.count()
        self._runs: dict[Attempt, tuple[Crew, Run]] = {}
        self._open = traffic.open()
        self._kept_left = traffic.count_kept
        router, scheduler = scenario.router, scenario.scheduler
        budget = scenario.efficiency.power_budget_watts or None if scenario.efficiency else None
        self.dispatcher = Dispatcher(
            DispatchSettings(
                route=RouteSettings(
                    power_aware=router.power_aware,
                    auto_optimize=router.auto_optimize,
                    default_backend=router.default_backend,
                    power_budget_watts=budget,
                ),
                retry_before_first_byte=router.retry_before_first_byte,
                hedge_budget=scheduler.hedge_budget if scheduler.hedge else 0.0,
                first_byte_timeout_s=router.first_byte_timeout_s,
                stall_timeout_s=router.stall_timeout_s,
            ),
            Ledger(),
            clock=lambda: self.now,
        )
        for machine in fleet:
            self._join(machine)
        by_id = {machine.spec.id: machine for machine in fleet}
        self.weather: Weather | None = None
        if scenario.has_climate:
            self.weather = Weather(scenario, self.dispatcher, by_id, lambda: self.now)

    def _join(self, machine: Machine) -> None:
        scheduler = self._scenario.scheduler
        station = Station(
            Facade(machine.spec),
            queue_capacity=scheduler.queue_capacity,
            aging_s=scheduler.aging_s,
            reserve_critical_slots=scheduler.reserve_critical_slots,
            preempts=scheduler.preempt_started if scheduler.preempt else None,
            jitter=lambda: 0.0,
        )
        crew = Crew(self, station, machine)
        station.open(crew)
        station.watch = lambda: self._at(self.now, self._ask_lingering, crew)
        station.is_well(machine.probe(0.0))
        self.dispatcher.add(station)

    def run(self) -> None:
        """Let it all happen."""
        heap, alarms, ring = self._heap, self.dispatcher.alarms, self.dispatcher.ring
        pop = heapq.heappop
        for kept in self._traffic.kept:
            asker = Asker(kept, kept.draw())
            for _ in range(kept.at_once):
                self._at(kept.starts_s, self._ask, asker)
        self._await_next()
        if self.weather is not None:
            self._at(BEAT_S, self._beat, self.weather)
            self._await_change(self.weather)
        while True:
            at = heap[0][0] if heap else math.inf
            due = alarms.next_at
            if due < at:
                self.now = due
                ring(due)
            elif heap:
                self.now, _, act, what = pop(heap)
                act(what)
            else:
                break

    def _at(self, when: float, act: Callable[[Any], None], what: object) -> None:
        heapq.heappush(self._heap, (when, next(self._order), act, what))

    # -- callers -----------------------------------------------------------------------------------

    def _await_next(self) -> None:
        arrival = next(self._open, None)
        if arrival is not None:
            self._at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._await_next()
        self._submit(arrival, None)

    def _ask(self, asker: Asker) -> None:
        if self._kept_left > 0 and self.now <= self._traffic.until:
            self._kept_left -= 1
            self._submit(next(asker.contents), asker)

    def _submit(self, arrival: Arrival, kept: Asker | None) -> None:
        kind, now = self._kinds[arrival.kind], self.now
        phase = self.tally.comes(now)
        self.dispatcher.submit(
            Job(
                errand=kind.errand,
                ask=kind.ask(arrival),
                wishes=kind.wishes,
                caller=Request(self, arrival, kind, now, phase, kept),
                request_id="",
                door="simulation",
                arrived=now,
                client=kind.clients[arrival.client],
            )
        )

    def book(self, request: Request, job: Job) -> None:
        """A request is over."""
        tally, now, code = self.tally, self.now, request.refusal
        if job.put_back:
            tally.put_back += job.put_back
        if job.hedge_s:
            tally.hedges += 1
        if code is None:
            begun = job.begun if job.begun is not None else now
            tally.serve(
                request.arrival,
                at=request.at,
                phase=request.phase,
                first_at=begun,
                end_at=now,
                slot_s=request.slot_s,
            )
            if job.promised_s is not None and not job.put_back:
                took_s = (begun if request.kind.stream else now) - request.at
                tally.compare(job.promised_s, took_s)
        elif job.promised_s is None:
            tally.turn_away(request.phase, code.value, in_time=job.deadline < math.inf)
        else:
            tally.end(code.value)
            tally.stopped += code is Code.PREEMPTED
            if job.deadline < math.inf:
                is_kept = request.kind.stream and job.begun is not None
                tally.keep_deadline(request.phase, met=is_kept)
        if request.kept is not None:
            self._at(now if code is None else now + ASKS_AGAIN_S, self._ask, request.kept)

    # -- weather -----------------------------------------------------------------------------------

    def _beat(self, weather: Weather) -> None:
        weather.beat()
        if self._heap or self.dispatcher.jobs:
            self._at(self.now + BEAT_S, self._beat, weather)

    def _await_change(self, weather: Weather) -> None:
        if weather.changes:
            change = weather.changes.popleft()
            self._at(change.at_s, self._turn, change)

    def _turn(self, change: Change) -> None:
        assert self.weather is not None  # noqa: S101 - nobody else tells of a change
        self._await_change(self.weather)
        self.weather.turn(change)

    # -- attempts ----------------------------------------------------------------------------------

    def start(self, crew: Crew, attempt: Attempt) -> None:
        """An attempt is handed to a worker."""
        request = attempt.job.caller
        assert isinstance(request, Request)  # noqa: S101 - there are no others here
        if self.weather is not None:
            self.weather.starts(crew.station, attempt)
        run = crew.machine.begin(
            request.arrival, request.kind.model, self.now, attempt=request.attempts
        )
        request.attempts += 1
        self._runs[attempt] = crew, run
        attempt.told = self._halt
        attempt.asked()
        if run.loaded_at > self.now and crew.machine.given.tells_loaded:
            interval_s = self._scenario.router.health_interval_s
            self._at((run.loaded_at // interval_s + 1) * interval_s, self._probe, crew)
        given_up_at = attempt.scope.deadline
        comes_at = run.first_at if request.kind.stream or run.breaks else run.ends_at
        if comes_at > given_up_at:
            self._at(given_up_at, self._give_up, attempt)
        elif run.breaks:
            self._at(comes_at, self._break, attempt)
        elif request.kind.stream:
            self._at(comes_at, self._begin, attempt)
        else:
            self._at(comes_at, self._end, attempt)

    def _begin(self, attempt: Attempt) -> None:
        if attempt.halted is None:
            attempt.win(self.now)
            self._at(self._runs[attempt][1].ends_at, self._end, attempt)

    def _end(self, attempt: Attempt) -> None:
        if attempt.halted is not None:
            return
        job = attempt.job
        if not attempt.answered:
            attempt.win(self.now)
        request = job.caller
        assert isinstance(request, Request)  # noqa: S101 - as above
        request.slot_s = self.now - attempt.started
        tokens = request.arrival.answer if job.ask.stream else None
        self._over(attempt, Served(status=200, tokens=tokens))

    def _break(self, attempt: Attempt) -> None:
        if attempt.halted is None:
            self._over(attempt, BackendFailed(Fault.BROKE, "it broke"))

    def _give_up(self, attempt: Attempt) -> None:
        if attempt.halted is None:
            past = self.now >= attempt.job.deadline
            silent = BackendFailed(Fault.SILENT, "it sent nothing for too long")
            self._over(attempt, DeadlinePassed() if past else silent)

    def _halt(self, attempt: Attempt) -> None:
        # Not at once: whoever halts it is in the middle of a decision.
        self._at(self.now, self._halted, attempt)

    def _halted(self, attempt: Attempt) -> None:
        assert attempt.halted is not None  # noqa: S101 - this is why
        self._over(attempt, ENDINGS[attempt.halted])

    def _over(self, attempt: Attempt, ending: Ending) -> None:
        crew, run = self._runs.pop(attempt)
        in_vain = not isinstance(ending, Served)
        crew.machine.end(run, self.now, in_vain=in_vain)
        if in_vain and attempt.job.hedge_s:
            self.tally.hedge_s += max(0.0, self.now - run.begins)
        self.dispatcher.finished(crew.station, attempt, ending)

    # -- probes ------------------------------------------------------------------------------------

    def _probe(self, crew: Crew) -> None:
        """The usual one: which models are in memory."""
        probe = crew.machine.probe(self.now)
        if probe.loaded != crew.station.loaded:
            crew.station.is_well(probe)

    def _ask_lingering(self, crew: Crew) -> None:
        """Ask whether what was cancelled is over, as often as `watch_health` does."""
        station, machine = crew.station, crew.machine
        lingered = station.lingering
        if not lingered:
            return
        probe = machine.probe(self.now)
        station.is_well(probe)
        station.settle(probe.computing, lingered, self.now)
        if station.lingering != lingered:
            self.dispatcher.health_changed(station)
        if station.lingering:
            # Those before it is over would tell nothing new.
            pauses = math.ceil((machine.lingers_until(self.now) - self.now) / LINGER_INTERVAL_S)
            self._at(self.now + max(1, pauses) * LINGER_INTERVAL_S, self._ask_lingering, crew)
