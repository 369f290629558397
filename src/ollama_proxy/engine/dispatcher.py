"""Which worker gets which job, and what becomes of a job that failed.

Every method is synchronous and ends with nothing left undone: whatever changed, `_assign` was
called for whom it concerns. Who is awaited, and for how long, is the workers' business.
"""

import heapq
import itertools
import math
import weakref
from collections.abc import Callable

import attrs
import trio

from ollama_proxy.backends.backend import (
    BackendFailed,
    CallRejected,
    CallUnserved,
    Fault,
    ModelMissing,
    Served,
)
from ollama_proxy.engine.job import Job, Stage
from ollama_proxy.engine.ledger import Fact, Ledger, Outcome
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Ask, Wishes
from ollama_proxy.policy.fleet import BackendView
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.policy.route import Explanation, RouteSettings, choose, explain


@attrs.frozen(kw_only=True)
class DispatchSettings:
    """How jobs are placed. Times in seconds."""

    route: RouteSettings = attrs.field(factory=RouteSettings)
    retry_before_first_byte: bool = True
    first_byte_timeout_s: float = 300.0
    stall_timeout_s: float = 120.0


@attrs.frozen
class CallerGone:
    """How an attempt ends when its caller has left."""


@attrs.frozen
class CallerStalled:
    """How an attempt ends when its caller takes nothing of the answer for too long."""


@attrs.frozen
class RouterFaulted:
    """How an attempt ends when the router itself made a mistake."""


@attrs.frozen
class RouterStopped:
    """How an attempt ends when the router cannot wait for it any longer."""


@attrs.frozen
class DeadlinePassed:
    """How an attempt ends when the job's deadline came first."""


Ending = (
    Served
    | BackendFailed
    | CallUnserved
    | ModelMissing
    | CallRejected
    | CallerGone
    | CallerStalled
    | RouterFaulted
    | RouterStopped
    | DeadlinePassed
)


_SWEEP_AT_LEAST = 64
_FAULTED = Refusal(Code.INTERNAL, "The router made a mistake; its log says which.")
_STOPPING = Refusal(Code.SHUTTING_DOWN, "The router is shutting down.", retry_after_s=5.0)


