"""A backend at work: what is known of it, its line, and what is at its slots."""

import math
import random
from collections.abc import Callable

import attrs
import trio

from ollama_proxy.backends.backend import Backend, Probe
from ollama_proxy.engine.attempt import Attempt, Halt
from ollama_proxy.engine.crew import Crew
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.ask import Ask, Call, Priority
from ollama_proxy.policy.calibration import Calibration
from ollama_proxy.policy.circuit import Circuit
from ollama_proxy.policy.energy import Appetite
from ollama_proxy.policy.estimate import Estimates, Learned, Prior
from ollama_proxy.policy.fleet import BackendSpec, BackendType, BackendView, lists
from ollama_proxy.policy.line import AGING_S, Line
from ollama_proxy.policy.node import Node
from ollama_proxy.policy.others import Others
from ollama_proxy.policy.preempt import Started, choose_victim
from ollama_proxy.policy.thermal import WARM, ThermalState

LINGERS_MAX_S = 60.0


class Station:
    """One backend, live. Only the dispatcher, its crew and its health task change it.

    `view` is what decisions are made on: a frozen value, built anew when something changed.

    Attributes:
        written: what its owner wrote down.
        spec: the same with the slots that a router says it has.
        preempts: whether critical requests may have best effort put back; None: they may not.
        kept: the view, while it holds whatever the time.
        part: what part of the machine it computes on; None where that is not known.
        heat: that part's thermal state.
        hot: the same for people; empty where it is not warm.
        asleep: that part is suspended.
        others: what others have there, as it told last; None: nobody else uses it.
        doubt: what is wrong with it though it is well: `last_error`, where nothing else is.
        node: what it says of itself, where it is a router; None where it does not tell now.
        turned_away: up to which priority it says that it is full; None: it does not.
        turned_away_until: until when.
        energy: what was learned of its energy.
        watch: is called when the backend should be probed soon; None where nobody probes it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        queue_capacity: int,
        aging_s: float = AGING_S,
        reserve_critical_slots: int = 0,
        preempts: Started | None = None,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        """Make ready, closed: nothing is known yet, and nobody works."""
        self.backend = backend
        self.written: BackendSpec = backend.spec
        self.spec = self.written
        self.line: Line[Job] = Line(queue_capacity, aging_s=aging_s)
        self.reserve_critical_slots = reserve_critical_slots
        self.preempts = preempts
        self.estimates = Estimates()
        self.calibration = Calibration()
        self.healthy = False
        self.last_error: str | None = None
        self.doubt: str | None = None
        self.models: frozenset[str] | None = None
        self.loaded: frozenset[str] | None = None
        self.unserved: frozenset[Call] = frozenset()
        self.uncarried: frozenset[Call] = frozenset()
        self.circuit = Circuit()
        self.running: dict[Attempt, None] = {}
        self.busy: dict[Attempt, None] = {}
        self.requests_total = 0
        self.errors_total = 0
        self.watch: Callable[[], None] | None = None
        self.part: str | None = None
        self.heat = ThermalState.UNKNOWN
        self.hot = ""
        self.asleep = False
        self.others = Others() if self.is_router else None
        self.node: Node | None = None
        self.turned_away: Priority | None = None
        self.turned_away_until = -math.inf
        self.energy = Appetite()
        self._off_s = Learned(0.0, 0.0)
        self._linger_s = Learned(0.0, 0.0)
        self._cleared = 0  # slots that somebody gave up for critical jobs, and nobody has taken
        self._retiring = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._jitter = jitter or (lambda: random.uniform(-1, 1))  # noqa: S311 - spreads retries, guards nothing
        self._view: BackendView | None = None
        self.kept: BackendView | None = None
        self._crew: Crew | None = None

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "down"
        return (
            f"<Station {self.spec.id}: {state}, {self.in_flight}/{self.spec.slots} slots,"
            f" {len(self.line)} waiting>"
        )

    def view(self, now: float) -> BackendView:
        """What a decision may look at."""
        circuit = self.circuit
        if self.turned_away is not None and now >= self.turned_away_until:
            self.turned_away = None
            self.touch()
        is_away = self.turned_away is not None
        if self._view is None or circuit.failures or circuit.openings:
            self._view = BackendView(
                spec=self.spec,
                healthy=self.healthy and not self._retiring.is_set(),
                circuit_open=circuit.is_open(now),
                models=self.models,
                loaded=self.loaded,
                busy=self.busy,
                line=self.line,
                others=self.others,
                reserved=self.reserved,
                running=self.running,
                preempts=self.preempts,
                unserved=self.unserved,
                uncarried=self.uncarried,
                failing=circuit.failing(now),
                estimates=self.estimates,
                off_s=self._off_s,
                linger_s=self._linger_s,
                energy=self.energy,
                heat=self.heat,
                hot=self.hot,
                asleep=self.asleep,
                node=self.node,
                turned_away=self.turned_away,
            )
            # What an open circuit means depends on the time, and so does a full node.
            is_lasting = not (circuit.failures or circuit.openings or is_away)
            self.kept = self._view if is_lasting else None
        return self._view

    def touch(self) -> None:
        """Something that `view` shows, and that is not live, has changed."""
        self._view = self.kept = None

    def learned(self) -> None:
        """Other times are to be expected than were."""
        if self._view is not None:
            self._view.memo.clear()

    @property
    def node_id(self) -> str:
        """Whose it is, where it is a router that has told so; else empty."""
        return (self.node and self.node.id) or ""

    # -- slots -----------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many slots are taken; one that may still compute what was cancelled is."""
        return len(self.busy)

    @property
    def reserved(self) -> int:
        """How many slots are kept for critical requests: never all of them."""
        kept = self.reserve_critical_slots
        return min(kept, self.spec.slots - 1) if kept else 0

    @property
    def has_free_slot(self) -> bool:
        """Whether a job, if it is urgent enough, could start at once."""
        return self.in_flight < self.spec.slots

    def inherit(self, former: "Station") -> None:
        """Begin with what was known of the same server before its owner described it anew."""
        self.healthy, self.last_error = former.healthy, former.last_error
        self.models, self.loaded = former.models, former.loaded
        if former.written.type is self.written.type:
            self.others = former.others
            self._note_node(former.node)
        self.estimates, self.calibration = former.estimates, former.calibration
        self.energy = former.energy
        self.touch()

    def open(self, crew: Crew) -> None:
        """Let `crew` do what is handed out."""
        self._crew = crew

    def next(self) -> Job | None:
        """Take out of the line who may start now."""
        free = self.spec.slots - self.in_flight
        if free <= 0:
            return None
        if self._cleared:
            # By the line's order whoever is due would have it, who would be the next to be put back; and
            # whom it was cleared for would have been promised it in vain. Nobody starves by this: each
            # who is put back is so twice at the most.
            self._cleared -= 1
            if (urgent := self.line.next(Priority.CRITICAL)) is not None:
                return urgent
            self._cleared = 0
        return self.line.next(Priority.CRITICAL if free <= self.reserved else Priority.BEST_EFFORT)

    def takes_at_once(self, priority: Priority) -> bool:
        """Whether a job of this priority would be the next whom `next` takes out."""
        free = self.spec.slots - len(self.busy)
        if free <= 0 or len(self.line):
            return False
        return priority is Priority.CRITICAL or free > self.reserved

    def victim(self) -> Attempt | None:
        """Who gives up a slot for a critical job that waits; None if nobody should.

        One slot is vacated for each critical job that waits, no more.
        """
        if self.preempts is None or self.has_free_slot:
            return None
        vacating = self.lingering + sum(attempt.halted is not None for attempt in self.running)
        if vacating >= self.line.depth(Priority.CRITICAL):
            return None
        return choose_victim(self.running, self.preempts)

    def hand(self, attempt: Attempt) -> None:
        """Let an attempt be made."""
        assert self._crew is not None, "open() comes first"  # noqa: S101 - serve's promise
        self.running[attempt] = self.busy[attempt] = None
        if self._idle.is_set():
            self._idle = trio.Event()
        self._note_circuit(self.circuit.tried())
        if self.asleep:  # no longer: whoever is next need not wake it
            self.asleep = False
            self.touch()
        self._crew.give(attempt, len(self.running))

    def free(self, attempt: Attempt, now: float, *, lingers: bool = False) -> None:
        """A worker has ended an attempt.

        Args:
            attempt: which.
            now: seconds.
            lingers: the backend may still be at it: the slot is taken until a probe was answered.
        """
        del self.running[attempt]
        self._cleared += attempt.halted is Halt.PUT_BACK
        if attempt.halted is None:
            self._off_s.feed(abs(now - attempt.ends), now)
        if lingers and self.watch is not None and self.healthy:
            attempt.lingers_from = now
            self.watch()
        else:
            del self.busy[attempt]
        if not self.running:
            self._idle.set()

    @property
    def lingering(self) -> int:
        """How many slots a backend may still use for what was cancelled."""
        return len(self.busy) - len(self.running)

    def settle(self, computing: int | None, asked: int, now: float) -> None:
        """A probe was answered: what lingered when it was sent is over, unless it says otherwise.

        Args:
            computing: how many requests the server says it is computing; None: it does not tell.
            asked: how many lingered when it was asked.
            now: seconds.
        """
        still = 0 if computing is None else max(0, computing - len(self.running))
        lingering = [attempt for attempt in self.busy if attempt not in self.running]
        for number, attempt in enumerate(lingering):
            # A server that others use, too, is always computing something.
            if number < asked - still or now - attempt.lingers_from > LINGERS_MAX_S:
                del self.busy[attempt]
                self._linger_s.feed(now - attempt.lingers_from, now)

    def retire(self) -> None:
        """Take no more jobs."""
        self._retiring.set()
        self.touch()

    async def wait_retired(self) -> None:
        """Wait until it takes no more jobs and every slot is empty."""
        await self._retiring.wait()
        await self._idle.wait()

    def close(self) -> None:
        """Send the crew home once it is idle."""
        if self._crew is not None:
            self._crew.close()

    def _note_circuit(self, circuit: Circuit) -> None:
        if circuit is not self.circuit:
            self.circuit = circuit
            self.touch()

    def feels(self, part: str | None, heat: ThermalState, hot: str, *, asleep: bool) -> bool:
        """What it computes on is so warm now; whether that is another grade than before."""
        is_news = heat is not self.heat
        if (part, heat, hot, asleep) != (self.part, self.heat, self.hot, self.asleep):
            self.part, self.heat, self.hot, self.asleep = part, heat, hot, asleep
            self.touch()
        return is_news

    # -- what was learned --------------------------------------------------------------------------

    def is_well(self, probe: Probe) -> None:
        """A probe was answered."""
        if not self.healthy:
            # It may be another version now: what it refused then is asked again.
            self.unserved = self.uncarried = frozenset()
            self.circuit = self.circuit.revived()
        was = self.healthy, self.models, self.loaded
        self.healthy, self.models, self.loaded = True, probe.models, probe.loaded
        self.last_error = self.doubt
        self._note_node(probe.node)
        if was != (True, probe.models, probe.loaded):
            self.touch()

    def is_doubted(self, why: str | None) -> None:
        """Something is wrong with it that no probe finds; None: not any more."""
        if self.last_error == self.doubt:
            self.last_error = why
        self.doubt = why

    def is_down(self, why: str) -> None:
        """A probe was not answered."""
        self.healthy = False
        self.last_error = why
        # What it said of itself is too old to go by.
        self._note_node(None)
        if self.others is not None:
            self.others.forget()
        for attempt in [each for each in self.busy if each not in self.running]:
            del self.busy[attempt]
        self.touch()

    # -- what a router says of itself ----------------------------------------------------------------

    @property
    def is_router(self) -> bool:
        """Whether it is another router, on a machine of its own."""
        return self.written.type is BackendType.ROUTER

    @property
    def is_delicate(self) -> bool:
        """Whether it may have to be spared something."""
        stance = None if self.node is None else self.node.stance
        has_cap = stance is not None and stance.watts_soft_cap is not None
        return self.heat in WARM or self.asleep or has_cap

    @property
    def usual_watts(self) -> float:
        """What its work is taken to draw where nothing was measured: as told, else as written."""
        return (self.node and self.node.watts) or self.spec.power_watts

    def prior(self, ask: Ask) -> Prior:
        """What to believe of its speed before anything was measured; as `BackendView.prior`."""
        prior = self.spec.prior
        return (
            prior
            if self.node is None
            else self.node.prior(ask, self.spec.real_name(ask.model), prior)
        )

    def hears(self, own: int) -> bool:
        """Take what a router just told of its load; whether there is less of others' than was thought.

        Args:
            own: how many requests it had of ours when it was asked.
        """
        node, others = self.node, self.others
        if others is None:
            return False
        if node is None or node.at_work is None or node.waiting is None:
            others.forget()
            return False
        return others.hear(node.at_work, node.waiting, own)

    def _note_node(self, node: Node | None) -> None:
        if not self.is_router:
            return
        before, self.node = self.node, node
        slots = self.written.slots
        if node is not None and node.slots is not None:
            slots = max(1, min(node.slots, self.written.slots_max))
        if slots != self.spec.slots:
            self.spec = attrs.evolve(self.written, slots=slots)
            self.touch()
        if node is not None and node.calls is not None:
            unserved = frozenset(Call) - node.calls
            if unserved != self.unserved:
                self.unserved = unserved
                self.touch()
        heat = ThermalState.UNKNOWN if node is None else node.heat
        self.feels(None, heat, f"it says {heat.value}" if heat in WARM else "", asleep=False)
        if node is None or before is None or not node.is_as(before):
            self.touch()

    def turns_away(self, priority: Priority, until: float) -> None:
        """It says that it is full, for a request of this priority and hence for all below."""
        self.turned_away = priority if self.turned_away is None else max(self.turned_away, priority)
        self.turned_away_until = max(self.turned_away_until, until)
        self.touch()

    def is_shut_for(self, priority: Priority, now: float) -> bool:
        """Whether one of this priority would be turned away now."""
        up_to = self.turned_away
        return up_to is not None and priority <= up_to and now < self.turned_away_until

    def has_served(self, now: float) -> None:
        """A job was served."""
        self._note_circuit(self.circuit.succeeded(now))

    def has_loaded(self, model: str) -> None:
        """A model that was just used is in memory, before any probe says so."""
        if self.loaded is not None:
            real = self.spec.real_name(model)
            if real not in self.loaded:
                self.loaded |= {real}
                self.touch()

    def must_load(self, model: str) -> bool | None:
        """Whether a model is not in memory now; None where the server does not tell."""
        if self.loaded is None:
            return None
        return not lists(self.loaded, self.spec.real_name(model))

    def has_proved_nothing(self, attempt: Attempt) -> None:
        """An attempt ended and told nothing of the backend: its caller left, say."""
        # One that was sent before the circuit opened is not the attempt that it waits for.
        if attempt.started >= self.circuit.retry_at:
            self._note_circuit(self.circuit.released())

    def has_failed(self, now: float, why: str, *, is_general: bool = True) -> None:
        """A job failed by the backend's fault; `is_general`: any other would have failed too."""
        self.errors_total += 1
        self.last_error = why
        self._note_circuit(self.circuit.failed(now, jitter=self._jitter(), is_general=is_general))

    def does_not_serve(self, call: Call, *, carried: bool = False) -> None:
        """The server was seen not to know a call; `carried`: as it is, which we might translate."""
        if carried:
            self.uncarried |= {call}
        else:
            self.unserved |= {call}
        self.touch()

    def lacks(self, model: str) -> None:
        """The server was seen not to have a model after all."""
        if self.models is not None:
            real = self.spec.real_name(model)
            self.models -= {model, real, f"{real}:latest", real.removesuffix(":latest")}
        self.touch()
