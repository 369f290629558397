"""NVIDIA's cards, by its library, which wakes what it looks at: so it is opened as rarely as possible.

Rule 1: while any of them sleeps, the library is not called. Opening it may wake all.
Rule 2: it is held open only while a card is used by requests, or none can sleep; on battery, never.
Rule 3: cards that somebody else keeps awake are looked at once a minute, as an open library alone
    keeps a card from sleep.
"""

import logging
from collections.abc import Callable, Iterator
from posixpath import basename

import attrs

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import (
    Draw,
    Fan,
    Findings,
    Kind,
    Load,
    Part,
    Quality,
    Scope,
    Zone,
)
from ollama_proxy.sensors.card import PROBE_S, USED_S, Power, age, forget, read_power
from ollama_proxy.sensors.counter import Counter
from ollama_proxy.sensors.files import Files, list_or_nothing, read_text
from ollama_proxy.sensors.nvml import (
    HARDWARE_THERMAL,
    THERMAL_SLOWDOWN_REASONS,
    CardLostError,
    Nvml,
    NvmlCard,
    load_nvml,
)
from ollama_proxy.sensors.sensor import Heed, Sensor

PCI = "/sys/bus/pci/devices"
INTERVAL_S = 2.0
POWER_FACTOR = 1.5  # a 35 W card that tells 588 W is broken; peaks above the limit are not
_VENDOR = "0x10de"
_DISPLAY = "0x03"

log = logging.getLogger("ollama_proxy.sensors")


@attrs.define
class _Known:
    """One card: what does not change, and what it told last."""

    address: str
    device: str
    title: str
    handle: NvmlCard | None = None
    limit_c: float | None = None
    most_watts: float | None = None
    good_watts: float | None = None
    counter: Counter = attrs.field(factory=Counter)
    told: Findings = attrs.field(factory=Findings)


