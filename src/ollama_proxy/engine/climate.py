"""What the machine's state means for the next request: gathered here, decided in `policy`.

Sensors call `publish` whenever they have read something; a look at all of it grades the heat of each
part, lets the mode follow, and steers the dispatcher. It happens each `poll_s`, and at once where
somebody waits for its effect: a mode that was set, a sleep that has ended.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import HeatChanged, ModeChanged, News
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.conditions import Conditions, Told, fade, merge, part_of
from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.holds import Hold, Holds
from ollama_proxy.policy.modes import (
    STANCES,
    Auto,
    AutoSettings,
    Cause,
    Effective,
    Mode,
    Signals,
)
from ollama_proxy.policy.readings import Findings, Part, Quality, Scope, Zone
from ollama_proxy.policy.route import Reason, Steering
from ollama_proxy.policy.thermal import (
    WARM,
    Grader,
    Machine,
    ThermalSettings,
    ThermalState,
    worst,
)

HISTORY_EVERY_S = 10.0
HISTORY_KEPT = 360  # an hour
_PROCESSOR = Part(id=PACKAGE, name="processor", hardware=Hardware.CPU, awake=True)
_IN_PACKAGE = {Hardware.NPU, Hardware.IGPU}


@attrs.frozen(kw_only=True)
class ClimateSettings:
    """How the machine's state is judged. `poll_s`: seconds between two looks at all of it."""

    poll_s: float = 2.0
    auto: AutoSettings = attrs.field(factory=AutoSettings)
    thermal: ThermalSettings = attrs.field(factory=ThermalSettings)


@attrs.frozen(kw_only=True)
class Moment:
    """What was kept of one look: seconds, degrees Celsius, shares, watts, percent; None: unknown."""

    at: float
    state: ThermalState
    mode: Mode
    temperatures_c: Mapping[str, float]
    fan_share: float | None
    watts: float | None
    battery_percent: float | None


