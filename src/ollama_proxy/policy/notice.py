"""What a person at the desk is told of the router's doings, and when.

Rule 1: at most one notice of a kind a minute; what comes meanwhile waits, the latest of each slot.
Rule 2: a notice that waits is dropped when what it says is no longer so, or was told already.
Rule 3: each slot shows one notice, that replaces the one before: one for the mode, one for heat,
        one for each backend.
"""

import enum
import math
import textwrap

import attrs

INTERVAL_S = 60.0
_LONGEST_TEXT = 200
_HOT = {"severe", "critical"}
# Neither a rise nor a fall that a person should hear of: on the way down from severe, or a sensor's
# loss, after which nobody knows.
_UNDECIDED = {"moderate", "unknown"}
_WELL = ""  # the state of a slot of which there is nothing to say


class Kind(enum.Enum):
    """What a notice is about, as the owner switches it on and off."""

    MODE = "mode_change"
    HEAT = "thermal"
    BACKEND = "backend_down"


class Urgency(enum.IntEnum):
    """How a desktop should treat a notice; its own numbers."""

    LOW = 0
    NORMAL = 1
    CRITICAL = 2


@attrs.frozen
class ModeChanged:
    """Auto chose another mode. The modes' own words; the reason as part of a sentence."""

    old: str
    new: str
    reason: str


@attrs.frozen
class HeatChanged:
    """The machine's thermal state is another one, because of a zone."""

    state: str
    zone: str = ""


@attrs.frozen
class BackendLost:
    """A backend does not serve any more."""

    id: str
    why: str


@attrs.frozen
class BackendBack:
    """A backend serves again."""

    id: str


Event = ModeChanged | HeatChanged | BackendLost | BackendBack


@attrs.frozen(kw_only=True)
class Notice:
    """One notice, in plain text.

    Attributes:
        slot: what it replaces: the notice before it of the same slot.
        state: what it tells of the slot.
        kind: what it is about.
        summary: one line.
        body: a sentence or two.
        urgency: how it should be treated.
        icon: a name of the freedesktop icon themes.
    """

    slot: str
    state: str
    kind: Kind
    summary: str
    body: str
    urgency: Urgency
    icon: str


@attrs.define
class _Slot:
    event: Event
    told: str
    since: float


@attrs.define
class Notices:
    """What has happened, and what of it was told. `now` is in seconds.

    Attributes:
        kinds: those that are wanted.
        interval_s: seconds from one notice of a kind to the next.
    """

    kinds: frozenset[Kind] = frozenset(Kind)
    interval_s: float = INTERVAL_S
    _slots: dict[str, _Slot] = attrs.field(factory=dict, init=False)
    _tried_at: dict[Kind, float] = attrs.field(factory=dict, init=False)

    def happened(self, event: Event, now: float) -> None:
        """Take note of an event."""
        if isinstance(event, HeatChanged) and event.state in _UNDECIDED:
            return
        name = _slot(event)
        slot = self._slots.get(name)
        if slot and isinstance(event, ModeChanged) and event.old != _state(slot.event):
            slot = None  # the person chose a mode meanwhile, and knows it
        if slot is None:
            told = event.old if isinstance(event, ModeChanged) else _WELL
            self._slots[name] = _Slot(event, told, now)
            return
        if slot.told == _state(slot.event):
            slot.since = now
        slot.event = event

    def due(self, now: float) -> tuple[Notice, ...]:
        """What to show now, one of each kind at most; its kind is silent for a while, shown or not."""
        found: dict[Kind, Notice] = {}
        for name, slot in self._waiting():
            kind = _kind(slot.event)
            if kind not in found and now >= self._free_at(kind):
                found[kind] = _written(slot.event, name, slot.told)
        self._tried_at.update(dict.fromkeys(found, now))
        return tuple(found.values())

    def shown(self, notice: Notice) -> None:
        """A notice that was due can be seen."""
        self._slots[notice.slot].told = notice.state

    def next_at(self) -> float:
        """When something may be due without another event; inf: never."""
        times = (self._free_at(_kind(slot.event)) for _, slot in self._waiting())
        return min(times, default=math.inf)

    def _waiting(self) -> list[tuple[str, _Slot]]:
        """Slots that have something to say, the longest waiting first."""
        waiting = [
            (name, slot)
            for name, slot in self._slots.items()
            if _kind(slot.event) in self.kinds and slot.told != _state(slot.event)
        ]
        return sorted(waiting, key=lambda entry: entry[1].since)

    def _free_at(self, kind: Kind) -> float:
        return self._tried_at.get(kind, -math.inf) + self.interval_s