@attrs.define
class Nvidia:
    """All NVIDIA cards of the machine, as the library knows only all or none."""

    _files: Files
    _heed: Heed
    _cards: list[_Known]
    _nvml: Nvml | None
    name: str = "nvidia"
    interval_s: float = INTERVAL_S
    _is_open: bool = False
    _asked_at: float = float("-inf")
    _trouble: str = ""

    @property
    def key(self) -> str:
        """See `Sensor`."""
        return " ".join((self.name, *(card.device for card in self._cards)))

    def read(self, now: float) -> Findings:
        """See `Sensor`."""
        powers = [read_power(self._files, card.device) for card in self._cards]
        if self._nvml is not None:
            self._look(self._nvml, powers, now)
        shown = [self._shown(*pair, now) for pair in zip(self._cards, powers, strict=True)]
        return Findings(
            zones=tuple(zone for one in shown for zone in one.zones),
            fans=tuple(fan for one in shown for fan in one.fans),
            draws=tuple(draw for one in shown for draw in one.draws),
            loads=tuple(load for one in shown for load in one.loads),
            parts=tuple(part for one in shown for part in one.parts),
        )

    def close(self) -> None:
        """Let go of the library."""
        if self._nvml is not None:
            self._shut(self._nvml)

    def _look(self, nvml: Nvml, powers: list[Power], now: float) -> None:
        """Ask all cards, if that costs nobody anything."""
        if not all(power.is_awake for power in powers):
            # The one call that is made all the same: left open, it would keep the others awake.
            self._shut(nvml)
            return
        is_wanted = any(self._heed.is_used(c.address, now, within_s=USED_S) for c in self._cards)
        is_wanted |= not self._heed.on_battery and not any(power.can_sleep for power in powers)
        if (is_wanted and not self._trouble) or now - self._asked_at >= PROBE_S:
            self._asked_at = now
            self._ask(nvml, now)
        if self._heed.on_battery or not is_wanted:
            self._shut(nvml)

    def _ask(self, nvml: Nvml, now: float) -> None:
        trouble = ""
        try:
            self._open(nvml)
        except (nvml.NVMLError, CardLostError) as error:
            # No driver, or one that was updated under our feet.
            trouble = repr(error)
            for card in self._cards:
                card.told = _lost(card.told)
        else:
            trouble = self._read_cards(now)
        if trouble:
            # A card that must be reset cannot be while we hold the library open.
            self._shut(nvml)
        if trouble != self._trouble:
            log.warning("NVIDIA's library: %s", trouble or "it works again")
        self._trouble = trouble

    def _read_cards(self, now: float) -> str:
        """Ask each card; one that is lost does not keep the others from telling."""
        trouble = ""
        for card in self._cards:
            if card.handle is None:
                continue
            try:
                _read_card(card, card.handle, now)
            except CardLostError as error:
                trouble = f"{card.address}: {error!r}"
                card.told = _lost(card.told)
        return trouble

    def _open(self, nvml: Nvml) -> None:
        if self._is_open:
            return
        nvml.nvmlInit()
        self._is_open = True
        known = {card.address: card for card in self._cards}
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = NvmlCard(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            card = known.get(handle.address() or "")
            if card is not None:
                card.handle = handle
                card.title = handle.title() or card.title
                card.limit_c = handle.slowdown_c()
                card.most_watts = handle.most_watts()

    def _shut(self, nvml: Nvml) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for card in self._cards:
            card.handle = None
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            log.debug("NVIDIA's library was not let go of: %s", error)

    def _shown(self, card: _Known, power: Power, now: float) -> Findings:
        if not power.is_awake:
            card.told = forget(card.told)
        told = card.told
        if power.is_awake and self._asked_at != now:
            told = age(told)
        part = Part(
            id=card.address,
            name=card.title,
            hardware=Hardware.NVIDIA,
            awake=power.is_awake,
            can_sleep=power.can_sleep,
        )
        return attrs.evolve(told, parts=(part,))


def _read_card(card: _Known, handle: NvmlCard, now: float) -> None:
    """Ask a card for all that it tells."""
    title = f"nvidia {card.address}"
    temperature = handle.temperature_c()
    reasons = handle.slowdown_reasons()
    fan = handle.fan_share()
    zone = Zone(
        name=title,
        kind=Kind.GPU,
        part=card.address,
        hardware=Hardware.NVIDIA,
        temperature_c=temperature.value,
        limit_c=card.limit_c,
        throttling=None if reasons is None else bool(reasons & THERMAL_SLOWDOWN_REASONS),
        emergency=bool((reasons or 0) & HARDWARE_THERMAL),
        quality=temperature.quality,
        source="nvml",
    )
    card.told = Findings(
        zones=(zone,),
        fans=() if fan.value is None else (Fan(name=title, share=fan.value, source="nvml"),),
        draws=(_draw(card, handle, title, now),),
        loads=(Load(name=title, hardware=Hardware.NVIDIA, share=handle.busy()),),
    )


def _draw(card: _Known, handle: NvmlCard, title: str, now: float) -> Draw:
    """Its power. Where it tells nonsense, the last sensible watts stand, marked as old."""
    read = handle.watts()
    watts, quality = read.value, read.quality
    if watts is not None and card.most_watts and watts > POWER_FACTOR * card.most_watts:
        watts = card.good_watts
        quality = Quality.IMPLAUSIBLE if watts is None else Quality.STALE
    else:
        card.good_watts = watts
    counted = handle.joules()
    return Draw(
        name=title,
        scope=Scope.DEVICE,
        part=card.address,
        watts=watts,
        joules=None if counted is None else card.counter.advance(counted, now)[0],
        quality=quality,
        source="nvml",
    )


def _lost(told: Findings) -> Findings:
    """What is left to say of a card that the library does not reach."""
    return Findings(
        zones=tuple(
            attrs.evolve(z, temperature_c=None, quality=Quality.ERROR) for z in forget(told).zones
        )
    )


def find_nvidia(
    files: Files, heed: Heed, load: Callable[[], Nvml | None] = load_nvml
) -> list[Sensor]:
    """One sensor for all NVIDIA cards, by their PCI class, as their driver makes no other files.

    Args:
        files: the kernel's.
        heed: which of them are used.
        load: loads the library, without calling it.
    """
    cards = list(_find_devices(files))
    return [Nvidia(files, heed, cards, load())] if cards else []


def _find_devices(files: Files) -> Iterator[_Known]:
    for address in list_or_nothing(files, PCI):
        device = files.real(f"{PCI}/{address}")
        if read_text(files, f"{device}/vendor") != _VENDOR:
            continue
        if (read_text(files, f"{device}/class") or "").startswith(_DISPLAY):
            yield _Known(basename(device), device, title=f"NVIDIA graphics {address}")
