"""What the channels of a chip measure, by driver and by label."""

import pytest

from ollama_proxy.policy.readings import Kind
from ollama_proxy.sensors.chips import family_of, kind_of, speakers


@pytest.mark.parametrize(
    ("driver", "label", "kind"),
    [
        ("coretemp", "Core 3", Kind.CPU),
        ("k10temp", "Tccd1", Kind.CPU),
        ("cluster1_thermal", "", Kind.CPU),
        ("nspss0_thermal", "", Kind.NPU),
        ("ddr_thermal", "", Kind.MEMORY),
        ("iwlwifi_1", "", Kind.NETWORK),
        ("mt7925_phy0", "", Kind.NETWORK),
        ("nvme", "Sensor 1", Kind.STORAGE),
        ("cros_ec", "cpu_f75303@4d", Kind.CPU),
        ("cros_ec", "ddr_f75303@4d", Kind.MEMORY),
        ("dell_smm", "SODIMM", Kind.MEMORY),
        ("thinkpad", "GPU", Kind.GPU),
        ("thinkpad", "", Kind.BOARD),
        ("acpitz", "", Kind.BOARD),
        ("never-heard-of", "Ambient", Kind.BOARD),
    ],
)
def test_a_channels_kind(driver: str, label: str, kind: Kind) -> None:
    """By driver where it measures one thing, by label where it measures many."""
    assert kind is kind_of(driver, label)


@pytest.mark.parametrize(
    ("driver", "labels", "spoken_by"),
    [
        ("coretemp", {1: "Package id 0", 2: "Core 0"}, {1}),
        ("coretemp", {2: "Core 0", 3: "Core 1"}, {2, 3}),  # an Atom: no package sensor
        ("k10temp", {1: "Tctl", 2: "Tdie", 3: "Tccd1"}, {2}),
        ("k10temp", {1: ""}, {1}),  # before the labels came
        ("zenpower", {1: "Tdie", 2: "Tctl"}, {1}),
        ("thinkpad", {1: "CPU", 2: "GPU", 3: ""}, {1}),
        ("cros_ec", {1: "local_f75303@4d", 2: "cpu_f75303@4d", 3: "cpu@4c"}, {2, 3}),
        ("dell_smm", {1: "CPU"}, set()),
        ("nvme", {1: "Composite"}, set()),
    ],
)
def test_who_speaks_for_the_package(
    driver: str, labels: dict[int, str], spoken_by: set[int]
) -> None:
    """The channels of the best label there is; none of a driver that is not known to be true."""
    assert spoken_by == speakers(driver, labels)


def test_the_chips_of_cores_are_one_family() -> None:
    """So that policy knows one word for them."""
    assert {"cpu_thermal"} == {
        family_of(name)
        for name in ("cpu-thermal", "cpu_thermal", "cpu7_thermal", "bcm2835_thermal")
    }
