"""The conversation on streams and sockets: who comes, who waits, who gives up."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from ollama_proxy.pairing.card import Card
from ollama_proxy.pairing.code import LASTS_S, Offer
from ollama_proxy.pairing.exchange import LINE_MAX, Asking, NotPaired
from ollama_proxy.pairing.talk import TALK_S, TALKS_PER_PEER, Reception, ask
from tests.pairing.cards import Box

CODE, OTHER = "ABCDEFGH", "ABCDEFGJ"
FAR = "192.0.2.7"


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Box, Box]:
    directory = tmp_path_factory.mktemp("boxes")
    return Box.new(directory, "laptop"), Box.new(directory, "desktop")


class House:
    """Where a code is offered, and what came of it."""

    def __init__(self, box: Box, *, ends: float = LASTS_S) -> None:
        self.kept: list[tuple[Card, str]] = []
        self.told: list[tuple[str, str]] = []
        self.reception = Reception(
            offer=Offer(code=CODE, ends=ends),
            card=box.card,
            keep=lambda card, address: self.kept.append((card, address)),
            tell=lambda address, why: self.told.append((address, str(why))),
        )

    async def visit(self, talk: Callable[[trio.abc.Stream], object], address: str = FAR) -> None:
        """Somebody comes and talks."""
        here, there = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reception.receive, there, address)
            await talk(here)  # type: ignore[misc]


async def wrongly(box: Box, stream: trio.abc.Stream) -> None:
    with pytest.raises(NotPaired, match="not the one that is shown"):
        await ask(stream, OTHER, box.card)


async def test_two_are_paired(boxes: tuple[Box, Box], autojump_clock: MockClock) -> None:
    """Each has the other's card."""
    laptop, desktop = boxes
    house = House(desktop)
    met: list[Card] = []

    async def talk(stream: trio.abc.Stream) -> None:
        met.append(await ask(stream, CODE, laptop.card))

    await house.visit(talk)

    assert ([desktop.card], [(laptop.card, FAR)], []) == (met, house.kept, house.told)


async def test_a_code_is_used_once(boxes: tuple[Box, Box], autojump_clock: MockClock) -> None:
    """Whoever comes second with it is told to have a new one shown."""
    laptop, desktop = boxes
    house = House(desktop)
    await house.visit(partial(ask, code=CODE, card=laptop.card))

    async def late(stream: trio.abc.Stream) -> None:
        with pytest.raises(NotPaired, match="no code is good"):
            await ask(stream, CODE, laptop.card)

    await house.visit(late)

    assert 1 == len(house.kept)


async def test_wrong_codes_are_told_of_and_end_it(
    boxes: tuple[Box, Box], autojump_clock: MockClock
) -> None:
    """After three the right one finds no code."""
    laptop, desktop = boxes
    house = House(desktop)
    for _ in range(3):
        await house.visit(partial(wrongly, laptop))
    with pytest.raises(ExceptionGroup) as caught:
        await house.visit(partial(ask, code=CODE, card=laptop.card))

    assert caught.group_contains(NotPaired, match="no code is good")
    assert (4, []) == (len(house.told), house.kept)


async def test_a_code_ends_in_time(boxes: tuple[Box, Box], autojump_clock: MockClock) -> None:
    """Five minutes after it was shown, also for who has begun to talk."""
    laptop, desktop = boxes
    house = House(desktop, ends=trio.current_time() + LASTS_S)

    async def slow(stream: trio.abc.Stream) -> None:
        asking = Asking(CODE, laptop.card)
        await trio.sleep(LASTS_S - 5)
        await stream.send_all(asking.hello())
        hello = bytes(await stream.receive_some())
        await trio.sleep(5)
        await stream.send_all(asking.show(hello.rstrip()))
        with pytest.raises(NotPaired, match="no code is good"):
            asking.take(bytes(await stream.receive_some()))

    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow, here)
        await trio.sleep(LASTS_S - 10)
        nursery.start_soon(house.reception.receive, there, FAR)

    assert [] == house.kept


async def silence(stream: trio.abc.Stream) -> None:
    assert b"" == await stream.receive_some()


async def flood(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"x" * (LINE_MAX + 1))
    assert b"" == await stream.receive_some()


