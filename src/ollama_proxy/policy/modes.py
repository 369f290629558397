"""What the six modes mean for a choice of backend, and which one Auto takes.

A mode is the owner's wish. Auto's decision, in the order it is made; the first that holds is taken,
and the tests carry the same numbers:

(1)  battery low: ultra-efficiency.              (6)  on somebody's lap: quiet.
(2)  severe heat or worse: efficiency.           (7)  moderate heat: efficiency.
(3)  quiet hours: quiet.                         (8)  fans loud: quiet.
(4)  power profile power-saver: efficiency.      (9)  power profile performance: performance.
(5)  on battery: efficiency.                     (10) nothing of all that: balanced.

A mode that the owner chose is never overridden.
"""

import enum
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from ollama_proxy.policy.thermal import ThermalState


class Mode(enum.Enum):
    """What the owner wants of the machine."""

    PERFORMANCE = "performance"
    BALANCED = "balanced"
    EFFICIENCY = "efficiency"
    QUIET = "quiet"
    AUTO = "auto"
    ULTRA_EFFICIENCY = "ultra-efficiency"

    @property
    def title(self) -> str:
        """Its name, for people."""
        return _LABELS[self].title

    @property
    def description(self) -> str:
        """What it does, in a sentence."""
        return _LABELS[self].description

    @property
    def icon(self) -> str:
        """A symbolic icon that every freedesktop theme with GNOME's names has."""
        return _LABELS[self].icon


class _Label(NamedTuple):
    title: str
    description: str
    icon: str


_LABELS: Mapping[Mode, _Label] = {
    Mode.PERFORMANCE: _Label(
        "Performance",
        "The fastest answer, whatever it draws and however loud it gets.",
        "power-profile-performance-symbolic",
    ),
    Mode.BALANCED: _Label(
        "Balanced",
        "The least energy for an answer: time and watts count alike.",
        "power-profile-balanced-symbolic",
    ),
    Mode.EFFICIENCY: _Label(
        "Efficiency",
        "Few watts; answers may take longer.",
        "power-profile-power-saver-symbolic",
    ),
    Mode.QUIET: _Label(
        "Quiet",
        "Keeps parts cool and fans slow.",
        "audio-volume-low-symbolic",
    ),
    Mode.AUTO: _Label(
        "Auto",
        "Follows battery, heat, fans, quiet hours and the power profile.",
        "system-run-symbolic",
    ),
    Mode.ULTRA_EFFICIENCY: _Label(
        "Ultra Efficiency",
        "Backends of 10 watts or less while any of them can serve, so that the battery lasts.",
        "battery-caution-symbolic",
    ),
}


def parse_mode(text: str) -> Mode | None:
    """The mode of a name or title, in any case, with spaces, hyphens or underscores; None: none."""
    return _NAMES.get(re.sub(r"[\s_-]+", "-", text.strip()).lower())


_NAMES = {mode.value: mode for mode in Mode}


_CALM_FROM = 0.9  # of the cap


@attrs.frozen(kw_only=True)
class Stance:
    """What a mode means for a choice.

    Attributes:
        time_weight: exponent of time, all of it: computing, waiting and loading.
        power_weight: exponent of watts.
        watts_soft_cap: only backends at or under it, while any of them can serve; None: no cap.
        warmest: a part above this grade is avoided while another can serve, besides what
            `restraint` says of each priority.
        fan_share_cap: a fan that turns faster than this share of its most is too loud; None: none is.
        watts_soft_cap_when_loud: the cap that holds while a fan is too loud.
        lookahead: whether heat that is only foreseen counts.
    """

    time_weight: float
    power_weight: float
    watts_soft_cap: float | None = None
    warmest: ThermalState = ThermalState.SEVERE
    fan_share_cap: float | None = None
    watts_soft_cap_when_loud: float | None = None
    lookahead: bool = True

    def is_loud(self, fan_share: float | None, *, was_loud: bool) -> bool:
        """Whether a fan is too loud; once it was, it must turn clearly slower not to be."""
        if self.fan_share_cap is None or fan_share is None:
            return False
        return fan_share > self.fan_share_cap * (_CALM_FROM if was_loud else 1.0)


# Time x watts is joules: with equal weights the least energy for an answer wins, which is what
# balance means to a machine on mains. Weights on either side of that move the price of an octave.
STANCES: Mapping[Mode, Stance] = {
    # Not more than 1: time alone, so that the order is that of the predicted answers. The firmware
    # guards a part that is `severe`, and what that costs is in its measured times: only at its
    # limit is it let off.
    Mode.PERFORMANCE: Stance(time_weight=1.0, power_weight=0.0, lookahead=False),
    Mode.BALANCED: Stance(time_weight=1.0, power_weight=1.0),
    # Half the watts are worth an eightfold time. With time at 0 the thriftiest would get everything
    # and a line would grow before it.
    Mode.EFFICIENCY: Stance(time_weight=0.5, power_weight=1.5),
    # Fans follow watts, not joules, so watts weigh more than for efficiency; and a part that is
    # warm at all is near to turning them up. 60 % of full speed are 11 dB less than all of it.
    Mode.QUIET: Stance(
        time_weight=0.5,
        power_weight=2.0,
        warmest=ThermalState.NOMINAL,
        fan_share_cap=0.6,
        watts_soft_cap_when_loud=15.0,
    ),
    # Time only breaks ties.
    Mode.ULTRA_EFFICIENCY: Stance(
        time_weight=0.25,
        power_weight=3.0,
        watts_soft_cap=10.0,
    ),
}