def _kind(event: Event) -> Kind:
    match event:
        case ModeChanged():
            return Kind.MODE
        case HeatChanged():
            return Kind.HEAT
        case BackendLost() | BackendBack():
            return Kind.BACKEND


def _slot(event: Event) -> str:
    match event:
        case ModeChanged() | HeatChanged():
            return _kind(event).value
        case BackendLost() | BackendBack():
            return f"{Kind.BACKEND.value}:{event.id}"


def _state(event: Event) -> str:
    match event:
        case ModeChanged():
            return event.new
        case HeatChanged():
            return event.state if event.state in _HOT else _WELL
        case BackendLost():
            return "lost"
        case BackendBack():
            return _WELL


_MODE_ICONS = {
    "performance": "power-profile-performance-symbolic",
    "balanced": "power-profile-balanced-symbolic",
    "efficiency": "power-profile-power-saver-symbolic",
    "quiet": "audio-volume-low-symbolic",
    "ultra-efficiency": "battery-caution-symbolic",
}


def _written(event: Event, slot: str, told: str) -> Notice:
    """An event in words. `told` is what was told last of its slot."""
    summary, body, urgency, icon = _words(event, told)
    return Notice(
        slot=slot,
        state=_state(event),
        kind=_kind(event),
        summary=summary,
        body=body,
        urgency=urgency,
        icon=icon,
    )


def _words(event: Event, told: str) -> tuple[str, str, Urgency, str]:
    match event:
        case ModeChanged():
            return (
                f"AI Efficiency: {_title(event.new)}",
                f"Auto went from {_title(told)} to {_title(event.new)}: {_plain(event.reason)}",
                Urgency.LOW,
                _MODE_ICONS.get(event.new, "system-run-symbolic"),
            )
        case HeatChanged():
            return _words_of_heat(event)
        case BackendLost():
            return (
                f"{_plain(event.id)} is down",
                f"Requests go elsewhere until it is back: {_plain(event.why)}",
                Urgency.NORMAL,
                "network-offline-symbolic",
            )
        case BackendBack():
            return (
                f"{_plain(event.id)} is back",
                "It gets requests again.",
                Urgency.LOW,
                "network-server-symbolic",
            )


def _words_of_heat(event: HeatChanged) -> tuple[str, str, Urgency, str]:
    summary, icon = "AI requests are held back by heat", "dialog-warning-symbolic"
    where = f" ({_plain(event.zone)})" if event.zone else ""
    match event.state:
        case "critical":
            body = f"The machine is far too hot{where}. What is hot serves nothing until it cools."
            return summary, body, Urgency.CRITICAL, icon
        case "severe":
            body = f"The machine is too hot{where}. What is hot gets less to do until it cools."
            return summary, body, Urgency.NORMAL, icon
        case _:
            body = "AI requests are served as usual again."
            return "The machine has cooled", body, Urgency.LOW, "emblem-ok-symbolic"


def _title(mode: str) -> str:
    return mode.replace("-", " ").title()


def _plain(text: str) -> str:
    """Foreign text on one line, of a bearable length, without what no desktop can show."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.shorten(shown, _LONGEST_TEXT, placeholder=" ...")
