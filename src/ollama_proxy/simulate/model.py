"""A modelled backend: how long it takes with a request, what that costs, and what it says of itself.

Rule 1: the same request at the same backend, in the same state, takes the same time, whichever
        router sent it: its noise came with it.
Rule 2: how a request goes is settled when it starts: a drift counts from the next one on.
Rule 3: what was cancelled in its prefill computes on for a while, and holds its slot so long.

Left out, since no router here could tell: batching (a slot has its speed whatever the others do),
and that a model in use is not unloaded.
"""

import bisect
import math
import random
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import attrs

from ollama_proxy.backends.backend import Backend, Errand, Probe, Reply, Served, Sink, Way
from ollama_proxy.policy.fleet import BackendSpec, BackendType
from ollama_proxy.simulate.arrivals import Arrival
from ollama_proxy.simulate.scenario import MachineConfig, Scenario

_USUAL_PROMPT = 500
_GOLDEN = 0.6180339887498949


@attrs.define(eq=False)
class Run:
    """One request at a backend. Times in seconds.

    Attributes:
        arrival: it.
        begins: when its slot is really free.
        loaded_at: when its model is in memory.
        first_at: when its first token is there.
        ends_at: when the last is.
        fresh: tokens of the prompt that are computed, the others being cached.
        breaks: the backend fails it when the first token is due.
        over: it has ended, whichever way.
    """

    arrival: Arrival
    begins: float
    loaded_at: float
    first_at: float
    ends_at: float
    fresh: int
    breaks: bool
    over: bool = False


@attrs.define(eq=False)
class Machine:
    """One of them, in some state.

    Attributes:
        spec: what the router believes.
        given: what is true.
        speed: how this one of many differs.
        sizes: the models it has.
        busy_s: seconds of its slots' work.
        wasted_s: the part of it for nothing.
        wasted_tokens: those computed for nothing, of prompts and of answers.
        loads: how often a model was loaded.
        slowed: share of its speed that heat leaves it.
    """

    spec: BackendSpec
    given: MachineConfig
    sizes: Mapping[str, float]
    speed: float = 1.0
    busy_s: float = 0.0
    wasted_s: float = 0.0
    wasted_tokens: int = 0
    loads: int = 0
    slowed: float = 1.0
    _open: dict[Run, None] = attrs.field(factory=dict)
    _ready: dict[str, float] = attrs.field(factory=dict)
    _cached: dict[int, int] = attrs.field(factory=dict)
    _lingering: list[float] = attrs.field(factory=list)

    # -- work --------------------------------------------------------------------------------------

    @property
    def at_work(self) -> int:
        """How many requests it has that were not cancelled."""
        return len(self._open)

    def begin(self, arrival: Arrival, model: str, now: float, attempt: int = 0) -> Run:
        """Take a request on. `attempt` tells several at one request apart."""
        given = self.given
        begins = now
        if self._lingering:
            begins = self._free_at(now)
        size = self.sizes[model]
        loaded_at = self._load(model, size, begins)
        known = 0
        if arrival.talk:
            known = min(arrival.known, self._cached.get(arrival.talk, 0))
            self._keep(arrival)
        fresh = arrival.prompt - known
        slowness = size / (self.speed * self.slowed * self._drift(begins))
        prefill_s = given.floor_s + fresh * slowness / given.prefill_tokens_per_s
        decode_s = (arrival.answer - 1) * slowness / given.decode_tokens_per_s
        if given.jitter:
            prefill_s *= math.exp(given.jitter * arrival.first_noise)
            decode_s *= math.exp(given.jitter * arrival.rest_noise)
        luck = (arrival.luck + attempt * _GOLDEN) % 1.0
        first_at = loaded_at + prefill_s
        run = Run(
            arrival, begins, loaded_at, first_at, first_at + decode_s, fresh, luck < given.failing
        )
        self._open[run] = None
        return run

    def end(self, run: Run, now: float, *, in_vain: bool = False) -> None:
        """A request has ended, by itself or because it was cancelled."""
        run.over = True
        del self._open[run]
        stops_at = now
        if now < run.first_at and not run.breaks:
            stops_at = max(now, min(run.first_at, now + self.given.cancel_linger_s))
            if now <= run.begins:
                stops_at = now
        took_s = max(0.0, stops_at - run.begins)
        self.busy_s += took_s
        if stops_at > now:
            bisect.insort(self._lingering, stops_at)
        if in_vain:
            self.wasted_s += took_s
            self.wasted_tokens += round(
                run.fresh * _share(run.loaded_at, stops_at, run.first_at)
                + run.arrival.answer * _share(run.first_at, stops_at, run.ends_at)
            )

    def forget(self) -> None:
        """It was switched off: nothing is in its memory, and nothing is computed."""
        self._ready.clear()
        self._cached.clear()
        self._lingering.clear()

    def _drift(self, now: float) -> float:
        speed = 1.0
        for drift in self.given.drift:
            if drift.at_s <= now:
                speed = drift.speed
        return speed

    def _load(self, model: str, size: float, now: float) -> float:
        """When a model is in memory; it is now the one used last."""
        ready_at = self._ready.pop(model, None)
        if ready_at is None:
            if len(self._ready) >= self.given.memory:
                del self._ready[next(iter(self._ready))]
            self.loads += 1
            ready_at = now + self.given.load_s * size
        self._ready[model] = ready_at
        return max(now, ready_at)

    def _keep(self, arrival: Arrival) -> None:
        """Each slot's prefix cache has the conversation it had last."""
        cached = self._cached
        cached.pop(arrival.talk, None)
        cached[arrival.talk] = arrival.prompt + arrival.answer
        if len(cached) > self.spec.slots:
            del cached[next(iter(cached))]

    # -- what was cancelled ------------------------------------------------------------------------

    def computing(self, now: float) -> int:
        """How many requests it computes, those that were cancelled and run on included."""
        self._settle(now)
        return self.at_work + len(self._lingering)

    def lingers_until(self, now: float) -> float:
        """When the first of those that were cancelled is over; `now` if there is none."""
        self._settle(now)
        return self._lingering[0] if self._lingering else now

    def _settle(self, now: float) -> None:
        while self._lingering and self._lingering[0] <= now:
            self._lingering.pop(0)

    def _free_at(self, now: float) -> float:
        self._settle(now)
        surplus = self.at_work + 1 + len(self._lingering) - self.spec.slots
        return now if surplus <= 0 else self._lingering[min(surplus, len(self._lingering)) - 1]

    # -- what it says ------------------------------------------------------------------------------

    def probe(self, now: float) -> Probe:
        """As a real one would be answered."""
        given = self.given
        loaded = frozenset(m for m, at in self._ready.items() if at <= now)
        return Probe(
            models=frozenset(self.sizes),
            loaded=loaded if given.tells_loaded else None,
            computing=self.computing(now) if given.tells_computing else None,
        )

    def joules(self, until_s: float) -> float:
        """The energy it took from 0 to `until_s`, when all it began is over."""
        busy_s = min(until_s, self.busy_s / self.given.slots)
        return self.given.watts_idle * until_s + self.extra_joules(busy_s * self.given.slots)

    def extra_joules(self, work_s: float) -> float:
        """What so many seconds of a slot's work cost, beyond rest."""
        given = self.given
        return (given.watts_busy - given.watts_idle) * work_s / given.slots

    def work_s(self, now: float) -> float:
        """Seconds of its slots' work until now, with what is not over."""
        begun = sum(max(0.0, now - run.begins) for run in self._open)
        return self.busy_s + begun - sum(max(0.0, at - now) for at in self._lingering)


