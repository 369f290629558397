"""What the six modes mean, and which one Auto takes."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.modes import (
    STANCES,
    Auto,
    AutoSettings,
    Cause,
    Effective,
    Mode,
    Signals,
    parse_mode,
    parse_quiet_hours,
)
from ollama_proxy.policy.thermal import ThermalState

NIGHT = (22 * 60, 7 * 60)
SETTINGS = AutoSettings(quiet_hours=NIGHT)
NOON = 12 * 60
MAINS = Signals(on_battery=False, state=ThermalState.NOMINAL, minute_of_day=NOON)
BATTERY = attrs.evolve(MAINS, on_battery=True, battery_percent=64.0)


def first(signals: Signals, settings: AutoSettings = SETTINGS) -> Effective:
    """What Auto decides when it is asked for the first time."""
    return Auto().decide(Mode.AUTO, signals, settings, 0.0)


def decided(mode: Mode, cause: Cause, reason: str) -> Effective:
    return Effective(mode=mode, cause=cause, reason=reason)


# -- modes and stances -----------------------------------------------------------------------------


def test_there_are_exactly_six_modes() -> None:
    """Every door knows the same six words, in the same order."""
    assert [
        ("performance", "Performance"),
        ("balanced", "Balanced"),
        ("efficiency", "Efficiency"),
        ("quiet", "Quiet"),
        ("auto", "Auto"),
        ("ultra-efficiency", "Ultra Efficiency"),
    ] == [(mode.value, mode.title) for mode in Mode]


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_each_mode_can_be_shown(mode: Mode) -> None:
    """A menu has a sentence and a symbolic icon for each."""
    assert mode.description.endswith(".")
    assert mode.icon.endswith("-symbolic")


@pytest.mark.parametrize(
    "text",
    ["Ultra Efficiency", "ultra-efficiency", "ULTRA_EFFICIENCY", "  ultra  efficiency\n"],
    ids=["title", "name", "constant", "untidy"],
)
def test_a_mode_is_read_however_it_is_written(text: str) -> None:
    """Case, spaces, hyphens and underscores do not matter."""
    assert parse_mode(text) is Mode.ULTRA_EFFICIENCY


@given(st.sampled_from(Mode))
def test_every_mode_is_read_back(mode: Mode) -> None:
    """By its value, its title, and its name in the code."""
    assert {mode} == {parse_mode(text) for text in (mode.value, mode.title, mode.name)}


@pytest.mark.parametrize("text", ["", "turbo", "ultraefficiency", "quiet!"])
def test_what_is_no_mode_is_none(text: str) -> None:
    """Nothing is guessed."""
    assert parse_mode(text) is None


def test_every_mode_but_auto_has_a_stance() -> None:
    """Auto is always one of the others."""
    assert set(Mode) - {Mode.AUTO} == set(STANCES)


def test_thriftier_modes_weigh_watts_more() -> None:
    """From performance to ultra-efficiency, the price of a watt in time only grows."""
    order = (Mode.PERFORMANCE, Mode.BALANCED, Mode.EFFICIENCY, Mode.QUIET, Mode.ULTRA_EFFICIENCY)
    prices = [STANCES[mode].power_weight / STANCES[mode].time_weight for mode in order]

    assert prices == sorted(set(prices))


def test_only_ultra_efficiency_caps_watts_while_fans_are_calm() -> None:
    """At 10 watts."""
    assert {Mode.ULTRA_EFFICIENCY: 10.0} == {
        mode: stance.watts_soft_cap for mode, stance in STANCES.items() if stance.watts_soft_cap
    }


# -- Auto: each rule -------------------------------------------------------------------------------


def test_1_a_low_battery_is_ultra_efficiency_whatever_else_holds() -> None:
    """At or under 20 percent, on battery."""
    hot = attrs.evolve(BATTERY, battery_percent=20.0, state=ThermalState.CRITICAL, minute_of_day=0)

    assert decided(Mode.ULTRA_EFFICIENCY, Cause.BATTERY, "battery at 20 %") == first(hot)


def test_1_a_low_battery_that_is_charged_is_none() -> None:
    """Mains feed the machine."""
    assert first(attrs.evolve(MAINS, battery_percent=5.0)).mode is Mode.BALANCED


def test_1_zero_percent_of_an_unknown_supply_is_no_empty_battery() -> None:
    """Case 71: a service that just started tells 0 percent and knows nothing."""
    unknown = attrs.evolve(MAINS, on_battery=None, battery_percent=0.0)

    assert first(unknown).mode is Mode.BALANCED


def test_1_a_battery_is_low_until_it_has_five_percent_more() -> None:
    """A charge that flickers about 20 percent does not."""
    auto = Auto()
    charges = (20.0, 21.0, 24.0, 25.0, 24.0, 20.0)
    modes = [
        auto.decide(
            Mode.AUTO, attrs.evolve(BATTERY, battery_percent=charge), SETTINGS, 100.0 * i
        ).mode
        for i, charge in enumerate(charges)
    ]
    ultra, thrifty = Mode.ULTRA_EFFICIENCY, Mode.EFFICIENCY

    assert [ultra, ultra, ultra, thrifty, thrifty, ultra] == modes


def test_1_a_low_battery_is_none_any_more_once_it_is_charged() -> None:
    """Its charge does not matter then."""
    auto = Auto()
    auto.decide(Mode.AUTO, attrs.evolve(BATTERY, battery_percent=9.0), SETTINGS, 0.0)
    plugged = attrs.evolve(MAINS, battery_percent=9.0)
    modes = [auto.decide(Mode.AUTO, plugged, SETTINGS, now).mode for now in (100.0, 104.0)]

    assert [Mode.ULTRA_EFFICIENCY, Mode.BALANCED] == modes


def test_1_a_low_battery_whose_charge_is_not_told_any_more_stays_low() -> None:
    """Losing a reading charges nothing."""
    auto = Auto()
    auto.decide(Mode.AUTO, attrs.evolve(BATTERY, battery_percent=9.0), SETTINGS, 0.0)
    silent = attrs.evolve(BATTERY, battery_percent=None)

    assert decided(Mode.ULTRA_EFFICIENCY, Cause.BATTERY, "battery low") == auto.decide(
        Mode.AUTO, silent, SETTINGS, 500.0
    )


@pytest.mark.parametrize("state", [ThermalState.SEVERE, ThermalState.CRITICAL])
def test_2_severe_heat_is_efficiency_even_in_quiet_hours(state: ThermalState) -> None:
    """With the part that is hot as the reason."""
    hot = attrs.evolve(MAINS, state=state, hottest="package 97 °C, limit 100 °C", minute_of_day=0)

    assert decided(Mode.EFFICIENCY, Cause.HEAT, "package 97 °C, limit 100 °C") == first(hot)


@pytest.mark.parametrize("minute", [22 * 60, 23 * 60 + 59, 0, 7 * 60 - 1])
def test_3_quiet_hours_span_midnight(minute: int) -> None:
    """From the first minute to the last but one before the end, on battery as well."""
    night = attrs.evolve(BATTERY, minute_of_day=minute)

    assert decided(Mode.QUIET, Cause.QUIET_HOURS, "quiet hours until 07:00") == first(night)


@pytest.mark.parametrize("minute", [7 * 60, NOON, 22 * 60 - 1])
def test_3_quiet_hours_end(minute: int) -> None:
    """The minute at which they end is loud."""
    assert first(attrs.evolve(MAINS, minute_of_day=minute)).mode is Mode.BALANCED


def test_3_quiet_hours_may_lie_within_a_day() -> None:
    """A nap after lunch."""
    nap = AutoSettings(quiet_hours=(13 * 60, 14 * 60))
    modes = [
        first(attrs.evolve(MAINS, minute_of_day=hour * 60), nap).mode for hour in (12, 13, 14, 0)
    ]

    assert [Mode.BALANCED, Mode.QUIET, Mode.BALANCED, Mode.BALANCED] == modes


def test_4_the_profile_power_saver_is_efficiency() -> None:
    """The owner told the machine, and means us."""
    saver = attrs.evolve(BATTERY, profile="power-saver")

    assert decided(Mode.EFFICIENCY, Cause.PROFILE, "power profile power-saver") == first(saver)


def test_5_on_battery_is_efficiency() -> None:
    """With its charge as the reason, and before a lap or a profile that says otherwise."""
    signals = attrs.evolve(BATTERY, degraded="lap-detected", profile="performance")

    assert decided(Mode.EFFICIENCY, Cause.BATTERY, "on battery (64 %)") == first(signals)


def test_5_a_battery_whose_charge_nobody_knows() -> None:
    """No number is made up."""
    assert first(attrs.evolve(BATTERY, battery_percent=None)).reason == "on battery"


def test_6_on_a_lap_is_quiet() -> None:
    """Even where profiles are not followed: nobody chose to be a lap."""
    lap = attrs.evolve(MAINS, degraded="lap-detected", state=ThermalState.MODERATE)
    settings = attrs.evolve(SETTINGS, follow_profile=False)

    assert decided(Mode.QUIET, Cause.PROFILE, "on somebody's lap") == first(lap, settings)


def test_6_other_reasons_to_hold_performance_back_are_no_lap() -> None:
    """A word that is not known, or that only tells of heat, changes nothing."""
    hot = attrs.evolve(MAINS, degraded="high-operating-temperature")

    assert first(hot).mode is Mode.BALANCED


def test_7_moderate_heat_is_efficiency() -> None:
    """Before the fans become the reason."""
    warm = attrs.evolve(MAINS, state=ThermalState.MODERATE, hottest="GPU 85 °C", fan_share=1.0)

    assert decided(Mode.EFFICIENCY, Cause.HEAT, "GPU 85 °C") == first(warm)


def test_7_light_heat_is_none() -> None:
    """Nobody feels it."""
    assert first(attrs.evolve(MAINS, state=ThermalState.LIGHT)).mode is Mode.BALANCED


def test_8_loud_fans_are_quiet() -> None:
    """Before a profile that asks for performance."""
    loud = attrs.evolve(MAINS, fan_share=0.85, profile="performance")

    assert decided(Mode.QUIET, Cause.FAN, "fans at 85 %") == first(loud)


def test_8_fans_are_loud_until_they_are_calm() -> None:
    """From 80 percent of their most, down to 60."""
    auto = Auto()
    modes = [
        auto.decide(Mode.AUTO, attrs.evolve(MAINS, fan_share=share), SETTINGS, 100.0 * i).mode
        for i, share in enumerate((0.79, 0.8, 0.61, 0.6, 0.7))
    ]

    assert [Mode.BALANCED, Mode.QUIET, Mode.QUIET, Mode.BALANCED, Mode.BALANCED] == modes


def test_9_the_profile_performance_is_performance() -> None:
    """On mains, with nothing hot."""
    fast = attrs.evolve(MAINS, profile="performance")

    assert decided(Mode.PERFORMANCE, Cause.PROFILE, "power profile performance") == first(fast)


@pytest.mark.parametrize("profile", ["performance", "power-saver"])
def test_4_9_profiles_are_not_followed_where_the_owner_says_so(profile: str) -> None:
    """The machine's profile is for other programs then."""
    settings = attrs.evolve(SETTINGS, follow_profile=False)

    assert first(attrs.evolve(MAINS, profile=profile), settings).cause is Cause.NOTHING


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        (MAINS, "on mains power"),
        (Signals(minute_of_day=NOON), "nothing is known of battery or heat"),
        (
            attrs.evolve(MAINS, on_battery=None),
            "nothing is hot, and nothing is known of a battery",
        ),
    ],
    ids=["mains", "blind", "no battery"],
)
def test_10_else_balanced(signals: Signals, reason: str) -> None:
    """And it says whether that is for knowledge or for want of it."""
    assert decided(Mode.BALANCED, Cause.NOTHING, reason) == first(signals)


