"""What tests of real parts share."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.real.buses import PrivateBus, require_bus


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    require_bus()
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
async def private(directory: Path) -> AsyncIterator[PrivateBus]:
    """A message bus of our own that runs."""
    bus = PrivateBus(directory)
    async with bus.running():
        yield bus
