"""Several pickers over one fleet, which share nothing but what each node tells when it is asked.

Law: a picker is the real dispatcher, whose backends are nodes; a node is the real dispatcher, over one
modelled machine. Between the two are a request and its answer, which take no time, and what a node
tells of itself when it is asked.
"""

import functools
import random
from collections.abc import Callable, Sequence

import attrs

from ollama_proxy.backends.backend import BackendFailed, Fault, Probe, Served
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.endings import DeadlinePassed, Ending
from ollama_proxy.engine.job import Job, Stage
from ollama_proxy.engine.station import Station
from ollama_proxy.engine.worker import ENDINGS
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.simulate.arrivals import Traffic
from ollama_proxy.simulate.callers import Callers
from ollama_proxy.simulate.floor import Visitor, open_dispatcher, open_station
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.report import Tally
from ollama_proxy.simulate.scenario import Scenario, fleet_of
from ollama_proxy.simulate.site import Guest, Site

# Until all has happened that happens at once, such as a slot being cleared for one.
SETTLED_S = 0.001


@attrs.define(eq=False)
class Visit(Guest):
    """An attempt of a picker's, at a node.

    Attributes:
        is_hopeful: the picker takes the node for free.
    """

    post: "Post"
    attempt: Attempt
    refusal: Refusal | None = None
    is_hopeful: bool = False

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
    node: Site
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
        visit.is_hopeful = self._looks_free(attempt.job)
        self.node.take(visit, attempt.job)
        picker.hours.at(picker.hours.now + SETTLED_S, self._check, visit)

    def close(self) -> None:
        """See `Crew`."""

    def _looks_free(self, job: Job) -> bool:
        """Whether one that was just given a slot here would have one there, as far as is known."""
        station, others = self.station, self.station.others
        assert others is not None  # noqa: S101 - a router's station has them
        is_over = station.in_flight + others.at_work > station.spec.slots
        return not is_over and not others.ahead(job.priority)

    def _check(self, visit: Visit) -> None:
        """Does one wait who need not?"""
        job = self.node.visits.get(visit)
        if job is not None and job.stage is Stage.WAITING:
            picker = self.picker
            if any(node.takes_at_once(job) for node in picker.nodes):
                picker.misplaced += 1
                picker.mistaken += visit.is_hopeful

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
        mistaken: how many of those it had taken for free.
        declined: how often a node would not take what it was sent.
    """

    def __init__(
        self,
        scenario: Scenario,
        nodes: Sequence[Site],
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
        self.misplaced = self.mistaken = self.declined = 0
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
        self.nodes = [Site(scenario, self._hours, machine) for machine in machines]
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
    def mistaken(self) -> int:
        """How many of those were sent there in the belief that it had one."""
        return sum(picker.mistaken for picker in self.pickers)

    @property
    def declined(self) -> int:
        """How often a node would not take what it was sent; another was tried then."""
        return sum(picker.declined for picker in self.pickers)
