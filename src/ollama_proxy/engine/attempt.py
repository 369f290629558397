"""One attempt at a job on one backend: what the worker holds, and what its backend writes to."""

import enum
import math
from collections.abc import Callable

import attrs
import trio

from ollama_proxy.backends.backend import Errand, Head, Sink, Tap, Transcript
from ollama_proxy.engine.job import Job
from ollama_proxy.engine.journey import Leg
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.energy import Spent
from ollama_proxy.policy.onward import wishes_onward
from ollama_proxy.policy.route import Decision

PATIENCE_SLACK_S = 0.005


class Halt(enum.Enum):
    """Why an attempt is ended from without."""

    CALLER_LEFT = "caller left"
    ROUTER_STOPS = "router stops"
    PUT_BACK = "put back"  # a more urgent job takes its slot
    BEATEN = "beaten"  # another attempt at the same job was faster


@attrs.define(eq=False, kw_only=True)
class Attempt(Sink):
    """A job at a slot. It notes the times on the way to the caller.

    Attributes:
        job: whose answer it is to be.
        decision: the choice that led here.
        started: when it was handed to a worker.
        ends: when the answer is expected to have ended.
        scope: holds its deadline and its cancelling.
        cold: the model had to be loaded; None where that is not known.
        uncached: the share of the prompt that was not computed here before.
        transcript: what its caller is given is noted there; None where nobody will go on with it.
        halted: why it is to end, once it is.
        sent: when its worker began with it; None where nobody noted that.
        begun: when its backend gave the first bytes.
        lingers_from: when it had ended for us, and perhaps not for its backend.
        is_giving: bytes are there, and the caller has not taken them yet.
        part: the part of the machine that it computes on; None where that is not known.
        cost: what it has cost in joules until a time.
        at_work: is told once that its backend has it, or as good as that; None from then on.
        told: who hears of its halt, besides the scope; for a crew that waits in no scope.
        leg: what is noted of it on its job's journey; None where nobody keeps traces.
        onward: its backend is a router, to which the job's wishes go along.
    """

    job: Job
    decision: Decision
    started: float
    ends: float
    scope: trio.CancelScope
    cold: bool | None = None
    uncached: float = 1.0
    transcript: Transcript | None = None
    halted: Halt | None = None
    sent: float | None = None
    begun: float | None = None
    lingers_from: float = 0.0
    is_giving: bool = False
    part: str | None = None
    cost: Callable[["Attempt", float], Spent | None] = lambda *_: None
    at_work: Callable[["Attempt"], object] | None = None
    told: Callable[["Attempt"], object] | None = None
    leg: Leg | None = None
    onward: bool = False

    # -- what `policy.preempt` asks ----------------------------------------------------------------

    @property
    def yields(self) -> bool:
        """Whether it is best effort, still wanted, and not on its way out already.

        Not one that another proxy makes: it was told where to, and nobody could take that back. The
        slot could be had by ending the answer, but what yields is to wait, not to fail.
        """
        job = self.job
        return job.priority is Priority.BEST_EFFORT and self.halted is None and not job.told

    @property
    def put_back(self) -> int:
        """How often its job was put back."""
        return self.job.put_back

    @property
    def has_begun(self) -> bool:
        """Whether the job's caller has the first byte."""
        return self.job.begun is not None

    @property
    def is_continuable(self) -> bool:
        """Whether another attempt could go on where this one breaks off.

        Not while the caller takes a piece: nobody would know how much of it is out. Nor while a
        beaten rival is on its way out: the job could not wait in line.
        """
        transcript = self.job.transcript
        return (
            transcript is not None
            and transcript.is_continuable
            and not self.is_giving
            and all(rival is self for rival in self.job.attempts)
        )

    # -- its journey -------------------------------------------------------------------------------

    @property
    def errand(self) -> Errand:
        """What its backend is to do, and for whom."""
        job = self.job
        errand = job.errand
        if self.leg is not None and job.journey is not None:
            errand = job.journey.directed(errand, self.leg)
        if self.onward:
            left_s = job.deadline - trio.current_time()
            wishes = wishes_onward(job.wishes, client=job.client, left_s=left_s)
            errand = attrs.evolve(errand, headers=(*errand.headers, *wishes))
        return errand

    # -- ending it ---------------------------------------------------------------------------------

    def halt(self, why: Halt) -> None:
        """End it: its worker hears of it at its next checkpoint. The first reason stands.

        A scope may be cancelled before it is entered, so one on its way to a worker is stopped, too.
        """
        if self.halted is None:
            self.halted = why
            self.scope.cancel()
            if self.told is not None:
                self.told(self)

    @property
    def answered(self) -> bool:
        """Whether its backend has given the first bytes."""
        return self.begun is not None

    def win(self, now: float) -> None:
        """Its backend has given the first bytes: it is the one that answers."""
        job = self.job
        self.begun = now
        if self.leg is not None:
            self.leg.begun = now
        if job.begun is None:
            job.begun = now
            job.transcript = self.transcript
        job.decision = self.decision
        for rival in job.attempts:
            if rival is not self:
                rival.halt(Halt.BEATEN)

    def leave_rest(self) -> bool:
        """Let its job be what is left of it; False where nobody could go on.

        A stream's deadline was for its first byte, which was in time.
        """
        job = self.job
        if job.transcript is None or not self.is_continuable:
            return False
        rest = job.transcript.continued()
        if rest is None:
            return False
        job.errand = rest
        job.ask = attrs.evolve(job.ask, continues=True, prompt_bytes=len(rest.body))
        job.wishes = attrs.evolve(job.wishes, max_latency_s=None)
        job.in_time = job.in_time or job.deadline < math.inf
        job.deadline = math.inf
        job.given = job.transcript.pieces
        return True

    # -- Sink --------------------------------------------------------------------------------------

    def connected(self, *, is_fresh: bool) -> None:
        """See `Sink`."""
        if self.leg is not None:
            self.leg.connected = trio.current_time()
            self.leg.is_fresh = is_fresh

    def asked(self) -> None:
        """See `Sink`. What need not precede the request follows it, while its backend is at work."""
        if self.at_work is not None:
            tell, self.at_work = self.at_work, None
            tell(self)

    async def begin(self, head: Head, first: bytes, *, complete: bool) -> None:
        """See `Sink`. From here on a stream has kept its deadline, and every rival is beaten."""
        if self.halted is not None:
            # Its slot is promised to another already, or its caller to another attempt.
            await trio.lowlevel.checkpoint_if_cancelled()
        self.asked()
        job = self.job
        goes_on = job.begun is not None
        now = trio.current_time()
        self.win(now)
        if not job.ask.stream:
            job.bill = job.billed(now)
        if job.transcript is not None:
            job.transcript.open(head)
            first = job.transcript.feed(first, complete=complete)
            if not goes_on and not job.transcript.is_continuable:
                job.transcript = None
        if goes_on:
            await self._give(first, complete=complete)
            return
        if self.scope.deadline < now + job.stall_timeout_s or job.caller.tap() is None:
            self._watch_for_stall()
        # Otherwise the deadline is far, and the caller a socket that knows how long it may wait: to
        # move the one for the moment until the other has taken it all would be felt by every stream.
        self.is_giving = True
        await job.caller.begin(job, head, first, complete=complete)
        self.is_giving = False
        if self.sent is not None:
            job.overhead_s += self.sent - self.started + trio.current_time() - now
        if not complete:
            self._watch_for_stall()

    def hear_head(self) -> None:
        """As `begin`, where another proxy has the answer's head and gives it to the caller itself.

        From here on it is that proxy who watches for a stall: the bytes do not come this way.
        """
        self.asked()
        now = trio.current_time()
        self.win(now)
        if not self.job.ask.stream:
            self.job.bill = self.job.billed(now)
        self.scope.deadline = self._last_moment

    def hear_bytes(self) -> None:
        """The first of those bytes were seen on their way: a server's head may come before its answer."""
        self.begun = trio.current_time()

    async def write(self, data: bytes, *, complete: bool = False) -> None:
        """See `Sink`."""
        transcript = self.job.transcript
        if transcript is not None:
            if self.halted is not None:
                # What comes now will be said anew by whoever goes on.
                await trio.lowlevel.checkpoint_if_cancelled()
            data = transcript.feed(data, complete=complete)
        await self._give(data, complete=complete)

    async def _give(self, data: bytes, *, complete: bool) -> None:
        self._watch_for_stall()
        if not data and not complete:
            return
        self.is_giving = True
        await self.job.caller.write(data, complete=complete)
        self.is_giving = False
        self._watch_for_stall()

    def tap(self) -> Tap | None:
        """See `Sink`. The pump watches for silence itself, but keeps no transcript."""
        tap = self.job.caller.tap() if self.job.transcript is None else None
        if tap is not None:
            self.scope.deadline = self._last_moment
        return tap

    @property
    def _last_moment(self) -> float:
        """The deadline of an answer that was begun."""
        return math.inf if self.job.ask.stream else self.job.deadline

    def _watch_for_stall(self) -> None:
        """Give the caller as long to take a piece, and then the backend as long for the next."""
        stalled_at = trio.current_time() + self.job.stall_timeout_s
        deadline = min(self._last_moment, stalled_at)
        # To move it costs as much as half of what else is done for a piece.
        if abs(deadline - self.scope.deadline) > PATIENCE_SLACK_S:
            self.scope.deadline = deadline