class Climate:
    """The machine's state, and the mode in force. One for the whole router.

    Attributes:
        mode: what was chosen; `auto` follows the machine's state.
        owner_mode: what the configuration says, as it was read last.
        holds: modes that are held over it.
        effective: the mode in force, and why.
        since: from when on it is.
        conditions: the last look's.
        state: the worst grade of any part; unknown where nobody tells of any heat.
        graders: what is thought of each part's heat, for those of which anybody tells.
        history: what was kept of past looks, oldest first.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: ClimateSettings,
        news: News,
        *,
        mode: Mode = Mode.AUTO,
        minute_of_day: Callable[[], int],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Begin with nothing known.

        Args:
            dispatcher: is steered.
            settings: how to judge.
            news: where changes are told.
            mode: what the owner chose.
            minute_of_day: local time, for quiet hours.
            clock: seconds.
        """
        self.mode = self.owner_mode = mode
        self.holds = Holds()
        self.settings = settings
        self.conditions = Conditions()
        self.state = ThermalState.UNKNOWN
        self.history: deque[Moment] = deque(maxlen=HISTORY_KEPT)
        self.effective = Effective(mode=Mode.BALANCED, reason="", cause=Cause.NOTHING)
        self._dispatcher = dispatcher
        self._news = news
        self._minute_of_day = minute_of_day
        self._now = clock
        self.since = clock()
        self._told: dict[str, Told] = {}
        self.graders: dict[str, Grader] = {}
        self._in_package: dict[Hardware, Grader] = {}
        self._graded: dict[str, tuple[tuple[str, float | None], ...]] = {}
        self._auto = Auto()
        self._is_loud = False
        self._sooner = trio.Event()
        self._watchers: list[Callable[[], None]] = []

    # -- what comes in -----------------------------------------------------------------------------

    def publish(self, sensor: str, findings: Findings | None) -> None:
        """A sensor has read something, or, with None, knows nothing any more."""
        now = self._now()
        if findings is not None:
            self._told[sensor] = Told(findings=findings, at=now)
        elif sensor in self._told:
            self._told[sensor] = fade(self._told[sensor])
        if sensor in self._told and self._told[sensor].findings.draws:
            self._measure(now)
        if (
            findings is None
            or findings.supply
            or findings.profile
            or findings.parts
            or findings.sleeping is not None
        ):
            self._sooner.set()

    def forget(self, sensor: str) -> None:
        """A sensor's device is no longer there: nothing of it is left to be lost."""
        self._told.pop(sensor, None)
        self._sooner.set()

    def watched_by(self, watcher: Callable[[], None]) -> None:
        """From now on, call `watcher` after each look. It must not block nor raise."""
        self._watchers.append(watcher)

    def choose_mode(self, mode: Mode) -> None:
        """Somebody wants another mode: it is in force from the next request on, and no hold is."""
        self.mode = mode
        self.holds.clear()
        self._auto = Auto()
        self.look()

    def hold_mode(self, owner: str, mode: Mode, *, reason: str, app: str) -> Hold:
        """An application wants a mode until it says otherwise, or is gone."""
        hold = self.holds.add(owner, mode, reason=reason, app=app)
        self.look()
        return hold

    def release_hold(self, owner: str, cookie: int) -> bool:
        """It wants it no more; False where it holds none of that name."""
        found = self.holds.release(owner, cookie)
        if found:
            self.look()
        return found

    def drop_holds(self, owner: str) -> None:
        """An application is gone."""
        if self.holds.drop(owner):
            self.look()

    def judge_by(self, settings: ClimateSettings, mode: Mode) -> None:
        """The configuration was read again: other limits and hours, and perhaps another mode.

        A mode that somebody chose since stands, unless the owner has written another one.
        """
        if mode is not self.owner_mode:
            self.mode = self.owner_mode = mode
        self.settings = settings
        for grader in self.graders.values():
            grader.settings = settings.thermal  # what is hot stays so, by the new limits
        self._in_package.clear()
        self.look()

    def slept(self) -> None:
        """The machine was asleep: what was read before is old, and nothing has cooled by it."""
        now = self._now()
        for name, told in self._told.items():
            # Whether the plug is in is asked again at once; until then it is as likely as before.
            findings = attrs.evolve(
                fade(told).findings, supply=told.findings.supply, profile=told.findings.profile
            )
            self._told[name] = attrs.evolve(told, findings=findings)
        for grader in (*self.graders.values(), *self._in_package.values()):
            grader.hold(now)
        self._dispatcher.meters.resumed(now)
        self._sooner.set()

    # -- a look ------------------------------------------------------------------------------------

    async def keep_looking(self) -> None:
        """Look at everything each `poll_s`, sooner where a source of power changed; until cancelled."""
        while True:
            self.look()
            with trio.move_on_after(self.settings.poll_s):
                await self._sooner.wait()
            self._sooner = trio.Event()

    def look(self) -> None:
        """Judge what is known now, and let the next choice heed it."""
        now = self._now()
        self.conditions = merge(self._told)
        present = {part.id: part for part in self.parts}
        self.graders = {id_: g for id_, g in self.graders.items() if id_ in present}
        for part in present.values():
            self._grade(part, now)
        state = worst(grader.level for grader in self.graders.values())
        if state is not self.state:
            self._news.tell(HeatChanged(old=self.state, new=state, why=self.hottest))
            self.state = state
        self._follow(now)
        self._dispatcher.meters.set_on_battery(self.conditions.on_battery)
        changed = [s for s in self._dispatcher.stations.values() if self._warn(s)]
        self._steer()
        for station in changed:  # only now: whoever must go elsewhere is placed by what holds now
            self._dispatcher.heat_changed(station)
        if not self.history or now - self.history[-1].at >= HISTORY_EVERY_S:
            self.history.append(self._moment(now))
        for watcher in self._watchers:
            watcher()

    @property
    def parts(self) -> list[Part]:
        """The parts of the machine that have a heat sink of their own, the processor first."""
        return [_PROCESSOR, *self.conditions.parts.values()]

    @property
    def hottest(self) -> str:
        """Which part is warmest by its grade, and how warm; empty where nobody tells of any."""
        graders = self.graders.values()
        return max(graders, key=lambda g: g.level.rank).why if graders else ""

    def is_throttled(self, part: str | None) -> bool | None:
        """Whether heat slows a part down now; None where nobody tells."""
        told = [z.throttling for z in self.conditions.zones if z.part == part and part is not None]
        known = [each for each in told if each is not None]
        return any(known) if known else None

    def card_watts(self, part: str | None) -> float | None:
        """What a card with a sensor of its own draws now; None where there is none."""
        draws = self.conditions.draws
        known = [d.watts for d in draws if d.scope is Scope.DEVICE and d.part == part]
        return next((watts for watts in known if watts is not None), None)

    def _measure(self, now: float) -> None:
        draws = [draw for told in self._told.values() for draw in told.findings.draws]
        throttled = [part.id for part in self.parts if self.is_throttled(part.id)]
        for backend in self._dispatcher.meters.sampled(draws, now, throttled=throttled):
            station = self._dispatcher.stations.get(backend)
            if station is not None:
                station.learned()

    def grade_of(self, part: str | None) -> Grader | None:
        """What is thought of a part's heat; None where nobody tells of any."""
        return self.graders.get(part) if part is not None else None

    def _grade(self, part: Part, now: float) -> None:
        zones = self.conditions.zones_of(part.id)
        thermal = self.settings.thermal
        if zones and part.id not in self.graders:
            self.graders[part.id] = self._new_grader(part, thermal)
        asked = [self.graders[part.id]] if part.id in self.graders else []
        if part.id == PACKAGE:
            for hardware in (thermal.per_hardware.keys() & _IN_PACKAGE) - self._in_package.keys():
                # The package's grader goes by what is said of CPUs: here, by this.
                limits = {Hardware.CPU: thermal.per_hardware[hardware]}
                own = attrs.evolve(thermal, per_hardware=limits)
                self._in_package[hardware] = self._new_grader(part, own)
            asked += self._in_package.values()
        if not asked or not self._is_news(part, zones):
            return
        for grader in asked:
            grader.can_sleep, grader.machine = part.can_sleep, _built_as(self.conditions)
            grader.grade(zones, now, looks_ahead=STANCES[self.effective.mode].lookahead)

    def _is_news(self, part: Part, zones: Sequence[Zone]) -> bool:
        """Whether a part was read since it was graded last: one reading proves nothing twice.

        Silence is news each time, as it is its length that counts.
        """
        read = tuple((zone.name, self.conditions.heard.get(zone.name)) for zone in zones)
        is_same = read == self._graded.get(part.id)
        self._graded[part.id] = read
        return not is_same or not any(zone.quality is Quality.OK for zone in zones)

    def _new_grader(self, part: Part, settings: ThermalSettings) -> Grader:
        return Grader(
            name=part.name,
            hardware=part.hardware,
            settings=settings,
        )

    def _follow(self, now: float) -> None:
        before = self.effective
        hold = self.holds.newest
        effective = self._auto.decide(self._wanted, self._signals(), self.settings.auto, now)
        self.effective = effective if hold is None else hold.explain(effective)
        if self.effective.mode is not before.mode:
            self.since = now
        if self.effective.mode is not before.mode and before.reason:
            self._news.tell(
                ModeChanged(
                    old=before.mode,
                    new=self.effective.mode,
                    reason=self.effective.reason,
                    cause=self.effective.cause,
                )
            )

    def _signals(self) -> Signals:
        found = self.conditions
        return Signals(
            on_battery=found.on_battery,
            battery_percent=found.battery_percent,
            state=self.state,
            hottest=self.hottest,
            fan_share=found.fan_share,
            profile=found.profile.active if found.profile is not None else None,
            degraded=found.profile.degraded if found.profile is not None else "",
            minute_of_day=self._minute_of_day(),
        )

    def _warn(self, station: Station) -> bool:
        """Tell a station how its hardware is; whether that is another grade than before."""
        if station.is_router:
            return False  # it tells of its own machine; this one's heat is none of it
        spec = station.spec
        part = part_of(spec.hardware, spec.device, self.conditions)
        grader = self.grade_of(part)
        if part == PACKAGE:  # its owner may have said more of it than of what it shares a sink with
            grader = self._in_package.get(spec.hardware, grader)
        card = self.conditions.parts.get(part) if part is not None else None
        level = grader.level if grader is not None else ThermalState.UNKNOWN
        return station.feels(
            part,
            level,
            grader.why if grader is not None and level in WARM else "",
            asleep=card is not None and card.awake is False and not station.running,
        )

    @property
    def _wanted(self) -> Mode:
        """The mode that somebody holds, else the one that was chosen."""
        hold = self.holds.newest
        return self.mode if hold is None else hold.mode

    def _steer(self) -> None:
        stance = STANCES[self.effective.mode]
        self._is_loud = stance.is_loud(self.conditions.fan_share, was_loud=self._is_loud)
        stations = self._dispatcher.stations.values()
        self._dispatcher.steer(
            Steering(
                stance=stance,
                reason=_reason(self._wanted, self.effective),
                is_loud=self._is_loud,
                on_battery=self.conditions.on_battery is True,
                all_cool=not any(station.is_delicate for station in stations),
            )
        )

    def _moment(self, now: float) -> Moment:
        found = self.conditions
        return Moment(
            at=now,
            state=self.state,
            mode=self.effective.mode,
            temperatures_c={
                part: grader.hottest.temperature_c
                for part, grader in self.graders.items()
                if grader.hottest is not None and grader.hottest.temperature_c is not None
            },
            fan_share=found.fan_share,
            watts=found.system_watts,
            battery_percent=found.battery_percent,
        )