# -- Auto: flapping --------------------------------------------------------------------------------


def test_66_a_dock_that_flaps_makes_one_change_at_most() -> None:
    """Five times in four seconds, and then it is gone."""
    auto = Auto()
    auto.decide(Mode.AUTO, MAINS, SETTINGS, 0.0)
    times = [100 + 0.4 * i for i in range(11)] + [104 + 2.0 * i for i in range(1, 60)]
    modes = [
        auto.decide(Mode.AUTO, BATTERY if i % 2 == 0 or i > 9 else MAINS, SETTINGS, time).mode
        for i, time in enumerate(times)
    ]

    assert [Mode.BALANCED] * 11 == modes[:11]
    assert Mode.EFFICIENCY is modes[-1]
    assert sum(a is not b for a, b in itertools.pairwise(modes)) == 1


def test_66_a_plug_that_stays_counts_after_three_seconds() -> None:
    """Not before."""
    auto = Auto()
    auto.decide(Mode.AUTO, MAINS, SETTINGS, 0.0)
    modes = [auto.decide(Mode.AUTO, BATTERY, SETTINGS, time).mode for time in (100.0, 102.9, 103.0)]

    assert [Mode.BALANCED, Mode.BALANCED, Mode.EFFICIENCY] == modes


def test_a_switch_waits_for_the_dwell_of_the_last() -> None:
    """And until then the mode keeps its reason."""
    auto = Auto()
    fast = attrs.evolve(MAINS, profile="performance")
    auto.decide(Mode.AUTO, fast, SETTINGS, -1.0)
    auto.decide(Mode.AUTO, MAINS, SETTINGS, 0.0)

    assert auto.decide(Mode.AUTO, fast, SETTINGS, 59.9).reason == "on mains power"
    assert auto.decide(Mode.AUTO, fast, SETTINGS, 60.0).mode is Mode.PERFORMANCE


