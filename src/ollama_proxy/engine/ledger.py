"""What happened, as values: one fact a request, and the sums that the doors show."""

import enum
from collections.abc import Callable

import attrs

from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.energy import Spent
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason


class Outcome(enum.Enum):
    """How a request ended."""

    SERVED = "served"
    REFUSED = "refused"  # no answer was begun
    BROKEN = "broken"  # the answer was begun and not finished
    LEFT = "left"  # the caller went away


@attrs.frozen(kw_only=True)
class Fact:
    """One request that ended. Times in seconds; None where it did not come so far."""

    request_id: str
    door: str
    call: Call
    model: str
    stream: bool
    priority: Priority
    outcome: Outcome
    status: int | None = None
    code: Code | None = None
    backend: str | None = None
    reason: Reason | None = None
    queue_s: float = 0.0
    promised_s: float | None = None
    first_s: float | None = None
    whole_s: float = 0.0
    tokens: int | None = None
    put_back: int = 0
    hedged: bool = False
    energy: Spent | None = None


@attrs.define
class Ledger:
    """Hands each fact to everybody who keeps books: log, and the metrics to come."""

    _readers: list[Callable[[Fact], None]] = attrs.field(factory=list)

    def read_by(self, reader: Callable[[Fact], None]) -> None:
        """From now on, tell `reader` every fact. It must not block nor raise."""
        self._readers.append(reader)

    def record(self, fact: Fact) -> None:
        """Write down how a request ended."""
        for reader in self._readers:
            reader(fact)
