"""How the machine was meanwhile, a line for each change: its battery, its heat, its fans.

What a line does not name stays as it was; null is a reading that was lost.
"""

import enum
from typing import TypeVar

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import (
    Fan,
    Findings,
    Kind,
    Part,
    Profile,
    Quality,
    Supply,
    Zone,
)
from ollama_proxy.tables import Check, within

PARTS = {PACKAGE: Hardware.CPU, "nvidia": Hardware.NVIDIA, "amd": Hardware.AMD}
AT_ONCE = frozenset({"supply", "profile", "parts"})  # what the climate looks at when it is told
_SOURCE = "recorded"
V = TypeVar("V")
T = TypeVar("T", "Change", "Degrees", "Cards")


class Held(enum.Enum):
    """What stands where a line says nothing."""

    HELD = "held"


HELD = Held.HELD
_Number = float | None | Held
_Flag = bool | None | Held
_Text = str | None | Held


def _if_told(check: Check) -> Check:
    return Check(check.expected, lambda value: value in (None, HELD) or check.is_good(value))


_DEGREES = _if_told(within(-50, 150))


@attrs.frozen(kw_only=True)
class Degrees:
    """Degrees Celsius of the processor, and of cards."""

    package: _Number = attrs.field(default=HELD, validator=_DEGREES)
    nvidia: _Number = attrs.field(default=HELD, validator=_DEGREES)
    amd: _Number = attrs.field(default=HELD, validator=_DEGREES)


@attrs.frozen(kw_only=True)
class Cards:
    """Whether cards have power."""

    nvidia: _Flag = HELD
    amd: _Flag = HELD


@attrs.frozen(kw_only=True)
class Change:
    """A line, or all that was told until now.

    Attributes:
        at_s: seconds from the start.
        on_battery: nothing but a battery feeds the machine.
        percent: its charge.
        zones: how warm parts are.
        limits: what parts say of themselves.
        fan_share: of the most that the fastest fan can.
        profile: the power profile.
        awake: false: a card is suspended. One that is used wakes, and sleeps again thereafter.
    """

    at_s: float = attrs.field(validator=Check(">= 0", lambda value: value >= 0))
    on_battery: _Flag = HELD
    percent: _Number = attrs.field(default=HELD, validator=_if_told(within(0, 100)))
    zones: Degrees = attrs.field(factory=Degrees)
    limits: Degrees = attrs.field(factory=Degrees)
    fan_share: _Number = attrs.field(default=HELD, validator=_if_told(within(0, 1)))
    profile: _Text = HELD
    awake: Cards = attrs.field(factory=Cards)

    def then(self, later: "Change") -> "Change":
        """All that is told once a later line was told, too."""
        return _then(self, later)

    def tells_heat(self, part: str) -> bool:
        """Whether it says anything of a part's temperature or limit."""
        return any(getattr(each, part) is not HELD for each in (self.zones, self.limits))

    def degrees(self, part: str) -> float | None:
        """How warm a part is; None where that is not known."""
        return _known(getattr(self.zones, part))

    def limit(self, part: str) -> float | None:
        """What a part says of itself; None: nothing."""
        return _known(getattr(self.limits, part))

    def sleeps(self, part: str) -> bool:
        """Whether a card is suspended while nobody uses it."""
        return getattr(self.awake, part, HELD) is False

    def findings(
        self, *, at_work: frozenset[str] = frozenset(), throttled: frozenset[str] = frozenset()
    ) -> dict[str, Findings | None]:
        """What sensors would tell now; None of one that has lost what it told.

        Args:
            at_work: the parts that are used now, and so awake.
            throttled: the parts that are slowed down by heat.
        """
        told: dict[str, Findings | None] = {}
        if self.on_battery is not HELD or self.percent is not HELD:
            told["supply"] = Findings(
                supply=Supply(
                    on_battery=_known(self.on_battery),
                    percent=_known(self.percent),
                    source=_SOURCE,
                )
            )
        if self.profile is not HELD:
            profile = self.profile
            told["profile"] = (
                Findings(profile=Profile(active=profile, source=_SOURCE)) if profile else None
            )
        if self.fan_share is not HELD:
            share = _known(self.fan_share)
            fan = Fan(name="fan", share=share, quality=_quality(share), source=_SOURCE)
            told["fan"] = Findings(fans=(fan,))
        cards = tuple(
            self._card(name, hardware, is_used=name in at_work)
            for name, hardware in PARTS.items()
            if name != PACKAGE
            and (getattr(self.zones, name) is not HELD or getattr(self.awake, name) is not HELD)
        )
        if cards:
            told["parts"] = Findings(parts=cards)
        asleep = {card.id for card in cards if card.awake is False}
        zones = tuple(
            self._zone(name, is_asleep=name in asleep, is_throttled=name in throttled)
            for name in PARTS
            if getattr(self.zones, name) is not HELD
        )
        if zones:
            told["zones"] = Findings(zones=zones)
        return told

    def _card(self, name: str, hardware: Hardware, *, is_used: bool) -> Part:
        awake = getattr(self.awake, name)
        return Part(
            id=name,
            name=name,
            hardware=hardware,
            awake=True if is_used else _known(awake),
            can_sleep=awake is not HELD,
        )

    def _zone(self, name: str, *, is_asleep: bool, is_throttled: bool) -> Zone:
        degrees = self.degrees(name)
        return Zone(
            name=name,
            kind=Kind.CPU if name == PACKAGE else Kind.GPU,
            part=name,
            hardware=PARTS[name],
            temperature_c=None if is_asleep else degrees,
            limit_c=self.limit(name),
            throttling=is_throttled or None,
            quality=Quality.ASLEEP if is_asleep else _quality(degrees),
            source=_SOURCE,
        )


def _known(value: V | Held) -> V | None:
    return None if value is HELD else value


def _quality(value: float | None) -> Quality:
    return Quality.STALE if value is None else Quality.OK


def _then(before: T, later: T) -> T:
    """The former with all that the latter tells, table by table."""
    told = {}
    for field in attrs.fields(type(later)):
        value = getattr(later, field.name)
        if attrs.has(type(value)):
            value = _then(getattr(before, field.name), value)
        if value is not HELD:
            told[field.name] = value
    return attrs.evolve(before, **told)
