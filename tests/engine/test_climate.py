"""What the machine's state does to the next choice, from readings to the backend that is taken."""

from typing import Any

import attrs
import pytest

from ollama_proxy.backends.backend import Probe
from ollama_proxy.engine.climate import HISTORY_EVERY_S, HISTORY_KEPT, Climate, ClimateSettings
from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.engine.news import BackendChanged, HeatChanged, Item, ModeChanged, News
from ollama_proxy.engine.station import Station
from ollama_proxy.policy.ask import Wishes
from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.modes import AutoSettings, Mode
from ollama_proxy.policy.readings import (
    Draw,
    Findings,
    Kind,
    Part,
    Profile,
    Quality,
    Scope,
    Supply,
    Zone,
)
from ollama_proxy.policy.refusal import Refusal
from ollama_proxy.policy.route import Decision, Reason, choose
from ollama_proxy.policy.thermal import ThermalSettings, ThermalState, Thresholds
from tests.fakes.backend import ScriptedBackend
from tests.fleet import FIGURES, MODEL, ask, spec

CARD = "0000:01:00.0"


@attrs.define
class Weather:
    """A climate over the four backends of the laptop, at a time that a test sets."""

    now: float = 0.0
    minute: int = 12 * 60
    news: list[Item] = attrs.field(factory=list)
    dispatcher: Dispatcher = attrs.field(init=False)
    climate: Climate = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        news = News()
        news.read_by(self.news.append)
        self.dispatcher = Dispatcher(
            DispatchSettings(), Ledger(), clock=lambda: self.now, news=news
        )
        for name in FIGURES:
            station = Station(ScriptedBackend(spec(name)), queue_capacity=4)
            self.dispatcher.add(station)
            station.is_well(Probe(models=frozenset({MODEL})))
            self.dispatcher.health_changed(station)
        self.climate = Climate(
            self.dispatcher,
            ClimateSettings(auto=AutoSettings(quiet_hours=(22 * 60, 7 * 60))),
            news,
            minute_of_day=lambda: self.minute,
            clock=lambda: self.now,
        )
        self.news.clear()

    def tell(self, sensor: str, **findings: Any) -> None:
        """A sensor tells something, and it is looked at."""
        self.climate.publish(sensor, Findings(**findings))
        self.climate.look()

    def state(self) -> ThermalState:
        """The machine's grade."""
        return self.climate.state

    def stay(self, seconds: float, sensor: str, **findings: Any) -> None:
        """The same for so long, each two seconds."""
        until = self.now + seconds
        while self.now < until:
            self.now += 2.0
            self.tell(sensor, **findings)

    def choose(self, **wished: Any) -> Decision | Refusal:
        """What would be decided now."""
        views = [station.view(self.now) for station in self.dispatcher.stations.values()]
        return choose(ask(), Wishes(**wished), views, self.dispatcher.settings.route, now=self.now)

    def chosen(self, **wished: Any) -> tuple[str, Reason]:
        """The backend and the reason."""
        decision = self.choose(**wished)
        assert isinstance(decision, Decision)
        return decision.backend, decision.reason


def processor(celsius: float | None, **more: Any) -> tuple[Zone, ...]:
    quality = Quality.ERROR if celsius is None else Quality.OK
    given = {"temperature_c": celsius, "limit_c": 100.0, "quality": quality, "source": "coretemp"}
    return (Zone(name="coretemp", kind=Kind.CPU, part=PACKAGE, **(given | more)),)


def card(celsius: float | None = None, *, awake: bool = True) -> dict[str, Any]:
    zone = Zone(
        name="GeForce",
        kind=Kind.GPU,
        part=CARD,
        hardware=Hardware.NVIDIA,
        temperature_c=celsius,
        limit_c=93.0,
        quality=Quality.OK if celsius is not None else Quality.ASLEEP,
        source="nvml",
    )
    part = Part(id=CARD, name="GeForce", hardware=Hardware.NVIDIA, awake=awake, can_sleep=True)
    return {"zones": (zone,), "parts": (part,)}


