"""How hot a part is, in words that do not flap."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Kind, Quality, Zone
from ollama_proxy.policy.thermal import (
    Grader,
    Limits,
    Machine,
    ThermalSettings,
    ThermalState,
    Thresholds,
    worst,
)

NOMINAL, LIGHT, MODERATE, SEVERE, CRITICAL, UNKNOWN = ThermalState
POLL_S = 2.0
ZONE = Zone(name="coretemp", kind=Kind.CPU, temperature_c=50.0, limit_c=100.0)
LOST = attrs.evolve(ZONE, temperature_c=None, quality=Quality.ERROR)
ASLEEP = attrs.evolve(ZONE, temperature_c=None, quality=Quality.ASLEEP)
# Where the levels of a package with a limit of 100 begin.
LINES = {LIGHT: 80.0, MODERATE: 90.0, SEVERE: 96.0, CRITICAL: 100.0}


def package(settings: ThermalSettings | None = None) -> Grader:
    return Grader("package", Hardware.CPU, settings or ThermalSettings())


def at(*degrees: float) -> tuple[Zone, ...]:
    """A look that tells of one or more packages."""
    return tuple(attrs.evolve(ZONE, temperature_c=c) for c in degrees)


def watched(
    grader: Grader, looks: Iterable[Sequence[Zone]], *, start: float = 0.0, poll_s: float = POLL_S
) -> list[ThermalState]:
    """The grades of a series of looks."""
    return [grader.grade(zones, start + i * poll_s) for i, zones in enumerate(looks)]


def steady(celsius: float, seconds: float, grader: Grader | None = None) -> ThermalState:
    """The grade after a temperature that did not change."""
    return watched(grader or package(), [at(celsius)] * int(seconds / POLL_S + 1))[-1]


def at_level(level: ThermalState) -> Grader:
    """A package that has just reached a level, at time 0."""
    grader = package()
    for now in itertools.count(-100.0, POLL_S):
        if grader.grade(at(LINES[level] + 1), now) is level:
            break
    grader.since = 0.0
    return grader


def changes(levels: Iterable[ThermalState]) -> int:
    return sum(a is not b for a, b in itertools.pairwise(levels))


# -- states ----------------------------------------------------------------------------------------


def test_states_are_the_contracts_words() -> None:
    """Every door says the same six."""
    words = ["nominal", "light", "moderate", "severe", "critical", "unknown"]

    assert words == [state.value for state in ThermalState]


def test_unknown_is_treated_as_nominal() -> None:
    """By rank; by name it stays what it is."""
    assert [0, 1, 2, 3, 4, 0] == [state.rank for state in ThermalState]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], UNKNOWN),
        ([UNKNOWN, UNKNOWN], UNKNOWN),
        ([UNKNOWN, NOMINAL], NOMINAL),
        ([NOMINAL, UNKNOWN], NOMINAL),
        ([LIGHT, SEVERE, UNKNOWN, NOMINAL], SEVERE),
    ],
    ids=["none", "blind", "seen last", "seen first", "hot"],
)
def test_the_worst_is_of_those_that_are_known(
    states: list[ThermalState], expected: ThermalState
) -> None:
    """A machine is unknown only where no part of it is known."""
    assert expected is worst(states)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "limit_c", "machine", "lines"),
    [
        (Hardware.CPU, 100.0, Machine.DESKTOP, (80, 90, 96, 100, 8)),
        (Hardware.CPU, 105.0, Machine.LAPTOP, (85, 95, 101, 105, 8)),
        (Hardware.CPU, None, Machine.LAPTOP, (80, 90, 96, 100, 8)),
        (Hardware.CPU, None, Machine.DESKTOP, (75, 85, 91, 95, 8)),
        (Hardware.CPU, 110.0, Machine.BOARD, (65, 72, 80, 84, 5)),
        (Hardware.NVIDIA, None, Machine.LAPTOP, (78, 84, 89, 93, 8)),
        (Hardware.NVIDIA, 102.0, Machine.LAPTOP, (78, 84, 98, 102, 8)),
        (Hardware.NVIDIA, 87.0, Machine.LAPTOP, (72, 78, 83, 87, 8)),
        (Hardware.AMD, None, Machine.DESKTOP, (90, 98, 104, 108, 8)),
        (Hardware.AMD, 100.0, Machine.DESKTOP, (80, 88, 94, 98, 8)),
        (Hardware.NPU, None, Machine.DESKTOP, (65, 72, 80, 84, 5)),
    ],
    ids=lambda value: value.value if isinstance(value, Hardware | Machine) else str(value),
)
def test_limits_of_known_parts(
    hardware: Hardware, limit_c: float | None, machine: Machine, lines: tuple[float, ...]
) -> None:
    """Relative to what the part says, or to what is usual for its kind."""
    limits = Limits.of(hardware, limit_c, ThermalSettings(), machine=machine)

    assert lines == attrs.astuple(limits)


@pytest.mark.parametrize("limit_c", [-273.15, 0.0, 65261.85])
def test_14_15_a_limit_that_is_nonsense_is_none(limit_c: float) -> None:
    """Drivers tell absolute zero, and the largest number they have."""
    settings = ThermalSettings()

    assert Limits.of(Hardware.AMD, None, settings) == Limits.of(Hardware.AMD, limit_c, settings)


def test_the_owners_word_goes_before_the_parts() -> None:
    """A warning is where moderate begins; light is 10 below, severe half way to critical."""
    settings = ThermalSettings(warning_c=70.0, critical_c=86.0, hysteresis_c=6.0)

    assert (60.0, 70.0, 78.0, 86.0, 6.0) == attrs.astuple(Limits.of(Hardware.CPU, 100.0, settings))


def test_a_critical_value_alone_moves_all_lines() -> None:
    """They keep their distances."""
    settings = ThermalSettings(critical_c=90.0)

    assert (70.0, 80.0, 86.0, 90.0, 8.0) == attrs.astuple(Limits.of(Hardware.CPU, 100.0, settings))


def test_what_is_said_of_one_kind_of_part_goes_before_what_is_said_of_all() -> None:
    """And 0 says nothing."""
    settings = ThermalSettings(
        warning_c=70.0,
        per_hardware={Hardware.NVIDIA: Thresholds(warning_c=60.0, critical_c=0, dwell_s=0)},
    )

    assert Limits.of(Hardware.NVIDIA, 93.0, settings).moderate_c == 60.0
    assert Limits.of(Hardware.NVIDIA, 93.0, settings).critical_c == 93.0
    assert Limits.of(Hardware.CPU, 100.0, settings).moderate_c == 70.0
    assert settings.of(Hardware.NVIDIA).dwell_s == 60.0


owners = st.none() | st.floats(0, 150)


@given(
    st.sampled_from(Hardware),
    st.none() | st.floats(-300, 70000),
    st.sampled_from(Machine),
    owners,
    owners,
)
def test_the_lines_are_always_in_order(
    hardware: Hardware,
    limit_c: float | None,
    machine: Machine,
    warning_c: float | None,
    critical_c: float | None,
) -> None:
    """Whatever a part and its owner say, together or against each other."""
    settings = ThermalSettings(warning_c=warning_c, critical_c=critical_c)
    limits = Limits.of(hardware, limit_c, settings, machine=machine)

    assert limits.light_c < limits.moderate_c < limits.severe_c < limits.critical_c


# -- known loads, known nonsense -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "limit_c", "celsius", "expected"),
    [
        (Hardware.CPU, 100.0, 77.0, NOMINAL),
        (Hardware.CPU, None, 94.0, MODERATE),
        (Hardware.NVIDIA, 93.0, 53.0, NOMINAL),
        (Hardware.CPU, 100.0, 32.0, NOMINAL),
    ],
    ids=["P1 Gen 4i", "Framework 13 at full load", "RTX 5080 held at 80 W", "constant 32"],
)
def test_known_loads(
    hardware: Hardware, limit_c: float | None, celsius: float, expected: ThermalState
) -> None:
    """Machines that are as hot as they were made to be, for ten minutes."""
    grader = Grader("part", hardware, ThermalSettings(), Machine.LAPTOP)
    zone = attrs.evolve(ZONE, temperature_c=celsius, limit_c=limit_c)

    assert expected is watched(grader, [(zone,)] * 300)[-1]


@pytest.mark.parametrize("celsius", [-44.0, 0.0, 1.0, 126.0, None])
def test_13_to_19_what_is_implausible_is_no_reading(celsius: float | None) -> None:
    """Another chip that tells sense decides; alone, it leaves the part unknown."""
    nonsense = attrs.evolve(ZONE, temperature_c=celsius, quality=Quality.IMPLAUSIBLE)
    grader = package()

    assert UNKNOWN is watched(package(), [(nonsense,)] * 100)[-1]
    assert LIGHT is watched(grader, [(nonsense, *at(85.0))] * 100)[-1]
    assert grader.hottest == at(85.0)[0]


def test_26_a_part_without_any_sensor_is_unknown() -> None:
    """A virtual machine; it is never shown as cool, nor as lost."""
    grader = package()

    assert {UNKNOWN} == set(watched(grader, [()] * 100))
    assert grader.why == "package has no sensor"


def test_28_the_hottest_of_two_packages_decides() -> None:
    """Whichever it is."""
    assert MODERATE is watched(package(), [at(60.0, 92.0)] * 3)[-1]
    assert MODERATE is watched(package(), [at(92.0, 60.0)] * 3)[-1]


def test_the_hottest_is_the_nearest_to_its_own_limit() -> None:
    """A card's memory may bear more than its edge."""
    edge = attrs.evolve(ZONE, name="edge", temperature_c=89.0, limit_c=100.0)
    memory = attrs.evolve(ZONE, name="memory", temperature_c=91.0, limit_c=115.0)
    grader = Grader("card", Hardware.AMD, ThermalSettings())

    assert MODERATE is watched(grader, [(edge, memory)] * 3)[-1]
    assert grader.hottest == edge


