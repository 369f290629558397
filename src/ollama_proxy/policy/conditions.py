"""The machine's state: what all sensors told, put together into one value.

A sensor that tells nothing any more leaves its names behind, without values: whoever looks sees
that something was lost, and nothing takes it for cool, for idle or for empty.
"""

from collections.abc import Iterable, Mapping

import attrs

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import (
    Draw,
    Fan,
    Findings,
    Load,
    Part,
    Profile,
    Quality,
    Scope,
    Supply,
    Zone,
)
from ollama_proxy.policy.sources import package_zones

_SHARES_PACKAGE = {Hardware.CPU, Hardware.IGPU, Hardware.NPU}
# Which of several that tell the same is believed, first to last.
_SUPPLIES = ("upower", "power_supply")
_PROFILES = ("power-profiles-daemon", "platform_profile")


@attrs.frozen(kw_only=True)
class Told:
    """What a sensor told last, and when it told anything, in seconds."""

    findings: Findings
    at: float


def fade(told: Told) -> Told:
    """The same once nothing is known any more; `at` stays that of the last reading."""
    found = told.findings
    return attrs.evolve(
        told,
        findings=Findings(
            zones=tuple(
                attrs.evolve(
                    z, temperature_c=None, throttling=None, emergency=False, quality=Quality.STALE
                )
                for z in found.zones
            ),
            fans=tuple(
                attrs.evolve(f, rpm=None, share=None, quality=Quality.STALE) for f in found.fans
            ),
            draws=tuple(
                attrs.evolve(d, watts=None, joules=None, quality=Quality.STALE) for d in found.draws
            ),
            parts=tuple(attrs.evolve(p, awake=None) for p in found.parts),
            loads=tuple(attrs.evolve(each, share=None) for each in found.loads),
        ),
    )


@attrs.frozen(kw_only=True)
class Conditions:
    """What is known of the machine now.

    Attributes:
        zones: every place whose temperature is measured.
        fans: every fan.
        draws: every power that is measured.
        parts: the parts that have a heat sink of their own, by id.
        loads: how busy things are.
        supply: where the power comes from; None where nobody tells.
        profile: the power profile; None where nobody tells.
        sleeping: whether the machine is about to sleep; None where nobody tells.
        heard: when a zone was last told of, by its name, in seconds.
    """

    zones: tuple[Zone, ...] = ()
    fans: tuple[Fan, ...] = ()
    draws: tuple[Draw, ...] = ()
    parts: Mapping[str, Part] = attrs.field(factory=dict)
    loads: tuple[Load, ...] = ()
    supply: Supply | None = None
    profile: Profile | None = None
    sleeping: bool | None = None
    heard: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def on_battery(self) -> bool | None:
        """Whether nothing but a battery feeds the machine; None where nobody tells."""
        return None if self.supply is None else self.supply.on_battery

    @property
    def battery_percent(self) -> float | None:
        """Charge of all batteries, 0 to 100; None where there is none or nobody tells."""
        return None if self.supply is None else self.supply.percent

    @property
    def fan_share(self) -> float | None:
        """How fast the fastest fan turns, 0 to 1 of the most it can; None where nobody tells."""
        return max((f.share for f in self.fans if f.share is not None), default=None)

    @property
    def system_watts(self) -> float | None:
        """What the whole machine draws; None where nobody tells, as on mains mostly."""
        known = (d.watts for d in self.draws if d.scope is Scope.SYSTEM)
        return max((w for w in known if w is not None), default=None)

    def zones_of(self, part: str) -> list[Zone]:
        """The zones that decide about a part's heat."""
        if part == PACKAGE:
            return list(package_zones(self.zones))
        return [zone for zone in self.zones if zone.part == part]


def merge(told: Mapping[str, Told]) -> Conditions:
    """Put together what the sensors told, by their names."""
    zones: list[Zone] = []
    fans: list[Fan] = []
    draws: list[Draw] = []
    parts: dict[str, Part] = {}
    loads: list[Load] = []
    supplies: list[Supply] = []
    profiles: list[Profile] = []
    sleeping: bool | None = None
    heard: dict[str, float] = {}
    for each in told.values():
        found = each.findings
        # A value that is not of now is shown to nobody as if it were.
        zones += [z if _is_current(z) else attrs.evolve(z, temperature_c=None) for z in found.zones]
        fans += [f if _is_current(f) else attrs.evolve(f, rpm=None, share=None) for f in found.fans]
        draws += [
            d if _is_current(d) else attrs.evolve(d, watts=None, joules=None) for d in found.draws
        ]
        loads += found.loads
        parts |= {part.id: part for part in found.parts}
        supplies += [found.supply] if found.supply is not None else []
        profiles += [found.profile] if found.profile is not None else []
        if found.sleeping is not None:
            sleeping = sleeping or found.sleeping
        heard |= dict.fromkeys((zone.name for zone in found.zones), each.at)
    return Conditions(
        zones=tuple(zones),
        fans=tuple(fans),
        draws=tuple(draws),
        parts=parts,
        loads=tuple(loads),
        supply=_supply(supplies),
        profile=min(profiles, key=lambda p: _rank(p.source, _PROFILES), default=None),
        sleeping=sleeping,
        heard=heard,
    )


def _is_current(told: Zone | Fan | Draw) -> bool:
    return told.quality is Quality.OK


def _rank(source: str, order: tuple[str, ...]) -> int:
    return order.index(source) if source in order else len(order)


def _supply(supplies: Iterable[Supply]) -> Supply | None:
    """The most trusted word on each question: one daemon may know the mains and no battery."""
    ranked = sorted(supplies, key=lambda s: _rank(s.source, _SUPPLIES))
    if not ranked:
        return None
    return Supply(
        on_battery=next((s.on_battery for s in ranked if s.on_battery is not None), None),
        percent=next((s.percent for s in ranked if s.percent is not None), None),
        to_empty_s=next((s.to_empty_s for s in ranked if s.to_empty_s is not None), None),
        source=ranked[0].source,
    )


def part_of(hardware: Hardware, device: str, conditions: Conditions) -> str | None:
    """Which part of the machine a backend computes on.

    Args:
        hardware: the backend's.
        device: what its owner says: a PCI address, or the name of a chip; empty: guessed.
        conditions: the parts that there are.

    Returns:
        A part's id, of several cards that it may be the first's; None where it is none of this
        machine's. What is built into the processor has no sensors of its own, and mostly no part:
        an address that nobody tells of is the processor's, where the hardware is.
    """
    parts = conditions.parts
    if device:
        wanted = device.lower()
        for part in parts.values():
            if wanted in {
                part.id.lower(),
                part.id.lower().removeprefix("0000:"),
                part.name.lower(),
            }:
                return part.id
        named = {z.part for z in conditions.zones if z.name.lower().startswith(wanted)} - {None}
        if len(named) == 1:
            return named.pop()
        return PACKAGE if hardware in _SHARES_PACKAGE else None
    if hardware is Hardware.CLOUD:
        return None
    if hardware in _SHARES_PACKAGE:
        return PACKAGE
    cards = sorted(p.id for p in parts.values() if p.hardware is hardware)
    if cards:
        return cards[0]
    # What AMD builds into its processors is a backend of "amd", too, to many an owner.
    return PACKAGE if hardware is Hardware.AMD else None
