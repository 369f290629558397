"""The last requests, a row each, from their first place to their end. No prompt is in them.

What is heard is only kept; rows are made of it when somebody looks. Nearly always nobody does, and what is
done for a request that was just sent keeps its backend from waking on the same core.
"""

import time
from collections import deque
from collections.abc import Callable

import attrs

from ollama_proxy.engine.ledger import Fact
from ollama_proxy.engine.news import Routed

KEPT = 60
_HEARD_MAX = 4 * KEPT  # two for each request, mostly
UNDER_WAY = "under-way"
_SHOWN_MAX = 100  # characters of what somebody else gave


@attrs.define(kw_only=True)
class Row:
    """One request as far as it has come; None where it has not, or nobody knows.

    Attributes:
        n: its number; none is used twice.
        at: when it was heard of first, in seconds since 1970.
        moves: how often it went to another backend than before.
        predicted_ms: to its first token, or to its end where it is no stream.
        outcome: `under-way`, or how it ended.
        code: why there was no answer, or no whole one.
        first_ms: to the first token of a stream.
        joules_source: how they were found.
    """

    n: int
    at: float
    id: str
    model: str
    priority: str | None = None
    backend: str | None = None
    reason: str | None = None
    moves: int = 0
    predicted_ms: float | None = None
    outcome: str = UNDER_WAY
    status: int | None = None
    code: str | None = None
    door: str | None = None
    queue_ms: float | None = None
    first_ms: float | None = None
    whole_ms: float | None = None
    tokens: int | None = None
    joules: float | None = None
    joules_source: str | None = None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


@attrs.define
class Flow:
    """Rows by number, oldest first."""

    _wall: Callable[[], float] = time.time
    _heard: deque[tuple[float, Routed | Fact]] = attrs.field(
        factory=lambda: deque(maxlen=_HEARD_MAX)
    )
    _rows: dict[int, Row] = attrs.field(factory=dict)
    _open: dict[str, int] = attrs.field(factory=dict)
    _changed: dict[int, Row] = attrs.field(factory=dict)
    _next: int = 1

    def routed(self, routed: Routed) -> None:
        """A request was given to a backend, or to another one."""
        self._heard.append((self._wall(), routed))

    def ended(self, fact: Fact) -> None:
        """A request has ended; one that never had a place has its row from now on."""
        self._heard.append((self._wall(), fact))

    def rows(self) -> list[Row]:
        """All of them."""
        self._catch_up()
        return list(self._rows.values())

    def take_changed(self) -> list[Row]:
        """Those that are new or other than when this was asked last."""
        self._catch_up()
        changed = [self._changed[number] for number in sorted(self._changed)]
        self._changed.clear()
        return changed

    def _catch_up(self) -> None:
        while self._heard:
            at, item = self._heard.popleft()
            if isinstance(item, Routed):
                self._route(at, item)
            else:
                self._end(at, item)

    def _route(self, at: float, routed: Routed) -> None:
        decision = routed.decision
        row = self._row(at, routed.request_id, routed.model)
        row.priority = routed.priority.label
        row.moves += row.backend not in {None, decision.backend}
        row.backend, row.reason = decision.backend, decision.reason.value
        row.predicted_ms = _ms(decision.predicted_s)

    def _end(self, at: float, fact: Fact) -> None:
        row = self._row(at, fact.request_id, fact.model)
        row.priority = fact.priority.label
        row.backend = fact.backend
        row.reason = None if fact.reason is None else fact.reason.value
        row.outcome = fact.outcome.value
        row.status = fact.status
        row.code = None if fact.code is None else fact.code.value
        row.door = fact.door
        row.queue_ms = _ms(fact.queue_s)
        row.first_ms = _ms(fact.first_s) if fact.stream else None
        row.whole_ms = _ms(fact.whole_s)
        row.tokens = fact.answer_tokens
        if fact.energy is not None:
            row.joules = round(fact.energy.joules, 2)
            row.joules_source = fact.energy.grade.value
        del self._open[fact.request_id]

    def _row(self, at: float, request_id: str, model: str) -> Row:
        row = self._rows.get(self._open.get(request_id, 0))
        if row is None:
            row = Row(n=self._next, at=round(at, 3), id=request_id, model=model[:_SHOWN_MAX])
            self._next += 1
            self._rows[row.n] = row
            self._open[request_id] = row.n
            if len(self._rows) > KEPT:
                self._forget(self._rows.pop(next(iter(self._rows))))
        self._changed[row.n] = row
        return row

    def _forget(self, row: Row) -> None:
        self._changed.pop(row.n, None)
        if self._open.get(row.id) == row.n:
            del self._open[row.id]