@pytest.mark.parametrize("talk", [silence, flood])
async def test_nobody_stays_for_long(
    boxes: tuple[Box, Box],
    autojump_clock: MockClock,
    talk: Callable[[trio.abc.Stream], object],
) -> None:
    """Neither who says nothing nor who never ends a line; and that costs the code no try."""
    house = House(boxes[1])
    began = trio.current_time()
    await house.visit(talk)

    assert trio.current_time() - began <= TALK_S
    assert (3, 1) == (house.reception.offer.tries, len(house.told))


async def test_who_offers_nothing_is_not_waited_for(
    boxes: tuple[Box, Box], autojump_clock: MockClock
) -> None:
    """Who asks gives up."""
    here, _there = memory_stream_pair()
    with pytest.raises(NotPaired, match="says nothing"):
        await ask(here, CODE, boxes[0].card)


async def test_one_address_has_only_so_many(
    boxes: tuple[Box, Box], autojump_clock: MockClock
) -> None:
    """So that one that holds lines open keeps nobody else out."""
    laptop, desktop = boxes
    house = House(desktop)
    answers: list[object] = []

    async def more(stream: trio.abc.Stream) -> None:
        try:
            await ask(stream, CODE, laptop.card)
        except NotPaired as why:
            answers.append(str(why))

    async with trio.open_nursery() as nursery:
        for _ in range(TALKS_PER_PEER):
            nursery.start_soon(house.visit, silence, FAR)
        await trio.testing.wait_all_tasks_blocked()
        await house.visit(more, FAR)
        await house.visit(partial(ask, code=CODE, card=laptop.card), "192.0.2.8")

    assert ["too many are talking to it at once; try again"] == answers
    assert [(laptop.card, "192.0.2.8")] == house.kept


async def test_who_hangs_up_after_the_proof_is_not_kept(
    boxes: tuple[Box, Box], autojump_clock: MockClock
) -> None:
    """The code is used all the same."""
    laptop, desktop = boxes
    house = House(desktop)

    async def half(stream: trio.abc.Stream) -> None:
        asking = Asking(CODE, laptop.card)
        await stream.send_all(asking.hello())
        await stream.send_all(asking.show(bytes(await stream.receive_some()).rstrip()))
        await stream.receive_some()
        await stream.aclose()

    await house.visit(half)

    assert ([], True) == (house.kept, house.reception.offer.is_used)


@pytest.fixture
async def listeners() -> AsyncIterator[list[trio.SocketListener]]:
    found = await trio.open_tcp_listeners(0, host="127.0.0.1")
    yield found
    for each in found:
        await each.aclose()


async def call(listeners: list[trio.SocketListener], code: str, box: Box) -> Card:
    port = listeners[0].socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await ask(stream, code, box.card)


async def test_two_that_come_at_once(
    boxes: tuple[Box, Box], listeners: list[trio.SocketListener], tmp_path: Path
) -> None:
    """With the same code: one is paired, the other told; then nobody is heard any more."""
    desktop = boxes[1]
    house = House(desktop, ends=trio.current_time() + LASTS_S)
    others = [Box.new(tmp_path, name) for name in ("one", "two")]
    outcomes: list[bool] = []

    async def come(box: Box) -> None:
        try:
            await call(listeners, CODE, box)
        except NotPaired:
            outcomes.append(False)
        else:
            outcomes.append(True)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for box in others:
                nursery.start_soon(come, box)
            found = await house.reception.serve(listeners)

    assert [False, True] == sorted(outcomes)
    assert house.kept == [found]


async def test_reception_ends_with_the_last_try(
    boxes: tuple[Box, Box], listeners: list[trio.SocketListener]
) -> None:
    """Nobody sits before a code that is void."""
    laptop, desktop = boxes
    house = House(desktop, ends=trio.current_time() + LASTS_S)

    async def guess() -> None:
        for _ in range(3):
            with pytest.raises(NotPaired):
                await call(listeners, OTHER, laptop)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guess)
            assert None is await house.reception.serve(listeners)


async def test_both_offer_and_both_ask(boxes: tuple[Box, Box]) -> None:
    """At the same time, each with the other's code: both come to the same."""
    houses = [House(box, ends=trio.current_time() + LASTS_S) for box in boxes]
    met: list[Card] = []

    async def one(house: House, other: Box) -> None:
        found = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def come() -> None:
            met.append(await call(found, CODE, other))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await house.reception.serve(found)
        for each in found:
            await each.aclose()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, houses[0], boxes[1])
            nursery.start_soon(one, houses[1], boxes[0])

    assert {box.card for box in boxes} == set(met)
    assert [boxes[1].card, boxes[0].card] == [house.kept[0][0] for house in houses]
