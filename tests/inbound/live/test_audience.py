"""Who watches, what each is told, and when it is let go; in virtual time."""

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.inbound.live.audience import (
    EVERY_S,
    REMEMBERED,
    SEATS,
    SILENCE_S,
    UNTAKEN,
    Audience,
    Full,
    Seat,
)
from tests.inbound.live.watched import Watched, routed


@attrs.frozen
class Message:
    """One of an event stream."""

    id: str
    kind: str
    data: Any


def messages(content: bytes) -> list[Message]:
    """Those in a piece of a stream, without the words that say nothing."""
    found = []
    for block in content.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            found.append(Message(fields["id"], fields["event"], json.loads(fields["data"])))
    return found


@attrs.define
class Hall:
    """An audience, and what it watches."""

    seen: Watched
    audience: Audience
    _count: int = 0

    def happen(self, times: int = 1) -> None:
        """Something changes, and is told."""
        for _ in range(times):
            self._count += 1
            self.seen.picture.routed(routed(str(self._count)))
            self.audience.tell()

    async def join(self, last_heard: str = "") -> tuple[Seat, list[Message]]:
        """Take a seat, and hear what is told at once."""
        seat = self.audience.join(last_heard)
        return seat, messages(await anext(seat))


@pytest.fixture
async def hall(nursery: trio.Nursery) -> AsyncIterator[Hall]:
    seen = Watched()
    audience = Audience(seen.picture)
    nursery.start_soon(audience.run)
    yield Hall(seen, audience)
    nursery.cancel_scope.cancel()


def rows(message: Message) -> list[str]:
    """Whose rows a message holds."""
    return [row["id"] for row in message.data.get("flow", [])]


async def test_all_of_it_comes_first(hall: Hall, autojump_clock: MockClock) -> None:
    """Then what changes, numbered on from it."""
    seat, (first,) = await hall.join()
    hall.seen.picture.routed(routed("a"))
    (then,) = messages(await anext(seat))

    assert ("snapshot", "change", ["a"]) == (first.kind, then.kind, rows(then))
    run, number = first.id.split("-")
    assert f"{run}-{int(number) + 1}" == then.id


async def test_changes_are_told_together(hall: Hall, autojump_clock: MockClock) -> None:
    """However much happens: at most four times a second."""
    seat, _ = await hall.join()
    heard = 0
    with trio.move_on_after(2.01):
        while True:
            hall.seen.picture.routed(routed(str(heard)))
            await anext(seat)
            heard += 1

    assert 8 == heard


async def test_silence_is_broken(hall: Hall, autojump_clock: MockClock) -> None:
    """By a word that says nothing, so that a dead connection shows."""
    seat, _ = await hall.join()
    began = trio.current_time()

    assert b":\n\n" == await anext(seat)
    assert SILENCE_S - EVERY_S <= trio.current_time() - began <= SILENCE_S + EVERY_S


async def test_nothing_is_made_while_nobody_watches(hall: Hall, autojump_clock: MockClock) -> None:
    """Not even one message."""
    seat, _ = await hall.join()
    hall.audience.leave(seat)
    await trio.sleep(60)
    hall.seen.picture.routed(routed("a"))
    await trio.sleep(60)

    assert ["a"] == [row.id for row in hall.seen.picture.flow.take_changed()]


async def test_who_comes_back_hears_what_was_missed(hall: Hall, autojump_clock: MockClock) -> None:
    """And nothing twice."""
    seat, (first,) = await hall.join()
    hall.audience.leave(seat)
    hall.happen(3)
    _, missed = await hall.join(first.id)

    assert ["change"] * 3 == [each.kind for each in missed]
    assert [["1"], ["2"], ["3"]] == [rows(each) for each in missed]
    assert [] == (await hall.join(missed[-1].id))[1]


async def test_a_pause_while_nobody_watched_is_one_change(
    hall: Hall, autojump_clock: MockClock
) -> None:
    """What a hidden page missed is made when it is shown again."""
    seat, (first,) = await hall.join()
    hall.audience.leave(seat)
    for name in ("a", "b"):
        hall.seen.picture.routed(routed(name))
    _, (missed,) = await hall.join(first.id)

    assert ("change", ["a", "b"]) == (missed.kind, rows(missed))


@pytest.mark.parametrize("heard", ["", "0", "other-0", "{run}-", "{run}-99", "{run}--1", "{run}-²"])
async def test_a_strange_id_is_none(hall: Hall, heard: str, autojump_clock: MockClock) -> None:
    """Another run's, or one that never was: all of it is told anew."""
    _, (first,) = await hall.join()
    _, (again,) = await hall.join(heard.format(run=first.id.split("-")[0]))

    assert "snapshot" == again.kind


async def test_what_is_remembered_is_bounded(hall: Hall, autojump_clock: MockClock) -> None:
    """Who was away for longer is told all of it."""
    _, (first,) = await hall.join()
    hall.happen(REMEMBERED)
    assert REMEMBERED == len((await hall.join(first.id))[1])
    hall.happen()

    assert ["snapshot"] == [each.kind for each in (await hall.join(first.id))[1]]


async def test_who_does_not_listen_is_let_go(hall: Hall, autojump_clock: MockClock) -> None:
    """The others hear on."""
    deaf, _ = await hall.join()
    seat, _ = await hall.join()
    for _ in range(UNTAKEN + 1):
        hall.happen()
        await anext(seat)

    assert 1 == hall.audience.size
    assert UNTAKEN == len([each async for each in deaf])


async def test_seats_are_bounded(hall: Hall, autojump_clock: MockClock) -> None:
    """One that was given back is free."""
    seats = [(await hall.join())[0] for _ in range(SEATS)]
    with pytest.raises(Full):
        hall.audience.join()
    hall.audience.leave(seats[0])

    await hall.join()


async def test_the_end_is_everybodys(hall: Hall, autojump_clock: MockClock) -> None:
    """Streams end, and no new one begins."""
    seat, _ = await hall.join()
    hall.audience.dismiss()

    assert [] == [each async for each in seat]
    with pytest.raises(Full):
        hall.audience.join()
