"""How what all sensors told is put together."""

from typing import Any

import pytest

from ollama_proxy.policy.conditions import Conditions, Told, fade, merge, part_of
from ollama_proxy.policy.hardware import PACKAGE, Hardware
from ollama_proxy.policy.readings import (
    Draw,
    Fan,
    Findings,
    Kind,
    Part,
    Profile,
    Quality,
    Scope,
    Supply,
    Zone,
)

NVIDIA, AMD = "0000:01:00.0", "0000:03:00.0"


def told(**by_sensor: Findings) -> Conditions:
    return merge({name: Told(findings=found, at=3.0) for name, found in by_sensor.items()})


def cards(*parts: Part) -> Conditions:
    return told(cards=Findings(parts=parts))


def part(id_: str, hardware: Hardware, name: str = "card") -> Part:
    return Part(id=id_, name=name, hardware=hardware)


def everything(**more: Any) -> Findings:
    given: dict[str, Any] = {
        "zones": (Zone(name="die", kind=Kind.CPU, part=PACKAGE, temperature_c=50.0),),
        "fans": (Fan(name="fan1", rpm=3000.0, share=0.6),),
        "draws": (Draw(name="battery", scope=Scope.SYSTEM, watts=9.0, joules=1.0, source="it"),),
        "supply": Supply(on_battery=True, percent=50.0, source="upower"),
    }
    return Findings(**(given | more))


def test_what_is_told_is_there() -> None:
    """Each with its age."""
    found = told(a=everything())

    assert (True, 50.0, 0.6, 9.0) == (
        found.on_battery,
        found.battery_percent,
        found.fan_share,
        found.system_watts,
    )
    assert {"die": 3.0} == found.heard


def test_nothing_is_unknown() -> None:
    """No sensor, no value, and nothing that looks like one."""
    found = merge({})

    assert (None, None, None, None) == (
        found.on_battery,
        found.battery_percent,
        found.fan_share,
        found.system_watts,
    )


def test_who_is_lost_leaves_its_names_without_values() -> None:
    """No zero in their place; and the battery is no longer known to feed the machine."""
    found = merge({"a": fade(Told(findings=everything(), at=3.0))})

    assert [("die", None, Quality.STALE)] == [
        (z.name, z.temperature_c, z.quality) for z in found.zones
    ]
    assert (None, None, None) == (found.on_battery, found.fan_share, found.system_watts)


def test_an_old_value_is_none() -> None:
    """Who says that its own reading is old is not believed to be current."""
    found = told(
        a=Findings(
            zones=(Zone(name="z", kind=Kind.GPU, temperature_c=34.0, quality=Quality.STALE),),
            fans=(Fan(name="f", rpm=0.0, share=0.0, quality=Quality.STALE),),
            draws=(
                Draw(name="d", scope=Scope.DEVICE, watts=1.0, source="it", quality=Quality.STALE),
            ),
        )
    )

    assert (None, None, None) == (
        found.zones[0].temperature_c,
        found.fans[0].rpm,
        found.draws[0].watts,
    )


def test_upower_is_believed_before_the_kernels_files() -> None:
    """Each question by itself: who knows the mains may know no charge."""
    files = Findings(supply=Supply(on_battery=False, percent=80.0, source="power_supply"))
    bus = Findings(supply=Supply(on_battery=True, percent=None, source="upower"))

    found = told(files=files, bus=bus)

    assert (True, 80.0) == (found.on_battery, found.battery_percent)


def test_the_daemons_profile_is_believed_before_the_firmwares() -> None:
    """It is what the user chose."""
    firmware = Findings(profile=Profile(active="balanced", source="platform_profile"))
    daemon = Findings(profile=Profile(active="power-saver"))

    found = told(firmware=firmware, daemon=daemon)

    assert found.profile is not None
    assert "power-saver" == found.profile.active


@pytest.mark.parametrize(
    ("hardware", "device", "expected"),
    [
        (Hardware.NPU, "", PACKAGE),
        (Hardware.IGPU, "", PACKAGE),
        (Hardware.CPU, "", PACKAGE),
        (Hardware.NVIDIA, "", NVIDIA),
        (Hardware.AMD, "", AMD),
        (Hardware.CLOUD, "", None),
        (Hardware.IGPU, "0000:03:00.0", AMD),
        (Hardware.NVIDIA, "01:00.0", NVIDIA),
        (Hardware.CPU, "Radeon", AMD),
        (Hardware.CPU, "coretemp", PACKAGE),
        (Hardware.NVIDIA, "0000:99:00.0", None),
    ],
)
def test_a_backend_computes_on(hardware: Hardware, device: str, expected: str | None) -> None:
    """What its owner says, else what its hardware is; nowhere rather than elsewhere."""
    found = told(
        cards=Findings(
            parts=(part(NVIDIA, Hardware.NVIDIA), part(AMD, Hardware.AMD, "Radeon")),
        ),
        cpu=Findings(zones=(Zone(name="coretemp Package id 0", kind=Kind.CPU, part=PACKAGE),)),
    )

    assert expected == part_of(hardware, device, found)


def test_of_two_cards_the_first_is_meant() -> None:
    """By its address, whatever order they are found in."""
    found = cards(part("0000:41:00.0", Hardware.NVIDIA), part(NVIDIA, Hardware.NVIDIA))

    assert NVIDIA == part_of(Hardware.NVIDIA, "", found)


def test_without_a_card_amd_is_the_processor_and_nvidia_is_nothing() -> None:
    """AMD builds graphics into its processors, NVIDIA does not."""
    assert PACKAGE == part_of(Hardware.AMD, "", cards())
    assert part_of(Hardware.NVIDIA, "", cards()) is None
