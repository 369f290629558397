"""Cards that sleep: what is opened of them, when, and what is told meanwhile."""

import errno

import pytest

from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import Findings, Quality, Scope
from ollama_proxy.sensors.drm import find_cards
from ollama_proxy.sensors.sensor import Heed, Sensor
from tests.fakes.machine import Machine, recorded

CARD = "0000:03:00.0"
DEVICE = f"/sys/bus/pci/devices/{CARD}"
STATUS = f"{DEVICE}/power/runtime_status"
HARMLESS = {"vendor", "device", "class", "runtime_status", "power_state", "control"}
FOREVER = float("inf")


def framework16(*overlays: str) -> Machine:
    """A laptop whose card sleeps when nobody uses it."""
    return recorded("framework16-amd-rx7700s", *overlays)


def only(files: Machine, heed: Heed | None = None) -> Sensor:
    """The one graphics device of a machine."""
    (found,) = find_cards(files, heed or Heed())
    return found


def used() -> Heed:
    """A request is on the card."""
    return Heed(used_at={CARD: FOREVER})


def hwmon(files: Machine) -> str:
    """Where the card's hwmon directory is."""
    return files.real("/sys/class/hwmon/hwmon9")


def temperatures(findings: Findings) -> list[float | None]:
    """Of all its places."""
    return [zone.temperature_c for zone in findings.zones]


def opened_of(files: Machine) -> set[str]:
    """The names of all files that were opened of the card."""
    return {path.rpartition("/")[2] for path in files.opened if CARD in path}


def test_a_sleeping_card_is_never_opened() -> None:
    """Case 46: neither finding nor reading it opens anything that could wake it, even if used."""
    files = framework16("framework16-dgpu-suspended")
    found = only(files, used())
    for now in range(0, 300, 2):
        told = found.read(float(now))

        assert [(CARD, False, True)] == [(p.id, p.awake, p.can_sleep) for p in told.parts]
    assert opened_of(files) <= HARMLESS
    files.opened.clear()
    found.read(300.0)
    assert {"runtime_status"} == opened_of(files)


@pytest.mark.parametrize("status", ["suspended", "suspending", "resuming", "error"])
def test_what_is_not_active_is_not_opened(status: str) -> None:
    """Case 47: also while it is on its way."""
    files = framework16()
    files.write(STATUS, status)

    told = only(files, used()).read(0.0)

    assert ((), [False]) == (told.zones, [part.awake for part in told.parts])
    assert opened_of(files) <= HARMLESS


@pytest.mark.parametrize("status", ["unsupported", None])
def test_a_card_that_is_not_managed_is_read_freely(status: str | None) -> None:
    """Case 47: it never sleeps."""
    files = framework16()
    if status is None:
        files.remove(STATUS)
    else:
        files.write(STATUS, status)
    found = only(files)

    told = [found.read(float(now)) for now in range(0, 10, 2)][-1]

    assert [(True, False)] == [(part.awake, part.can_sleep) for part in told.parts]
    assert {Quality.OK} == {zone.quality for zone in told.zones}


def test_a_card_that_may_not_sleep_is_read_freely() -> None:
    """`power/control` says so."""
    files = framework16()
    files.write(f"{DEVICE}/power/control", "on")
    found = only(files)
    found.read(0.0)

    told = found.read(2.0)

    assert {Quality.OK} == {zone.quality for zone in told.zones}
    assert not told.parts[0].can_sleep


def test_a_card_that_others_keep_awake_is_probed_once_a_minute() -> None:
    """Case 48: between, what it told stands as stale, and it is not opened."""
    files = framework16()
    found = only(files)
    probes = 0
    for now in range(0, 600, 2):
        files.opened.clear()
        told = found.read(float(now))
        if opened_of(files) <= HARMLESS:
            assert {Quality.LEFT_ALONE} == {zone.quality for zone in told.zones}
            assert [34.0, 34.0, 42.0] == temperatures(told)
        else:
            probes += 1

    assert 10 == probes