def test_80_the_clocks_zero_does_not_matter() -> None:
    """Only differences of time do; the wall's clock is never asked."""
    looks = [at(60.0 + i % 45) for i in range(300)]

    assert watched(package(), looks) == watched(package(), looks, start=1e6)


# -- up --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [LIGHT, MODERATE])
def test_a_level_rises_at_the_second_look(level: ThermalState) -> None:
    """At its line, not above it."""
    looks = [at(50.0), at(LINES[level]), at(LINES[level])]

    assert [NOMINAL, NOMINAL, level] == watched(package(), looks)


def test_a_first_look_that_is_hot_is_not_shown_as_cool() -> None:
    """It is unknown until the second says the same."""
    assert [UNKNOWN, MODERATE] == watched(package(), [at(95.0), at(95.0)])


@given(
    base=st.floats(20, 95.9),
    spike=st.floats(0, 200),
    before=st.integers(3, 12),
    poll_s=st.floats(1, 10),
    lookahead_s=st.floats(0, 10),
)
def test_19_75_one_wild_reading_changes_nothing(
    base: float, spike: float, before: int, poll_s: float, lookahead_s: float
) -> None:
    """However wild, wherever the temperature was, however often it is looked at."""
    settings = ThermalSettings(lookahead_s=lookahead_s)
    looks = [at(base)] * before + [at(base + spike)] + [at(base)] * 20
    levels = watched(package(settings), looks, poll_s=poll_s)

    assert len(set(levels[2:])) == 1


