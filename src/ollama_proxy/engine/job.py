"""One request on its way through the router, from its arrival to its end."""

import enum
import math
from typing import TYPE_CHECKING, Protocol

import attrs

from ollama_proxy.backends.backend import (
    Backend,
    BackendFailed,
    CallerLeft,
    CallUnserved,
    Errand,
    Fault,
    Head,
    ModelMissing,
    Report,
    Served,
    Tap,
    Transcript,
    Way,
)
from ollama_proxy.policy.ask import Ask, Priority, Wishes
from ollama_proxy.policy.energy import Grade, Spent, spent
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

if TYPE_CHECKING:
    from ollama_proxy.engine.attempt import Attempt
    from ollama_proxy.engine.journey import Journey

# Doors speak of jobs in these words, and import them from here: the room of backends is not theirs.
__all__ = [
    "Backend",
    "BackendFailed",
    "CallUnserved",
    "Caller",
    "CallerLeft",
    "Carriage",
    "Errand",
    "Fault",
    "Head",
    "Job",
    "ModelMissing",
    "Report",
    "Served",
    "Stage",
    "Tap",
    "Way",
]


class Stage(enum.Enum):
    """How far a job has come."""

    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


class Caller(Protocol):
    """A door's end of a job. `begin`, `write` and `tap` are as in `backends.backend.Sink`."""

    async def begin(self, job: "Job", head: Head, first: bytes, *, complete: bool) -> None:
        """Send the head, with what the job tells about its routing, and the first bytes."""

    async def write(self, data: bytes, *, complete: bool) -> None:
        """Send body bytes."""

    def tap(self) -> Tap | None:
        """The way for the pump."""

    def refuse(self, job: "Job", refusal: Refusal) -> None:
        """Say why there is no answer, or no more of it, as far as that is possible at once."""

    def done(self, job: "Job") -> None:
        """The job is over, whichever way: exactly one call, the last."""


class Carriage(Protocol):
    """Another proxy, which carries a call's bytes itself, once it was told where to."""

    async def carry(self, attempt: "Attempt", backend: Backend) -> Served:
        """Have the call made on `backend`, and wait for its end. As `Backend.exchange`."""


@attrs.define(kw_only=True, eq=False)
class Job:
    """One request, from its arrival to its end.

    Attributes:
        errand: what a backend is to do.
        ask: the same, as far as routing looks.
        wishes: how it is to be served.
        caller: who takes the answer.
        request_id: the caller's, or made up.
        door: which door it came through, for the books.
        arrived: when its last byte was read; all its times count from here.
        client: who asks; those of one client share its turns in line.
        key_name: of the API key that it came with, for the books; empty: it came with none.
        carriage: who makes its calls instead of us; None: nobody.
        told: and was told where to: nothing can be taken back, nor tried elsewhere.
        landed: the backend that this one went to by itself when ours failed it; empty: none.
        stall_timeout_s: how long backend and caller may keep each other waiting.
        decision: the latest choice of a backend.
        promised_s: the forecast that it was admitted on; None if it was not.
        attempts: those under way: none while it waits, two where it is hedged.
        tried: backends that failed it.
        failovers: from which backend to which it went because the former failed it.
        put_back: how often a more urgent one took its slot.
        hedge_s: the work that was set aside for its second attempt; 0 if there was none.
        stage: how far it has come.
        left: the caller is gone, or cancelled.
        stopped: the router ends, and has waited for it as long as it may.
        assigned: when its wait in line ended; None if it has not, or there was none.
        begun: when the first byte went to the caller.
        overhead_s: the router's own time before the first byte: from the arrival until a place was
            found, from a worker's being told until it began, from a backend's first bytes until the
            caller was given them. Not the line's, nor the backend's.
        in_time: a stream that was put back after its first byte had kept its deadline.
        transcript: what the caller was given, while another attempt could go on with it.
        given: pieces of the answer by attempts that were put back.
        paid: joules of its attempts that have ended, by how they were found.
        bill: what a whole answer cost, when its head was there.
        journey: where it has been; None where nobody keeps traces.
        priority: how urgent it is.
        deadline: when it must have its first token (a stream) or its end (a whole answer).
    """

    errand: Errand
    ask: Ask
    wishes: Wishes
    caller: Caller
    request_id: str
    door: str
    arrived: float
    client: str = ""
    key_name: str = ""
    carriage: Carriage | None = attrs.field(default=None, repr=False)
    told: bool = False
    landed: str = ""
    stall_timeout_s: float = math.inf
    decision: Decision | None = None
    promised_s: float | None = None
    attempts: list["Attempt"] = attrs.field(factory=list, repr=False)
    tried: list[str] = attrs.field(factory=list)
    failovers: list[tuple[str, str]] = attrs.field(factory=list)
    put_back: int = 0
    hedge_s: float = 0.0
    stage: Stage = Stage.NEW
    left: bool = False
    stopped: bool = False
    assigned: float | None = None
    begun: float | None = None
    overhead_s: float = 0.0
    in_time: bool = False
    transcript: Transcript | None = attrs.field(default=None, repr=False)
    given: int = 0
    paid: dict[Grade, float] = attrs.field(factory=dict)
    bill: Spent | None = None
    journey: "Journey | None" = attrs.field(default=None, repr=False)
    # Kept, not derived: each is asked for a dozen times on a job's way.
    priority: Priority = attrs.field(init=False)
    deadline: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        limit = self.wishes.max_latency_s
        self.priority = self.wishes.priority
        self.deadline = math.inf if limit is None else self.arrived + limit

    def billed(self, now: float) -> Spent | None:
        """What it has cost until now, attempts that failed included; None where nobody counts."""
        paid = dict(self.paid)
        for attempt in self.attempts:
            own = attempt.cost(attempt, now)
            if own is not None:
                paid[own.grade] = paid.get(own.grade, 0.0) + own.joules
        return spent(paid, is_final=False) if paid else None

    @property
    def cost(self) -> float:
        """Seconds that it takes a slot for, as far as is known."""
        return self.decision.candidates[0].whole_s if self.decision is not None else 1.0

    @property
    def queue_s(self) -> float:
        """Seconds in line, until it was first given to a worker or ended (0 while it waits)."""
        return 0.0 if self.assigned is None else self.assigned - self.arrived
