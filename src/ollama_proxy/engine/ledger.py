"""What happened, as values: one fact a request, and the sums that the doors show."""

import enum
from collections.abc import Callable, Sequence

import attrs

from ollama_proxy.engine.job import Stage
from ollama_proxy.engine.journey import Journey
from ollama_proxy.policy.ask import Call, Priority
from ollama_proxy.policy.energy import Spent
from ollama_proxy.policy.refusal import Code
from ollama_proxy.policy.route import Reason


class Deadline(enum.Enum):
    """What became of a request's deadline."""

    MET = "met"
    MISSED = "missed"
    REFUSED = "refused"  # it was not taken on: nobody would have made it, or served it at all
    LEFT = "left"  # the caller went away while it could still be met


class Outcome(enum.Enum):
    """How a request ended."""

    # By identity, in C: what comes along hashes the name, in a call of Python's own.
    __hash__ = object.__hash__

    SERVED = "served"
    REFUSED = "refused"  # no answer was begun
    BROKEN = "broken"  # the answer was begun and not finished
    LEFT = "left"  # the caller went away


@attrs.frozen(kw_only=True)
class Fact:
    """One request that ended. Times in seconds; None where it did not come so far.

    Attributes:
        stage: how far it had come.
        status: HTTP's, of an answer that came to its end.
        code: why there was none.
        backend: the one that answered, or was to.
        overhead_s: the router's own time before the answer's first byte, as `Job` has it.
        tokens: pieces of a stream, in all attempts.
        prompt_tokens: as the server counts them; None where it does not tell.
        answer_tokens: the same; those that earlier attempts gave are counted by pieces.
        put_back: how often a more urgent one took its slot, and it waited again.
        failovers: from which backend to which it went because the former failed it.
        deadline: None: it had none.
        key_name: of the API key that it came with; empty: it came with none.
        journey: where it has been; None where nobody keeps traces.
    """

    request_id: str
    door: str
    call: Call
    model: str
    stream: bool
    priority: Priority
    outcome: Outcome
    stage: Stage
    status: int | None = None
    code: Code | None = None
    backend: str | None = None
    reason: Reason | None = None
    queue_s: float = 0.0
    promised_s: float | None = None
    first_s: float | None = None
    whole_s: float = 0.0
    overhead_s: float | None = None
    tokens: int | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    put_back: int = 0
    hedged: bool = False
    failovers: Sequence[tuple[str, str]] = ()
    deadline: Deadline | None = None
    energy: Spent | None = None
    key_name: str = ""
    journey: Journey | None = None


@attrs.frozen(kw_only=True)
class TurnedAway:
    """A request that became no job: it could not be read, or was not let in. Of it little is known.

    Attributes:
        request_id: empty where it has none.
        door: which it came to.
        path: what it asked for there.
        code: why it was turned away.
        status: HTTP's for that; None where the door speaks no HTTP.
    """

    request_id: str
    door: str
    path: str
    code: Code
    status: int | None = None


@attrs.frozen(kw_only=True)
class Change:
    """Something about the router or a backend that somebody is about to change.

    Attributes:
        door: by which they came.
        address: from where, as far as that is known; on D-Bus the name of their connection.
        key_name: of their API key; empty: they came with none.
        what: the change, in words; a caller's own may be among them.
    """

    door: str
    address: str
    key_name: str
    what: str


@attrs.define
class Ledger:
    """Hands each fact to everybody who keeps books: log and metrics."""

    _readers: list[Callable[[Fact], None]] = attrs.field(factory=list)
    _at_doors: list[Callable[[TurnedAway], None]] = attrs.field(factory=list)
    _of_changes: list[Callable[[Change], None]] = attrs.field(factory=list)

    def read_by(self, reader: Callable[[Fact], None]) -> None:
        """From now on, tell `reader` every fact. It must not block nor raise."""
        self._readers.append(reader)

    def door_read_by(self, reader: Callable[[TurnedAway], None]) -> None:
        """From now on, tell `reader` who was turned away. It must not block nor raise."""
        self._at_doors.append(reader)

    def changes_read_by(self, reader: Callable[[Change], None]) -> None:
        """From now on, tell `reader` who changes what. It must not block nor raise."""
        self._of_changes.append(reader)

    def change(self, change: Change) -> None:
        """Write down who changes what."""
        for reader in self._of_changes:
            reader(change)

    def turn_away(self, request: TurnedAway) -> None:
        """Write down that a request became no job."""
        for reader in self._at_doors:
            reader(request)

    def record(self, fact: Fact) -> None:
        """Write down how a request ended."""
        for reader in self._readers:
            reader(fact)