def test_75_a_wild_reading_on_a_slow_rise_is_no_fast_one() -> None:
    """What is foreseen starts from what both looks saw."""
    looks = [at(c) for c in (60.0, 60.5, 61.0, 120.0, 61.5, 62.0)]

    assert {NOMINAL} == set(watched(package(), looks))


def test_74_a_slow_ramp_passes_every_level() -> None:
    """A degree in ten seconds."""
    levels = watched(package(), [at(70.0 + i / 5) for i in range(180)])

    assert [NOMINAL, LIGHT, MODERATE, SEVERE, CRITICAL] == list(dict.fromkeys(levels))


def ramp(c_per_s: float, until_c: float) -> list[tuple[Zone, ...]]:
    rising = itertools.takewhile(
        lambda c: c < until_c, (60.0 + c_per_s * POLL_S * i for i in itertools.count())
    )
    return [at(c) for c in rising]


def test_74_a_fast_ramp_is_moderate_before_it_is_there() -> None:
    """Because it is seen coming; without looking ahead it is not."""
    looks = ramp(1.5, until_c=90.0)

    assert MODERATE is watched(package(), looks)[-1]
    assert LIGHT is watched(package(ThermalSettings(lookahead_s=0.0)), looks)[-1]


def test_one_look_may_do_without_looking_ahead() -> None:
    """For a mode that wants no work moved for heat that is only foreseen."""
    grader = package()
    for i, zones in enumerate(ramp(1.5, until_c=90.0)):
        grader.grade(zones, i * POLL_S, looks_ahead=False)

    assert grader.level is LIGHT


