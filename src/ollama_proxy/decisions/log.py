"""Takes choices down: each becomes a line at once, which goes to disk aside."""

from collections.abc import Callable
from datetime import UTC, datetime

from ollama_proxy.aside import Aside, Outside
from ollama_proxy.decisions.form import LINE_MAX
from ollama_proxy.decisions.writing import Scribe
from ollama_proxy.policy.question import Question
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision

BUFFER_BYTES = 8 << 20


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class DecisionLog:
    """Takes choices down. `run` brings them to disk, and must be running for it.

    Attributes:
        scribe: makes lines of them.
        aside: where the lines wait.
    """

    def __init__(
        self,
        file: Outside[bytes],
        *,
        buffer_bytes: int = BUFFER_BYTES,
        time: Callable[[], str] = _now,
    ) -> None:
        """Begin.

        Args:
            file: where to; as `RotatingFile`.
            buffer_bytes: how much may wait for it.
            time: what time it is on the wall.
        """
        self.scribe = Scribe(time)
        self.aside = Aside(file, name="the decision log", things="lines", room=buffer_bytes)
        self.run = self.aside.run

    def note(self, request_id: str, question: Question, outcome: Decision | Refusal) -> None:
        """Take one choice down; as `engine.dispatcher.Note`."""
        line = self.scribe.line(request_id, question, outcome)
        if len(line) > LINE_MAX:
            self.aside.lose(1, f"one is longer than {LINE_MAX} bytes")
        else:
            self.aside.put(line, len(line))
