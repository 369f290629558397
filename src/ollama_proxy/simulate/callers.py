"""Those who ask: they come when they come, or when they were answered, and what came of it is booked."""

import math
from collections.abc import Callable
from typing import Any

import attrs

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.job import Job
from ollama_proxy.policy.refusal import Code, Refusal
from ollama_proxy.simulate.arrivals import Arrival, Kept, Traffic
from ollama_proxy.simulate.floor import Visitor
from ollama_proxy.simulate.hours import Hours
from ollama_proxy.simulate.report import Tally

ASKS_AGAIN_S = 1.0  # one who is kept waiting, after a refusal


@attrs.define(eq=False)
class Request(Visitor):
    """One request, and the caller of its job."""

    callers: "Callers"
    at: float
    phase: int
    kept: "Asker | None"
    refusal: Code | None = None

    def refuse(self, job: Job, refusal: Refusal) -> None:  # noqa: ARG002 - as `Caller` has it
        """Note why."""
        self.refusal = refusal.code

    def done(self, job: Job) -> None:
        """Have it booked."""
        self.callers.book(self, job)


@attrs.define(eq=False)
class Asker:
    """Keeps a class of requests waiting: who was answered asks again."""

    kept: Kept
    contents: Any = None


class Callers:
    """All of a run's."""

    def __init__(
        self, traffic: Traffic, tally: Tally, hours: Hours, door: Callable[[], Dispatcher]
    ) -> None:
        """Let them come.

        Args:
            traffic: who they are.
            tally: where they are booked.
            hours: when it is.
            door: whom the next one asks.
        """
        self._traffic, self._kinds, self._tally = traffic, traffic.kinds, tally
        self._hours, self._door = hours, door
        self._open = traffic.open()
        self._kept_left = traffic.count_kept
        for kept in traffic.kept:
            asker = Asker(kept, kept.draw())
            for _ in range(kept.at_once):
                hours.at(kept.starts_s, self._ask, asker)
        self._await_next()

    @property
    def are_done(self) -> bool:
        """Whether nobody comes any more."""
        traffic = self._traffic
        none_kept = not traffic.kept or self._kept_left <= 0 or self._hours.now > traffic.until
        return none_kept and not self._is_awaiting

    def _await_next(self) -> None:
        arrival = next(self._open, None)
        self._is_awaiting = arrival is not None
        if arrival is not None:
            self._hours.at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._await_next()
        self._submit(arrival, None)

    def _ask(self, asker: Asker) -> None:
        if self._kept_left > 0 and self._hours.now <= self._traffic.until:
            self._kept_left -= 1
            self._submit(next(asker.contents), asker)

    def _submit(self, arrival: Arrival, kept: Asker | None) -> None:
        kind, now = self._kinds[arrival.kind], self._hours.now
        phase = self._tally.comes(now)
        self._door().submit(
            Job(
                errand=kind.errand,
                ask=kind.ask(arrival),
                wishes=kind.wishes,
                caller=Request(arrival, kind, self, now, phase, kept),
                request_id="",
                door="simulation",
                arrived=now,
                client=kind.clients[arrival.client],
            )
        )

    def book(self, request: Request, job: Job) -> None:
        """A request is over."""
        tally, now, code = self._tally, self._hours.now, request.refusal
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
            again_at = now if code is None else now + ASKS_AGAIN_S
            self._hours.at(again_at, self._ask, request.kept)
