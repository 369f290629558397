"""Who pays for what a part of the machine draws."""

import random
from collections.abc import Hashable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_proxy.policy.energy import Books, Grade, Spent
from ollama_proxy.policy.gauge import LOST_AFTER_S
from ollama_proxy.policy.meter import QUIET_S, Meter, Settled
from ollama_proxy.policy.readings import Draw, Scope

PART = "card"


@attrs.define
class Stand:
    """A meter, and what it measures: a counter that a test turns by hand."""

    books: Books = attrs.field(factory=Books)
    scope: Scope = Scope.DEVICE
    joules: float = 1000.0
    watts: float | None = None
    meter: Meter = attrs.field(init=False)
    settled: dict[Hashable, Spent] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.meter = Meter(PART, self.books)

    def read(self, now: float, drawn: float = 0.0, *, throttled: bool = False) -> None:
        """So many joules later, read the counter."""
        self.joules += drawn
        draw = Draw(
            name="c", scope=self.scope, part=PART, joules=self.joules, watts=self.watts, source="x"
        )
        self.note(self.meter.sample(draw, now, is_throttled=throttled))

    def lose(self, now: float) -> None:
        """Fail to read it."""
        self.note(self.meter.sample(None, now))

    def note(self, settled: list[Settled]) -> None:
        """Keep the final figures."""
        self.settled |= {each.key: each.spent for each in settled}

    def rest_at(self, watts: float, until: float) -> None:
        """Let it be at rest, long enough for that to be known."""
        self.read(until - QUIET_S - 2)
        for second in range(int(QUIET_S) + 2):
            self.read(until - QUIET_S - 1 + second, watts)

    @property
    def paid(self) -> dict[Grade, float]:
        """What requests paid, by grade."""
        paid: dict[Grade, float] = {}
        for (_, grade), joules in self.books.backends.items():
            paid[grade] = paid.get(grade, 0.0) + joules
        return paid

    def is_balanced(self) -> bool:
        """What requests paid by measure + idle + unattributed is what was measured."""
        part = self.books.part(PART)
        by_measure = sum(
            joules for grade, joules in self.paid.items() if grade is not Grade.ESTIMATED
        )
        total = by_measure + part.idle + part.unattributed
        return total == pytest.approx(part.measured, rel=1e-9, abs=1e-9)


def joules(stand: Stand) -> dict[Hashable, float]:
    """The final figures."""
    return {key: spent.joules for key, spent in stand.settled.items()}


# -- how a span is split ---------------------------------------------------------------------------


def test_one_request_pays_what_was_drawn() -> None:
    """Alone on its card, with nothing known of its rest."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0)
    stand.read(1, 30)
    stand.meter.end("a", 2)
    stand.read(2, 40)

    assert {"a": Spent(70.0, Grade.MEASURED, is_final=True)} == stand.settled
    assert {("gpu", Grade.MEASURED): 70.0} == stand.books.backends


def test_rest_is_paid_first() -> None:
    """A request costs what the card draws because of it."""
    stand = Stand()
    stand.rest_at(5, until=0)
    stand.meter.begin("a", "gpu", 0)
    stand.meter.end("a", 2)
    stand.read(2, 50)

    assert {"a": pytest.approx(40.0)} == joules(stand)
    assert stand.is_balanced()


def test_rest_takes_no_more_than_there_is() -> None:
    """A card that draws less than it used to at rest gives nobody joules to pay."""
    stand = Stand()
    stand.rest_at(5, until=0)
    idle = stand.books.part(PART).idle
    stand.meter.begin("a", "gpu", 0)
    stand.meter.end("a", 2)
    stand.read(2, 3)

    assert {"a": 0.0} == joules(stand)
    assert 3.0 == stand.books.part(PART).idle - idle


def test_overlapping_requests_pay_by_their_seconds() -> None:
    """In the span, not in their whole lives."""
    stand = Stand()
    stand.meter.begin("long", "gpu", -50)
    stand.read(0)
    stand.meter.begin("short", "gpu", 3)
    stand.meter.end("short", 4)
    stand.meter.end("long", 4)
    stand.read(4, 50)

    assert {"long": 40.0, "short": 10.0} == {
        key: spent.joules for key, spent in stand.settled.items()
    }


@pytest.mark.parametrize("count", [1, 2, 50])
def test_many_pay_together_what_one_would(count: int) -> None:
    """The joules are drawn once, however many share them."""
    stand = Stand()
    stand.read(0)
    for number in range(count):
        stand.meter.begin(number, "gpu", 0)
    for number in range(count):
        stand.meter.end(number, 1)
    stand.read(1, 60)

    assert [pytest.approx(60 / count)] * count == list(joules(stand).values())
    assert stand.is_balanced()


def test_begin_and_end_within_a_span_and_a_tick() -> None:
    """A request shorter than the counter's tick pays when the tick comes."""
    stand = Stand(watts=30.0)
    stand.read(0)
    stand.meter.begin("a", "gpu", 0.02)
    stand.meter.end("a", 0.04)
    stand.read(0.06)
    before = joules(stand)
    stand.read(0.12, 3)

    assert ({}, {"a": 3.0}) == (before, joules(stand))