def test_a_used_card_is_read_each_time() -> None:
    """And for ten seconds after its last request."""
    files = framework16()
    heed = used()
    found = only(files, heed)
    heed.used_at[CARD] = 100.0
    found.read(100.0)

    assert {Quality.OK} == {zone.quality for zone in found.read(110.0).zones}
    assert {Quality.LEFT_ALONE} == {zone.quality for zone in found.read(112.0).zones}


def test_what_falls_asleep_loses_its_values() -> None:
    """Its places stay, its load is nothing, and no value is made up."""
    files = framework16()
    found = only(files, used())
    found.read(0.0)
    files.write(STATUS, "suspended")

    told = found.read(2.0)

    assert [(None, Quality.ASLEEP)] * 3 == [(z.temperature_c, z.quality) for z in told.zones]
    assert [(None, Quality.ASLEEP)] == [(d.watts, d.quality) for d in told.draws]
    assert [(None, Quality.ASLEEP)] == [(f.rpm, f.quality) for f in told.fans]
    assert [0.0] == [load.share for load in told.loads]


def test_watts_are_not_believed_just_after_waking() -> None:
    """For fifteen seconds the firmware tells of a load that is not there."""
    files = framework16("framework16-dgpu-suspended")
    found = only(files, used())
    found.read(0.0)
    awake = framework16()
    for name in ("temp1_input", "temp2_input", "temp3_input", "power1_average", "fan1_input"):
        files.write(f"{hwmon(files)}/{name}", awake.read(f"{hwmon(awake)}/{name}"))
    files.write(STATUS, "active")

    watts = [found.read(now).draws[0].watts for now in (2.0, 16.0, 17.0)]

    assert [None, None, 1.0] == watts


@pytest.mark.parametrize("error", [errno.EBUSY, errno.EPERM])
def test_a_card_that_slips_into_sleep_is_asleep(error: int) -> None:
    """Between its status and its values it may begin to: newer kernels say so by these errors."""
    files = framework16()
    files.fail(f"{hwmon(files)}/temp1_input", error)

    zone = only(files).read(0.0).zones[0]

    assert (None, Quality.ASLEEP) == (zone.temperature_c, zone.quality)


def test_all_of_a_card_is_told() -> None:
    """Temperatures with limits, power, fan with its share, load."""
    told = only(framework16()).read(0.0)

    assert [
        ("amdgpu 0000:03:00.0 edge", 34.0, 100.0, CARD),
        ("amdgpu 0000:03:00.0 junction", 34.0, 100.0, CARD),
        ("amdgpu 0000:03:00.0 mem", 42.0, 105.0, CARD),
    ] == [(z.name, z.temperature_c, z.limit_c, z.part) for z in told.zones]
    assert [(1.0, Scope.DEVICE, CARD)] == [(d.watts, d.scope, d.part) for d in told.draws]
    assert [(0.0, 0.0)] == [(f.rpm, f.share) for f in told.fans]
    assert [(Hardware.AMD, 0.0)] == [(load.hardware, load.share) for load in told.loads]
    assert [Hardware.AMD] == [part.hardware for part in told.parts]


def test_one_bad_file_loses_nothing_else() -> None:
    """The other places are told."""
    files = framework16()
    files.write(f"{hwmon(files)}/temp2_input", "N/A")

    told = only(files).read(0.0)

    assert [34.0, None, 42.0] == temperatures(told)
    assert Quality.ERROR is told.zones[1].quality


def test_a_limit_that_is_none_is_unknown() -> None:
    """Some drivers tell -273 degrees."""
    files = framework16()
    files.write(f"{hwmon(files)}/temp2_crit", "-273150")

    assert only(files).read(0.0).zones[1].limit_c is None


def test_a_card_pulled_out_while_it_is_read_is_gone() -> None:
    """Case 33: every value is ENODEV then."""
    files = framework16()
    found = only(files, used())
    found.read(0.0)
    for name in ("temp1_input", "temp2_input", "temp3_input", "power1_average", "fan1_input"):
        files.fail(f"{hwmon(files)}/{name}", errno.ENODEV)

    with pytest.raises(OSError, match="gone"):
        found.read(2.0)


