"""A real dispatcher over modelled backends: what its workers would do is done when it is due.

A crew that is no task: what a worker would wait for is an event, and what it would report is reported
when that event is due. Of probes, only those are made that would tell something new.
"""

import math
from collections.abc import Callable, Sequence

import attrs

from ollama_proxy.backends.backend import BackendFailed, Fault, Head, Served, Tap
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.endings import DeadlinePassed, Ending
from ollama_proxy.engine.health import LINGER_INTERVAL_S
from ollama_proxy.engine.job import Caller, Job
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import ENDINGS
from ollama_proxy.policy.fleet import BackendSpec
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import RouteSettings
from ollama_proxy.simulate.arrivals import Arrival, Kind
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.model import Facade, Machine, Run
from ollama_proxy.simulate.scenario import Scenario


@attrs.define(eq=False)
class Visitor(Caller):
    """The caller of a job here. What happens to it is the subclass's.

    Attributes:
        arrival: what is asked.
        kind: of what class it is.
        attempts: how many were made.
        slot_s: how long the one that answered took.
    """

    arrival: Arrival
    kind: Kind
    attempts: int = attrs.field(default=0, init=False)
    slot_s: float = attrs.field(default=0.0, init=False)

    async def begin(self, job: Job, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Caller`. No worker writes here."""
        raise NotImplementedError

    async def write(self, data: bytes, *, complete: bool) -> None:
        """See `Caller`."""
        raise NotImplementedError

    def tap(self) -> Tap | None:
        """See `Caller`."""
        return None

    def begun(self) -> None:
        """The first bytes are there."""

    def refuse(self, job: Job, refusal: Refusal) -> None:
        """See `Caller`."""
        raise NotImplementedError

    def done(self, job: Job) -> None:
        """See `Caller`."""
        raise NotImplementedError


@attrs.define(eq=False)
class Crew:
    """Nobody: what a worker would do is done by the floor when it is due."""

    floor: "Floor"
    station: Station
    machine: Machine

    def give(self, attempt: Attempt, at_work: int) -> None:  # noqa: ARG002 - as `Crew` has it
        """See `Crew`."""
        self.floor.start(self, attempt)

    def close(self) -> None:
        """See `Crew`."""


def open_dispatcher(scenario: Scenario, hours: Hours) -> Dispatcher:
    """A dispatcher in virtual time, as a scenario's owner has set it."""
    router, scheduler = scenario.router, scenario.scheduler
    budget = scenario.efficiency.power_budget_watts or None if scenario.efficiency else None
    dispatcher = Dispatcher(
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
        clock=lambda: hours.now,
    )
    hours.heed(dispatcher)
    return dispatcher


def open_station(scenario: Scenario, spec: BackendSpec) -> Station:
    """A backend's station, closed; nothing is known of it."""
    scheduler = scenario.scheduler
    return Station(
        Facade(spec),
        queue_capacity=scheduler.queue_capacity,
        aging_s=scheduler.aging_s,
        reserve_critical_slots=scheduler.reserve_critical_slots,
        preempts=scheduler.preempt_started if scheduler.preempt else None,
        jitter=lambda: 0.0,
    )


class Floor:
    """One dispatcher, its stations and what is at their slots.

    Attributes:
        dispatcher: the real one.
        crews: one for each backend, in order.
        starts: is told of each attempt before its machine is.
        lost_s: seconds of work by second attempts, that nobody got.
    """

    def __init__(self, scenario: Scenario, hours: Hours, fleet: Sequence[Machine]) -> None:
        """Open with everybody well; nothing has happened."""
        self._scenario, self._hours = scenario, hours
        self._runs: dict[Attempt, tuple[Crew, Run]] = {}
        self.starts: Callable[[Station, Attempt], None] = lambda *_: None
        self.lost_s = 0.0
        self.dispatcher = open_dispatcher(scenario, hours)
        self.crews = [self._join(machine) for machine in fleet]

    def _join(self, machine: Machine) -> Crew:
        station = open_station(self._scenario, machine.spec)
        crew = Crew(self, station, machine)
        station.open(crew)
        station.watch = lambda: self._hours.at(self._hours.now, self._ask_lingering, crew)
        station.is_well(machine.probe(0.0))
        self.dispatcher.add(station)
        return crew

    # -- attempts ----------------------------------------------------------------------------------

    def start(self, crew: Crew, attempt: Attempt) -> None:
        """An attempt is handed to a worker."""
        visitor, now, at = attempt.job.caller, self._hours.now, self._hours.at
        assert isinstance(visitor, Visitor)  # noqa: S101 - there are no others here
        self.starts(crew.station, attempt)
        run = crew.machine.begin(visitor.arrival, visitor.kind.model, now, attempt=visitor.attempts)
        visitor.attempts += 1
        self._runs[attempt] = crew, run
        attempt.told = self._halt
        attempt.asked()
        if run.loaded_at > now and crew.machine.given.tells_loaded:
            interval_s = self._scenario.router.health_interval_s
            at((run.loaded_at // interval_s + 1) * interval_s, self._probe, crew)
        given_up_at = attempt.scope.deadline
        comes_at = run.first_at if visitor.kind.stream or run.breaks else run.ends_at
        if comes_at > given_up_at:
            at(given_up_at, self._give_up, attempt)
        elif run.breaks:
            at(comes_at, self._break, attempt)
        elif visitor.kind.stream:
            at(comes_at, self._begin, attempt)
        else:
            at(comes_at, self._end, attempt)

    def _goes_on(self, attempt: Attempt) -> bool:
        return attempt.halted is None and attempt in self._runs

    def _begin(self, attempt: Attempt) -> None:
        if self._goes_on(attempt):
            self._answer(attempt)
            self._hours.at(self._runs[attempt][1].ends_at, self._end, attempt)

    def _answer(self, attempt: Attempt) -> None:
        attempt.win(self._hours.now)
        _visitor(attempt).begun()

    def _end(self, attempt: Attempt) -> None:
        if not self._goes_on(attempt):
            return
        if not attempt.answered:
            self._answer(attempt)
        visitor = _visitor(attempt)
        visitor.slot_s = self._hours.now - attempt.started
        tokens = visitor.arrival.answer if attempt.job.ask.stream else None
        self._over(attempt, Served(status=200, tokens=tokens))

    def _break(self, attempt: Attempt) -> None:
        if self._goes_on(attempt):
            self._over(attempt, BackendFailed(Fault.BROKE, "it broke"))

    def _give_up(self, attempt: Attempt) -> None:
        if self._goes_on(attempt):
            past = self._hours.now >= attempt.job.deadline
            silent = BackendFailed(Fault.SILENT, "it sent nothing for too long")
            self._over(attempt, DeadlinePassed() if past else silent)

    def _halt(self, attempt: Attempt) -> None:
        # Not at once: whoever halts it is in the middle of a decision.
        self._hours.at(self._hours.now, self._halted, attempt)

    def _halted(self, attempt: Attempt) -> None:
        if attempt in self._runs:
            assert attempt.halted is not None  # noqa: S101 - this is why
            self._over(attempt, ENDINGS[attempt.halted])

    def _over(self, attempt: Attempt, ending: Ending) -> None:
        crew, run = self._runs.pop(attempt)
        now, in_vain = self._hours.now, not isinstance(ending, Served)
        crew.machine.end(run, now, in_vain=in_vain)
        if in_vain and attempt.job.hedge_s:
            self.lost_s += max(0.0, now - run.begins)
        self.dispatcher.finished(crew.station, attempt, ending)

    # -- gone, and back ----------------------------------------------------------------------------

    def lose(self, crew: Crew) -> None:
        """A backend is gone, with all that it had; everybody here knows at once."""
        crew.station.is_down("it is gone")
        for attempt in [each for each, (its, _) in self._runs.items() if its is crew]:
            self._over(attempt, BackendFailed(Fault.BROKE, "it is gone"))
        self.dispatcher.health_changed(crew.station)
        crew.machine.forget()

    def regain(self, crew: Crew) -> None:
        """It is back, with nothing in its memory."""
        crew.station.is_well(crew.machine.probe(self._hours.now))
        self.dispatcher.health_changed(crew.station)

    # -- probes ------------------------------------------------------------------------------------

    def _probe(self, crew: Crew) -> None:
        """The usual one: which models are in memory."""
        probe = crew.machine.probe(self._hours.now)
        if probe.loaded != crew.station.loaded and crew.station.healthy:
            crew.station.is_well(probe)

    def _ask_lingering(self, crew: Crew) -> None:
        """Ask whether what was cancelled is over, as often as `watch_health` does."""
        station, machine, now = crew.station, crew.machine, self._hours.now
        lingered = station.lingering
        if not lingered:
            return
        probe = machine.probe(now)
        station.is_well(probe)
        station.settle(probe.computing, lingered, now)
        if station.lingering != lingered:
            self.dispatcher.health_changed(station)
        if station.lingering:
            # Those before it is over would tell nothing new.
            pauses = math.ceil((machine.lingers_until(now) - now) / LINGER_INTERVAL_S)
            self._hours.at(now + max(1, pauses) * LINGER_INTERVAL_S, self._ask_lingering, crew)


def _visitor(attempt: Attempt) -> Visitor:
    visitor = attempt.job.caller
    assert isinstance(visitor, Visitor)  # noqa: S101 - there are no others on a floor
    return visitor
