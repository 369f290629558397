"""NVIDIA's cards: never woken, never kept awake, and believed only where they can be."""

import pytest

from ollama_proxy.policy.hardware import Hardware
from ollama_proxy.policy.readings import Findings, Quality
from ollama_proxy.sensors.nvidia import find_nvidia
from ollama_proxy.sensors.nvml import Nvml, kernel_address
from ollama_proxy.sensors.sensor import Heed, Sensor
from tests.fakes import nvml as fake
from tests.fakes.machine import Machine, recorded
from tests.fakes.nvml import FakeCard, FakeNvml, NvmlError, recorded_card

CARD = "0000:01:00.0"
OTHER = "0000:64:00.0"
STATUS = f"/sys/bus/pci/devices/{CARD}/power/runtime_status"
FOREVER = float("inf")


def machine(*addresses: str, status: str = "active", control: str = "auto") -> Machine:
    """A machine with NVIDIA cards and nothing else."""
    made = Machine()
    for address in addresses:
        device = f"/sys/bus/pci/devices/{address}"
        made.write(f"{device}/vendor", "0x10de")
        made.write(f"{device}/class", "0x030200")
        made.write(f"{device}/power/runtime_status", status)
        made.write(f"{device}/power/control", control)
    return made


def sensor(files: Machine, nvml: Nvml | None, heed: Heed | None = None) -> Sensor:
    """The one sensor of all cards."""
    (found,) = find_nvidia(files, heed or Heed(), lambda: nvml)
    return found


def used(*addresses: str, on_battery: bool = False) -> Heed:
    """Requests are on cards."""
    return Heed(used_at=dict.fromkeys(addresses, FOREVER), on_battery=on_battery)


def read_one(card: FakeCard) -> Findings:
    """What is told of a card that is used."""
    return sensor(machine(CARD), FakeNvml([card]), used(CARD)).read(0.0)


def test_a_sleeping_card_is_never_woken() -> None:
    """Case 46: while it is suspended the library is not called, and only its status is opened."""
    files = recorded("thinkpad-p1-gen4i-intel-nvidia-optimus")
    nvml = FakeNvml([FakeCard()])
    found = sensor(files, nvml, used(CARD))
    files.opened.clear()

    told = [found.read(float(now)) for now in range(0, 300, 2)]

    assert [] == nvml.calls
    assert {files.real(STATUS)} == set(files.opened)
    (part,) = told[-1].parts
    assert (CARD, Hardware.NVIDIA, False, True) == (
        part.id,
        part.hardware,
        part.awake,
        part.can_sleep,
    )


@pytest.mark.parametrize("status", ["suspended", "suspending", "resuming", "error"])
def test_what_is_not_active_is_left_alone(status: str) -> None:
    """Case 47: a card on its way to sleep or back is asked nothing."""
    nvml = FakeNvml([FakeCard()])

    told = sensor(machine(CARD, status=status), nvml, used(CARD)).read(0.0)

    assert ([], [False]) == (nvml.calls, [part.awake for part in told.parts])


@pytest.mark.parametrize("status", ["unsupported", None])
def test_a_card_that_is_not_managed_is_awake(status: str | None) -> None:
    """Case 47: no status means that it always has power."""
    files = machine(CARD)
    if status is None:
        files.remove(STATUS)
    else:
        files.write(STATUS, status)

    told = sensor(files, FakeNvml([FakeCard()])).read(0.0)

    assert [(True, False)] == [(part.awake, part.can_sleep) for part in told.parts]
    assert [50.0] == [zone.temperature_c for zone in told.zones]


def test_one_sleeping_card_protects_the_other() -> None:
    """Opening the library may touch all cards: one that sleeps keeps it closed for all."""
    files = machine(CARD, OTHER)
    files.write(f"/sys/bus/pci/devices/{OTHER}/power/runtime_status", "suspended")
    nvml = FakeNvml([FakeCard(), FakeCard(bus_id="00000000:64:00.0")])

    told = sensor(files, nvml, used(CARD)).read(0.0)

    assert ([], [True, False]) == (nvml.calls, [part.awake for part in told.parts])