def test_a_card_that_is_no_longer_there_is_gone() -> None:
    """Case 33: nor are its files."""
    files = framework16()
    found = only(files)
    files.remove(files.real(DEVICE))

    with pytest.raises(OSError, match="No such file"):
        found.read(0.0)


def test_a_renumbered_chip_is_the_same_card_elsewhere() -> None:
    """Its name stays, its key does not, so that it is found anew."""
    files = framework16()
    before = only(files)
    path = hwmon(files)
    files.move(path, path.replace("hwmon9", "hwmon4"))
    files.remove("/sys/class/hwmon/hwmon4")
    files.link(
        "/sys/class/hwmon/hwmon4", "../.." + path.removeprefix("/sys").replace("hwmon9", "hwmon4")
    )

    after = only(files)

    assert before.name == after.name
    assert before.key != after.key
    assert [34.0, 34.0, 42.0] == temperatures(after.read(0.0))


def test_two_cards_of_one_driver_stay_apart() -> None:
    """Case 32: by their addresses."""
    files = framework16()
    other = "/sys/devices/pci0000:00/0000:00:02.1/0000:08:00.0"
    files.write(f"{other}/vendor", "0x1002")
    files.write(f"{other}/hwmon/hwmon3/temp1_crit", "100000")
    files.write(f"{other}/hwmon/hwmon3/temp1_input", "71000")
    files.link(f"{other}/hwmon/hwmon3/device", "../..")
    files.link("/sys/class/hwmon/hwmon3", f"../..{other.removeprefix('/sys')}/hwmon/hwmon3")
    files.link("/sys/class/drm/card2/device", f"../../..{other.removeprefix('/sys')}")

    zones = [zone for found in find_cards(files, Heed()) for zone in found.read(0.0).zones]

    assert {CARD: 34.0, "0000:08:00.0": 71.0} == {
        zone.part: zone.temperature_c
        for zone in zones
        if "edge" in zone.name or "temp1" in zone.name
    }


def test_a_framebuffer_is_no_card() -> None:
    """The firmware's own is card0 on many machines."""
    files = framework16()
    files.write(
        "/sys/devices/platform/simple-framebuffer.0/modalias", "platform:simple-framebuffer"
    )
    files.link("/sys/class/drm/card0/device", "../../../devices/platform/simple-framebuffer.0")
    files.write("/sys/class/drm/card1-DP-1/status", "connected")

    assert ["amdgpu 0000:03:00.0"] == [found.name for found in find_cards(files, Heed())]


def test_a_card_that_no_driver_of_ours_drives_is_left_alone() -> None:
    """One that a virtual machine has is not ours to read."""
    files = framework16()
    files.link(f"{DEVICE}/driver", "../../../../../../bus/pci/drivers/vfio-pci")

    assert [] == find_cards(files, Heed())


@pytest.mark.parametrize("name", ["thinkpad-p14s-gen6-amd-strix", "framework13-amd-7040"])
def test_built_in_graphics_heat_the_package(name: str) -> None:
    """They are no card: their temperature and power are the processor's."""
    told = only(recorded(name)).read(0.0)

    assert {(PACKAGE, Hardware.IGPU)} == {(zone.part, zone.hardware) for zone in told.zones}
    assert {(PACKAGE, Scope.PACKAGE)} == {(draw.part, draw.scope) for draw in told.draws}
    assert [Hardware.IGPU] == [load.hardware for load in told.loads]
    assert () == told.parts


def test_built_in_graphics_tell_the_packages_watts() -> None:
    """Of Strix Point, idle."""
    told = only(recorded("thinkpad-p14s-gen6-amd-strix")).read(0.0)

    assert [9.087] == [draw.watts for draw in told.draws]
    assert [38.0] == temperatures(told)
