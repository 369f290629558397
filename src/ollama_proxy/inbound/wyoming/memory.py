"""What was said before in each conversation, for as long as somebody may come back to it.

Home Assistant opens a connection for each sentence, so that a conversation is known by its id alone.

Law: bounded in conversations, in characters and in time; `now` is an argument.
"""

from collections.abc import Mapping
from typing import Any

import attrs

CONVERSATIONS_MAX = 64
CHARACTERS_MAX = 8000  # of one: half of the 4096 tokens that Ollama gives a model, or fewer
FORGET_S = 600.0  # Home Assistant gives up an id after 300


@attrs.define
class _Said:
    at: float
    turns: list[tuple[str, str]] = attrs.field(factory=list)


@attrs.define
class Memory:
    """Conversations by their ids, the one that was spoken in last at the end."""

    _conversations: dict[str, _Said] = attrs.field(factory=dict)

    def recall(self, conversation: str, now: float) -> list[Mapping[str, Any]]:
        """What was said, as messages; none for the id "", which is nobody's."""
        self._forget(now)
        said = self._conversations.get(conversation)
        return [
            {"role": role, "content": text}
            for turn in (said.turns if said is not None else ())
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]

    def keep(self, conversation: str, question: str, answer: str, now: float) -> None:
        """Remember a turn, at the cost of the oldest ones where it becomes too much."""
        if not conversation:
            return
        said = self._conversations.pop(conversation, None) or _Said(now)
        said.at = now
        said.turns.append((question, answer))
        while sum(len(text) for turn in said.turns for text in turn) > CHARACTERS_MAX:
            del said.turns[0]
        self._conversations[conversation] = said
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._conversations:
            oldest = next(iter(self._conversations))
            is_old = now - self._conversations[oldest].at > FORGET_S
            if not is_old and len(self._conversations) <= CONVERSATIONS_MAX:
                return
            del self._conversations[oldest]
