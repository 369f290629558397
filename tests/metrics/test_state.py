"""What is told of backends and the machine at a scrape: what is known, and no sample of the rest."""

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.engine.dispatcher import Dispatcher, DispatchSettings
from ollama_proxy.engine.ledger import Ledger
from ollama_proxy.policy.ask import Priority
from ollama_proxy.policy.energy import Grade
from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.modes import Mode
from ollama_proxy.policy.readings import (
    Draw,
    Fan,
    Findings,
    Kind,
    Part,
    Scope,
    Supply,
    Zone,
)
from tests.engine.floor import backend, open_floor
from tests.metrics.scrapes import Machine, watched

CARD = "0000:01:00.0"


@pytest.fixture
def machine(mock_clock: MockClock) -> Machine:
    """No backend, no sensor."""
    dispatcher = Dispatcher(DispatchSettings(), Ledger(), clock=mock_clock.current_time)
    return watched(dispatcher, mock_clock)


async def test_what_is_unknown_is_no_sample(machine: Machine) -> None:
    """Neither heat nor fans nor a battery are 0 for want of a sensor."""
    machine.station()
    told = machine.scrape()

    silent = {
        *("backend_temperature_celsius", "backend_throttled", "fan_rpm", "battery_percent"),
        *("on_battery", "energy_joules_total", "forecast_error_ratio", "forecast_bias_ratio"),
    }
    assert silent <= told.names
    assert [{}] * len(silent) == [told.by(name) for name in silent]
    assert {("npu", "configured"): 3.0} == told.by("backend_power_watts")
    assert {("1.2.3",): 1} == told.by("build_info")


async def test_a_backend_is_up_or_down_or_not_meant_to_be(machine: Machine) -> None:
    """One that its owner has switched off is neither."""
    machine.station("npu")
    machine.station("cpu").is_down("no connection could be made to it")
    machine.station("igpu", enabled=False)

    assert {("npu", "npu"): 1, ("cpu", "cpu"): 0} == machine.scrape().by("backend_up")


async def test_what_sensors_tell_is_told(machine: Machine) -> None:
    """Of the card that the backend computes on, of fans and battery."""
    machine.station("nvidia")
    machine.climate.publish(
        "all",
        Findings(
            zones=(
                Zone(
                    name="gpu",
                    kind=Kind.GPU,
                    part=CARD,
                    hardware=Hardware.NVIDIA,
                    temperature_c=71.0,
                    throttling=False,
                ),
                Zone(name="cpu", kind=Kind.CPU, part=PACKAGE, temperature_c=50.0),
            ),
            fans=(Fan(name="cpu_fan", rpm=0.0), Fan(name="lost"), Fan(name="gpu_fan", rpm=2400.0)),
            draws=(Draw(name="gpu", scope=Scope.DEVICE, part=CARD, watts=41.5, source="nvml"),),
            parts=(Part(id=CARD, name="card", hardware=Hardware.NVIDIA, awake=True),),
            supply=Supply(on_battery=True, percent=61.0, source="upower"),
        ),
    )
    machine.climate.look()
    told = machine.scrape()

    assert {("nvidia",): 71.0} == told.by("backend_temperature_celsius")
    assert {("nvidia",): 0} == told.by("backend_throttled")
    assert {("cpu_fan",): 0, ("gpu_fan",): 2400} == told.by("fan_rpm")
    assert (61.0, 1) == (told.one("battery_percent"), told.one("on_battery"))
    assert 41.5 == told.one("backend_power_watts", backend="nvidia", source="measured")


async def test_a_sensor_that_is_lost_ends_its_samples(machine: Machine) -> None:
    """Its last word is not told for ever."""
    machine.climate.publish("fans", Findings(fans=(Fan(name="cpu_fan", rpm=2400.0),)))
    machine.climate.publish("fans", None)
    machine.climate.look()

    assert {} == machine.scrape().by("fan_rpm")


async def test_learned_watts_stand_beside_the_owners(machine: Machine) -> None:
    """Joules by the seconds that they took."""
    station = machine.station()
    station.energy.observe("x", 8.0, Grade.MEASURED, 1.0, seconds=2.0)

    told = machine.scrape().by("backend_power_watts")

    assert {("npu", "configured"): 3.0, ("npu", "learned"): 4.0} == told


async def test_the_mode_is_one_of_six_and_what_it_means_one_of_five(machine: Machine) -> None:
    """Auto is chosen, and never in force."""
    machine.climate.choose_mode(Mode.QUIET)
    told = machine.scrape()

    assert (6, 5) == (
        len(told.by("efficiency_mode")),
        len(told.by("efficiency_effective_mode")),
    )
    for name in ("efficiency_mode", "efficiency_effective_mode"):
        assert {("quiet",)} == {mode for mode, is_so in told.by(name).items() if is_so}


async def test_joules_are_by_backend_and_grade(machine: Machine) -> None:
    """Those of backends that are gone are not told."""
    machine.station()
    for name, grade, joules in (
        ("npu", Grade.MEASURED, 2.5),
        ("npu", Grade.ESTIMATED, 1.0),
        ("gone", Grade.MEASURED, 9.0),
    ):
        machine.dispatcher.meters.books.charge(name, grade, joules)

    expected = {("npu", "measured"): 2.5, ("npu", "estimated"): 1.0}
    assert expected == machine.scrape().by("energy_joules_total")


async def test_forecasts_are_held_against_what_came(machine: Machine) -> None:
    """Error, bias, how many, and deadlines, by backend."""
    station = machine.station()
    station.calibration.compare(1.0, 2.0, now=0.0)
    station.calibration.settle(met=True)
    station.calibration.settle(met=False)
    told = machine.scrape()

    names = ("forecast_error_ratio", "forecast_bias_ratio", "forecasts_total")
    assert [0.5, 0.5, 1] == [told.one(name, backend="npu") for name in names]
    assert {("npu", "met"): 1, ("npu", "missed"): 1} == told.by("backend_deadline_total")


async def test_lines_and_slots_are_as_they_are(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Who is at work and who waits, by priority; while the router drains, too."""
    floor = open_floor(nursery, autojump_clock, backend().say("a", after=10.0))
    machine = watched(floor.dispatcher, autojump_clock)
    for priority in (Priority.NORMAL, Priority.NORMAL, Priority.HIGH):
        floor.submit(priority=priority)
    floor.dispatcher.drain()
    told = machine.scrape()

    assert {("npu",): 1} == told.by("in_flight")
    waiting = {
        ("npu", "best-effort"): 0,
        ("npu", "normal"): 1,
        ("npu", "high"): 1,
        ("npu", "critical"): 0,
    }
    assert waiting == told.by("queue_depth")
    # One sample each, as a cluster's endpoint picker reads them.
    assert (2, 1) == (told.one("node_requests_waiting"), told.one("node_requests_running"))
    assert 1 == told.one("node_cache_usage_ratio")
    nursery.cancel_scope.cancel()


async def test_a_node_is_as_full_as_its_slots(machine: Machine) -> None:
    """Those of backends that are up; one without any has no room. What is in memory is told by name."""
    assert 1 == machine.scrape().one("node_cache_usage_ratio")

    machine.station("npu").loaded = frozenset({"small"})
    machine.station("cpu").is_down("no connection could be made to it")
    told = machine.scrape()

    assert 0 == told.one("node_cache_usage_ratio")
    assert {("npu", "small"): 1} == told.by("model_loaded")
