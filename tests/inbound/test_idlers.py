"""Who waits for a client's next request, and for how long; in exact virtual times."""

from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.inbound.idlers import Idlers

PATIENCE_S = 10.0


@attrs.define(eq=False)
class Guest:
    """One that waits, and notes when it was sent away."""

    gone_at: float | None = None

    def close_unasked(self) -> None:
        """See `Idler`."""
        self.gone_at = trio.current_time()


@pytest.fixture
async def idlers(nursery: trio.Nursery) -> Idlers:
    """Nobody waits yet."""
    waiting = Idlers(PATIENCE_S)
    nursery.start_soon(waiting.run)
    return waiting


def times(guests: Sequence[Guest], start: float) -> list[float | None]:
    """When each was sent away, from the start."""
    return [None if guest.gone_at is None else guest.gone_at - start for guest in guests]


async def test_each_waits_as_long_as_it_may(autojump_clock: MockClock, idlers: Idlers) -> None:
    """Those who came later are sent away later."""
    start, guests = trio.current_time(), [Guest() for _ in range(3)]
    for guest in guests:
        idlers.add(guest)
        await trio.sleep(1)
    await trio.sleep(20)

    assert [10, 11, 12] == times(guests, start)
    assert 0 == len(idlers)


async def test_who_has_left_is_not_sent_away(autojump_clock: MockClock, idlers: Idlers) -> None:
    """And does not keep those behind it waiting."""
    start, guests = trio.current_time(), [Guest(), Guest()]
    for guest in guests:
        idlers.add(guest)
    await trio.sleep(1)
    idlers.discard(guests[0])
    idlers.discard(guests[0])
    await trio.sleep(20)

    assert [None, 10] == times(guests, start)


async def test_who_comes_again_waits_anew(autojump_clock: MockClock, idlers: Idlers) -> None:
    """Whether it left in between or not: others are not kept waiting by it."""
    start, guests = trio.current_time(), [Guest(), Guest(), Guest()]
    for guest in guests:
        idlers.add(guest)
    await trio.sleep(4)
    idlers.discard(guests[0])
    idlers.add(guests[0])
    idlers.add(guests[1])
    await trio.sleep(20)

    assert [14, 14, 10] == times(guests, start)


async def test_who_comes_when_all_have_left_is_noticed(
    autojump_clock: MockClock, idlers: Idlers
) -> None:
    """The task that waits for the first one wakes for the next first one, too."""
    first, second = Guest(), Guest()
    idlers.add(first)
    await trio.sleep(1)
    idlers.discard(first)
    await trio.sleep(30)
    start = trio.current_time()
    idlers.add(second)
    await trio.sleep(30)

    assert [10] == times([second], start)
