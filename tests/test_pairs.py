"""What the book of pairs says is in force as soon as it is read."""

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.inbound.paired import Guests
from ollama_proxy.pairing.book import book_file, strike_out, write_down
from ollama_proxy.pairs import LOOK_S, Pairs
from ollama_proxy.policy.fleet import BackendType
from ollama_proxy.stations import Paired
from tests.pairing.cards import Box


class Rooms:
    """A router's directory, and what comes of it."""

    def __init__(self, directory: Path) -> None:
        self.own = Box.new(directory, "own")
        self.guests = Guests(self.own.identity)
        self.joined: list[list[str]] = []
        self.had_guests: list[bool] = []
        self.backends: Sequence[Paired] = ()
        self.pairs = Pairs(self.own.directory, self.guests, self.join)

    async def join(self, backends: Sequence[Paired]) -> None:
        """As the fleet would."""
        self.backends = backends
        self.joined.append([each.config.id for each in backends])
        self.had_guests.append(bool(self.guests))


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(tmp_path)


async def test_a_pair_becomes_guest_and_backend(rooms: Rooms, tmp_path: Path) -> None:
    """A router by HTTPS, whose certificate is the pin; who only asks is a guest alone."""
    desktop, phone = Box.new(tmp_path, "Desktop"), Box.new(tmp_path, "phone", port=0)
    for box in (desktop, phone):
        write_down(rooms.own.directory, box.peer("192.0.2.7"))
    await rooms.pairs.look()
    (backend,) = rooms.backends

    assert ("paired-desktop", BackendType.ROUTER, "https://192.0.2.7:8443") == (
        backend.config.id,
        backend.config.type,
        backend.config.endpoint,
    )
    assert (desktop.card.certificate, rooms.own.identity) == (
        backend.pin.certificate,
        backend.pin.own,
    )
    assert {"Desktop", "phone"} == set(rooms.guests._names.values())


async def test_namesakes_are_told_apart(rooms: Rooms, tmp_path: Path) -> None:
    """Also those whose names are only too long to differ."""
    twins = [Box.new(tmp_path / each, "box").peer() for each in "ab"]
    long = [Box.new(tmp_path, "x" * 60 + each).peer() for each in "ab"]
    for each in (*twins, *long):
        write_down(rooms.own.directory, each)
    await rooms.pairs.look()

    assert {f"paired-{each.id}" for each in (*twins, *long)} == set(rooms.joined[0])


async def test_what_changes_is_seen_and_what_does_not_is_left(
    rooms: Rooms, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Within a second; whoever is struck out is shut out before the backends are changed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rooms.pairs.watch)
        write_down(rooms.own.directory, Box.new(tmp_path, "desktop").peer())
        await trio.sleep(5 * LOOK_S + 0.5)
        strike_out(rooms.own.directory, "desktop")
        await trio.sleep(LOOK_S)
        nursery.cancel_scope.cancel()

    assert [["paired-desktop"], []] == rooms.joined
    assert [True, False] == rooms.had_guests


async def test_a_book_with_a_fault_changes_nothing(
    rooms: Rooms, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told of once, and what was in force stays so."""
    write_down(rooms.own.directory, Box.new(tmp_path, "desktop").peer())
    await rooms.pairs.look()
    book_file(rooms.own.directory).write_text("[[peers]]\n")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await rooms.pairs.look()

    told = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert (1, 1, True) == (len(rooms.joined), len(told), bool(rooms.guests))
    assert "is required" in caplog.text


async def test_a_lost_key_is_told_of(
    rooms: Rooms, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The router goes on, and hears no paired one."""
    write_down(rooms.own.directory, Box.new(tmp_path, "desktop").peer())
    rooms.own.identity.unlink()
    with caplog.at_level(logging.ERROR):
        await rooms.pairs.look()

    assert not rooms.guests
    assert "identity.pem cannot be used: No such file" in caplog.text


async def test_a_key_that_others_could_read_is_not_used(
    rooms: Rooms, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the book: whoever has copied it is this router to all its pairs. Who has none is told nothing."""
    rooms.own.identity.chmod(0o644)
    with caplog.at_level(logging.ERROR):
        await rooms.pairs.look()
        assert "" == caplog.text
        write_down(rooms.own.directory, Box.new(tmp_path, "desktop").peer())
        await rooms.pairs.look()

    assert not rooms.guests
    assert [[]] == rooms.joined
    assert f"chmod 600 {rooms.own.identity}" in caplog.text


async def test_certificates_need_no_line_of_their_own(rooms: Rooms, tmp_path: Path) -> None:
    """A card may come without a line's end behind its certificate, and shuts nobody else out."""
    for each in (Box.new(tmp_path, name).peer() for name in ("one", "two")):
        write_down(rooms.own.directory, attrs.evolve(each, certificate=each.certificate.strip()))
    await rooms.pairs.look()

    assert 2 == rooms.guests.context("").cert_store_stats()["x509"]


async def test_without_a_directory_there_is_nobody(rooms: Rooms) -> None:
    """Where a router has no home."""
    await Pairs(None, rooms.guests, rooms.join).look()

    assert [] == rooms.joined