class TestModes:
    """The mode decides about the next request."""

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            (Mode.PERFORMANCE, ("nvidia", Reason.MODE_PERFORMANCE)),
            (Mode.BALANCED, ("npu", Reason.MODE_BALANCED)),
            (Mode.EFFICIENCY, ("npu", Reason.MODE_EFFICIENCY)),
            (Mode.QUIET, ("npu", Reason.MODE_QUIET)),
            (Mode.ULTRA_EFFICIENCY, ("npu", Reason.MODE_ULTRA_EFFICIENCY)),
            (Mode.AUTO, ("npu", Reason.BALANCED)),
        ],
    )
    def test_one_that_is_set_holds_for_the_next_choice(
        self, mode: Mode, expected: tuple[str, Reason]
    ) -> None:
        """Without waiting for anything to be read."""
        weather = Weather()
        weather.climate.choose_mode(mode)

        assert expected == weather.chosen()

    @pytest.mark.parametrize(
        ("findings", "mode", "reason"),
        [
            ({"supply": Supply(on_battery=True, percent=64, source="upower")}, "efficiency", "battery"),
            ({"supply": Supply(on_battery=True, percent=12, source="upower")}, "ultra-efficiency", "battery"),
            ({"profile": Profile(active="power-saver")}, "efficiency", "mode-efficiency"),
            ({"profile": Profile(active="performance")}, "performance", "mode-performance"),
        ],
    )  # fmt: skip
    def test_auto_follows_what_is_read(
        self, findings: dict[str, Any], mode: str, reason: str
    ) -> None:
        """Battery, charge and profile, and the reason is theirs."""
        weather = Weather()
        weather.stay(10, "upower", **findings)

        assert mode == weather.climate.effective.mode.value
        assert reason == weather.chosen()[1].value

    def test_auto_is_quiet_at_night(self) -> None:
        """By the clock on the wall."""
        weather = Weather(minute=23 * 60)
        weather.climate.look()

        assert Mode.QUIET is weather.climate.effective.mode
        assert Reason.MODE_QUIET is weather.chosen()[1]

    def test_a_chosen_mode_is_not_overridden(self) -> None:
        """Not by an empty battery either."""
        weather = Weather()
        weather.climate.choose_mode(Mode.PERFORMANCE)
        weather.stay(100, "upower", supply=Supply(on_battery=True, percent=3, source="upower"))

        assert Mode.PERFORMANCE is weather.climate.effective.mode

    def test_a_change_is_told_once(self) -> None:
        """With both modes and why; the first look is no change."""
        weather = Weather()
        weather.climate.look()
        weather.stay(20, "upower", supply=Supply(on_battery=True, percent=64, source="upower"))

        (told,) = [item for item in weather.news if isinstance(item, ModeChanged)]
        assert (Mode.BALANCED, Mode.EFFICIENCY) == (told.old, told.new)
        assert "64" in told.reason