class Cause(enum.Enum):
    """What a mode in effect comes from."""

    CHOSEN = "chosen"
    HELD = "held"  # an application wants it for a while
    BATTERY = "battery"
    HEAT = "heat"
    FAN = "fan"
    QUIET_HOURS = "quiet-hours"
    PROFILE = "profile"  # the power profile, or what its daemon says of the machine's place
    NOTHING = "nothing"


@attrs.frozen(kw_only=True)
class Signals:
    """What Auto goes by; None: not known.

    Attributes:
        on_battery: whether nothing but a battery feeds the machine.
        battery_percent: charge, 0 to 100.
        state: the worst of the monitored parts.
        hottest: which part that is and how hot, for people: "package 96 °C, limit 100 °C".
        fan_share: the fastest fan, of its most, 0 to 1.
        profile: the active power profile.
        degraded: why the profile's daemon holds performance back: "lap-detected" ...
        minute_of_day: 0 to 1439, on the wall.
    """

    on_battery: bool | None = None
    battery_percent: float | None = None
    state: ThermalState = ThermalState.UNKNOWN
    hottest: str = ""
    fan_share: float | None = None
    profile: str | None = None
    degraded: str = ""
    minute_of_day: int = 0


@attrs.frozen(kw_only=True)
class AutoSettings:
    """What the owner told Auto.

    Attributes:
        quiet_hours: first minute of the day, and the first that is no more; may span midnight.
        follow_profile: whether the power profile counts.
        low_percent: the charge at which the battery is low.
        reenter_percent: so much more it must have not to be low any more.
        fan_share_loud: the share of its most at which a fan is loud.
        fan_share_calm: the share at which it is not any more.
        debounce_s: how long the mains must be there, or gone, to count.
        dwell_s: how long an automatic mode lasts at the least.
    """

    quiet_hours: tuple[int, int] | None = None
    follow_profile: bool = True
    low_percent: float = 20.0
    reenter_percent: float = 5.0
    fan_share_loud: float = 0.8
    fan_share_calm: float = 0.6
    debounce_s: float = 3.0
    dwell_s: float = 60.0


@attrs.frozen(kw_only=True)
class Effective:
    """The mode in effect: never `auto`. `reason` is a fragment of a sentence, for people."""

    mode: Mode
    reason: str
    cause: Cause


@attrs.define
class _Latch:
    """Something that is so from one value on, and no more only from another."""

    is_on: bool = False

    def look(self, *, begins: bool, ends: bool) -> bool:
        self.is_on = begins or (self.is_on and not ends)
        return self.is_on


@attrs.define
class _Debounced:
    """Where power comes from, once it has been the same for a while."""

    value: bool | None = None
    _raw: bool | None = None
    _since: float = -math.inf

    def look(self, raw: bool | None, debounce_s: float, now: float) -> bool | None:  # noqa: FBT001 - a reading
        if raw is not self._raw:
            self._raw, self._since = raw, now
        # What is told for the first time contradicts nothing.
        if self.value is None or now - self._since >= debounce_s:
            self.value = raw
        return self.value


