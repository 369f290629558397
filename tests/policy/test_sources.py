"""Which of several thermometers decides about the package."""

import itertools

import attrs
import pytest

from ollama_proxy.policy.hardware import PACKAGE
from ollama_proxy.policy.readings import Kind, Quality, Zone
from ollama_proxy.policy.sources import package_zones

IN_ORDER = ["coretemp", "k10temp", "zenpower", "thinkpad", "cpu_thermal", "x86_pkg_temp", "acpitz"]


def zone(source: str, temperature_c: float | None = 50.0, name: str = "") -> Zone:
    """A zone that speaks for the package."""
    return Zone(
        name=name or source,
        kind=Kind.CPU,
        part=PACKAGE,
        temperature_c=temperature_c,
        quality=Quality.ERROR if temperature_c is None else Quality.OK,
        source=source,
    )


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(IN_ORDER)))
def test_rule_1_the_better_thermometer_decides(better: str, worse: str) -> None:
    """Each of the order before the next, whichever is found first and is hotter."""
    assert (zone(better),) == package_zones([zone(worse, 99.0), zone(better)])


def test_rule_1_both_packages_of_two_decide() -> None:
    """A zone each, of one driver."""
    two = (zone("coretemp", 60.0, "coretemp"), zone("coretemp", 80.0, "coretemp coretemp.1"))

    assert two == package_zones([*two, zone("acpitz")])


def test_rule_1_what_is_elsewhere_decides_nothing() -> None:
    """A hot disk, and a processor's core beside its package, have no part."""
    disk = attrs.evolve(zone("nvme", 90.0), part=None, kind=Kind.STORAGE)
    core = attrs.evolve(zone("coretemp", 99.0), part=None)

    assert (zone("coretemp"),) == package_zones([disk, core, zone("coretemp")])


def test_rule_2_who_tells_nothing_is_passed_over() -> None:
    """The next best decides while the best cannot be read."""
    assert (zone("thinkpad"),) == package_zones([zone("coretemp", None), zone("thinkpad")])


def test_rule_2_if_nobody_tells_the_best_ones_loss_is_told() -> None:
    """So that a lost thermometer can be told from a machine that never had one."""
    lost = zone("coretemp", None)

    assert (lost,) == package_zones([zone("thinkpad", None), lost])


def test_rule_3_throttling_and_graphics_stand_beside() -> None:
    """They are no other opinion of the processor's temperature."""
    beside = (zone("thermal_throttle", None), zone("amdgpu", 87.0))

    assert {*beside, zone("k10temp")} == set(package_zones([*beside, zone("k10temp")]))
    assert beside == package_zones(beside)


def test_a_machine_without_thermometers_has_none() -> None:
    """A virtual machine."""
    assert () == package_zones([])
