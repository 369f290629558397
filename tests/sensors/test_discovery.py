"""Finding all sensors of each recorded machine."""

import pytest

from ollama_proxy.sensors.discovery import discover
from ollama_proxy.sensors.sensor import Heed
from tests.fakes.machine import names, recorded


@pytest.mark.parametrize("name", names())
def test_every_recorded_machine_is_read(name: str) -> None:
    """No sensor of any fails, and its names are its own."""
    files = recorded(name)
    found = discover(files, Heed(), load=lambda: None)
    for now in (0.0, 2.0, 70.0):
        for sensor in found:
            sensor.read(now)

    assert len(found) == len({sensor.name for sensor in found})


@pytest.mark.parametrize("name", names())
def test_the_same_devices_have_the_same_keys(name: str) -> None:
    """So that another discovery disturbs none."""
    files = recorded(name)

    first, second = (discover(files, Heed(), load=lambda: None) for _ in range(2))

    assert [sensor.key for sensor in first] == [sensor.key for sensor in second]
