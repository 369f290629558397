"""Which meter a request is on, and what is learned of it."""

from collections.abc import Callable

import attrs
import pytest

from ollama_proxy.engine.meters import Meters
from ollama_proxy.policy.energy import Grade, Spent
from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.meter import QUIET_S
from ollama_proxy.policy.readings import Draw, Quality, Scope

CARD = "0000:01:00.0"


def rapl(joules: float | None) -> Draw:
    """The package's counter; None: root alone may read it."""
    quality = Quality.DENIED if joules is None else Quality.OK
    return Draw(
        name="package-0",
        scope=Scope.PACKAGE,
        part=PACKAGE,
        joules=joules,
        quality=quality,
        source="rapl",
    )


def nvml(joules: float | None, watts: float | None = None) -> Draw:
    """A card's counter; None: it sleeps."""
    quality = Quality.ASLEEP if joules is None else Quality.OK
    return Draw(
        name="card",
        scope=Scope.DEVICE,
        part=CARD,
        joules=joules,
        watts=watts,
        quality=quality,
        source="nvml",
    )


def battery(watts: float) -> Draw:
    """What the battery gives."""
    return Draw(name="BAT0", scope=Scope.SYSTEM, watts=watts, source="battery")


@attrs.define
class Day:
    """Meters that are told of seconds, one after the other."""

    meters: Meters = attrs.field(factory=Meters)
    now: float = 0.0

    def pass_by(self, seconds: int, *tell: Callable[[float], Draw]) -> None:
        """Let seconds pass; each sensor says what it says at that time."""
        for _ in range(seconds):
            self.now += 1
            self.meters.sampled([each(self.now) for each in tell], self.now)

    def paid(self, backend: str) -> dict[Grade, float]:
        """What a backend's requests paid."""
        return {g: joules for (b, g), joules in self.meters.books.backends.items() if b == backend}


def test_a_request_is_measured_where_it_computes() -> None:
    """Of two counters, its part's."""
    day = Day()
    day.pass_by(1, lambda t: nvml(50 * t), lambda t: rapl(10 * t))
    day.meters.began("a", "gpu", CARD, 1, watts=99)
    day.meters.began("b", "cpu", PACKAGE, 1, watts=99)
    day.pass_by(2, lambda t: nvml(50 * t), lambda t: rapl(10 * t))

    assert {Grade.MEASURED: 100.0} == day.paid("gpu")
    assert {Grade.APPORTIONED: 20.0} == day.paid("cpu")


def test_who_is_nowhere_is_estimated() -> None:
    """A cloud's watts are not this machine's, not even on battery."""
    day = Day()
    day.pass_by(61, lambda _: battery(20))
    day.meters.began("a", "cloud", None, 61, watts=2)
    day.pass_by(60, lambda _: battery(20))

    assert Spent(120.0, Grade.ESTIMATED, is_final=True) == day.meters.ended("a", 5, "m", 121)


def test_a_denied_counter_is_no_zero() -> None:
    """The owner's watts stand until it can be read; then it is measured."""
    day = Day()
    day.pass_by(2, lambda _: rapl(None))
    day.meters.began("a", "cpu", PACKAGE, 2, watts=8)
    day.pass_by(2, lambda _: rapl(None))
    early = day.meters.ended("a", 5, "m", 4)
    day.pass_by(1, lambda t: rapl(1e6 + 30 * t))
    day.meters.began("b", "cpu", PACKAGE, 5, watts=8)
    day.pass_by(2, lambda t: rapl(1e6 + 30 * t))

    assert Spent(16.0, Grade.ESTIMATED, is_final=True) == early
    assert {Grade.ESTIMATED: 16.0, Grade.APPORTIONED: 60.0} == day.paid("cpu")


