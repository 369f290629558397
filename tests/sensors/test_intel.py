"""Intel's graphics: clocks and heat without waking engines; a card's energy by the right counter."""

import pytest

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Quality, Scope
from ollama_proxy.sensors.drm import find_cards
from ollama_proxy.sensors.sensor import Heed, Sensor
from tests.fakes.machine import Machine, recorded

FREQUENCY = "/sys/bus/pci/devices/0000:00:02.0/tile0/gt0/freq0"
CARD = "0000:04:00.0"
DEVICE = f"/sys/devices/pci0000:00/0000:00:01.0/{CARD}"
HWMON = f"{DEVICE}/hwmon/hwmon5"


def only(files: Machine, heed: Heed | None = None) -> Sensor:
    """The one graphics device of a machine."""
    (found,) = find_cards(files, heed or Heed())
    return found


def lunar_lake(clock: int) -> Machine:
    """Graphics on xe, at a clock."""
    files = recorded("thinkpad-lunarlake-npu")
    files.write(f"{FREQUENCY}/act_freq", str(clock))
    files.write(f"{FREQUENCY}/rp0_freq", "1950")
    files.write(f"{FREQUENCY}/rpn_freq", "400")
    return files


def test_sleeping_engines_are_not_woken() -> None:
    """Their clock is 0, their load is nothing, and no other file of theirs is opened."""
    files = lunar_lake(0)
    found = only(files)
    files.opened.clear()

    told = found.read(0.0)

    assert [(Hardware.IGPU, 0.0)] == [(load.hardware, load.share) for load in told.loads]
    assert [f"{FREQUENCY}/act_freq"] == [path for path in files.opened if "tile0" in path]


def test_the_clock_tells_the_load() -> None:
    """Its place between the lowest and the highest."""
    assert [0.5] == [load.share for load in only(lunar_lake(1175)).read(0.0).loads]


def test_the_kernels_older_driver_tells_clocks_elsewhere() -> None:
    """i915, at its lowest; it says nothing of heat here."""
    told = only(recorded("lenovo-cometlake-i915-igpu")).read(0.0)

    assert ((), (), ()) == (told.zones, told.parts, told.draws)
    assert [("i915 0000:00:02.0", 0.0)] == [(load.name, load.share) for load in told.loads]


def test_an_unknown_range_is_an_unknown_load() -> None:
    """Not 0."""
    files = lunar_lake(800)
    files.remove(f"{FREQUENCY}/rp0_freq")

    assert [None] == [load.share for load in only(files).read(0.0).loads]


@pytest.mark.parametrize(
    ("status", "reasons", "throttling", "emergency"),
    [
        ("0", {}, False, False),
        ("1", {"pl1": "1"}, False, False),
        ("1", {"thermal": "1"}, True, False),
        ("1", {"prochot": "1"}, True, True),
    ],
)
def test_only_heat_is_throttling(
    status: str, reasons: dict[str, str], *, throttling: bool, emergency: bool
) -> None:
    """That it is at its power limit is every day's business."""
    files = lunar_lake(800)
    files.write(f"{FREQUENCY}/throttle/status", status)
    for reason, value in reasons.items():
        files.write(f"{FREQUENCY}/throttle/reason_{reason}", value)

    (zone,) = only(files).read(0.0).zones

    assert (throttling, emergency) == (zone.throttling, zone.emergency)
    assert (PACKAGE, None, Quality.OK) == (zone.part, zone.temperature_c, zone.quality)


def test_newer_kernels_tell_all_reasons_at_once() -> None:
    """By one file, which is believed alone."""
    files = lunar_lake(800)
    files.write(f"{FREQUENCY}/throttle/reasons", "pl2 thermal")
    assert only(files).read(0.0).zones[0].throttling is True
    files.write(f"{FREQUENCY}/throttle/reasons", "none")
    assert only(files).read(0.0).zones[0].throttling is False


def test_i915_tells_its_reasons_beside_its_clocks() -> None:
    """One file each."""
    files = recorded("lenovo-cometlake-i915-igpu")
    for reason, value in {"status": "1", "ratl": "1"}.items():
        files.write(f"/sys/class/drm/card0/gt/gt0/throttle_reason_{reason}", value)

    (zone,) = only(files).read(0.0).zones

    assert (True, False) == (zone.throttling, zone.emergency)


def arc(status: str = "active") -> Machine:
    """A desktop with a card of Intel's."""
    files = Machine()
    files.link("/sys/class/drm/card1/device", f"../../..{DEVICE.removeprefix('/sys')}")
    files.link("/sys/class/hwmon/hwmon5", f"../..{HWMON.removeprefix('/sys')}")
    files.link(f"{HWMON}/device", "../..")
    content = {
        f"{DEVICE}/vendor": "0x8086",
        f"{DEVICE}/power/runtime_status": status,
        f"{DEVICE}/power/control": "auto",
        f"{DEVICE}/tile0/gt0/freq0/act_freq": "0",
        f"{HWMON}/name": "xe",
        f"{HWMON}/energy1_input": "0",
        f"{HWMON}/energy2_input": "1000000000",
        f"{HWMON}/temp2_input": "51000",
        f"{HWMON}/temp2_label": "pkg",
        f"{HWMON}/temp2_crit": "100000",
        f"{HWMON}/temp3_input": "58000",
        f"{HWMON}/temp3_label": "vram",
        f"{HWMON}/fan1_input": "760",
    }
    for path, value in content.items():
        files.write(path, value)
    return files


def test_a_card_tells_its_temperatures_and_fans() -> None:
    """By its own address."""
    told = only(arc()).read(0.0)

    assert [
        ("xe 0000:04:00.0 pkg", 51.0, 100.0, CARD),
        ("xe 0000:04:00.0 vram", 58.0, None, CARD),
    ] == [(z.name, z.temperature_c, z.limit_c, z.part) for z in told.zones]
    assert [(760.0, None)] == [(fan.rpm, fan.share) for fan in told.fans]
    assert [(CARD, True, True)] == [(part.id, part.awake, part.can_sleep) for part in told.parts]


def test_energy_is_of_the_first_counter_that_moves() -> None:
    """Case 42: the card's own stands at 0 on a real one."""
    files = arc()
    found = only(files, Heed(used_at={CARD: float("inf")}))
    seen = []
    for now, microjoules in ((0.0, 1_000_000_000), (2.0, 1_040_000_000), (4.0, 1_100_000_000)):
        files.write(f"{HWMON}/energy2_input", str(microjoules))
        (draw,) = found.read(now).draws
        seen.append((draw.joules, draw.watts, draw.scope))

    assert [(None, None), (0.0, None), (60.0, 30.0)] == [(j, w) for j, w, _ in seen]
    assert {Scope.DEVICE} == {scope for _, _, scope in seen}


def test_a_sleeping_card_is_not_opened() -> None:
    """Case 46: for the clock as for all else."""
    files = arc("suspended")
    found = only(files, Heed(used_at={CARD: float("inf")}))
    files.opened.clear()

    told = found.read(0.0)

    assert [f"{DEVICE}/power/runtime_status"] == files.opened
    assert [False] == [part.awake for part in told.parts]