def test_the_first_decision_is_no_switch() -> None:
    """Who pulls the plug right after the start need not wait."""
    auto = Auto()
    auto.decide(Mode.AUTO, attrs.evolve(MAINS, profile="performance"), SETTINGS, 0.0)

    assert auto.decide(Mode.AUTO, MAINS, SETTINGS, 1.0).mode is Mode.BALANCED


def test_severe_heat_waits_for_nothing() -> None:
    """Nor does a low battery stand in its way, when both come at once."""
    fast = attrs.evolve(MAINS, profile="performance")
    hot = attrs.evolve(fast, state=ThermalState.SEVERE)
    empty = attrs.evolve(BATTERY, battery_percent=3.0, state=ThermalState.SEVERE)
    auto = Auto()
    auto.decide(Mode.AUTO, fast, SETTINGS, 0.0)
    other = Auto()
    other.decide(Mode.AUTO, attrs.evolve(empty, state=ThermalState.NOMINAL), SETTINGS, 0.0)

    assert auto.decide(Mode.AUTO, hot, SETTINGS, 1.0).mode is Mode.EFFICIENCY
    assert other.decide(Mode.AUTO, empty, SETTINGS, 1.0).mode is Mode.ULTRA_EFFICIENCY


def test_severe_heat_changes_nothing_at_once_in_a_thrifty_mode() -> None:
    """From ultra-efficiency to efficiency is no help."""
    auto = Auto()
    auto.decide(Mode.AUTO, BATTERY, SETTINGS, -1.0)
    auto.decide(Mode.AUTO, attrs.evolve(BATTERY, battery_percent=9.0), SETTINGS, 0.0)
    hot = attrs.evolve(MAINS, state=ThermalState.CRITICAL)
    modes = [auto.decide(Mode.AUTO, hot, SETTINGS, now).mode for now in (1.0, 30.0, 60.0)]

    assert [Mode.ULTRA_EFFICIENCY, Mode.ULTRA_EFFICIENCY, Mode.EFFICIENCY] == modes


