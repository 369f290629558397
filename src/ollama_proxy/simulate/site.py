"""A node of a simulated fleet: a router of its own, over one modelled machine, and what it tells of itself."""

from collections.abc import Mapping

import attrs

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.estimate import Learned
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.node import Node
from ollama_proxy.simulate.floor import Floor, Visitor
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.scenario import Scenario


@attrs.define(eq=False)
class Guest(Visitor):
    """One whom somebody else sent.

    Attributes:
        is_cut: the node went away with it.
    """

    is_cut: bool = attrs.field(default=False, init=False)


class Site:
    """A router with one backend, among others.

    Attributes:
        visits: those whom pickers sent, and who are not answered.
        is_gone: it answers nobody.
    """

    def __init__(self, scenario: Scenario, hours: Hours, machine: Machine) -> None:
        """Open."""
        self.machine = machine
        self.visits: dict[Guest, Job] = {}
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

    def take(self, visit: Guest, sent: Job) -> None:
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

    def drop(self, visit: Guest) -> None:
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
