"""What has changed in the router, told once to everybody who is to know: desktop, buses, pages."""

from collections.abc import Callable

import attrs

from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.modes import Cause, Mode
from ollama_proxy.policy.route import Decision
from ollama_proxy.policy.thermal import ThermalState


@attrs.frozen(kw_only=True)
class ModeChanged:
    """Another mode is in force."""

    old: Mode
    new: Mode
    reason: str
    cause: Cause


@attrs.frozen(kw_only=True)
class HeatChanged:
    """The machine as a whole is warmer or cooler by a grade. `why` is for people."""

    old: ThermalState
    new: ThermalState
    why: str


@attrs.frozen(kw_only=True)
class BackendChanged:
    """A backend was lost, or is back. `why` is empty where it is well."""

    id: str
    healthy: bool
    why: str


@attrs.frozen
class Routed:
    """A request was given to a backend; `at`: when, in seconds. More than once if it failed there."""

    request_id: str
    model: str
    priority: Priority
    decision: Decision
    at: float


Item = ModeChanged | HeatChanged | BackendChanged | Routed


@attrs.define
class News:
    """Hands each item to everybody who reads."""

    _readers: list[Callable[[Item], None]] = attrs.field(factory=list)

    def read_by(self, reader: Callable[[Item], None]) -> None:
        """From now on, tell `reader` every item. It must not block nor raise."""
        self._readers.append(reader)

    def tell(self, item: Item) -> None:
        """Tell all of it."""
        for reader in self._readers:
            reader(item)