def test_on_battery_what_has_no_sensor_shares_what_it_gives() -> None:
    """Over a minute, less what the machine draws at rest, less what cards tell of themselves."""
    day = Day()
    day.meters.set_on_battery(True)
    day.pass_by(121, lambda t: battery(25 + t % 2 * 2), lambda t: nvml(4 * t, 4))
    day.meters.began("a", "npu", PACKAGE, 121, watts=99)
    day.pass_by(60, lambda _: battery(90), lambda t: nvml(60 * t, 60))

    assert {Grade.APPORTIONED: pytest.approx((30 - 22) * 60)} == day.paid("npu")


def test_a_package_with_a_counter_is_not_on_battery_too() -> None:
    """No joule is paid twice."""
    day = Day()
    day.pass_by(1, lambda _: battery(26), lambda t: rapl(6 * t))
    day.meters.began("a", "cpu", PACKAGE, 1, watts=99)
    day.pass_by(120, lambda _: battery(26), lambda t: rapl(6 * t))

    assert {Grade.APPORTIONED: pytest.approx(720.0)} == day.paid("cpu")


def test_a_card_that_sleeps_has_its_meter_all_the_same() -> None:
    """The request that wakes it does not pay from the battery."""
    day = Day()
    day.pass_by(5, lambda _: battery(10), lambda _: nvml(None))
    day.meters.began("a", "gpu", CARD, 5, watts=50)
    day.pass_by(1, lambda _: battery(60), lambda t: nvml(50 * t))
    day.pass_by(10, lambda _: battery(60), lambda t: nvml(50 * t))

    assert {Grade.ESTIMATED: 50.0, Grade.MEASURED: 500.0} == day.paid("gpu")


def test_a_part_without_any_sensor_is_estimated() -> None:
    """On mains, without rights to the counter: as most laptops are."""
    day = Day()
    day.meters.began("a", "npu", PACKAGE, 0, watts=3)

    assert Spent(6.0, Grade.ESTIMATED) == day.meters.so_far("a", 2)
    assert Spent(9.0, Grade.ESTIMATED, is_final=True) == day.meters.ended("a", 5, "m", 3)


def test_unknown_attempts_cost_nothing_to_ask_for() -> None:
    """Those begun before there were meters, or ended twice."""
    meters = Meters()

    assert (None, None) == (meters.so_far("a", 1), meters.ended("a", 5, "m", 1))


def test_a_tokens_cost_is_learned_from_the_true_figure() -> None:
    """Not from what was expected when the answer ended."""
    day = Day()
    day.pass_by(1, lambda t: nvml(40 * t))
    day.meters.began("a", "gpu", CARD, 1, watts=99)
    day.pass_by(1, lambda t: nvml(40 * t))
    told = day.meters.ended("a", 20, "m", 2.5)
    before = day.meters.appetite("gpu").token_j("m")
    day.pass_by(1, lambda _: nvml(90))

    assert Spent(60.0, Grade.MEASURED) == told
    assert before is None
    assert 2.5 == day.meters.appetite("gpu").token_j("m")
    assert 2.5 == day.meters.appetite("gpu").token_j()


def test_estimates_teach_nothing() -> None:
    """The owner's figure does not come back as what was measured."""
    day = Day()
    day.meters.began("a", "npu", PACKAGE, 0, watts=3)
    day.meters.ended("a", 10, "m", 3)

    assert day.meters.appetite("npu").token_j("m") is None


def test_rest_is_learned_before_the_first_request() -> None:
    """A card's sensor is read from the start, and what nobody used was rest."""
    day = Day()
    day.pass_by(int(QUIET_S) + 5, lambda t: nvml(8 * t))
    day.meters.began("a", "gpu", CARD, day.now, watts=99)
    day.pass_by(1, lambda t: nvml(8 * t + 42))

    assert {Grade.MEASURED: pytest.approx(42.0)} == day.paid("gpu")


