"""What requests cost, how far it is trusted, and which sensor tells."""

import pytest

from ollama_proxy.policy.energy import (
    Appetite,
    Books,
    Grade,
    Sharing,
    Spent,
    meter_for,
    remaining,
    spent,
    tells_of,
)
from ollama_proxy.policy.estimate import MODELS_MAX
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Draw, Quality, Scope

CARD = "0000:01:00.0"
RAPL = Draw(name="package-0", scope=Scope.PACKAGE, part=PACKAGE, joules=7.0, source="rapl")
NVML = Draw(name="card", scope=Scope.DEVICE, part=CARD, joules=3.0, watts=30.0, source="nvml")
BATTERY = Draw(name="BAT0", scope=Scope.SYSTEM, watts=20.0, source="battery")


def changed(draw: Draw, quality: Quality) -> Draw:
    """The same sensor, without a reading."""
    return Draw(
        name=draw.name, scope=draw.scope, part=draw.part, quality=quality, source=draw.source
    )


@pytest.mark.parametrize(
    ("by_grade", "grade"),
    [
        ({}, Grade.ESTIMATED),
        ({Grade.MEASURED: 1.0}, Grade.MEASURED),
        ({Grade.MEASURED: 1.0, Grade.APPORTIONED: 1.0}, Grade.APPORTIONED),
        ({Grade.MEASURED: 1.0, Grade.ESTIMATED: 0.5}, Grade.ESTIMATED),
        ({Grade.MEASURED: 1.0, Grade.ESTIMATED: 0.05}, Grade.MEASURED),
        ({Grade.MEASURED: 0.0}, Grade.MEASURED),
    ],
)
def test_a_sum_is_trusted_like_its_worst_part(by_grade: dict[Grade, float], grade: Grade) -> None:
    """But for a part too small to matter."""
    assert Spent(sum(by_grade.values()), grade) == spent(by_grade, is_final=False)


def test_books_add_up_by_backend_and_grade() -> None:
    """What was estimated is never mixed with what was measured."""
    books = Books()
    for grade, joules in ((Grade.MEASURED, 1.0), (Grade.ESTIMATED, 2.0), (Grade.MEASURED, 4.0)):
        books.charge("gpu", grade, joules)

    assert {("gpu", Grade.MEASURED): 5.0, ("gpu", Grade.ESTIMATED): 2.0} == books.backends


def test_overlapping_requests_share_the_owners_figure() -> None:
    """The figure is for the backend: two at once do not make it draw twice as much."""
    sharing = Sharing()
    first = sharing.join(12.0, 0.0)
    second = sharing.join(12.0, 1.0)
    second = sharing.leave(3.0) - second
    first = sharing.leave(4.0) - first

    assert (36.0, 12.0) == (first, second)


def test_nobody_pays_for_times_when_nobody_was_there() -> None:
    """Ten idle hours cost no request anything."""
    sharing = Sharing()
    sharing.join(12.0, 0.0)
    sharing.leave(1.0)
    begun = sharing.join(12.0, 36_000.0)

    assert 12.0 == sharing.leave(36_001.0) - begun


def test_the_owner_may_change_the_figure() -> None:
    """From the next request on, it is the new one that counts."""
    sharing = Sharing()
    sharing.join(12.0, 0.0)
    sharing.leave(1.0)
    begun = sharing.join(3.0, 1.0)

    assert 3.0 == sharing.leave(2.0) - begun


def test_a_cards_own_sensor_comes_first() -> None:
    """Then the package's for what is in it, then the machine's."""
    draws = [BATTERY, RAPL, NVML]

    assert NVML == meter_for(CARD, draws)
    assert RAPL == meter_for(PACKAGE, draws)
    assert BATTERY == meter_for("0000:02:00.0", draws)
    assert BATTERY == meter_for(PACKAGE, [BATTERY, NVML])
    assert meter_for(CARD, [RAPL]) is None
    assert meter_for(None, draws) is None


@pytest.mark.parametrize("quality", [q for q in Quality if q is not Quality.OK])
def test_a_reading_that_was_not_had_is_no_meter(quality: Quality) -> None:
    """Denied, asleep or broken: the next source is asked, none reads as 0."""
    assert BATTERY == meter_for(PACKAGE, [changed(RAPL, quality), BATTERY])


@pytest.mark.parametrize("watts", [-1.0, 5000.0, float("nan"), float("inf")])
def test_watts_that_cannot_be_are_no_meter(watts: float) -> None:
    """Whatever a sensor makes of a clock that jumped."""
    broken = Draw(name="card", scope=Scope.DEVICE, part=CARD, watts=watts, source="nvml")

    assert meter_for(CARD, [broken]) is None


def test_nested_domains_are_not_summed() -> None:
    """One of them is taken: the others are in it, or it in them."""
    core = Draw(name="core", scope=Scope.PACKAGE, part=PACKAGE, joules=5.0, source="rapl")

    assert RAPL == meter_for(PACKAGE, [RAPL, core])


