"""What systemd hears of us, at the socket that it named."""

import math
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ollama_proxy.service_manager import ServiceManager

PID = 4711


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        yield manager


def manager(listening: socket.socket, **variables: str) -> ServiceManager:
    """The manager that listens there, as our environment would tell of it."""
    return ServiceManager.from_environment(
        {"NOTIFY_SOCKET": listening.getsockname(), **variables}, pid=PID
    )


def heard(listening: socket.socket) -> list[str]:
    """All that it was told."""
    messages = []
    while True:
        try:
            messages.append(listening.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_ready(listening: socket.socket) -> None:
    """Readiness comes with a line for people, in one message."""
    manager(listening).ready("1 of 1 backends healthy")

    assert ["READY=1\nSTATUS=1 of 1 backends healthy"] == heard(listening)


def test_an_abstract_address() -> None:
    """A name with @ is in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("")  # the kernel chooses an abstract one
        name = listening.getsockname()[1:].decode()
        ServiceManager.from_environment({"NOTIFY_SOCKET": f"@{name}"}, pid=PID).ready("well")

        assert [b"READY=1\nSTATUS=well"] == [listening.recv(100)]


def test_a_reload(listening: socket.socket) -> None:
    """It begins with the time that tells it from an older one, and ends with readiness."""
    told = manager(listening)
    told.ready("a")
    told.reloading()
    told.reloaded("b")
    _, reloading, reloaded = heard(listening)

    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert reloading.rpartition("=")[2].isdecimal()
    assert "READY=1\nSTATUS=b" == reloaded


def test_no_news_before_ready_nor_after_stopping(listening: socket.socket) -> None:
    """A reload or a change outside of service does not make us ready."""
    told = manager(listening)
    told.reloading()
    told.reloaded("early")
    told.status("early")
    told.stopping(1.5)
    told.reloading()
    told.reloaded("late")
    told.status("late")

    (stopping,) = heard(listening)
    assert ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"] == stopping.split("\n")[:2]


async def test_the_watchdog_is_kept(listening: socket.socket, autojump_clock: MockClock) -> None:
    """Twice in each interval."""
    with trio.move_on_after(50):
        await manager(listening, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(PID)).keep_watchdog()

    assert ["WATCHDOG=1"] * 10 == heard(listening)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_nobody_watches(listening: socket.socket, variables: dict[str, str]) -> None:
    """Without an interval, or where another process is meant, there is nothing to keep."""
    told = manager(listening, **variables)
    await told.keep_watchdog()

    assert (math.inf, []) == (told.watchdog_s, heard(listening))


def test_a_manager_that_is_gone(tmp_path: Path) -> None:
    """Nobody there, or nobody named, is no fault."""
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        told = ServiceManager.from_environment(environment, pid=PID)
        told.ready("well")
        told.stopping(1)