def test_a_request_of_no_time_pays_nothing() -> None:
    """Begun and ended at once: what was drawn is nobody's."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0.5)
    stand.meter.end("a", 0.5)
    stand.read(1, 8)

    assert {"a": 0.0} == joules(stand)
    assert stand.is_balanced()


def test_what_nobody_drew_is_unattributed() -> None:
    """A game, or a screen: beyond rest, and no request is on the part."""
    stand = Stand()
    stand.rest_at(5, until=0)
    stand.read(1, 45)

    part = stand.books.part(PART)
    assert (40.0, {}) == (part.unattributed, stand.books.backends)
    assert stand.is_balanced()


def test_a_reading_may_come_later_than_it_was_made() -> None:
    """Who came and went after it pays in the next span."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("early", "gpu", 0)
    stand.meter.end("early", 0.5)
    stand.meter.begin("late", "gpu", 1.01)
    stand.meter.end("late", 1.02)
    stand.read(1, 30)
    first = joules(stand)
    stand.read(2, 7)

    assert {"early": 30.0} == first
    assert {"early": 30.0, "late": 7.0} == joules(stand)


# -- grades ----------------------------------------------------------------------------------------


def test_two_backends_on_a_card_get_shares() -> None:
    """A card's counter measures neither of them."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "one", 0)
    stand.meter.begin("b", "other", 0)
    stand.read(1, 30)

    assert {Grade.APPORTIONED: 30.0} == stand.paid


def test_a_package_is_shared_with_all_that_is_in_it() -> None:
    """Even a single request has no more than a share."""
    stand = Stand(scope=Scope.PACKAGE)
    stand.read(0)
    stand.meter.begin("a", "cpu", 0)
    stand.read(1, 30)

    assert {Grade.APPORTIONED: 30.0} == stand.paid


def test_without_a_sensor_the_owners_watts_count() -> None:
    """At once, and shared by those who overlap."""
    meter = Meter("", books := Books())
    meter.begin("a", "npu", 0, watts=6)
    meter.begin("b", "npu", 1, watts=6)
    b, a = meter.end("b", 2), meter.end("a", 3)

    assert Spent(3.0, Grade.ESTIMATED, is_final=True) == b
    assert Spent(15.0, Grade.ESTIMATED, is_final=True) == a
    assert {("npu", Grade.ESTIMATED): 18.0} == books.backends


def test_two_backends_without_a_sensor_do_not_share_watts() -> None:
    """Each has a figure of its own."""
    meter = Meter("", Books())
    meter.begin("a", "npu", 0, watts=6)
    meter.begin("b", "cpu", 0, watts=20)

    assert (6.0, 20.0) == (meter.end("a", 1).joules, meter.end("b", 1).joules)


def test_a_lost_reading_is_estimated() -> None:
    """For just as long as nothing was measured; nobody pays by measure for that time."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0, watts=50)
    stand.read(1, 30)
    stand.lose(2)
    stand.read(3, 999)
    stand.read(4, 40)

    assert {Grade.MEASURED: 70.0, Grade.ESTIMATED: 100.0} == stand.paid
    assert 70.0 == stand.books.part(PART).measured


def test_who_left_before_a_reading_was_lost_pays_until_then() -> None:
    """Others that stay on its backend do not make it dearer."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0, watts=20)
    stand.meter.begin("b", "gpu", 0, watts=20)
    stand.meter.end("a", 1)
    stand.lose(5)

    assert {"a": 10.0} == joules(stand)


def test_a_sensor_that_falls_silent_keeps_nobody_waiting() -> None:
    """After a while no reading could tell who used what: those who end are estimated."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0, watts=2)
    end_s = LOST_AFTER_S + 10

    assert Spent(2 * end_s, Grade.ESTIMATED, is_final=True) == stand.meter.end("a", end_s)


