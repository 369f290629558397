"""Several pickers over one fleet, which share nothing but what each node tells when it is asked.

Law: a picker is the real dispatcher, whose backends are nodes; a node is the real dispatcher, over one
modelled machine. Between the two are a request and its answer, which take no time, and what a node
tells of itself when it is asked.
"""

import functools
import random
from collections.abc import Callable, Mapping, Sequence

import attrs

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe, Served
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.dispatcher import DeadlinePassed, Ending
from ollama_proxy.engine.job import Job, Stage
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import ENDINGS
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.simulate.arrivals import Traffic
from ollama_proxy.simulate.callers import Callers
from ollama_proxy.simulate.floor import Floor, Visitor, open_dispatcher, open_station
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.report import Tally
from ollama_proxy.simulate.scenario import Scenario, fleet_of

SETTLED_S = (
    0.001  # until all has happened that happens at once, such as a slot being cleared for one
)


class Place:
    """A router with one backend, among others.

    Attributes:
        visits: those whom pickers sent, and who are not answered.
        is_gone: it answers nobody.
    """

    def __init__(self, scenario: Scenario, hours: Hours, machine: Machine) -> None:
        """Open."""
        self.machine = machine
        self.visits: dict[Visit, Job] = {}
        self.is_gone = False
        self._hours = hours
        self._floor = Floor(scenario, hours, [machine])
        self._station = self._floor.crews[0].station
        for absence in machine.given.absent:
            hours.at(absence.at_s, self._leave, None)
            hours.at(absence.until_s, self._return, None)

    def told(self) -> Probe:
        """What it answers one who asks how it is: as `inbound.node` has it of a real one."""
        probe, station = self.machine.probe(self._hours.now), self._station
        depths, speeds = station.line.depths, station.estimates.subjects
        is_honest = not self.machine.given.lies
        node = Node(
            mode=Mode.BALANCED,
            slots=station.spec.slots,
            at_work=station.in_flight if is_honest else 0,
            waiting=[depths[p] if is_honest else 0 for p in Priority],
            models=probe.models,
            loaded=probe.loaded,
            token_j=_told({m: station.energy.token_j(m) for m in speeds}),
            first_s=_told({m: _value(s.first_s) for m, s in speeds.items()}),
            tokens_per_s=_told({m: _value(s.decode) for m, s in speeds.items()}),
        )
        return attrs.evolve(probe, node=node)

    def takes_at_once(self, job: Job) -> bool:
        """Whether it would begin with a request that came now."""
        is_able = not self.is_gone and job.ask.model in self.machine.sizes
        return is_able and self._station.takes_at_once(job.priority)

    def take(self, visit: "Visit", sent: Job) -> None:
        """A request comes from a picker, with what is left of its time."""
        now, wishes = self._hours.now, sent.wishes
        if wishes.max_latency_s is not None:
            wishes = attrs.evolve(wishes, max_latency_s=sent.deadline - now)
        job = Job(
            errand=sent.errand,
            ask=sent.ask,
            wishes=wishes,
            caller=visit,
            request_id="",
            door="simulation",
            arrived=now,
            client=sent.client,
        )
        self.visits[visit] = job
        self._floor.dispatcher.submit(job)

    def drop(self, visit: "Visit") -> None:
        """A picker wants no answer any more; no harm where there was one."""
        if (job := self.visits.get(visit)) is not None:
            self._floor.dispatcher.withdraw(job)

    def _leave(self, _: None) -> None:
        self.is_gone = True
        for visit, job in list(self.visits.items()):
            visit.is_cut = True
            self._floor.dispatcher.withdraw(job)
        # Its attempts are ended by an event of this moment, too.
        self._hours.at(self._hours.now, lambda _: self.machine.forget(), None)

    def _return(self, _: None) -> None:
        self.is_gone = False


def _value(learned: Learned | None) -> float | None:
    return None if learned is None else learned.value


