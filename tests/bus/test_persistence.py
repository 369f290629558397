"""Staying connected to a bus that is not there, in virtual time."""

import contextlib
import itertools
import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.persistence import stay_connected


async def never(_: Bus) -> None:
    """What is done with a bus that is never reached."""
    raise AssertionError("there is no bus")


async def answer(listener: trio.SocketListener, accepted: list[float], lines: list[bytes]) -> None:
    """A server that takes each connection, answers in turn and hangs up."""
    while True:
        stream = await listener.accept()
        accepted.append(trio.current_time())
        with contextlib.suppress(trio.BrokenResourceError):  # the client has left first
            for line in lines:
                await stream.receive_some()
                await stream.send_all(line)
        await stream.aclose()


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b""],
        [b"REJECTED\r\n"],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"OK 1\r\n", b"ERROR\r\n"],
        [b"OK 1\r\n", b"AGREE_UNIX_FD\r\n", b"no message of a bus at all"],
    ],
    ids=["gone", "silent", "refused", "HTTP", "no descriptors", "garbage"],
)
async def test_a_bus_that_is_none_is_tried_ever_less_often(
    lines: list[bytes],
    tmp_path: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 5 s, 10 s and so on up to 300 s; and once only it is said."""
    accepted: list[float] = []
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(tmp_path / "bus"))
    socket.listen()
    start = trio.current_time()
    with caplog.at_level(logging.INFO), trio.move_on_after(1500):
        async with trio.SocketListener(socket) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(answer, listener, accepted, lines)
            await stay_connected(f"unix:path={tmp_path}/bus", never)
    pauses = [round(b - a) for a, b in itertools.pairwise(accepted)]

    assert round(accepted[0] - start) == 0
    assert [5, 10, 20, 40, 80, 160, 300, 300, 300] == pauses
    assert 1 == len(caplog.records)


async def test_a_bus_that_says_nothing_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that takes the connection and is silent counts as no bus after 5 s."""
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(tmp_path / "bus"))
    socket.listen()
    with socket, trio.move_on_after(6):
        await stay_connected(f"unix:path={tmp_path}/bus", never)

    assert ["said nothing for 5 s"] == [
        record.getMessage().partition(" it ")[2] for record in caplog.records
    ]


@pytest.mark.parametrize(
    "where",
    ["", "nonsense", "tcp:host=localhost,port=1", "unix:dir=/tmp", "autolaunch:", "unix:path=/no"],
)
async def test_an_address_that_leads_nowhere_is_an_absent_bus(
    where: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is configured: it is said, and the rest of the program runs."""
    with trio.move_on_after(1000):
        await stay_connected(where, never)

    assert 1 == len(caplog.records)


async def test_without_a_session_there_is_no_session_bus(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A service without a login looks again later."""
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with trio.move_on_after(1000):
        await stay_connected("session", never)

    assert "XDG_RUNTIME_DIR" in caplog.text
