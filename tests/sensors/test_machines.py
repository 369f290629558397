"""Recorded machines, whole: what is told of each is what is known of it."""

import os
from pathlib import Path

import pytest

from ollama_proxy.policy.readings import Draw, Fan, Quality, Zone
from ollama_proxy.policy.sources import package_zones
from ollama_proxy.sensors.files import Files, KernelFiles
from tests.fakes.machine import Machine, _Failing, _Link, names, recorded
from tests.sensors.known import KNOWN, Known
from tests.sensors.rounds import first_round

CASES = [pytest.param(parts, known, id="+".join(parts)) for parts, known in KNOWN.items()]


def as_table(files: Files) -> Known:
    """A first round in the words of the table."""
    found = first_round(files)
    supply = found.supply
    return Known(
        zones={zone.name: _zone(zone) for zone in found.zones},
        fans={fan.name: _fan(fan) for fan in found.fans},
        draws={draw.name: _draw(draw) for draw in found.draws},
        supply=None
        if supply is None
        else (bool(supply.on_battery), supply.percent, supply.to_empty_s),
        profile=found.profile,
        decide=tuple(zone.name for zone in package_zones(found.zones)),
    )


def _zone(zone: Zone) -> tuple[float | Quality, float | None, bool]:
    told = zone.quality if zone.temperature_c is None else zone.temperature_c
    return told, zone.limit_c, zone.part == "package"


def _fan(fan: Fan) -> tuple[float | Quality, float | None]:
    return fan.quality if fan.rpm is None else fan.rpm, fan.share


def _draw(draw: Draw) -> float | Quality | None:
    return draw.watts if draw.quality is Quality.OK else draw.quality


def test_every_recording_is_known() -> None:
    """A machine that is added has to be looked at."""
    assert set(names()) == {parts[0] for parts in KNOWN}


@pytest.mark.parametrize(("parts", "known"), CASES)
def test_a_machine_is_told_as_it_is_known(parts: tuple[str, ...], known: Known) -> None:
    """Every zone, fan, draw and supply of it, with its limit and its part, and nothing more."""
    told = as_table(recorded(*parts))

    assert set(known.zones) == set(told.zones)
    for name, (degrees, limit_c, speaks) in known.zones.items():
        found = told.zones[name]
        assert degrees == _near(found[0]), name
        assert limit_c == _near(found[1]), name
        assert speaks == found[2], name
    assert known.fans == told.fans
    assert set(known.draws) == set(told.draws)
    for name, watts in known.draws.items():
        assert watts == _near(told.draws[name]), name
    assert known.supply == (told.supply and tuple(_near(value) for value in told.supply))
    assert known.profile == told.profile
    assert set(known.decide) == set(told.decide)


def _near(value: object) -> object:
    is_number = isinstance(value, float)
    return pytest.approx(value, rel=1e-4) if is_number else value


@pytest.mark.parametrize(("parts", "known"), CASES)
def test_a_directory_of_files_reads_like_the_recording(
    parts: tuple[str, ...], known: Known, tmp_path: Path
) -> None:
    """Through the kernel's own way: real files, real links, another root."""
    machine = recorded(*parts)
    for path, entry in list(machine._entries.items()):
        if isinstance(entry, _Failing):  # a real file cannot be made to fail so
            machine.remove(path)
    unpack(machine, tmp_path)

    assert as_table(machine) == as_table(KernelFiles(sysfs_root=str(tmp_path / "sys")))


def unpack(machine: Machine, root: Path) -> None:
    """Write a machine's files and links into a directory."""
    for path, entry in machine._entries.items():
        there = root / path.removeprefix("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, _Link):
            os.symlink(entry.target, there)  # noqa: PTH211 - a target, which need not exist yet
        elif isinstance(entry, bytes):
            there.write_bytes(entry)