def test_a_suspend_costs_nobody_anything() -> None:
    """What the counter gained in sleep is in no book."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0, watts=3)
    stand.read(1, 30)
    stand.note(stand.meter.pause(2))
    stand.read(3, 50_000)
    stand.read(20, 500)
    stand.read(21, 40)

    assert {Grade.MEASURED: 70.0, Grade.ESTIMATED: 57.0} == stand.paid
    assert stand.is_balanced()


# -- what is told at once --------------------------------------------------------------------------


def test_who_ends_between_two_readings_is_told_what_to_expect() -> None:
    """At the power of the last span, less rest; the books wait for the true figure."""
    stand = Stand()
    stand.rest_at(5, until=0)
    stand.meter.begin("a", "gpu", 0)
    stand.read(1, 45)
    told = stand.meter.end("a", 1.5)
    stand.read(2, 20)

    assert told.joules == pytest.approx(60.0)
    assert (Grade.MEASURED, False) == (told.grade, told.is_final)
    assert {"a": pytest.approx(55.0)} == joules(stand)


def test_what_is_expected_is_shared_like_what_is_measured() -> None:
    """By seconds in the span that is not over."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0)
    stand.read(1, 40)
    stand.meter.begin("b", "gpu", 1.5)

    assert pytest.approx(40 + 40 * 2 / 3) == stand.meter.so_far("a", 2).joules
    assert pytest.approx(40 / 3) == stand.meter.so_far("b", 2).joules


def test_a_short_request_is_expected_to_pay_for_its_own_time() -> None:
    """The last span's joules were drawn while somebody was there, not in all of it."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0)
    stand.meter.end("a", 0.1)
    stand.read(1, 6)
    stand.meter.begin("b", "gpu", 1.5)

    assert pytest.approx(12.0) == stand.meter.so_far("b", 1.7).joules


def test_after_a_span_without_requests_there_is_no_forecast() -> None:
    """What was drawn before it is of another time."""
    stand = Stand()
    stand.read(0)
    stand.meter.begin("a", "gpu", 0, watts=50)
    stand.meter.end("a", 1)
    stand.read(1, 30)
    stand.read(2, 5)
    stand.meter.begin("b", "gpu", 2, watts=50)

    assert Spent(50.0, Grade.ESTIMATED) == stand.meter.so_far("b", 3)


def test_power_at_rest_is_no_forecast_of_a_request() -> None:
    """Until it was measured at work, the owner's figure stands, and says so."""
    stand = Stand()
    stand.rest_at(5, until=0)
    stand.meter.begin("a", "gpu", 0.2, watts=50)

    assert Spent(pytest.approx(30.0), Grade.ESTIMATED) == stand.meter.so_far("a", 0.8)  # type: ignore[arg-type]  # as good as a float


def test_an_unknown_request_is_a_mistake() -> None:
    """One is ended once."""
    stand = Stand()
    stand.meter.begin("a", "gpu", 0)
    stand.meter.end("a", 1)

    with pytest.raises(KeyError):
        stand.meter.end("a", 1)


# -- rest ------------------------------------------------------------------------------------------


def idle_of(stand: Stand, now: float) -> float:
    """How many joules of the second after the last reading, in which much is drawn, are rest."""
    stand.meter.begin("probe", "gpu", now)
    before = stand.books.part(PART).idle
    stand.read(now)
    stand.read(now + 1, 500)
    return stand.books.part(PART).idle - before


def test_rest_is_a_low_draw_of_quiet_times() -> None:
    """Other programs' work in nine spans of ten does not raise it, one glitch does not sink it."""
    stand = Stand()
    stand.read(0)
    stand.read(QUIET_S, QUIET_S * 9)
    for number in range(20):
        stand.read(QUIET_S + 1 + number, (3, 6, 7, *[30] * 17)[number])

    assert pytest.approx(6.0) == idle_of(stand, 2 * QUIET_S)


def test_before_a_quiet_time_the_least_draw_is_rest() -> None:
    """In a pause too short to be sure."""
    stand = Stand()
    stand.read(0)
    stand.read(1, 9)
    stand.read(2, 7)
    stand.read(3, 8)

    assert pytest.approx(7.0) == idle_of(stand, 3)


def test_unless_it_was_seen_there_is_no_rest() -> None:
    """A part that was never without requests."""
    assert 0.0 == idle_of(Stand(), 0)


def test_the_tail_of_a_request_is_not_quiet() -> None:
    """Clocks go down slowly: only what comes well after it is rest."""
    stand = Stand()
    stand.rest_at(5, until=0)
    stand.meter.begin("a", "gpu", 0)
    stand.meter.end("a", 1)
    stand.read(1, 40)
    for second in range(2, 12):
        stand.read(second, 1)

    assert pytest.approx(5.0) == idle_of(stand, 11)


def test_a_throttled_part_is_not_at_rest() -> None:
    """It draws less than it would."""
    stand = Stand()
    stand.rest_at(5, until=0)
    for second in range(30):
        stand.read(second + 1, 1, throttled=True)

    assert pytest.approx(5.0) == idle_of(stand, 30)