def _share(begin: float, now: float, end: float) -> float:
    """How much of a span is over, 0 to 1."""
    return 0.0 if now <= begin else 1.0 if now >= end else (now - begin) / (end - begin)


@attrs.frozen
class Facade(Backend):
    """A modelled backend as a station sees it. Nobody talks to it: the world does its work."""

    spec: BackendSpec

    async def exchange(self, errand: Errand, sink: Sink) -> Served:
        """See `Backend`."""
        raise NotImplementedError

    def way(self, errand: Errand) -> Way:
        """See `Backend`."""
        raise NotImplementedError

    async def probe(self) -> Probe:
        """See `Backend`."""
        raise NotImplementedError

    def call(
        self, method: str, path: str, *, body: AsyncIterator[bytes] | bytes | None = None
    ) -> AbstractAsyncContextManager[Reply]:
        """See `Backend`."""
        raise NotImplementedError

    async def run(self) -> None:
        """See `Backend`."""

    def forget_connections(self) -> None:
        """See `Backend`."""

    async def aclose(self) -> None:
        """See `Backend`."""


def machines(scenario: Scenario) -> list[Machine]:
    """All of a scenario's backends, idle and empty."""
    sizes = {model.name: model.size for model in scenario.models} or {"": 1.0}
    return [
        machine for given in scenario.backends for machine in _copies(given, scenario.seed, sizes)
    ]


def _copies(given: MachineConfig, seed: int, sizes: Mapping[str, float]) -> Iterator[Machine]:
    dice = random.Random(f"{seed} {given.id}")  # noqa: S311 - a model's dice
    usual_s = given.floor_s + _USUAL_PROMPT / given.prefill_tokens_per_s
    for number in range(given.count):
        speed = math.exp(dice.gauss(0, given.uneven)) if given.uneven else 1.0
        off = [2 ** (given.prior_off * dice.uniform(-1, 1)) for _ in range(2)]
        spec = BackendSpec(
            id=given.id if given.count == 1 else f"{given.id}-{number}",
            type=BackendType.OPENAI,
            hardware=given.hardware,
            slots=given.slots,
            power_watts=(given.prior_watts or given.watts_busy) * off[0],
            avg_latency_s=(given.prior_latency_ms / 1000 or usual_s / speed) * off[1],
            preference=given.priority,
        )
        has = {name: sizes[name] for name in given.models} if given.models else sizes
        yield Machine(spec=spec, given=given, sizes=has, speed=speed)


def quantiles(values: "Sequence[float] | array[float]", *of: float) -> list[float | None]:
    """The nearest ranks of some numbers; None of nothing."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return [ranked[min(last, math.ceil(q * (last + 1)) - 1)] if ranked else None for q in of]
