"""Cards that sleep: whether one may be read is asked of files whose reading never wakes it.

Those are `power/runtime_status` and `power/control`; nothing else of a card is opened before they
have said that it is awake. A card that somebody else keeps awake is read once a minute at most, as
reading puts off its sleep.
"""

import enum
from collections.abc import Callable

import attrs

from ollama_proxy.policy.readings import Draw, Fan, Findings, Part, Quality, Zone
from ollama_proxy.sensors.files import Files, read_text
from ollama_proxy.sensors.sensor import Heed

USED_S = 10.0
PROBE_S = 60.0


@attrs.frozen
class Power:
    """What the kernel's runtime power management says of a device."""

    is_awake: bool
    can_sleep: bool


def read_power(files: Files, device: str) -> Power:
    """Whether a PCI device has power, without giving it any.

    A device that the kernel does not manage (no status, or "unsupported") is awake for good. One
    that is on its way to sleep, back from it, or stuck ("error") is not asked anything.

    Raises:
        OSError: there is no such device (any more).
    """
    status = read_text(files, f"{device}/power/runtime_status")
    if status is None:
        files.list(device)
    if status in {None, "unsupported"}:
        return Power(is_awake=True, can_sleep=False)
    if status != "active":
        return Power(is_awake=False, can_sleep=True)
    is_held = read_text(files, f"{device}/power/control") == "on"
    return Power(is_awake=True, can_sleep=not is_held)


def forget(findings: Findings) -> Findings:
    """What is left to say of a card that sleeps: its places, no values, and no work."""
    return Findings(
        zones=tuple(_without_evidence(z, temperature_c=None) for z in findings.zones),
        fans=tuple(
            Fan(name=f.name, quality=Quality.ASLEEP, source=f.source) for f in findings.fans
        ),
        draws=tuple(
            attrs.evolve(d, watts=None, joules=None, quality=Quality.ASLEEP) for d in findings.draws
        ),
        loads=tuple(attrs.evolve(load, share=0.0) for load in findings.loads),
    )


def age(findings: Findings) -> Findings:
    """What was read of a card that is left alone now: old values, marked as such.

    That it was throttling is not kept: it would be held against the card for a minute.
    """
    return Findings(
        zones=tuple(
            _without_evidence(z, temperature_c=z.temperature_c, quality=_aged(z))
            for z in findings.zones
        ),
        fans=tuple(attrs.evolve(f, quality=_aged(f)) for f in findings.fans),
        draws=tuple(attrs.evolve(d, quality=_aged(d)) for d in findings.draws),
        loads=tuple(attrs.evolve(load, share=None) for load in findings.loads),
    )


def _without_evidence(
    zone: Zone, *, temperature_c: float | None, quality: Quality = Quality.ASLEEP
) -> Zone:
    return attrs.evolve(
        zone, temperature_c=temperature_c, quality=quality, throttling=None, emergency=False
    )


def _aged(told: Zone | Fan | Draw) -> Quality:
    return Quality.LEFT_ALONE if told.quality is Quality.OK else told.quality


class _Look(enum.Enum):
    ASLEEP = "asleep"
    LEFT_ALONE = "left alone"
    OPEN = "open"


@attrs.define
class Sleeper:
    """A graphics device that is read only while that costs nothing.

    Attributes:
        part: the card's; None for graphics built into the processor, which is read whenever it is
            awake: its screen keeps it so.
        woke_at: when it was first seen awake after it slept; -inf if it never did.
    """

    _files: Files
    _device: str
    _heed: Heed
    part: Part | None = None
    woke_at: float = float("-inf")
    _was_asleep: bool = False
    _asked_at: float = float("-inf")
    _told: Findings = attrs.field(factory=Findings)

    def read(self, now: float, ask: Callable[[float], Findings]) -> Findings:
        """What `ask` tells if it may be called; else what is left of what it told before.

        Raises:
            OSError: the device is gone.
        """
        power = read_power(self._files, self._device)
        told = self._read(self._look(power, now), now, ask)
        if self.part is None:
            return told
        part = attrs.evolve(self.part, awake=power.is_awake, can_sleep=power.can_sleep)
        return attrs.evolve(told, parts=(part,))

    def _read(self, look: _Look, now: float, ask: Callable[[float], Findings]) -> Findings:
        match look:
            case _Look.LEFT_ALONE:
                return age(self._told)
            case _Look.ASLEEP:
                self._told = forget(self._told)
            case _Look.OPEN:
                self._told = ask(now)
        return self._told

    def _look(self, power: Power, now: float) -> _Look:
        if not power.is_awake:
            self._was_asleep = True
            return _Look.ASLEEP
        if self._was_asleep:
            self._was_asleep, self.woke_at = False, now
        if (
            self.part is not None
            and power.can_sleep
            and not self._heed.is_used(self.part.id, now, within_s=USED_S)
            and now - self._asked_at < PROBE_S
        ):
            return _Look.LEFT_ALONE
        self._asked_at = now
        return _Look.OPEN