def test_rest_on_battery_is_another() -> None:
    """And on mains it is what it was there."""
    stand = Stand()
    stand.meter.set_on_battery(False)
    stand.rest_at(9, until=0)
    stand.meter.set_on_battery(True)
    stand.rest_at(4, until=100)
    on_battery = idle_of(stand, 100)
    stand.meter.end("probe", 101)
    stand.meter.set_on_battery(False)

    assert pytest.approx(4.0) == on_battery
    assert pytest.approx(9.0) == idle_of(stand, 101)


# -- the books balance -----------------------------------------------------------------------------


@attrs.define
class Storm:
    """Requests that come and go at random, and readings that come, are late, or are lost."""

    stand: Stand
    now: float = 0.0
    number: int = 0
    running: list[int] = attrs.field(factory=list)
    final: dict[Hashable, float] = attrs.field(factory=dict)

    def act(self, what: int, pause_s: float, drawn: float) -> None:
        """Let one thing happen, some time after the last."""
        stand, self.now = self.stand, self.now + pause_s
        match what:
            case 0 | 1:
                self.number += 1
                backend = ("one", "other")[self.number % 2]
                stand.meter.begin(self.number, backend, self.now, watts=17)
                self.running.append(self.number)
            case 2 | 3 if self.running:
                key = self.running.pop(what % len(self.running))
                self.note(key, stand.meter.end(key, self.now))
            case 4:
                stand.lose(self.now)
            case 5:
                stand.note(stand.meter.pause(self.now))
            case 6:
                stand.read(self.now - min(pause_s, 0.02), drawn)
            case _:
                stand.read(self.now, drawn)

    def note(self, key: Hashable, spent: Spent) -> None:
        """Keep what is final already."""
        assert spent.joules >= 0
        if spent.is_final:
            self.final[key] = spent.joules

    def end(self) -> None:
        """All leave, and all accounts are closed."""
        for key in self.running:
            self.note(key, self.stand.meter.end(key, self.now))
        self.stand.lose(self.now + 1)
        self.final |= joules(self.stand)

    def check(self) -> None:
        """Nothing was lost, nothing was booked twice, nobody waits for a figure."""
        stand, part = self.stand, self.stand.books.part(PART)
        assert stand.is_balanced()
        assert self.number == len(self.final)
        assert sum(self.final.values()) == pytest.approx(sum(stand.paid.values()), rel=1e-9)
        assert min(part.idle, part.unattributed, *stand.paid.values(), *self.final.values(), 0) == 0
        if not stand.watts:
            assert part.measured <= stand.joules - 1000.0 + 1e-6


_pauses = st.sampled_from([0.0, 0.001, 0.03, 0.1, 1.0, 7.0, 36_000.0]) | st.floats(0, 100)
_deeds = st.tuples(st.integers(0, 12), _pauses, st.floats(0, 100))


@given(st.lists(_deeds, max_size=60))
def test_the_books_balance_whatever_happens(deeds: list[tuple[int, float, float]]) -> None:
    """What requests paid + idle + unattributed is what was measured; and all figures are final."""
    storm = Storm(Stand())
    for deed in deeds:
        storm.act(*deed)
    storm.end()

    storm.check()


def test_the_books_balance_ten_thousand_times() -> None:
    """The same, in more weathers: crowds, silence, ticks, and power without a counter's moving."""
    dice = random.Random(20260)  # noqa: S311 - a test's dice
    for _ in range(10_000):
        storm = Storm(Stand(watts=dice.choice([None, 0.0, 20.0])))
        crowd = dice.choice([1, 2, 50])
        for _ in range(crowd):
            storm.act(0, dice.choice([0.0, 0.02]), 0.0)
        for _ in range(dice.randrange(16)):
            what = dice.choice([0, 2, 4, 5, 6, 7, 8, 9])
            if what == 0 and len(storm.running) >= crowd:
                what = 2
            pause_s = dice.choice([0, 0.001, 0.03, 0.2, 1.0, 1.0, 30.0, 36_000.0])
            storm.act(what, pause_s, dice.choice([0.0, 0.0, 5.0, dice.uniform(0, 90)]))
        storm.end()
        storm.check()


@given(
    st.lists(st.tuples(st.sampled_from([0, 2, 7]), st.floats(0, 20), st.floats(0, 1)), max_size=60)
)
def test_without_a_lost_reading_all_is_booked(deeds: list[tuple[int, float, float]]) -> None:
    """Each joule that the counter counted, however short the times between two readings."""
    storm = Storm(Stand())
    storm.act(7, 0.0, 0.0)
    for deed in deeds:
        storm.act(*deed)
        if deed[0] != 7:
            storm.act(7, 0.05, 1.0)
    storm.act(7, 1.0, 0.0)

    assert storm.stand.books.part(PART).measured == pytest.approx(storm.stand.joules - 1000.0)