_OF_CAUSE = {
    Cause.BATTERY: Reason.BATTERY,
    Cause.HEAT: Reason.THERMAL,
    Cause.NOTHING: Reason.BALANCED,
}
_OF_MODE = {
    Mode.PERFORMANCE: Reason.MODE_PERFORMANCE,
    Mode.BALANCED: Reason.MODE_BALANCED,
    Mode.EFFICIENCY: Reason.MODE_EFFICIENCY,
    Mode.QUIET: Reason.MODE_QUIET,
    Mode.AUTO: Reason.MODE_AUTO,
    Mode.ULTRA_EFFICIENCY: Reason.MODE_ULTRA_EFFICIENCY,
}


def _built_as(conditions: Conditions) -> Machine:
    """What kind of machine it is, which says how hot its processor may become."""
    if conditions.battery_percent is not None:
        return Machine.LAPTOP
    is_board = any(
        zone.name.startswith(("cpu_thermal", "cpu-thermal")) for zone in conditions.zones
    )
    return Machine.BOARD if is_board else Machine.DESKTOP


def _reason(chosen: Mode, effective: Effective) -> Reason:
    """What to say of a choice that the mode decided: what moved auto, or the mode itself."""
    by_mode = _OF_MODE[effective.mode]
    return _OF_CAUSE.get(effective.cause, by_mode) if chosen is Mode.AUTO else by_mode
