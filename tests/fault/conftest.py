"""The house that most faults happen to: one for all, so that what one leaves behind another finds."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.fault.house import House, open_house

LIMIT_S = 90.0


@pytest.fixture(scope="session")
def shared() -> Iterator[House]:
    """The router and its backends, for all tests of this directory that do not end them."""
    with (
        tempfile.TemporaryDirectory(prefix="fault-") as directory,
        open_house(Path(directory)) as house,
    ):
        yield house
        assert 0 == house.router.stop(), house.router.log()


@pytest.fixture
async def house(shared: House) -> AsyncIterator[House]:
    """The shared house before a fault; when the test is over, all that is owed is."""
    with trio.fail_after(LIMIT_S):
        if shared.base is None:
            await shared.take_base()
        yield shared
        await shared.settles()


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Write down how many seconds something took, for the table of tools/fault."""

    def write(what: str, seconds: float) -> None:
        record_property(what, seconds)

    return write