class Dispatcher:
    """Places jobs on stations. One for the whole router."""

    def __init__(
        self,
        settings: DispatchSettings,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Begin with no stations; `add` them."""
        self.settings = settings
        self.stations: dict[str, Station] = {}
        self.is_draining = False
        self.jobs: set[Job] = set()
        self._ledger = ledger
        self._now = clock
        # Weak, since most jobs end long before their deadline: nothing takes them out of the heap
        # then, and it must not keep their bodies.
        self._deadlines: list[tuple[float, int, weakref.ref[Job]]] = []
        self._sweep_at = _SWEEP_AT_LEAST
        self._order = itertools.count()
        self._sooner = trio.Event()

    # -- stations ----------------------------------------------------------------------------------

    def add(self, station: Station) -> None:
        """A backend joins; the one that had its id, if any, leaves."""
        former = self.stations.get(station.spec.id)
        self.stations[station.spec.id] = station
        if former is not None and former is not station:
            self.remove(former)

    def remove(self, station: Station) -> None:
        """A backend leaves: those in its line go elsewhere, those at its slots finish."""
        station.retire()
        if self.stations.get(station.spec.id) is station:
            del self.stations[station.spec.id]
        self._replace(station)

    def health_changed(self, station: Station) -> None:
        """A probe found a station up or down."""
        if not station.healthy:
            self._replace(station)
        self._assign(station)

    # -- jobs --------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Take a job on: it gets a place, or its caller a refusal, before this returns.

        One that was withdrawn already has ended, and is not taken on.
        """
        if job.stage is Stage.DONE:
            return
        self.jobs.add(job)
        job.stall_timeout_s = self.settings.stall_timeout_s
        if self.is_draining:
            self._refuse(job, _STOPPING)
        elif (refusal := self._place(job)) is not None:
            self._refuse(job, refusal)

    def explain(self, ask: Ask, wishes: Wishes) -> Explanation:
        """What would be decided now, with everything that was weighed; nothing happens."""
        return explain(ask, wishes, self._views(), self.settings.route, now=self._now())

    def withdraw(self, job: Job) -> None:
        """The caller has left. No harm at any stage, nor twice."""
        if job.stage is Stage.DONE or job.left:
            return
        job.left = True
        if job.stage is Stage.RUNNING:
            # The worker hears of it and ends the attempt; a scope may be cancelled before it is
            # entered, so a job on its way through the channel is stopped as well.
            if job.scope is not None:
                job.scope.cancel()
            return
        self._leave_line(job)
        self._close(job, Outcome.LEFT)

    def finished(self, station: Station, job: Job, ending: Ending) -> None:
        """A worker has ended an attempt: book it, then try elsewhere or end the job."""
        now = self._now()
        station.free()
        station.requests_total += 1
        match ending:
            case Served():
                self._learn(station, job, ending, now)
                self._close(job, Outcome.SERVED, served=ending)
            case BackendFailed():
                # A 500 may be one request's fault (an image for a model without eyes) and comes
                # from a server that is there: it tells against it, but shuts nobody else out.
                why = f"{job.errand.model}: {ending}"
                station.has_failed(now, why, is_general=ending.status != 500)  # noqa: PLR2004 - RFC 9110
                self._try_elsewhere(station, job, _failed(station, ending))
                if station.circuit.is_open(now):
                    # Those behind it would only fail one after the other.
                    self._replace(station)
            case CallUnserved():
                station.has_proved_nothing(job)
                station.does_not_serve(job.ask.call)
                self._try_elsewhere(station, job, _unserved(station, job))
            case ModelMissing():
                station.has_proved_nothing(job)
                station.lacks(job.ask.model)
                self._try_elsewhere(station, job, _missing(job))
            case CallRejected():
                station.has_served(now)
                self._refuse(job, Refusal(Code.INVALID_REQUEST, str(ending)))
            case CallerGone():
                station.has_proved_nothing(job)
                self._learn_silence(station, job, now)
                self._close(job, Outcome.LEFT)
            case CallerStalled():
                station.has_proved_nothing(job)
                self._refuse(job, _unread(job))
            case RouterFaulted():
                station.has_proved_nothing(job)
                self._refuse(job, _FAULTED)
            case RouterStopped():
                self._refuse(job, _STOPPING)
                if not job.stopped:
                    # The workers themselves are ending: nobody will serve those in line.
                    self.stop()
            case DeadlinePassed():
                station.has_proved_nothing(job)
                self._learn_silence(station, job, now)
                self._refuse(job, _too_late(job))
        self._assign(station)

    def drain(self) -> None:
        """Take no more jobs; those in line and at work go on."""
        self.is_draining = True

    def stop(self) -> None:
        """End every job now, telling its caller."""
        self.drain()
        for job in list(self.jobs):
            if job.stage is Stage.RUNNING:
                job.stopped = True
                if job.scope is not None:
                    job.scope.cancel()
            else:
                self._leave_line(job)
                self._refuse(job, _STOPPING)

    async def keep_deadlines(self) -> None:
        """End the jobs whose deadline passes while they wait. Runs until cancelled."""
        while True:
            next_deadline = self._deadlines[0][0] if self._deadlines else math.inf
            with trio.move_on_at(next_deadline):
                await self._sooner.wait()
            self._sooner = trio.Event()
            self._expire(self._now())

    # -- how ---------------------------------------------------------------------------------------

    def _views(self) -> list[BackendView]:
        now = self._now()
        return [station.view(now) for station in self.stations.values()]

    def _place(self, job: Job) -> Refusal | None:
        """Give a job a place in the line of the best backend, or say why there is none."""
        now = self._now()
        left_s = job.deadline - now
        if left_s <= 0:
            return _too_late(job)
        wishes = job.wishes
        if job.assigned is not None and left_s < math.inf:
            # Not its first attempt: what has passed counts.
            wishes = attrs.evolve(wishes, max_latency_s=left_s)
        outcome = choose(
            job.ask, wishes, self._views(), self.settings.route, now=now, tried=job.tried
        )
        if isinstance(outcome, Refusal):
            return outcome
        station = self.stations[outcome.backend]
        job.decision = outcome
        job.stage = Stage.WAITING
        station.line.add(job)
        station.touch()
        self._assign(station)
        if job.stage is Stage.WAITING and job.deadline < math.inf:
            self._remember_deadline(job)
        return None

    def _remember_deadline(self, job: Job) -> None:
        if len(self._deadlines) >= self._sweep_at:
            live = {ref: entry for entry in self._deadlines if _waits(ref := entry[2])}
            self._deadlines = list(live.values())
            heapq.heapify(self._deadlines)
            self._sweep_at = max(2 * len(live), _SWEEP_AT_LEAST)
        entry = (job.deadline, next(self._order), weakref.ref(job))
        heapq.heappush(self._deadlines, entry)
        if self._deadlines[0] is entry:
            self._sooner.set()

    def _assign(self, station: Station) -> None:
        """Give waiting jobs to free slots."""
        while station.has_free_slot and (job := station.line.next()) is not None:
            now = self._now()
            job.stage = Stage.RUNNING
            if job.assigned is None:
                job.assigned = now
            job.started = now
            limit = min(job.deadline, now + self.settings.first_byte_timeout_s)
            job.scope = trio.CancelScope(deadline=limit)
            station.hand(job)

    def _try_elsewhere(self, station: Station, job: Job, refusal: Refusal) -> None:
        """Before the first byte, each alternative gets one chance within the deadline."""
        if job.stopped:
            self._refuse(job, _STOPPING)
            return
        if job.begun is not None or job.left or not self.settings.retry_before_first_byte:
            self._refuse(job, refusal)
            return
        job.tried.append(station.spec.id)
        job.stage = Stage.NEW
        if self._place(job) is not None:
            # What the last backend said is more use to the caller than that nobody is left.
            self._refuse(job, refusal)

    def _replace(self, station: Station) -> None:
        """Those in this station's line are decided anew."""
        for job in station.line.everybody():
            station.line.remove(job)
            job.stage = Stage.NEW
            if (refusal := self._place(job)) is not None:
                self._leave_line(job)
                self._refuse(job, refusal)
        station.touch()

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            job = heapq.heappop(self._deadlines)[2]()
            if job is not None and job.stage is Stage.WAITING:
                self._leave_line(job)
                self._refuse(job, _too_late(job))

    def _leave_line(self, job: Job) -> None:
        if job.decision is not None:
            if job.assigned is None:
                job.assigned = self._now()
            station = self.stations.get(job.decision.backend)
            if station is not None:
                station.line.remove(job)
                station.touch()

    def _learn(self, station: Station, job: Job, served: Served, now: float) -> None:
        station.has_served(now)
        is_answer = served.status < 400 and served.computed  # noqa: PLR2004 - an error is none
        if job.begun is None or not is_answer:
            return
        streamed = job.begun - job.started
        whole = now - job.started
        decoding = now - job.begun
        station.estimates.observe(
            job.ask.subject,
            now=now,
            prior=station.spec.prior,
            first_s=streamed if job.ask.stream else None,
            whole_s=None if job.ask.stream else whole,
            tokens_per_s=(served.tokens - 1) / decoding
            if served.tokens is not None and served.tokens > 1 and decoding > 0
            else None,
        )

    def _learn_silence(self, station: Station, job: Job, now: float) -> None:
        """Nobody waits any more for an answer that had not begun: it would have taken longer yet.

        How much longer is not known. Twice the wait is assumed, or a backend that hangs would go
        on being chosen for what it is believed to be.
        """
        likely_s = 2 * (now - job.started)
        ask, spec = job.ask, station.spec
        known = station.estimates.predict(ask.subject, spec.prior, stream=ask.stream, now=now)
        if job.begun is None and likely_s > known:
            station.estimates.observe(
                ask.subject,
                now=now,
                prior=spec.prior,
                first_s=likely_s if ask.stream else None,
                whole_s=None if ask.stream else likely_s,
            )
            station.touch()

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        if job.left:
            self._close(job, Outcome.LEFT)
            return
        job.caller.refuse(job, refusal)
        outcome = Outcome.REFUSED if job.begun is None else Outcome.BROKEN
        self._close(job, outcome, code=refusal.code)

    def _close(
        self,
        job: Job,
        outcome: Outcome,
        *,
        served: Served | None = None,
        code: Code | None = None,
    ) -> None:
        now = self._now()
        job.stage = Stage.DONE
        self.jobs.discard(job)
        decision = job.decision
        self._ledger.record(
            Fact(
                request_id=job.request_id,
                door=job.door,
                call=job.ask.call,
                model=job.ask.model,
                stream=job.ask.stream,
                priority=job.priority,
                outcome=outcome,
                status=served.status if served is not None else None,
                code=code,
                backend=decision.backend if decision is not None else None,
                reason=decision.reason if decision is not None else None,
                queue_s=job.queue_s,
                first_s=None if job.begun is None else job.begun - job.arrived,
                whole_s=now - job.arrived,
                tokens=served.tokens if served is not None else None,
            )
        )
        job.caller.done(job)


def _failed(station: Station, failure: BackendFailed) -> Refusal:
    message = f"Backend {station.spec.id} failed: {failure}."
    if failure.status == 429:  # noqa: PLR2004 - RFC 6585: too many requests
        return Refusal(Code.QUEUE_FULL, message, retry_after_s=5.0)
    if failure.fault is Fault.SILENT:
        return Refusal(Code.DEADLINE_EXCEEDED, message)
    return Refusal(Code.BACKEND_FAILED, message)


def _unserved(station: Station, job: Job) -> Refusal:
    return Refusal(
        Code.NO_BACKEND,
        f"Backend {station.spec.id} does not serve {job.ask.call.path}, and there is no other for"
        f" {job.ask.model!r}.",
        retry_after_s=5.0,
    )


def _missing(job: Job) -> Refusal:
    return Refusal(
        Code.MODEL_NOT_FOUND, f"model {job.ask.model!r} not found on any backend.", param="model"
    )


def _too_late(job: Job) -> Refusal:
    what = "first token" if job.ask.stream else "whole answer"
    limit_ms = (job.wishes.max_latency_s or 0.0) * 1000
    return Refusal(Code.DEADLINE_EXCEEDED, f"The {what} was not there within {limit_ms:g} ms.")


def _unread(job: Job) -> Refusal:
    return Refusal(
        Code.REQUEST_TIMEOUT, f"Nothing of the answer was taken for {job.stall_timeout_s:g} s."
    )


def _waits(ref: weakref.ref[Job]) -> bool:
    job = ref()
    return job is not None and job.stage is Stage.WAITING