def test_a_card_that_others_keep_awake_is_looked_at_once_a_minute() -> None:
    """Case 48: and the library is closed again at once."""
    nvml = FakeNvml([FakeCard()])
    found = sensor(machine(CARD), nvml)
    qualities = set()
    for now in range(0, 600, 2):
        qualities |= {zone.quality for zone in found.read(float(now)).zones}
        assert not nvml.is_open

    assert 10 == nvml.opened()
    assert {Quality.OK, Quality.LEFT_ALONE} == qualities


def test_the_library_stays_open_while_requests_use_the_card() -> None:
    """Rule 2: opened once, closed ten seconds after the last request."""
    nvml = FakeNvml([FakeCard()])
    heed = used(CARD)
    found = sensor(machine(CARD), nvml, heed)

    for now in range(0, 100, 2):
        found.read(float(now))
    assert (1, True) == (nvml.opened(), nvml.is_open)
    heed.used_at[CARD] = 100.0
    found.read(110.0)
    assert nvml.is_open
    found.read(111.0)
    assert not nvml.is_open


def test_on_battery_the_library_is_never_held_open() -> None:
    """Rule 2: each look at a used card ends with closing it."""
    nvml = FakeNvml([FakeCard()])
    found = sensor(machine(CARD), nvml, used(CARD, on_battery=True))

    for now in range(0, 10, 2):
        assert [50.0] == [zone.temperature_c for zone in found.read(float(now)).zones]
        assert not nvml.is_open


def test_a_desktop_card_is_read_whether_it_is_used_or_not() -> None:
    """It cannot sleep, so looking at it costs nothing."""
    nvml = FakeNvml([FakeCard()])
    found = sensor(machine(CARD, control="on"), nvml)

    told = [found.read(float(now)) for now in range(0, 10, 2)]

    assert [Quality.OK] * 5 == [one.zones[0].quality for one in told]
    assert (1, True) == (nvml.opened(), nvml.is_open)
    found.close()
    assert not nvml.is_open


def test_a_card_is_found_by_the_kernels_address() -> None:
    """The library writes a domain of eight digits."""
    card = recorded_card("rtx4070-laptop")
    told = sensor(machine(CARD, OTHER), FakeNvml([card]), used(OTHER)).read(0.0)

    assert OTHER == kernel_address("00000000:64:00.0\0") == kernel_address(b"00000000:64:00.0")
    assert [(OTHER, 3.95)] == [(draw.part, draw.watts) for draw in told.draws]
    assert "NVIDIA GeForce RTX 4070 Laptop GPU" == told.parts[1].name


def test_what_a_card_does_not_support_is_unknown() -> None:
    """Case 49: no fan, no watts, no energy: none of them is 0, and the rest is told."""
    told = read_one(recorded_card("old-mobile", temperature_c=61))

    assert ((), 61.0, None) == (told.fans, told.zones[0].temperature_c, told.zones[0].throttling)
    (draw,) = told.draws
    assert (None, None, Quality.ABSENT) == (draw.watts, draw.joules, draw.quality)


@pytest.mark.parametrize(
    ("reasons", "throttling", "emergency"),
    [
        (0x0, False, False),
        (0x1, False, False),
        (0x4, False, False),
        (0x20, True, False),
        (0x24, True, False),
        (0x8, True, False),
        (0x40, True, True),
        (0x100, False, False),
    ],
)
def test_only_heat_is_throttling(reasons: int, *, throttling: bool, emergency: bool) -> None:
    """Case 51: that a card idles or is at its power cap are reasons, too, and no trouble."""
    (zone,) = read_one(FakeCard(clocks_event_reasons=reasons)).zones

    assert (throttling, emergency) == (zone.throttling, zone.emergency)


def test_a_limit_is_where_the_hardware_slows_down() -> None:
    """Not where it shuts down."""
    (zone,) = read_one(FakeCard(slowdown_c=97)).zones

    assert 97.0 == zone.limit_c


def test_impossible_watts_are_rejected() -> None:
    """Case 50: 588 W of a 35 W card are none."""
    (draw,) = read_one(recorded_card("rtx2000ada-laptop-bogus")).draws

    assert (None, Quality.IMPLAUSIBLE) == (draw.watts, draw.quality)


