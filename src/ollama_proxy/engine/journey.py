"""Where a request has been, and when: noted on its way, told to whoever keeps traces at its end.

Nothing here knows of OpenTelemetry: ids and times are numbers. Where nobody keeps traces, no request
has a journey, and all that it costs is the question whether it has one.
"""

import secrets

import attrs

from ollama_proxy.backends.backend import Errand
from ollama_proxy.policy.lineage import NAMES, Parent, read_parent
from ollama_proxy.policy.route import Decision

STOPS_MAX = 64  # of each kind: who is put back again and again would fill the memory


@attrs.frozen
class Choice:
    """A backend was chosen; the request waits there from now on, if only for a moment."""

    at: float
    decision: Decision


@attrs.define(eq=False, kw_only=True)
class Leg:
    """One attempt at a backend.

    Attributes:
        span: what it is called in the trace: the backend's work is its child.
        backend: its id.
        provider: what its server speaks.
        is_hedge: another was under way already.
        started: when it was handed to a worker.
        connected: when there was a connection to send it on; None: it did not come so far.
        is_fresh: that connection was made for it.
        begun: when the first bytes came.
        ended: when it ended, and how.
    """

    span: int
    backend: str
    provider: str
    is_hedge: bool
    started: float
    connected: float | None = None
    is_fresh: bool = False
    begun: float | None = None
    ended: float | None = None
    ending: str | None = None


@attrs.define(eq=False, kw_only=True)
class Journey:
    """One request's.

    Attributes:
        trace: of which it is a part.
        span: what it is called there.
        parent: whose child it is; None: it begins the trace.
        is_kept: somebody will be told of it.
        arrived: when it began.
        waits: from when to when it was in line; the last may go on.
        choices: of backends, in their order.
        legs: attempts, in their order.
        answer_limit: tokens that were wanted at most.
    """

    trace: int
    span: int
    parent: Parent | None
    is_kept: bool
    arrived: float
    answer_limit: int | None = None
    waits: list[tuple[float, float | None]] = attrs.field(factory=list)
    choices: list[Choice] = attrs.field(factory=list)
    legs: list[Leg] = attrs.field(factory=list)

    def choose(self, decision: Decision, now: float) -> None:
        """A backend was chosen."""
        if len(self.choices) < STOPS_MAX:
            self.choices.append(Choice(now, decision))
            if not self.waits or self.waits[-1][1] is not None:
                # The first wait begins with the request: what came before is its reading and choosing.
                self.waits.append((now if self.waits else self.arrived, None))

    def leave(self, backend: str, provider: str, now: float, *, is_hedge: bool) -> Leg:
        """An attempt begins."""
        self.stop_waiting(now)
        leg = Leg(
            span=new_span(), backend=backend, provider=provider, is_hedge=is_hedge, started=now
        )
        if len(self.legs) < STOPS_MAX:
            self.legs.append(leg)
        return leg

    def stop_waiting(self, now: float) -> None:
        """It is in line no more."""
        if self.waits and self.waits[-1][1] is None:
            self.waits[-1] = (self.waits[-1][0], now)

    def directed(self, errand: Errand, leg: Leg) -> Errand:
        """An errand whose backend is told that it works for a leg."""
        state = b"" if self.parent is None else self.parent.state
        own = Parent(self.trace, leg.span, is_sampled=self.is_kept, state=state).headers()
        others = [header for header in errand.headers if header[0] not in NAMES]
        return attrs.evolve(errand, headers=(*others, *own))


def set_out(errand: Errand, *, arrived: float, answer_limit: int | None) -> Journey:
    """A request's journey begins: in its caller's trace, if it has one, and kept if the caller keeps it."""
    parent = read_parent(errand.headers)
    return Journey(
        trace=new_trace() if parent is None else parent.trace,
        span=new_span(),
        parent=parent,
        is_kept=parent is None or parent.is_sampled,
        arrived=arrived,
        answer_limit=answer_limit,
    )


def new_trace() -> int:
    """A trace's id: 128 random bits, not 0."""
    return secrets.randbits(128) or 1


def new_span() -> int:
    """A span's id: 64 random bits, not 0."""
    return secrets.randbits(64) or 1