@attrs.define
class Auto:
    """Which mode is in effect, with a memory so that it does not flap.

    Asked every few seconds, and whenever something changed.
    """

    _effective: Effective | None = attrs.field(default=None, init=False)
    _switched_at: float = attrs.field(default=-math.inf, init=False)
    _on_battery: _Debounced = attrs.field(factory=_Debounced, init=False)
    _low: _Latch = attrs.field(factory=_Latch, init=False)
    _loud: _Latch = attrs.field(factory=_Latch, init=False)

    def decide(
        self, chosen: Mode, signals: Signals, settings: AutoSettings, now: float
    ) -> Effective:
        """The mode in effect.

        At most one automatic switch in `dwell_s`, but for severe heat and the first decision. Until
        a switch may be made, the old mode stays with its old reason.

        Args:
            chosen: by the owner; anything but `auto` is what it is.
            signals: what is known now.
            settings: the owner's.
            now: seconds, a clock that never goes back.
        """
        wanted = self._want(self._settled(signals, settings, now), settings)
        if chosen is not Mode.AUTO:
            self._effective = None  # back to auto, the first decision is made at once
            return Effective(mode=chosen, reason="chosen by the user", cause=Cause.CHOSEN)
        before = self._effective
        is_switch = before is not None and before.mode is not wanted.mode
        is_early = now - self._switched_at < settings.dwell_s
        if before is not None and is_switch and is_early and not _is_urgent(before, signals):
            return before
        if is_switch:  # the first decision is none: who unplugs a minute later need not wait
            self._switched_at = now
        self._effective = wanted
        return wanted

    def _settled(self, signals: Signals, settings: AutoSettings, now: float) -> Signals:
        """The signals once more, without what only flickers."""
        return attrs.evolve(
            signals,
            on_battery=self._on_battery.look(signals.on_battery, settings.debounce_s, now),
        )

    def _want(self, signals: Signals, settings: AutoSettings) -> Effective:
        """What the first rule that holds says; the numbers are those of the file's head."""
        on_battery, percent = signals.on_battery, signals.battery_percent
        low_percent = settings.low_percent
        is_low = self._low.look(
            begins=bool(on_battery) and percent is not None and percent <= low_percent,
            ends=not on_battery
            or (percent is not None and percent >= low_percent + settings.reenter_percent),
        )
        share = signals.fan_share
        is_loud = self._loud.look(
            begins=share is not None and share >= settings.fan_share_loud,
            ends=share is None or share <= settings.fan_share_calm,
        )
        profile = signals.profile if settings.follow_profile else None
        charge = "" if percent is None else f" ({percent:.0f} %)"
        if is_low:  # (1)
            return _effective(Mode.ULTRA_EFFICIENCY, Cause.BATTERY, _battery_at(percent))
        if signals.state.rank >= ThermalState.SEVERE.rank:  # (2)
            return _effective(Mode.EFFICIENCY, Cause.HEAT, signals.hottest or "a part is too hot")
        hours = settings.quiet_hours
        if hours is not None and is_within(hours, signals.minute_of_day):  # (3)
            return _effective(
                Mode.QUIET, Cause.QUIET_HOURS, f"quiet hours until {_time_of_day(hours[1])}"
            )
        if profile == "power-saver":  # (4)
            return _effective(Mode.EFFICIENCY, Cause.PROFILE, "power profile power-saver")
        if on_battery:  # (5)
            return _effective(Mode.EFFICIENCY, Cause.BATTERY, f"on battery{charge}")
        if signals.degraded == "lap-detected":  # (6) the profile's daemon told, nobody chose it
            return _effective(Mode.QUIET, Cause.PROFILE, "on somebody's lap")
        if signals.state is ThermalState.MODERATE:  # (7)
            return _effective(Mode.EFFICIENCY, Cause.HEAT, signals.hottest or "a part is hot")
        if is_loud and share is not None:  # (8)
            return _effective(Mode.QUIET, Cause.FAN, f"fans at {share * 100:.0f} %")
        if profile == "performance":  # (9)
            return _effective(Mode.PERFORMANCE, Cause.PROFILE, "power profile performance")
        return _effective(Mode.BALANCED, Cause.NOTHING, _nothing(signals))  # (10)


def _is_urgent(before: Effective, signals: Signals) -> bool:
    """Whether heat cannot wait: in a thrifty mode there is nothing that it would change."""
    is_thrifty = before.mode in {Mode.EFFICIENCY, Mode.ULTRA_EFFICIENCY}
    return signals.state.rank >= ThermalState.SEVERE.rank and not is_thrifty


def _effective(mode: Mode, cause: Cause, reason: str) -> Effective:
    return Effective(mode=mode, reason=reason, cause=cause)


def _battery_at(percent: float | None) -> str:
    return "battery low" if percent is None else f"battery at {percent:.0f} %"


def _nothing(signals: Signals) -> str:
    if signals.on_battery is False:
        return "on mains power"
    if signals.state is ThermalState.UNKNOWN:
        return "nothing is known of battery or heat"
    return "nothing is hot, and nothing is known of a battery"


# -- quiet hours -----------------------------------------------------------------------------------


def is_within(hours: tuple[int, int], minute_of_day: int) -> bool:
    """Whether a minute of the day lies in a span of them, which may include midnight."""
    begin, end = hours
    if begin < end:
        return begin <= minute_of_day < end
    return minute_of_day >= begin or minute_of_day < end


def parse_quiet_hours(text: str) -> tuple[int, int] | None:
    """Minutes of the day of "22:00-07:00"; "" is none.

    Raises:
        ValueError: it is neither, or begins when it ends.
    """
    if not text.strip():
        return None
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f'quiet hours are like "22:00-07:00", or "" for none; not {text!r}')
    begin_h, begin_min, end_h, end_min = map(int, found.groups())
    begin, end = begin_h * 60 + begin_min, end_h * 60 + end_min
    if begin == end:
        raise ValueError(f"quiet hours begin and end at the same time in {text!r}")
    return begin, end


_TIME = r"\s*([01]?[0-9]|2[0-3]):([0-5][0-9])\s*"
_HOURS = re.compile(f"{_TIME}-{_TIME}")


def _time_of_day(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
