"""All that is shown, and what of it is other than it was told last."""

import time
from collections.abc import Callable, Mapping

import attrs

from ollama_proxy.engine.climate import Climate
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.ledger import Fact
from ollama_proxy.engine.news import Routed
from ollama_proxy.inbound.figures import Values, efficiency_of, figures_of, status_of
from ollama_proxy.inbound.heat import fan_of, part_of
from ollama_proxy.inbound.live.flow import Flow
from ollama_proxy.inbound.live.hour import Hour, columns
from ollama_proxy.inbound.live.today import Today


@attrs.frozen
class Scene:
    """What is so at one moment.

    Attributes:
        sections: each is told whole when any of it has changed.
        backends: by id, in the owner's order; each field is told by itself.
    """

    sections: Mapping[str, object]
    backends: Mapping[str, Values]


def changes(before: Scene, after: Scene) -> Values:
    """What to tell whoever knows `before`; empty where there is nothing.

    Returns:
        The sections that differ; `backends`: for each that differs its fields that do, or all of a
        new one; `order`: the ids of all, where others are there now, or in another order.
    """
    told: Values = {
        name: value for name, value in after.sections.items() if before.sections.get(name) != value
    }
    backends = {}
    for name, fields in after.backends.items():
        known = before.backends.get(name, {})
        other = {k: v for k, v in fields.items() if k not in known or known[k] != v}
        if other:
            backends[name] = other
    if backends:
        told["backends"] = backends
    if list(before.backends) != list(after.backends):
        told["order"] = list(after.backends)
    return told


class Picture:
    """The router as it is watched: the scene, the last requests, the last hour."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        climate: Climate,
        version: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing that has happened."""
        self._dispatcher = dispatcher
        self._climate = climate
        self._version = version
        self._wall = wall
        self._told: Scene | None = None
        self._since = (0.0, "")
        self.flow = Flow(wall)
        self.hour = Hour(dispatcher, climate, wall)
        self.today = Today(dispatcher.meters.books, wall)

    # -- what comes in -----------------------------------------------------------------------------

    def routed(self, routed: Routed) -> None:
        """A request was given to a backend."""
        self.flow.routed(routed)

    def book(self, fact: Fact) -> None:
        """A request has ended."""
        self.flow.ended(fact)
        self.hour.book(fact)
        self.today.book(fact)

    def look(self) -> None:
        """The machine was looked at."""
        self.today.look()
        self.hour.look()

    # -- what goes out -----------------------------------------------------------------------------

    def whole(self) -> Values:
        """All of it, as it was told last; with `now`, by which a page can tell how its clock is off."""
        if self._told is None:
            self.take_changes()
        assert self._told is not None  # noqa: S101 - as just made
        return {
            **self._told.sections,
            "version": self._version,
            "now": round(self._wall(), 3),
            "order": list(self._told.backends),
            "backends": self._told.backends,
            "flow": self.flow.rows(),
            "hour": columns(self.hour.points),
        }

    def take_changes(self) -> Values:
        """What is other than when this was asked last; empty where nothing is."""
        scene = self._scene()
        told = changes(self._told or Scene({}, {}), scene)
        self._told = scene
        if rows := self.flow.take_changed():
            told["flow"] = rows
        if points := self.hour.take_untold():
            told["hour"] = columns(points)
        return told

    def _scene(self) -> Scene:
        dispatcher, climate = self._dispatcher, self._climate
        found = climate.conditions
        return Scene(
            sections={
                "status": status_of(dispatcher),
                "mode": self._mode(),
                "machine": {
                    "state": climate.state.value,
                    "why": climate.hottest,
                    "watts": None if found.system_watts is None else round(found.system_watts, 1),
                    "parts": [part_of(part, climate.grade_of(part.id)) for part in climate.parts],
                    "fans": [fan_of(fan) for fan in found.fans],
                },
                "today": self.today.told(),
            },
            backends={
                name: figures_of(station, climate) for name, station in dispatcher.stations.items()
            },
        )

    def _mode(self) -> Values:
        """The mode; since when is told as it was at first: as a wall time it wavers by a second."""
        told = efficiency_of(self._climate, self._dispatcher)
        if self._since[0] != self._climate.since or not self._since[1]:
            self._since = self._climate.since, str(told["since"])
        return told | {"since": self._since[1]}