@given(st.floats(0.1, 20))
def test_what_is_only_foreseen_is_moderate_at_most(c_per_s: float) -> None:
    """However fast it rises: severe must be seen."""
    levels = watched(package(ThermalSettings(lookahead_s=30.0)), ramp(c_per_s, until_c=96.0))

    assert max(level.rank for level in levels) <= MODERATE.rank


@pytest.mark.parametrize("level", [SEVERE, CRITICAL])
def test_near_the_limit_it_takes_ten_seconds(level: ThermalState) -> None:
    """Without evidence of throttling, a moment there proves nothing."""
    assert steady(LINES[level], 8.0).rank < level.rank
    assert steady(LINES[level], 10.0) is level


@pytest.mark.parametrize("poll_s", [1.0, 2.0, 5.0, 30.0])
def test_ten_seconds_are_so_many_however_often_it_looks(poll_s: float) -> None:
    """And a gap between two looks does not count for all of it: nobody saw what was between."""
    levels = watched(package(), [at(97.0)] * 20, poll_s=poll_s)

    assert levels.index(SEVERE) == math.ceil(10.0 / min(poll_s, 5.0))


def test_throttling_seen_twice_is_severe() -> None:
    """However cool the place is that is measured; once is not enough."""
    slowed = (attrs.evolve(ZONE, temperature_c=70.0, throttling=True),)

    assert [NOMINAL, NOMINAL, SEVERE] == watched(package(), [at(70.0), slowed, slowed])
    assert NOMINAL is watched(package(), [at(70.0), slowed, at(70.0), slowed])[-1]


@pytest.mark.parametrize(
    ("celsius", "expected"), [(89.0, SEVERE), (90.0, CRITICAL)], ids=["far", "within ten degrees"]
)
def test_throttling_is_critical_only_near_the_limit(celsius: float, expected: ThermalState) -> None:
    """After 15 s without a break; alone it stays severe for ever."""
    slowed = (attrs.evolve(ZONE, temperature_c=celsius, throttling=True),)

    assert SEVERE is watched(package(), [slowed] * 8)[-1]
    assert expected is watched(package(), [slowed] * 100)[-1]


def test_throttling_counts_where_no_temperature_is_told() -> None:
    """It is other evidence."""
    grader = package()
    slowed = (attrs.evolve(LOST, throttling=True),)

    assert [UNKNOWN, SEVERE] + [SEVERE] * 98 == watched(grader, [slowed] * 100)
    assert grader.why == "package is slowed down by heat"


@pytest.mark.parametrize("zone", [ZONE, LOST], ids=["measured", "not measured"])
def test_the_hardwares_own_brake_is_severe_at_once(zone: Zone) -> None:
    """Though the look before was half a moment ago, and it is cool."""
    grader = package()
    grader.grade(at(50.0), 0.0)
    braked = attrs.evolve(zone, emergency=True)

    assert grader.grade((braked,), 0.1) is SEVERE
    assert grader.grade((braked,), 2.0) is SEVERE


def test_the_brake_of_a_part_never_measured() -> None:
    """It is severe at the first look, too, and a minute of silence later it is lost."""
    grader = package()
    braked = attrs.evolve(LOST, emergency=True)

    assert [SEVERE] * 30 + [MODERATE] == watched(grader, [(braked,)] + [()] * 30)


def test_the_same_reading_told_twice_is_one() -> None:
    """Whoever looks again after a moment learns nothing new."""
    grader = package()
    grader.grade(at(50.0), 0.0)
    grader.grade(at(95.0), 2.0)

    assert grader.grade(at(95.0), 2.1) is NOMINAL


# -- down ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [LIGHT, MODERATE, SEVERE, CRITICAL])
def test_a_level_falls_one_at_a_time_after_a_dwell_each(level: ThermalState) -> None:
    """Even when it is cold at once."""
    grader = at_level(level)
    levels = watched(grader, [at(40.0)] * 200, start=2.0)
    below = [NOMINAL, LIGHT, MODERATE, SEVERE][: level.rank]

    assert [level, *reversed(below)] == list(dict.fromkeys(levels))
    assert [29, 59, 89, 119][: level.rank] == [levels.index(state) for state in reversed(below)]


@pytest.mark.parametrize("level", [LIGHT, MODERATE, SEVERE, CRITICAL])
def test_a_level_stays_until_it_is_eight_degrees_cooler(level: ThermalState) -> None:
    """Than where it begins."""
    clear_c = LINES[level] - 8.0

    assert {level} == set(watched(at_level(level), [at(clear_c)] * 300, start=2.0))
    assert level is not watched(at_level(level), [at(clear_c - 0.1)] * 300, start=2.0)[-1]