def test_the_reason_of_a_mode_stays_current() -> None:
    """The charge that is told is that of now, though the mode is the old one."""
    auto = Auto()
    auto.decide(Mode.AUTO, BATTERY, SETTINGS, 0.0)
    later = auto.decide(Mode.AUTO, attrs.evolve(BATTERY, battery_percent=63.0), SETTINGS, 2.0)

    assert later.reason == "on battery (63 %)"


@pytest.mark.parametrize("mode", list(STANCES), ids=lambda mode: mode.value)
def test_77_a_chosen_mode_is_never_overridden(mode: Mode) -> None:
    """Not by an empty battery in a machine at its limit, at night."""
    worst = attrs.evolve(
        BATTERY, battery_percent=1.0, state=ThermalState.CRITICAL, minute_of_day=0, fan_share=1.0
    )

    assert decided(mode, Cause.CHOSEN, "chosen by the user") == Auto().decide(
        mode, worst, SETTINGS, 0.0
    )


def test_back_to_auto_decides_at_once() -> None:
    """Who chooses auto does not wait for a dwell."""
    auto = Auto()
    auto.decide(Mode.AUTO, MAINS, SETTINGS, 0.0)
    auto.decide(Mode.PERFORMANCE, BATTERY, SETTINGS, 1.0)
    auto.decide(Mode.PERFORMANCE, BATTERY, SETTINGS, 5.0)

    assert auto.decide(Mode.AUTO, BATTERY, SETTINGS, 6.0).mode is Mode.EFFICIENCY


