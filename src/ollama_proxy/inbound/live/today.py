"""What was spent since midnight: joules and tokens of each backend's requests.

Since the router's start, where that was later: nothing is kept on disk.
"""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime

from ollama_proxy.engine.ledger import Fact
from ollama_proxy.inbound.figures import Values
from ollama_proxy.policy.energy import Books


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()


class Today:
    """Sums that begin anew at midnight, local time."""

    def __init__(self, books: Books, wall: Callable[[], float] = time.time) -> None:
        """Begin now."""
        self._books = books
        self._wall = wall
        self._day: date = _local(wall()).date()
        self._since = wall()
        self._before = dict(books.backends)
        self._tokens: dict[str, int] = {}

    def book(self, fact: Fact) -> None:
        """A request has ended."""
        if fact.backend is not None and fact.answer_tokens:
            self._tokens[fact.backend] = self._tokens.get(fact.backend, 0) + fact.answer_tokens

    def look(self) -> None:
        """Some time has passed: it may be another day."""
        now = self._wall()
        if _local(now).date() != self._day:
            self._day, self._since = _local(now).date(), now
            self._before = dict(self._books.backends)
            self._tokens.clear()

    def told(self) -> Values:
        """Since when, and for each backend the joules by how they were found, and the tokens of answers."""
        backends: dict[str, Values] = {}
        for (backend, grade), joules in self._books.backends.items():
            spent = joules - self._before.get((backend, grade), 0.0)
            if spent > 0:
                backends.setdefault(backend, {})[grade.value] = round(spent, 2)
        for backend, tokens in self._tokens.items():
            backends.setdefault(backend, {})["tokens"] = tokens
        return {"since": round(self._since), "backends": backends}