def test_a_throttled_parts_rest_is_not_learned() -> None:
    """What is drawn in heat is not what is drawn at rest."""
    day = Day()
    for _ in range(30):
        day.now += 1
        day.meters.sampled([nvml(day.now)], day.now, throttled={CARD})
    day.meters.began("a", "gpu", CARD, day.now, watts=99)
    day.pass_by(1, lambda t: nvml(t + 40))

    assert {Grade.MEASURED: pytest.approx(41.0)} == day.paid("gpu")


def test_a_machine_with_a_throttled_part_is_not_at_rest() -> None:
    """Some of it draws less than it would."""
    day = Day()
    for _ in range(121):
        day.now += 1
        day.meters.sampled([battery(9)], day.now, throttled={CARD})
    day.meters.began("a", "npu", PACKAGE, day.now, watts=99)
    day.pass_by(60, lambda _: battery(10))

    assert {Grade.ESTIMATED: pytest.approx(99 * 60)} == day.paid("npu")


def test_a_machine_at_rest_is_no_requests() -> None:
    """Before it was seen at rest, a second's work does not pay for a minute of the whole machine."""
    day = Day()
    day.meters.set_on_battery(True)
    day.pass_by(5, lambda _: battery(14))
    day.meters.began("a", "npu", PACKAGE, day.now, watts=10)
    day.pass_by(1, lambda _: battery(16))
    told = day.meters.ended("a", 20, "m", day.now)
    day.pass_by(120, lambda _: battery(14))

    assert told is not None
    assert {Grade.ESTIMATED: told.joules} == day.paid("npu")
    assert 10 == told.joules


def test_a_battery_that_repeats_itself_leaves_estimates() -> None:
    """The books say in the end what each request was told."""
    day = Day()
    day.meters.set_on_battery(True)
    day.pass_by(200, lambda _: battery(14))
    day.meters.began("a", "npu", PACKAGE, day.now, watts=10)
    day.pass_by(1, lambda _: battery(14))
    told = day.meters.ended("a", 20, "m", day.now)
    day.pass_by(120, lambda _: battery(14))

    assert told is not None
    assert {Grade.ESTIMATED: told.joules} == day.paid("npu")


def test_rest_on_battery_is_known_when_it_is_back() -> None:
    """Also of meters that were not there when it began."""
    day = Day()
    day.meters.set_on_battery(True)
    day.pass_by(int(QUIET_S) + 5, lambda t: nvml(8 * t))
    day.meters.set_on_battery(False)
    day.meters.set_on_battery(True)
    day.meters.began("a", "gpu", CARD, day.now, watts=99)
    day.pass_by(1, lambda t: nvml(8 * t + 42))

    assert {Grade.MEASURED: pytest.approx(42.0)} == day.paid("gpu")


def test_a_suspend_is_nobodys() -> None:
    """Whatever counters say after it."""
    day = Day()
    day.pass_by(1, nvml)
    day.meters.began("a", "gpu", CARD, 1, watts=10)
    day.pass_by(1, nvml)
    day.meters.resumed(3)
    day.pass_by(1, lambda _: nvml(70_000))

    assert {Grade.MEASURED: 1.0, Grade.ESTIMATED: 10.0} == day.paid("gpu")


def test_fifty_at_once_pay_what_the_card_drew() -> None:
    """However they overlap: with idle and unattributed joules, it is what was measured."""
    day = Day()
    day.pass_by(30, lambda t: nvml(8 * t))
    for number in range(50):
        day.meters.began(number, ("one", "other")[number % 2], CARD, 30 + number / 10, watts=9)
    day.pass_by(3, lambda t: nvml(8 * t + 30 * (t - 30)))
    for number in range(50):
        day.meters.ended(number, 10, "m", 35 + number / 100)
    day.pass_by(10, lambda t: nvml(8 * t + 30 * (t - 30)))

    part = day.meters.books.parts[CARD]
    paid = sum(day.meters.books.backends.values())
    assert paid + part.idle + part.unattributed == pytest.approx(part.measured, rel=1e-9)
    assert part.measured == pytest.approx(8 * 42 + 30 * 13)
