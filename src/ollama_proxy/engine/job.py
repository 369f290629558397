"""One request on its way through the router, from its arrival to its end."""

import enum
import math
from typing import Protocol

import attrs
import trio

from ollama_proxy.backends.backend import BackendFailed, CallerLeft, Errand, Head, Sink, Tap
from ollama_proxy.policy.ask import Ask, Priority, Wishes
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

# Doors speak of jobs in these words, and import them from here: the room of backends is not theirs.
__all__ = ["BackendFailed", "Caller", "CallerLeft", "Errand", "Head", "Job", "Stage", "Tap"]


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


@attrs.define(kw_only=True, eq=False)
class Job(Sink):
    """One request. The worker's sink: it notes the times on the way to the caller.

    Attributes:
        errand: what a backend is to do.
        ask: the same, as far as routing looks.
        wishes: how it is to be served.
        caller: who takes the answer.
        request_id: the caller's, or made up.
        door: which door it came through, for the books.
        arrived: when its last byte was read; all its times count from here.
        client: who asks; those of one client share its turns in line.
        decision: the latest choice of a backend.
        tried: backends that failed it.
        stage: how far it has come.
        left: the caller is gone, or cancelled.
        stopped: the router ends, and has waited for it as long as it may.
        assigned: when its wait in line ended; None if it has not, or there was none.
        started: when the present attempt began.
        begun: when the first byte went to the caller.
        scope: holds the present attempt's deadline and its cancelling.
        is_giving: bytes are there, and the caller has not taken them yet.
    """

    errand: Errand
    ask: Ask
    wishes: Wishes
    caller: Caller
    request_id: str
    door: str
    arrived: float
    client: str = ""
    stall_timeout_s: float = math.inf
    decision: Decision | None = None
    tried: list[str] = attrs.field(factory=list)
    stage: Stage = Stage.NEW
    left: bool = False
    stopped: bool = False
    assigned: float | None = None
    started: float = 0.0
    begun: float | None = None
    scope: trio.CancelScope | None = None
    is_giving: bool = False

    @property
    def priority(self) -> Priority:
        """How urgent it is."""
        return self.wishes.priority

    @property
    def cost(self) -> float:
        """Seconds that serving it takes, as far as is known."""
        return self.decision.candidates[0].alone_s if self.decision is not None else 1.0

    @property
    def deadline(self) -> float:
        """When it must have its first token (a stream) or its end (a whole answer)."""
        limit = self.wishes.max_latency_s
        return math.inf if limit is None else self.arrived + limit

    @property
    def queue_s(self) -> float:
        """Seconds in line, until it was first given to a worker or ended (0 while it waits)."""
        return 0.0 if self.assigned is None else self.assigned - self.arrived

    async def begin(self, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Sink`. From here on a stream has kept its deadline."""
        self.begun = trio.current_time()
        self._watch_for_stall()
        self.is_giving = True
        await self.caller.begin(self, head, first, complete=complete)
        self.is_giving = False
        self._watch_for_stall()

    async def write(self, data: bytes, *, complete: bool = False) -> None:
        """See `Sink`."""
        self._watch_for_stall()
        self.is_giving = True
        await self.caller.write(data, complete=complete)
        self.is_giving = False
        self._watch_for_stall()

    def tap(self) -> Tap | None:
        """See `Sink`. The pump watches for silence itself."""
        tap = self.caller.tap()
        if tap is not None and self.scope is not None:
            self.scope.deadline = self._last_moment
        return tap

    @property
    def _last_moment(self) -> float:
        """The deadline of an answer that was begun."""
        return math.inf if self.ask.stream else self.deadline

    def _watch_for_stall(self) -> None:
        """Give the caller as long to take a piece, and then the backend as long for the next."""
        if self.scope is not None:
            stalled_at = trio.current_time() + self.stall_timeout_s
            self.scope.deadline = min(self._last_moment, stalled_at)