def test_a_level_does_not_fall_when_its_reason_is_back() -> None:
    """Though it was cold in between, and its dwell is just over."""
    looks = [at(40.0)] * 28 + [at(95.0)] * 100

    assert {MODERATE} == set(watched(at_level(MODERATE), looks, start=2.0))


def test_a_level_does_not_fall_while_it_is_slowed_down() -> None:
    """Though the place that is measured is cool."""
    slowed = (attrs.evolve(ZONE, temperature_c=60.0, throttling=True),)

    assert {SEVERE} == set(watched(at_level(SEVERE), [slowed] * 300, start=2.0))


temperatures = st.floats(30, 110)
scripts = st.lists(
    st.tuples(st.floats(0.1, 90), st.none() | temperatures, st.booleans()), max_size=80
)


@given(scripts)
def test_no_level_ends_before_its_dwell(
    script: list[tuple[float, float | None, bool]],
) -> None:
    """It falls after 60 s at the soonest, and never by more than one; but for a lost sensor."""
    grader, now = package(), 0.0
    for pause_s, celsius, throttling in script:
        now += pause_s
        before, since = grader.level, grader.since
        zone = attrs.evolve(ZONE, temperature_c=celsius, throttling=throttling)
        after = grader.grade((zone,), now)
        if after.rank < before.rank and "lost" not in grader.why:
            assert after.rank == before.rank - 1
            assert now - since >= 60.0


@given(temperatures, temperatures, st.sampled_from([None, False, True]), st.integers(1, 100))
def test_hotter_is_never_graded_lower(
    one: float, other: float, throttling: bool | None, looks: int
) -> None:
    """For a temperature that stays, after any time."""
    cool, hot = (
        watched(package(), [(attrs.evolve(ZONE, temperature_c=c, throttling=throttling),)] * looks)
        for c in sorted((one, other))
    )

    assert all(a.rank <= b.rank for a, b in zip(cool, hot, strict=True))


# -- flapping --------------------------------------------------------------------------------------