class TestHeat:
    """Each part is judged by itself."""

    def test_a_hot_card_does_not_punish_the_npu(self) -> None:
        """What is fastest is not taken any more; the package is as it was."""
        weather = Weather()
        weather.tell("cpu", zones=processor(50.0))
        weather.stay(30, "nvml", **card(95.0))

        stations = weather.dispatcher.stations
        assert (ThermalState.CRITICAL, ThermalState.NOMINAL) == (
            stations["nvidia"].heat,
            stations["npu"].heat,
        )
        assert ("igpu", Reason.THERMAL) == weather.chosen(latency_critical=True)
        assert "npu" == weather.chosen(target="npu")[0]

    def test_a_hot_package_touches_all_that_share_its_heat_sink(self) -> None:
        """NPU, graphics and cores; the card beside it is another's."""
        weather = Weather()
        weather.stay(30, "cpu", zones=processor(101.0))

        hot = {
            name
            for name, station in weather.dispatcher.stations.items()
            if station.heat is ThermalState.CRITICAL
        }
        assert {"npu", "igpu", "cpu"} == hot
        refusal = weather.choose(target="npu")
        assert isinstance(refusal, Refusal)
        assert "101 °C" in refusal.message
        assert ("nvidia", Reason.THERMAL) == weather.chosen()

    def test_an_owner_may_say_more_of_what_is_built_into_the_package(self) -> None:
        """Its own limits are those of the NPU alone, though it has no sensor of its own."""
        weather = Weather()
        thermal = ThermalSettings(per_hardware={Hardware.NPU: Thresholds(critical_c=70.0)})
        weather.climate.judge_by(ClimateSettings(thermal=thermal), Mode.AUTO)
        weather.stay(30, "cpu", zones=processor(75.0))

        stations = weather.dispatcher.stations
        assert (ThermalState.CRITICAL, ThermalState.NOMINAL) == (
            stations["npu"].heat,
            stations["cpu"].heat,
        )

    def test_new_limits_do_not_cool_what_is_hot(self) -> None:
        """A reload judges anew from where it was."""
        weather = Weather()
        weather.stay(30, "cpu", zones=processor(101.0))
        weather.climate.judge_by(
            ClimateSettings(thermal=ThermalSettings(warning_c=80.0)), Mode.AUTO
        )

        assert weather.state() is ThermalState.CRITICAL

    def test_a_lost_sensor_is_not_cool(self) -> None:
        """What was hot stays so for a while, and is then spared like what is warm."""
        weather = Weather()
        weather.stay(30, "cpu", zones=processor(101.0))
        weather.climate.publish("cpu", None)
        for _ in range(20):
            weather.now += 2.0
            weather.climate.look()
        assert weather.state() is ThermalState.CRITICAL

        for _ in range(20):
            weather.now += 2.0
            weather.climate.look()
        assert weather.state() is ThermalState.MODERATE
        assert (None,) == tuple(z.temperature_c for z in weather.climate.conditions.zones)

    def test_nothing_read_is_unknown_and_restrains_nobody(self) -> None:
        """A machine without sensors is no hot one."""
        weather = Weather()
        weather.stay(100, "upower")

        assert weather.state() is ThermalState.UNKNOWN
        assert ("nvidia", Reason.LATENCY_CRITICAL) == weather.chosen(latency_critical=True)

    def test_a_change_is_told_with_its_place(self) -> None:
        """From grade to grade."""
        weather = Weather()
        weather.stay(30, "cpu", zones=processor(101.0))

        told = [item for item in weather.news if isinstance(item, HeatChanged)]
        assert ThermalState.CRITICAL is told[-1].new
        assert "101 °C" in told[-1].why

    def test_a_noisy_reading_does_not_flap(self) -> None:
        """Around the line where warm begins, ten minutes are two changes at most."""
        weather = Weather()
        weather.climate.look()
        for step in range(300):
            weather.now += 2.0
            weather.tell("cpu", zones=processor(79.0 + (step * 7 % 3)))

        changes = [item for item in weather.news if isinstance(item, HeatChanged | ModeChanged)]
        first = 1  # from unknown, which the first reading ends
        assert len(changes) <= first + 2


class TestSleep:
    """Cards, and the whole machine."""

    def test_on_battery_a_sleeping_card_sleeps_on(self) -> None:
        """What is chosen otherwise is the next best."""
        weather = Weather()
        weather.climate.choose_mode(Mode.PERFORMANCE)
        weather.tell("nvml", **card(awake=False))
        assert weather.dispatcher.stations["nvidia"].asleep

        weather.tell("upower", supply=Supply(on_battery=True, percent=64, source="upower"))
        assert "igpu" == weather.chosen()[0]

    def test_after_the_machine_slept_nothing_is_cooler(self) -> None:
        """What was read before is unknown, and the grade is held."""
        weather = Weather()
        weather.stay(30, "cpu", zones=processor(101.0))
        weather.now += 8 * 3600
        weather.climate.slept()
        weather.stay(30, "cpu", zones=processor(40.0))

        assert weather.state() is ThermalState.CRITICAL

        weather.stay(400, "cpu", zones=processor(40.0))
        assert weather.state() is ThermalState.NOMINAL


class TestEnergy:
    """What is drawn, and by whom."""

    def test_a_cards_own_sensor_is_its_power(self) -> None:
        """The package's is nobody's alone."""
        weather = Weather()
        draws = (
            Draw(name="GeForce", scope=Scope.DEVICE, part=CARD, watts=31.0, source="nvml"),
            Draw(name="rapl", scope=Scope.PACKAGE, part=PACKAGE, watts=9.0, source="rapl"),
        )
        weather.tell("nvml", draws=draws, **card(60.0))

        assert 31.0 == weather.climate.card_watts(CARD)
        assert weather.climate.card_watts(PACKAGE) is None


