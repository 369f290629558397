"""Plays recorded conditions into the real climate, in virtual time, and keeps books of what it does.

Once a second the parts' sensors are read: what the modelled backends drew is what their meters are
told, and what parts grow warm by that have physics. Every other second the climate looks, and at
once where a source of power, a card or a profile changed: as `Climate.keep_looking` does.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

import attrs

from ollama_proxy.config import Efficiency
from ollama_proxy.engine.attempt import Attempt
from ollama_proxy.engine.climate import Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher
from ollama_proxy.engine.news import HeatChanged, Item, ModeChanged, News
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.conditions import part_of
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.modes import AutoSettings, parse_quiet_hours
from ollama_proxy.policy.readings import Draw, Findings, Quality, Scope
from ollama_proxy.policy.thermal import ThermalState
from ollama_proxy.simulate.conditions import AT_ONCE, Change, Degrees
from ollama_proxy.simulate.model import Machine
from ollama_proxy.simulate.physics import Body
from ollama_proxy.simulate.report import Figures
from ollama_proxy.simulate.scenario import Scenario

BEAT_S = 1.0
_BEATS_A_LOOK = 2
_OFTEN_S = 600.0
_J_PER_WH = 3600.0
_Sums = defaultdict[str, float]


def _sums() -> _Sums:
    return defaultdict(float)


@attrs.define
class Books:
    """What came of the weather. Times in seconds, by the names of modes and parts.

    Attributes:
        switches: when which mode followed another, and why.
        grades: how often the machine's thermal state changed.
        critical_s: how long a part was graded critical.
        over_s: how long it was at the limit that it tells, or above.
        on_critical: requests that were started on a part that was graded critical.
        woken: cards that were woken by a request.
        in_vain: of these, on battery, while another backend that sleeps not could have served.
    """

    switches: list[tuple[float, str, str]] = attrs.field(factory=list)
    grades: int = 0
    mode_s: _Sums = attrs.field(factory=_sums)
    mode_joules: _Sums = attrs.field(factory=_sums)
    critical_s: _Sums = attrs.field(factory=_sums)
    over_s: _Sums = attrs.field(factory=_sums)
    on_critical: int = 0
    woken: int = 0
    in_vain: int = 0


class Weather:
    """What one run of ours has of it. `changes` are the lines that are to come, by their times."""

    def __init__(
        self,
        scenario: Scenario,
        dispatcher: Dispatcher,
        fleet: Mapping[str, Machine],
        clock: Callable[[], float],
    ) -> None:
        """Look once: whatever is so at 0 s is so when the first request comes.

        Args:
            scenario: what comes.
            dispatcher: is steered.
            fleet: the backends, by their ids.
            clock: seconds.
        """
        self.books = Books()
        self._scenario, self._dispatcher, self._fleet = scenario, dispatcher, fleet
        self._now = clock
        self._bodies = [Body(part) for part in scenario.parts]
        self._battery_j = scenario.battery_wh * _J_PER_WH
        self._counters = _sums()  # joules, by part
        self._drawn = dict.fromkeys(fleet, 0.0)  # joules, by machine
        self._woken: set[str] = set()
        self._beats = 0
        self._at = 0.0
        self._told: dict[str, Findings | None] = {}
        efficiency = scenario.efficiency or Efficiency()
        news = News()
        news.read_by(self._note)
        self.climate = Climate(
            dispatcher,
            ClimateSettings(
                auto=AutoSettings(
                    quiet_hours=parse_quiet_hours(efficiency.quiet_hours),
                    follow_profile=efficiency.follow_power_profile,
                    low_percent=efficiency.low_battery_percent,
                )
            ),
            news,
            mode=efficiency.mode,
            minute_of_day=lambda: scenario.minute_of_day(clock()),
            clock=clock,
        )
        self.changes = deque(scenario.conditions)
        self._state = Change(at_s=0.0)
        while self.changes and self.changes[0].at_s <= 0:
            self._state = self._state.then(self.changes.popleft())
        self._compute(0.0)
        self._publish()
        self.climate.look()

    # -- what happens ------------------------------------------------------------------------------

    def turn(self, change: Change) -> None:
        """A line is due."""
        self._pass()
        self._state = self._state.then(change)
        if self._publish() & AT_ONCE:
            self.climate.look()

    def beat(self) -> None:
        """Another second is over."""
        self._pass()
        self._woken = {part for part in self._woken if self._is_used(part)}
        self._publish()
        self.climate.publish("power", Findings(draws=tuple(self._draws())))
        self._beats += 1
        if self._beats % _BEATS_A_LOOK == 0:
            # Sensors read again what has not changed: that it lasts is news, too.
            for name, found in sorted(self._told.items()):
                self.climate.publish(name, found)
            self.climate.look()

    def starts(self, station: Station, attempt: Attempt) -> None:
        """A request starts on a backend; call it before the machine is told."""
        part = station.part
        grader = self.climate.grade_of(part)
        if grader is not None and grader.level is ThermalState.CRITICAL:
            self.books.on_critical += 1
        if part is None or not self._sleeps(part):
            return
        self._woken.add(part)
        self.books.woken += 1
        chosen, *others = attempt.decision.candidates
        # That it fell asleep a moment ago nobody could know: sensors look every few seconds.
        is_in_vain = chosen.asleep and any(not c.asleep for c in others)
        self.books.in_vain += self._state.on_battery is True and is_in_vain

    # -- how ---------------------------------------------------------------------------------------

    def _note(self, item: Item) -> None:
        if isinstance(item, ModeChanged):
            self.books.switches.append((self._now(), item.new.value, item.reason))
        elif isinstance(item, HeatChanged):
            self.books.grades += 1

    def _publish(self) -> set[str]:
        """Tell the climate what is told otherwise than before; returns which sensors did."""
        throttled = frozenset(b.given.name for b in self._bodies if b.is_throttled)
        told = self._state.findings(at_work=frozenset(self._woken), throttled=throttled)
        new = {name for name, found in told.items() if self._told.get(name) != found}
        for name in sorted(new):
            self.climate.publish(name, told[name])
        self._told = told
        return new

    def _part(self, id_: str) -> str | None:
        spec = self._fleet[id_].spec
        return part_of(spec.hardware, spec.device, self.climate.conditions)

    def _is_used(self, part: str) -> bool:
        return any(m.at_work and self._part(id_) == part for id_, m in self._fleet.items())

    def _sleeps(self, part: str) -> bool:
        return self._state.sleeps(part) and part not in self._woken

    def _pass(self) -> None:
        """Book the time since the last beat or line: nothing but work has changed meanwhile."""
        now = self._now()
        elapsed_s, self._at = now - self._at, now
        if not elapsed_s:
            return
        mode, books = self.climate.effective.mode.value, self.books
        joules = self._draw(now, elapsed_s)
        books.mode_s[mode] += elapsed_s
        books.mode_joules[mode] += sum(joules.values())
        for part, grader in self.climate.graders.items():
            if grader.level is ThermalState.CRITICAL:
                books.critical_s[part] += elapsed_s
            degrees, limit = self._state.degrees(part), self._state.limit(part)
            if degrees is not None and limit is not None and degrees >= limit:
                books.over_s[part] += elapsed_s
        self._heat(joules, elapsed_s)

    def _draw(self, now: float, elapsed_s: float) -> _Sums:
        """What each part drew since the last time, in joules; "" is what is none of them."""
        joules = _sums()
        for id_, machine in self._fleet.items():
            part = self._part(id_) or ""
            extra = machine.extra_joules(machine.work_s(now))
            rest = 0.0 if self._sleeps(part) else machine.given.watts_idle * elapsed_s
            joules[part] += max(0.0, extra - self._drawn[id_]) + rest
            self._drawn[id_] = max(extra, self._drawn[id_])
        for part, drawn in joules.items():
            self._counters[part] += drawn
        return joules

    def _heat(self, joules: Mapping[str, float], elapsed_s: float) -> None:
        for body in self._bodies:
            body.draw(joules.get(body.given.name, 0.0) / elapsed_s, elapsed_s)
            for id_, machine in self._fleet.items():
                if self._part(id_) == body.given.name:
                    machine.slowed = body.given.throttled_speed if body.is_throttled else 1.0
        drawn = sum(joules.values()) + self._scenario.base_watts * elapsed_s
        self._compute(drawn if self._state.on_battery is True else 0.0)

    def _compute(self, drawn_j: float) -> None:
        """Take what is computed for what is told."""
        state = self._state
        if self._bodies:
            warm = Degrees(**{body.given.name: body.degrees_c for body in self._bodies})
            limits = Degrees(**{body.given.name: body.given.limit_c for body in self._bodies})
            state = state.then(Change(at_s=state.at_s, zones=warm, limits=limits))
        if self._battery_j:
            self._battery_j -= drawn_j
            full_j = self._scenario.battery_wh * _J_PER_WH
            percent = max(0.0, 100 * self._battery_j / full_j)
            state = state.then(Change(at_s=state.at_s, percent=percent))
        self._state = state

    def _draws(self) -> Sequence[Draw]:
        """What sensors tell of power: one of the package, one of each card."""
        return [
            Draw(
                name=part,
                scope=Scope.PACKAGE if part == PACKAGE else Scope.DEVICE,
                part=part,
                joules=None if self._sleeps(part) else joules,
                quality=Quality.ASLEEP if self._sleeps(part) else Quality.OK,
                source="recorded",
            )
            for part, joules in self._counters.items()
            if part
        ]

    # -- what came of it ---------------------------------------------------------------------------

    def figures(self) -> Figures:
        """All that is reported of it, ready for JSON."""
        books, switches = self.books, [at for at, _, _ in self.books.switches]
        often = max((sum(at <= t < at + _OFTEN_S for t in switches) for at in switches), default=0)
        percent = self.climate.conditions.battery_percent
        return {
            "switches": [{"at_s": at, "to": to, "why": why} for at, to, why in books.switches],
            "switches_in_10_min": often,
            "mode_s": dict(books.mode_s),
            "mode_joules": dict(books.mode_joules),
            "grade_changes": books.grades,
            "critical_s": dict(books.critical_s),
            "over_limit_s": dict(books.over_s),
            "started_on_critical": books.on_critical,
            "woken": books.woken,
            "woken_in_vain": books.in_vain,
            "percent_left": percent,
            "metered": self._metered(),
        }

    def _metered(self) -> Figures:
        """What each backend's requests paid by the meters, beside what they cost in the model."""
        paid = _sums()
        for (id_, _), joules in self._dispatcher.meters.books.backends.items():
            paid[id_] += joules
        cost = {id_: m.extra_joules(m.busy_s) for id_, m in self._fleet.items()}
        return {
            id_: {"paid_j": paid[id_], "true_j": true, "off": (paid[id_] - true) / true}
            for id_, true in cost.items()
            if true
        }
