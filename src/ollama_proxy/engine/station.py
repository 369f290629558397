"""A backend at work: what is known of it, its line, and the workers at its slots."""

import random
from collections.abc import Callable
from typing import Protocol

import trio

from ollama_proxy.backends.backend import Backend, Probe
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.ask import Call
from ollama_proxy.policy.circuit import Circuit
from ollama_proxy.policy.estimate import Estimates
from ollama_proxy.policy.fleet import BackendSpec, BackendView
from ollama_proxy.policy.line import AGING_S, Line


class Work(Protocol):
    """A worker's life: take jobs from the channel until it closes."""

    async def __call__(self, station: "Station", jobs: trio.MemoryReceiveChannel[Job]) -> None:
        """Serve."""


class Station:
    """One backend, live. Only the dispatcher, its workers and its health task change it.

    `view` is what decisions are made on: a frozen value, built anew when something changed.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        queue_capacity: int,
        aging_s: float = AGING_S,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        """Make ready, closed: nothing is known yet, and nobody works."""
        self.backend = backend
        self.line: Line[Job] = Line(queue_capacity, aging_s=aging_s)
        self.estimates = Estimates()
        self.healthy = False
        self.last_error: str | None = None
        self.models: frozenset[str] | None = None
        self.loaded: frozenset[str] | None = None
        self.unserved: frozenset[Call] = frozenset()
        self.circuit = Circuit()
        self.in_flight = 0
        self.requests_total = 0
        self.errors_total = 0
        self._retiring = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._jitter = jitter or (lambda: random.uniform(-1, 1))  # noqa: S311 - spreads retries, guards nothing
        self._view: BackendView | None = None
        self._workers = 0
        self._nursery: trio.Nursery | None = None
        self._work: Work | None = None
        # As many places as slots: a job is only handed over when a slot is free.
        self._jobs_in, self._jobs_out = trio.open_memory_channel[Job](backend.spec.slots)

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "down"
        return (
            f"<Station {self.spec.id}: {state}, {self.in_flight}/{self.spec.slots} slots,"
            f" {len(self.line)} waiting>"
        )

    @property
    def spec(self) -> BackendSpec:
        """What its owner wrote down."""
        return self.backend.spec

    def view(self, now: float) -> BackendView:
        """What a decision may look at."""
        circuit = self.circuit
        if self._view is None or circuit.failures or circuit.openings:
            self._view = BackendView(
                spec=self.spec,
                healthy=self.healthy and not self._retiring.is_set(),
                circuit_open=circuit.is_open(now),
                models=self.models,
                loaded=self.loaded,
                in_flight=self.in_flight,
                waiting=len(self.line),
                full=self.line.is_full and not self.has_free_slot,
                unserved=self.unserved,
                failing=circuit.failing(now),
                estimates=self.estimates,
            )
        return self._view

    def touch(self) -> None:
        """Something that `view` shows has changed."""
        self._view = None

    # -- slots -----------------------------------------------------------------------------------

    @property
    def has_free_slot(self) -> bool:
        """Whether a job could start at once."""
        return self.in_flight < self.spec.slots

    def open(self, nursery: trio.Nursery, work: Work) -> None:
        """Let workers live in `nursery`. They are started when first needed."""
        self._nursery, self._work = nursery, work

    def hand(self, job: Job) -> None:
        """Give a job to a free worker, by its channel."""
        assert self._nursery is not None, "open() comes first"  # noqa: S101 - serve's promise
        assert self._work is not None, "open() comes first"  # noqa: S101 - as above
        self.in_flight += 1
        if self._idle.is_set():
            self._idle = trio.Event()
        if self.in_flight > self._workers:
            self._workers += 1
            self._nursery.start_soon(
                self._work, self, self._jobs_out.clone(), name=f"worker {self.spec.id}"
            )
        self.circuit = self.circuit.tried()
        self._jobs_in.send_nowait(job)
        self.touch()

    def free(self) -> None:
        """A worker has ended its job."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()
        self.touch()

    def retire(self) -> None:
        """Take no more jobs."""
        self._retiring.set()
        self.touch()

    async def wait_retired(self) -> None:
        """Wait until it takes no more jobs and every slot is empty."""
        await self._retiring.wait()
        await self._idle.wait()

    def close(self) -> None:
        """Send the workers home once they are idle."""
        self._jobs_in.close()
        self._jobs_out.close()

    # -- what was learned --------------------------------------------------------------------------

    def is_well(self, probe: Probe) -> None:
        """A probe was answered."""
        if not self.healthy:
            # It may be another version now: what it refused then is asked again.
            self.unserved = frozenset()
        self.healthy = True
        self.last_error = None
        self.models, self.loaded = probe.models, probe.loaded
        self.touch()

    def is_down(self, why: str) -> None:
        """A probe was not answered."""
        self.healthy = False
        self.last_error = why
        self.touch()

    def has_served(self, now: float) -> None:
        """A job was served."""
        self.circuit = self.circuit.succeeded(now)
        self.touch()

    def has_proved_nothing(self, job: Job) -> None:
        """A job ended and told nothing of the backend: its caller left, say."""
        # One that was sent before the circuit opened is not the attempt that it waits for.
        if job.started >= self.circuit.retry_at:
            self.circuit = self.circuit.released()
            self.touch()

    def has_failed(self, now: float, why: str, *, is_general: bool = True) -> None:
        """A job failed by the backend's fault; `is_general`: any other would have failed too."""
        self.errors_total += 1
        self.last_error = why
        self.circuit = self.circuit.failed(now, jitter=self._jitter(), is_general=is_general)
        self.touch()

    def does_not_serve(self, call: Call) -> None:
        """The server was seen not to know a call."""
        self.unserved |= {call}
        self.touch()

    def lacks(self, model: str) -> None:
        """The server was seen not to have a model after all."""
        if self.models is not None:
            real = self.spec.real_name(model)
            self.models -= {model, real, f"{real}:latest", real.removesuffix(":latest")}
        self.touch()
