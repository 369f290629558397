"""A conversation as OpenAI's Realtime keeps it on the server: items in order, of text alone."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from ollama_proxy.policy.refusal import Code, Refusal, RequestRefused

ITEMS_MAX = 2000
CHARACTERS_MAX = 8 << 20  # of all items together
_ROLES = ("system", "user", "assistant")
_TEXTS = {"input_text", "output_text", "text"}


def make_id(kind: str) -> str:
    """An id no other thing of this process has: `item_...`, `resp_...`, `event_...`."""
    return f"{kind}_{secrets.token_hex(10)}"


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Item(msgspec.Struct):
    type: str = "message"
    id: str = ""
    role: str = "user"
    content: list[_Part] = msgspec.field(default_factory=list)


@attrs.define
class Item:
    """One message. `status`: "in_progress", "completed" or "incomplete"."""

    id: str
    role: str
    text: str
    status: str = "completed"

    @property
    def size(self) -> int:
        """Of its text, in bytes."""
        return len(self.text.encode())

    def shown(self) -> dict[str, object]:
        """As it stands in events."""
        kind = "output_text" if self.role == "assistant" else "input_text"
        return {
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": self.status,
            "role": self.role,
            "content": [{"type": kind, "text": self.text}] if self.text else [],
        }


def refused(message: str, param: str | None = None) -> RequestRefused:
    """A client's mistake."""
    return RequestRefused(Refusal(Code.INVALID_REQUEST, message, param=param))


def read_item(raw: object) -> Item:
    """Read a client's item.

    Raises:
        RequestRefused: it is no message of text.
    """
    try:
        item = msgspec.convert(raw, _Item)
    except msgspec.ValidationError as error:
        raise refused(f"item: {error}.", "item") from None
    if item.type != "message":
        raise refused(f"item.type: only messages are understood, not {item.type!r}.", "item.type")
    if item.role not in _ROLES:
        raise refused(f"item.role: expected one of {', '.join(_ROLES)}.", "item.role")
    other = next((part.type for part in item.content if part.type not in _TEXTS), None)
    if other is not None:
        raise refused(
            f"item.content: {other!r} is not understood here; this router speaks text alone.",
            "item.content",
        )
    text = "".join(part.text for part in item.content)
    return Item(item.id or make_id("item"), item.role, text)


@attrs.define
class Conversation:
    """Items, in their order."""

    items: list[Item] = attrs.field(factory=list)

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item behind another ("root": before all), or at the end; returns the one before.

        Raises:
            RequestRefused: there is no such other, or it is full, or the id is taken.
        """
        if len(self.items) >= ITEMS_MAX:
            raise refused(f"A conversation has at most {ITEMS_MAX} items.")
        if sum(len(other.text) for other in self.items) + len(item.text) > CHARACTERS_MAX:
            raise refused(f"A conversation has at most {CHARACTERS_MAX >> 20} Mi characters.")
        if any(other.id == item.id for other in self.items):
            raise refused(f"item.id: {item.id!r} is taken.", "item.id")
        at = len(self.items)
        if after == "root":
            at = 0
        elif after:
            at = self._at(after, "previous_item_id") + 1
        self.items.insert(at, item)
        return self.items[at - 1].id if at else None

    def append(self, item: Item) -> str | None:
        """Put an answer at the end, whatever there is already; returns the one before."""
        self.items.append(item)
        return self.items[-2].id if len(self.items) > 1 else None

    def find(self, item_id: str) -> Item:
        """An item. Raises RequestRefused."""
        return self.items[self._at(item_id, "item_id")]

    def delete(self, item_id: str) -> None:
        """Forget an item. Raises RequestRefused."""
        del self.items[self._at(item_id, "item_id")]

    def messages(
        self, instructions: str, items: Sequence[Item] | None = None
    ) -> list[Mapping[str, Any]]:
        """What is sent to a model: instructions first, then what was said."""
        first = [{"role": "system", "content": instructions}] if instructions else []
        said = self.items if items is None else items
        return [*first, *({"role": item.role, "content": item.text} for item in said)]

    def _at(self, item_id: str, param: str) -> int:
        for at, item in enumerate(self.items):
            if item.id == item_id:
                return at
        raise refused(f"{param}: there is no item {item_id!r}.", param)