def _told(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are known, as exactly as a node tells them."""
    return {name: float(f"{value:.4g}") for name, value in figures.items() if value is not None}


@attrs.define(eq=False)
class Visit(Visitor):
    """An attempt of a picker's, at a node.

    Attributes:
        is_cut: the node went away with it.
    """

    post: "Post"
    attempt: Attempt
    refusal: Refusal | None = None
    is_cut: bool = False

    def begun(self) -> None:
        """See `Visitor`."""
        if self.attempt.halted is None:
            self.attempt.win(self.post.picker.hours.now)

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Caller` has it
        """Note why."""
        self.refusal = refusal

    def done(self, job: Job) -> None:  # noqa: ARG002 - as above
        """Let the picker know. Not at once: it may be just about to send this."""
        del self.post.node.visits[self]
        hours = self.post.picker.hours
        hours.at(hours.now, self.post.ended, self)


@attrs.define(eq=False)
class Post:
    """A node as one picker knows it; the crew of its station there."""

    picker: "Picker"
    node: Place
    station: Station

    def give(self, attempt: Attempt, at_work: int) -> None:  # noqa: ARG002 - as `Crew` has it
        """See `Crew`."""
        visitor, picker = attempt.job.caller, self.picker
        assert isinstance(visitor, Visitor)  # noqa: S101 - there are no others here
        visit = Visit(visitor.arrival, visitor.kind, self, attempt)
        visit.attempts = visitor.attempts
        visitor.attempts += 1
        picker.visits[attempt] = visit
        attempt.told = self._halt
        attempt.asked()
        if self.node.is_gone:
            visit.is_cut = True
            picker.hours.at(picker.hours.now, self.ended, visit)
            return
        self.node.take(visit, attempt.job)
        picker.hours.at(picker.hours.now + SETTLED_S, self._check, visit)

    def close(self) -> None:
        """See `Crew`."""

    def _check(self, visit: Visit) -> None:
        """Does one wait who need not?"""
        job = self.node.visits.get(visit)
        if job is not None and job.stage is Stage.WAITING:
            nodes = self.picker.nodes
            self.picker.misplaced += any(node.takes_at_once(job) for node in nodes)

    def ended(self, visit: Visit) -> None:
        """The node is done with a request, whichever way."""
        if self.picker.visits.pop(visit.attempt, None) is None:
            return
        self._over(visit.attempt, self._ending(visit))

    def _ending(self, visit: Visit) -> Ending:
        refusal, job = visit.refusal, visit.attempt.job
        if visit.is_cut:
            fault = Fault.BROKE if visit.attempt.answered else Fault.UNREACHABLE
            return BackendFailed(fault, "it is gone")
        if refusal is None:
            visitor = job.caller
            assert isinstance(visitor, Visitor)  # noqa: S101 - as above
            visitor.slot_s = visit.slot_s
            return Served(status=200, tokens=visit.arrival.answer if job.ask.stream else None)
        if refusal.code is Code.BACKEND_FAILED:
            return BackendFailed(Fault.BROKE, refusal.message)
        if refusal.code is Code.DEADLINE_EXCEEDED and self.picker.hours.now >= job.deadline:
            return DeadlinePassed()
        self.picker.declined += 1
        fault = Fault.FULL if refusal.code is Code.QUEUE_FULL else Fault.DECLINED
        return BackendFailed(
            fault, refusal.message, code=refusal.code, retry_after_s=refusal.retry_after_s
        )

    def _halt(self, attempt: Attempt) -> None:
        self.picker.hours.at(self.picker.hours.now, self._halted, attempt)

    def _halted(self, attempt: Attempt) -> None:
        visit = self.picker.visits.pop(attempt, None)
        if visit is not None:
            assert attempt.halted is not None  # noqa: S101 - this is why
            self.node.drop(visit)
            self._over(attempt, ENDINGS[attempt.halted])

    def _over(self, attempt: Attempt, ending: Ending) -> None:
        self.picker.dispatcher.finished(self.station, attempt, ending)

    # -- what it is told ---------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask the node what it has to do; it is heard when the answer is there."""
        picker = self.picker
        own = self.station.in_flight
        probe = None if self.node.is_gone else self.node.told()
        if picker.fleet.late_s:
            hear = functools.partial(self._hear, probe, own)
            picker.hours.at(picker.hours.now + picker.fleet.late_s, lambda _: hear(), None)
        else:
            self._hear(probe, own)

    def _hear(self, probe: Probe | None, own: int) -> None:
        """As `engine.health` takes an answer, or that there was none."""
        station, dispatcher = self.station, self.picker.dispatcher
        was_healthy, heat = station.healthy, station.heat
        if probe is None:
            station.is_down("it does not answer")
            if was_healthy:
                dispatcher.health_changed(station)
            return
        station.is_well(probe)
        dispatcher.node_told(station, heat=heat, has_less=station.hears(own))
        if not was_healthy:
            dispatcher.health_changed(station)


class Picker:
    """One of those who choose.

    Attributes:
        visits: its attempts, at nodes.
        misplaced: how many it sent to a node that had no slot for them, while another had.
        declined: how often a node would not take what it was sent.
    """

    def __init__(
        self,
        scenario: Scenario,
        nodes: Sequence[Place],
        *,
        hours: Hours,
        dice: random.Random,
        goes_on: Callable[[], bool],
    ) -> None:
        """Open: it was just told of every node, and asks each again at moments of its own.

        Args:
            scenario: how it is set, and how it asks.
            nodes: whom it may choose.
            hours: when it is.
            dice: its moments.
            goes_on: whether anything is yet to be chosen; else it asks no more.
        """
        fleet = fleet_of(scenario)
        self.fleet, self.hours, self.nodes = fleet, hours, nodes
        self.visits: dict[Attempt, Visit] = {}
        self.misplaced = self.declined = 0
        self._dice, self._goes_on = dice, goes_on
        self.dispatcher = open_dispatcher(scenario, hours)
        for node in nodes:
            slots = node.machine.spec.slots
            router = attrs.evolve(
                node.machine.spec, type=BackendType.ROUTER, slots=slots, slots_max=slots
            )
            station = open_station(scenario, router)
            post = Post(self, node, station)
            station.open(post)
            station.is_well(node.told())
            self.dispatcher.add(station)
            hours.at(fleet.refresh_s * dice.random(), self._ask, post)

    def _ask(self, post: Post) -> None:
        post.ask()
        fleet = self.fleet
        if not self._goes_on():
            return
        pause_s = fleet.refresh_s * (1 + fleet.jitter * self._dice.uniform(-1, 1))
        self.hours.at(self.hours.now + max(pause_s, 0.001), self._ask, post)


class Fleet:
    """A run of so many pickers over the same nodes."""

    def __init__(
        self,
        scenario: Scenario,
        traffic: Traffic,
        machines: Sequence[Machine],
        tally: Tally,
        count: int,
    ) -> None:
        """Open all; nothing has happened."""
        self._hours = Hours()
        self.nodes = [Place(scenario, self._hours, machine) for machine in machines]
        # Not the same dice: to whom a request is dealt must not depend on how often nodes are asked.
        dice = random.Random(f"{scenario.seed} {count} pickers")  # noqa: S311 - a model's dice
        deal = random.Random(f"{scenario.seed} {count} deal")  # noqa: S311 - as above
        self.pickers = [
            Picker(scenario, self.nodes, hours=self._hours, dice=dice, goes_on=self._goes_on)
            for _ in range(count)
        ]
        self._callers = Callers(
            traffic, tally, self._hours, lambda: deal.choice(self.pickers).dispatcher
        )

    def run(self) -> None:
        """Let it all happen."""
        self._hours.run()

    def _goes_on(self) -> bool:
        return not self._callers.are_done or any(p.dispatcher.jobs for p in self.pickers)

    @property
    def misplaced(self) -> int:
        """How many were sent to a node that had no slot for them, while another had."""
        return sum(picker.misplaced for picker in self.pickers)

    @property
    def declined(self) -> int:
        """How often a node would not take what it was sent; another was tried then."""
        return sum(picker.declined for picker in self.pickers)
