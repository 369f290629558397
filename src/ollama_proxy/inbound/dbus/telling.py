"""What of our objects has changed, and how soon it is told.

Rule 1: each change of a state is one signal, at once.
Rule 2: gauges are told `GAUGES_S` apart at the least, with what they are by then.
Rule 3: what is as it was told last is not told again.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ollama_proxy.inbound.dbus.tree import PROPERTIES, Exported
from ollama_proxy.inbound.dbus.values import Variant

GAUGES_S = 0.2
CHANGED = "PropertiesChanged"


@attrs.frozen
class Emission:
    """A signal to send."""

    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]


@attrs.define
class Told:
    """What was told of some properties of an object."""

    _exported: Exported
    _values: dict[str, object] = attrs.field(factory=dict)

    def change(self, values: Mapping[str, object]) -> Emission | None:
        """The signal that says what they are now, as far as that is news."""
        before = self._values
        news = {k: v for k, v in values.items() if k not in before or before[k] != v}
        gone = sorted(before.keys() - values.keys())
        if not news and not gone:
            return None
        self._values = dict(values)
        changed: dict[str, Variant] = self._exported.typed(news)
        return Emission(
            self._exported.path,
            PROPERTIES.name,
            CHANGED,
            PROPERTIES.signals[CHANGED],
            (self._exported.interface.name, changed, gone),
        )


class Telling:
    """What is to be told of all objects. Without anybody to tell it to, it is only `begin`'s."""

    def __init__(self, objects: Iterable[Exported]) -> None:
        """Begin with nothing told."""
        self.due: deque[Emission] = deque()
        self.gauges_at = -math.inf
        self._objects = [(each, Told(each), Told(each)) for each in objects]

    def begin(self) -> None:
        """What is so now is known to whoever asks; only changes from here on are told."""
        for exported, states, gauges in self._objects:
            states.change(exported.states())
            gauges.change(exported.gauges())
        self.due.clear()

    def look_at_states(self) -> None:
        """Something may have changed."""
        for exported, told, _ in self._objects:
            self._add(told.change(exported.states()))

    def look_at_gauges(self, now: float) -> bool:
        """Some time has passed, or will have to: whether it is long enough since the last time."""
        if now - self.gauges_at < GAUGES_S:
            return False
        self.gauges_at = now
        for exported, _, told in self._objects:
            self._add(told.change(exported.gauges()))
        return True

    def _add(self, emission: Emission | None) -> None:
        if emission is not None:
            self.due.append(emission)


@attrs.define
class Pacer:
    """Lets through so many in any second, and no more."""

    per_s: int
    _let: deque[float] = attrs.field(factory=deque, init=False)

    def lets(self, now: float) -> bool:
        """Whether one more may pass now."""
        while self._let and now - self._let[0] >= 1.0:
            self._let.popleft()
        if len(self._let) >= self.per_s:
            return False
        self._let.append(now)
        return True