def test_a_counter_that_never_moved_is_passed_over() -> None:
    """As energy1 of a card whose energy2 counts."""
    frozen = Draw(name="energy1", scope=Scope.DEVICE, part=CARD, joules=0.0, source="xe")

    assert NVML == meter_for(CARD, [frozen, NVML])


@pytest.mark.parametrize(
    ("draw", "part"),
    [
        (NVML, CARD),
        (changed(NVML, Quality.ASLEEP), CARD),
        (changed(RAPL, Quality.DENIED), None),
        (BATTERY, None),
        (Draw(name="npu", scope=Scope.DEVICE, part=PACKAGE, watts=1.0, source="amdgpu"), None),
    ],
)
def test_a_part_is_metered_by_what_measures_it_alone(draw: Draw, part: str | None) -> None:
    """A card that sleeps will tell; what is denied will not; a rail is not the package."""
    assert part == tells_of(draw)


def test_what_others_tell_is_taken_off_the_machines_draw() -> None:
    """The graphics card is not paid for twice."""
    assert 20.0 == remaining(BATTERY, []).watts
    assert (
        5.0
        == remaining(BATTERY, [Draw(name="c", scope=Scope.DEVICE, watts=15.0, source="x")]).watts
    )
    assert 0.0 == remaining(BATTERY, [NVML]).watts


def test_a_machines_counter_is_not_believed_for_a_part_of_it() -> None:
    """What others counted meanwhile is in it; but where nobody tells of any, all of it is left."""
    psys = Draw(name="psys", scope=Scope.SYSTEM, watts=40.0, joules=900.0, source="rapl")

    assert (None, 10.0) == (remaining(psys, [NVML]).joules, remaining(psys, [NVML]).watts)
    assert psys == remaining(psys, [RAPL])


def test_appetite_is_learned_by_model() -> None:
    """Tokens and watts, each; and over all models, for those who ask for none."""
    learned = Appetite()
    learned.observe("small", 10.0, Grade.MEASURED, 0.0, seconds=2.0, tokens=100)
    learned.observe("large", 50.0, Grade.APPORTIONED, 0.0, seconds=2.0, tokens=100)

    assert (0.1, 0.5) == (learned.token_j("small"), learned.token_j("large"))
    assert (5.0, 25.0) == (learned.watts("small"), learned.watts("large"))
    assert 0.1 < (learned.token_j() or 0.0) < 0.5
    assert learned.token_j("unknown") is None


def test_a_long_prompt_and_a_short_answer_do_not_make_many_watts() -> None:
    """The joules of three tokens hold those of the prompt; the card drew 50 W all the time."""
    learned = Appetite()
    learned.observe("m", 155.0, Grade.MEASURED, 0.0, seconds=3.1, tokens=3)

    assert learned.watts("m") == pytest.approx(50.0)


def test_owners_figures_teach_nothing() -> None:
    """They would come back as if they had been measured."""
    learned = Appetite()
    learned.observe("m", 10.0, Grade.ESTIMATED, 0.0, seconds=1.0, tokens=9)

    assert (None, None) == (learned.token_j("m"), learned.watts())


@pytest.mark.parametrize(("tokens", "seconds"), [(None, 1.0), (0, 1.0), (5, 0.001)])
def test_what_was_not_counted_teaches_what_was(tokens: int | None, seconds: float) -> None:
    """Vectors have no tokens; a moment has no watts."""
    learned = Appetite()
    learned.observe("m", 10.0, Grade.MEASURED, 0.0, seconds=seconds, tokens=tokens)

    assert (not tokens, seconds < 1) == (learned.token_j("m") is None, learned.watts("m") is None)


def test_made_up_models_do_not_pile_up() -> None:
    """The one that was fed least lately is forgotten."""
    learned = Appetite()
    for number in range(MODELS_MAX + 1):
        learned.observe(f"m{number}", 1.0, Grade.MEASURED, 0.0, seconds=1.0, tokens=1)

    assert (None, 1.0) == (learned.token_j("m0"), learned.watts("m1"))


def test_two_processors_are_one_package() -> None:
    """Both packages that a source tells of are summed; another source's word is not added."""
    two = [
        Draw(
            name=f"rapl package-{n}",
            scope=Scope.PACKAGE,
            part=PACKAGE,
            watts=w,
            joules=j,
            source="rapl",
        )
        for n, w, j in ((0, 10.0, 100.0), (1, 20.0, 300.0))
    ]
    other = Draw(name="zen", scope=Scope.PACKAGE, part=PACKAGE, watts=29.0, source="zenpower")

    found = meter_for(PACKAGE, [other, *two])

    assert found is not None
    assert (30.0, 400.0) == (found.watts, found.joules)