@given(
    line=st.sampled_from(list(LINES.values())),
    off=st.floats(-2, 2),
    amplitude=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_74_noise_about_a_line_makes_two_changes_in_ten_minutes(
    line: float, off: float, amplitude: float, seed: int
) -> None:
    """Any line, any noise of two degrees: it rises, and stays."""
    chance = random.Random(seed)  # noqa: S311 - a signal, no secret
    looks = [at(line + off + chance.uniform(-amplitude, amplitude)) for _ in range(300)]

    assert changes(watched(package(), looks)[2:]) <= 2


def test_73_a_square_wave_of_less_than_the_hysteresis_rises_once() -> None:
    """79 and 81, for ten minutes."""
    looks = [at(79.0), at(81.0), at(81.0)] * 100

    assert [NOMINAL, LIGHT] == list(dict.fromkeys(levels := watched(package(), looks)))
    assert changes(levels) == 1


@pytest.mark.parametrize("half_s", [10, 30, 60, 120])
def test_73_a_square_wave_falls_once_in_a_dwell(half_s: int) -> None:
    """A load that comes and goes, from 60 to 93 degrees, for an hour."""
    looks = [at(60.0 if i * 2 // half_s % 2 else 93.0) for i in range(1800)]
    levels = watched(package(), looks)
    falls = [i * 2 for i, (a, b) in enumerate(itertools.pairwise(levels)) if b.rank < a.rank]

    assert all(b - a >= 60 for a, b in itertools.pairwise(falls))


# -- silence and sleep -----------------------------------------------------------------------------


@pytest.mark.parametrize("level", [LIGHT, MODERATE, SEVERE, CRITICAL])
@pytest.mark.parametrize(
    "look", [(), (LOST,), (attrs.evolve(ZONE, quality=Quality.STALE),)], ids=["none", "", "stale"]
)
def test_76_a_lost_sensor_keeps_its_level_a_minute_and_is_moderate_then(
    level: ThermalState, look: tuple[Zone, ...]
) -> None:
    """Losing a sensor is not cooling; nor does it make anything hotter than moderate."""
    grader = package()
    grader.grade(at(50.0), 0.0)
    grader.level = level
    levels = watched(grader, [look] * 300, start=2.0)

    assert [level] * 29 == levels[:29]
    assert {MODERATE} == set(levels[29:])
    assert (grader.why, grader.hottest) == ("package lost its sensor", None)


def test_76_a_cool_part_that_lost_its_sensor_is_moderate_too() -> None:
    """Nobody knows what it does now."""
    assert [NOMINAL] * 30 + [MODERATE] == watched(package(), [at(50.0)] + [()] * 30)


def test_a_sensor_that_comes_back_is_believed_after_a_dwell() -> None:
    """As after any other moderate."""
    grader = package()
    watched(grader, [at(50.0)] + [()] * 30)
    levels = watched(grader, [at(50.0)] * 70, start=62.0)

    assert [MODERATE, LIGHT, NOMINAL] == list(dict.fromkeys(levels))


def test_a_short_silence_changes_nothing() -> None:
    """A minute but one look."""
    looks = [at(85.0)] * 5 + [()] * 28 + [at(85.0)] * 5

    assert {LIGHT} == set(watched(package(), looks)[1:])


def test_a_card_that_sleeps_cools() -> None:
    """It has no power; that it tells no temperature is no loss, however long it lasts."""
    grader = at_level(SEVERE)
    grader.can_sleep = True
    levels = watched(grader, [(ASLEEP,)] * 1000, start=2.0)

    assert [SEVERE, MODERATE, LIGHT, NOMINAL] == list(dict.fromkeys(levels))
    assert grader.why == "package is asleep"


def test_a_package_that_tells_nothing_does_not_cool() -> None:
    """It never sleeps while anybody could look: EAGAIN and the like are a loss."""
    levels = watched(at_level(SEVERE), [(ASLEEP,)] * 1000, start=2.0)

    assert MODERATE is levels[-1]
    assert set(levels) <= {SEVERE, MODERATE}


def test_a_card_that_is_left_alone_is_neither_lost_nor_cooler() -> None:
    """Nobody looks at it, so that it may fall asleep."""
    zone = attrs.evolve(ZONE, temperature_c=None, quality=Quality.LEFT_ALONE)
    grader = at_level(SEVERE)

    assert [SEVERE] == list(dict.fromkeys(watched(grader, [(zone,)] * 1000, start=2.0)))


def test_a_card_that_slept_from_the_start_is_unknown() -> None:
    """Nobody looked yet."""
    assert {UNKNOWN} == set(watched(package(), [(ASLEEP,)] * 100))


def test_a_card_that_wakes_has_a_minute_to_tell() -> None:
    """Silence begins when it wakes."""
    grader = package()
    grader.can_sleep = True
    levels = watched(grader, [at(50.0)] + [(ASLEEP,)] * 1000 + [(LOST,)] * 31)

    assert [NOMINAL] * 1030 + [MODERATE] * 2 == levels


def test_a_card_that_wakes_begins_anew() -> None:
    """One hot look before and one after are not two in a row."""
    looks = [at(50.0), at(95.0), *[(ASLEEP,)] * 100, at(95.0), at(95.0)]

    grader = package()
    grader.can_sleep = True

    assert [NOMINAL] * 103 + [MODERATE] == watched(grader, looks)


def test_a_part_of_which_something_sleeps_is_lost_all_the_same() -> None:
    """The graphics in a package may sleep while its cores glow."""
    assert MODERATE is watched(package(), [at(50.0)] + [(LOST, ASLEEP)] * 100)[-1]


def test_70_after_a_resume_no_level_falls_for_a_minute() -> None:
    """Though it is cool, and the dwell was over."""
    grader = at_level(MODERATE)
    grader.can_sleep = True
    grader.hold(1000.0)
    levels = watched(grader, [at(40.0)] * 40, start=1000.5)

    assert [MODERATE] * 30 + [LIGHT] * 10 == levels


def test_70_after_a_resume_sensors_have_a_minute_to_tell() -> None:
    """Nobody could hear them while the machine slept."""
    grader = package()
    grader.grade(at(50.0), 0.0)
    grader.hold(1000.0)

    assert grader.grade((), 1000.5) is NOMINAL
    assert grader.grade((), 1060.0) is MODERATE


def test_70_after_a_resume_no_rise_is_foreseen() -> None:
    """What it was before has no slope to what it is now."""
    looks = [at(50.0)] * 5
    kept, held = package(), package()
    for grader in (kept, held):
        watched(grader, looks)
    held.hold(9.0)
    for now, celsius in ((10.0, 76.0), (12.0, 77.0), (14.0, 78.0)):
        kept.grade(at(celsius), now)
        held.grade(at(celsius), now)

    assert (kept.level, held.level) == (LIGHT, NOMINAL)


def test_a_gap_of_hours_has_no_slope() -> None:
    """Nothing rises fast that took all night."""
    grader = package()
    grader.grade(at(30.0), 0.0)
    levels = watched(grader, [at(79.0)] * 3, start=36000.0)

    assert {NOMINAL} == set(levels)


# -- what is shown ---------------------------------------------------------------------------------


def test_a_grade_says_what_it_rests_on() -> None:
    """Part, temperature, limit, for people."""
    grader = package()
    watched(grader, [at(50.0), at(95.6), at(95.6)])

    assert grader.why == "package 96 °C, limit 100 °C"
    assert (grader.since, grader.hottest) == (4.0, at(95.6)[0])


def test_a_grade_says_that_a_part_is_slowed_down() -> None:
    """It would be hard to understand at 70 degrees."""
    grader = package()
    watched(grader, [(attrs.evolve(ZONE, temperature_c=70.0, throttling=True),)] * 2)

    assert grader.why == "package 70 °C, limit 100 °C, slowed down by heat"


def test_new_settings_hold_from_the_next_look() -> None:
    """The owner's file was read again."""
    grader = package()
    steady(75.0, 10.0, grader)
    grader.settings = ThermalSettings(warning_c=70.0)

    assert MODERATE is watched(grader, [at(75.0)] * 2, start=20.0)[-1]


# -- a model of a laptop ---------------------------------------------------------------------------


@attrs.define
class Laptop:
    """Two poles, a die on a heat sink: 0.95 K/W in 4 s, 1.5 K/W in 33 s, in a room of 24 degrees."""

    die_k: float = 0.0
    sink_k: float = 0.0

    def run(self, watts: float, seconds: float) -> float:
        """Its temperature after some seconds of a power."""
        self.die_k += (watts * 0.95 - self.die_k) * -math.expm1(-seconds / 4.0)
        self.sink_k += (watts * 1.5 - self.sink_k) * -math.expm1(-seconds / 33.0)
        return 24.0 + self.die_k + self.sink_k


def bursts(watts: float, chance: random.Random) -> Iterator[float]:
    """Power each second: bursts of a minute on average, half as long between."""
    while True:
        for seconds, power in ((60.0, watts), (30.0, 4.0)):
            yield from itertools.repeat(power, 1 + int(chance.expovariate(1 / seconds)))


def obeyed(level: ThermalState) -> float:
    """What is left of the load: moderate halves it, severe leaves a quarter."""
    return (1.0, 1.0, 0.5, 0.27, 0.0)[level.rank]


def hour(watts: float, seed: int, settings: ThermalSettings | None = None) -> tuple[int, int]:
    """Changes of level, and seconds above 95 degrees, in an hour of bursts."""
    chance = random.Random(seed)  # noqa: S311 - a load, no secret
    laptop, grader = Laptop(), package(settings)
    load = bursts(watts, chance)
    levels, hot_s = [], 0
    for second in range(3600):
        celsius = laptop.run(next(load) * obeyed(grader.level), 1.0)
        hot_s += celsius > 95.0
        if second % 2 == 0:
            levels.append(grader.grade(at(celsius + chance.gauss(0, 1.5)), float(second)))
    return changes(levels), hot_s


@pytest.mark.parametrize(
    ("watts", "changes_per_h"), [(20.0, 0), (30.0, 90), (45.0, 120)], ids=["20 W", "30 W", "45 W"]
)
def test_a_laptop_that_obeys_changes_twice_a_minute_at_most(
    watts: float, changes_per_h: int
) -> None:
    """In the study's model, where a plain line at 90 degrees changes a thousand times an hour."""
    hours = [hour(watts, seed) for seed in range(4)]

    assert max(count for count, _ in hours) <= changes_per_h
    assert max(hot_s for _, hot_s in hours) <= 36


def test_looking_ahead_keeps_a_laptop_cooler() -> None:
    """Less than a third of the time above 95 degrees is left, in bursts of 45 W."""
    plain = ThermalSettings(lookahead_s=0.0)
    ahead_s, plain_s = (sum(hour(45.0, seed, s)[1] for seed in range(4)) for s in (None, plain))

    assert ahead_s < plain_s / 3