anything = st.builds(
    Signals,
    on_battery=st.sampled_from([None, False, True]),
    battery_percent=st.none() | st.floats(0, 100),
    state=st.sampled_from([
        ThermalState.UNKNOWN,
        ThermalState.NOMINAL,
        ThermalState.LIGHT,
        ThermalState.MODERATE,
    ]),
    fan_share=st.none() | st.floats(0, 1),
    profile=st.sampled_from([None, "power-saver", "balanced", "performance", "odd"]),
    degraded=st.sampled_from(["", "lap-detected", "odd"]),
    minute_of_day=st.integers(0, 1439),
)


@given(st.lists(st.tuples(st.floats(0.01, 70.0), anything), max_size=60))
def test_without_severe_heat_at_most_one_switch_in_a_dwell(
    script: list[tuple[float, Signals]],
) -> None:
    """Whatever the sensors tell, a person sees at most one change a minute."""
    auto, now = Auto(), 0.0
    mode = None
    switches: list[float] = []
    for pause_s, signals in script:
        now += pause_s
        after = auto.decide(Mode.AUTO, signals, SETTINGS, now).mode
        if mode is not None and after is not mode:
            switches.append(now)
        mode = after

    assert all(b - a >= SETTINGS.dwell_s for a, b in itertools.pairwise(switches))
    assert mode is not Mode.AUTO


@given(anything, st.floats(0, 1000))
def test_steady_signals_never_switch(signals: Signals, step_s: float) -> None:
    """The first decision is the last, when nothing changes."""
    auto = Auto()
    effective = {auto.decide(Mode.AUTO, signals, SETTINGS, step_s * i) for i in range(10)}

    assert len(effective) == 1


# -- quiet hours -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("22:00-07:00", (1320, 420)),
        (" 9:05 - 17:30 ", (545, 1050)),
        ("00:00-23:59", (0, 1439)),
        ("", None),
        ("  ", None),
    ],
    ids=["night", "untidy", "day", "none", "blank"],
)
def test_quiet_hours_are_read(text: str, minutes: tuple[int, int] | None) -> None:
    """As minutes of the day."""
    assert minutes == parse_quiet_hours(text)


@pytest.mark.parametrize(
    "text", ["22-7", "24:00-07:00", "22:60-07:00", "22:00", "22:00-07:00-08:00", "late"]
)
def test_other_quiet_hours_are_refused_with_an_example(text: str) -> None:
    """The message shows how they are written, and what was."""
    with pytest.raises(ValueError, match=r'like "22:00-07:00".*' + text):
        parse_quiet_hours(text)


def test_quiet_hours_that_end_when_they_begin_are_refused() -> None:
    """They could mean never or always."""
    with pytest.raises(ValueError, match="same time"):
        parse_quiet_hours("07:00-7:00")


def test_a_fan_about_its_cap_is_not_loud_and_calm_in_turns() -> None:
    """Once it was too loud it must turn clearly slower."""
    quiet = STANCES[Mode.QUIET]
    loud, told = False, []
    for share in (0.59, 0.61, 0.59, 0.56, 0.53, 0.59, None):
        loud = quiet.is_loud(share, was_loud=loud)
        told.append(loud)

    assert [False, True, True, True, False, False, False] == told
    assert not STANCES[Mode.PERFORMANCE].is_loud(1.0, was_loud=False)