class TestHistory:
    """What was is kept, and no more of it than an hour."""

    def test_it_is_bounded(self) -> None:
        """A ring, its steps some seconds apart."""
        weather = Weather()
        weather.stay(2 * HISTORY_KEPT * HISTORY_EVERY_S, "cpu", zones=processor(50.0))

        history = weather.climate.history
        assert HISTORY_KEPT == len(history)
        assert HISTORY_EVERY_S == history[1].at - history[0].at
        assert {PACKAGE: 50.0} == history[-1].temperatures_c


def test_a_backend_that_is_lost_and_back_is_told_of() -> None:
    """Each change once, with why; that it was well from the start is no news."""
    weather = Weather()
    station = weather.dispatcher.stations["npu"]
    for _ in range(2):
        station.is_down("refused")
        weather.dispatcher.health_changed(station)
    for _ in range(2):
        station.is_well(Probe(models=frozenset({MODEL})))
        weather.dispatcher.health_changed(station)

    assert [
        BackendChanged(id="npu", healthy=False, why="refused"),
        BackendChanged(id="npu", healthy=True, why=""),
    ] == weather.news


class TestHolds:
    """A mode that an application holds."""

    def test_it_wins_over_the_chosen_one_while_it_lasts(self) -> None:
        """And says whose it is; after it everything is as before."""
        weather = Weather()
        weather.climate.choose_mode(Mode.QUIET)
        before = weather.climate.effective
        hold = weather.climate.hold_mode(":1.7", Mode.PERFORMANCE, reason="a call", app="Calls")

        assert ("nvidia", Reason.MODE_PERFORMANCE) == weather.chosen()
        assert (Mode.QUIET, "held by Calls: a call") == (
            weather.climate.mode,
            weather.climate.effective.reason,
        )
        assert weather.climate.release_hold(":1.7", hold.cookie)
        assert before == weather.climate.effective

    def test_it_says_so_over_auto_too(self) -> None:
        """The reason of a choice is the held mode's, not auto's."""
        weather = Weather()
        weather.climate.hold_mode(":1.7", Mode.EFFICIENCY, reason="", app="Calls")

        assert ("npu", Reason.MODE_EFFICIENCY) == weather.chosen()

    def test_auto_that_is_held_says_what_auto_says(self) -> None:
        """Over a chosen mode, as if auto had been chosen."""
        weather = Weather()
        weather.climate.choose_mode(Mode.AUTO)
        chosen = weather.chosen()
        weather.climate.choose_mode(Mode.PERFORMANCE)
        weather.climate.hold_mode(":1.7", Mode.AUTO, reason="", app="Calls")

        assert chosen == weather.chosen()

    def test_who_is_gone_holds_nothing(self) -> None:
        """The next request is routed without it."""
        weather = Weather()
        weather.climate.choose_mode(Mode.BALANCED)
        weather.climate.hold_mode(":1.7", Mode.PERFORMANCE, reason="", app="")
        weather.climate.drop_holds(":1.7")

        assert ("npu", Reason.MODE_BALANCED) == weather.chosen()

    def test_the_users_choice_ends_it(self) -> None:
        """What is chosen is in force at once."""
        weather = Weather()
        hold = weather.climate.hold_mode(":1.7", Mode.PERFORMANCE, reason="", app="")
        weather.climate.choose_mode(Mode.QUIET)

        assert Mode.QUIET is weather.climate.effective.mode
        assert not weather.climate.release_hold(":1.7", hold.cookie)


def test_who_watches_sees_what_was_just_looked_at() -> None:
    """A watcher is called after each look, when the mode in force is the new one."""
    weather = Weather()
    seen: list[Mode] = []
    weather.climate.watched_by(lambda: seen.append(weather.climate.effective.mode))
    weather.climate.choose_mode(Mode.QUIET)
    weather.climate.hold_mode(":1.7", Mode.PERFORMANCE, reason="", app="")

    assert [Mode.QUIET, Mode.PERFORMANCE] == seen