def test_the_last_sensible_watts_stand_for_impossible_ones() -> None:
    """Case 50: marked as old."""
    card = FakeCard(power_average_mw=30_000)
    found = sensor(machine(CARD), FakeNvml([card]), used(CARD))
    found.read(0.0)
    card.power_average_mw = 588_000

    (draw,) = found.read(2.0).draws

    assert (30.0, Quality.STALE) == (draw.watts, draw.quality)


def test_joules_never_go_back() -> None:
    """Case 43: a reloaded driver begins at nothing; what is counted here goes on."""
    card = FakeCard(total_energy_mj=5_000_000)
    found = sensor(machine(CARD), FakeNvml([card]), used(CARD))
    joules = []
    for now, counted in enumerate([5_000_000, 5_040_000, 1_000, 21_000]):
        card.total_energy_mj = counted
        joules.append(found.read(2.0 * now).draws[0].joules)

    assert [0.0, 40.0, 40.0, 60.0] == joules


def test_an_old_driver_is_asked_by_the_old_function() -> None:
    """The newer one for temperatures is not in all."""
    nvml = FakeNvml([FakeCard()], lacks={"nvmlDeviceGetTemperatureV"})

    (zone,) = sensor(machine(CARD), nvml, used(CARD)).read(0.0).zones

    assert (50.0, Quality.OK) == (zone.temperature_c, zone.quality)


@pytest.mark.parametrize(
    "code", [fake.DRIVER_NOT_LOADED, fake.LIBRARY_NOT_FOUND, fake.LIB_RM_VERSION_MISMATCH]
)
def test_a_library_that_does_not_open_is_tried_once_a_minute(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Case 49: the card is shown, its values are unknown, and the log says it once."""
    nvml = FakeNvml([FakeCard()], refuses=NvmlError(code))
    found = sensor(machine(CARD), nvml, used(CARD))

    told = [found.read(float(now)) for now in range(0, 120, 2)]

    assert 2 == nvml.opened()
    assert ((), (), True) == (told[-1].zones, told[-1].draws, told[-1].parts[0].awake)
    assert 1 == len(caplog.records)


@pytest.mark.parametrize("code", [fake.GPU_IS_LOST, fake.RESET_REQUIRED])
def test_a_lost_card_does_not_hide_the_other(code: int) -> None:
    """Case 49: its values are unknown, the library is closed, and the other was read."""
    lost = FakeCard(bus_id="00000000:64:00.0")
    nvml = FakeNvml([lost, FakeCard()])
    found = sensor(machine(OTHER, CARD), nvml, used(CARD, OTHER))
    found.read(0.0)
    lost.temperature_c = NvmlError(code)

    zones = {zone.part: zone for zone in found.read(2.0).zones}

    assert (None, Quality.ERROR) == (zones[OTHER].temperature_c, zones[OTHER].quality)
    assert (50.0, Quality.OK) == (zones[CARD].temperature_c, zones[CARD].quality)
    assert not nvml.is_open


def test_without_the_library_cards_are_known_by_their_files() -> None:
    """Whether a card sleeps is known all the same."""
    told = sensor(machine(CARD), None).read(0.0)

    assert [(CARD, True)] == [(part.id, part.awake) for part in told.parts]


def test_a_card_that_was_pulled_out_is_gone() -> None:
    """Case 33: which asks for another discovery."""
    files = machine(CARD)
    found = sensor(files, FakeNvml([FakeCard()]))
    files.remove(f"/sys/bus/pci/devices/{CARD}")

    with pytest.raises(OSError, match="No such file"):
        found.read(0.0)


def test_only_display_devices_are_cards() -> None:
    """A card's sound device has its vendor, too; a machine without any has no sensor."""
    files = machine(CARD)
    files.write(f"/sys/bus/pci/devices/{CARD}/class", "0x040300")

    assert [] == find_nvidia(files, Heed(), lambda: None)


def test_loading_tells_nothing_to_the_driver() -> None:
    """Discovery loads the library and calls nothing in it."""
    nvml = FakeNvml([FakeCard()])

    find_nvidia(machine(CARD), used(CARD), lambda: nvml)

    assert [] == nvml.calls
