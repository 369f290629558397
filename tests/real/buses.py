"""Private message buses, and services on them as programs of their own.

The machine's own buses are never used: every program gets the private one's address as both. What
is started is ended by whoever started it, also when a test fails.
"""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import DAEMON, Pace, Remote
from ollama_proxy.bus.opening import open_bus
from tests.real.parts import require

PYTHON = "/usr/bin/python3"  # the one that the distribution's packages belong to
SOON_S = 20.0
# Nobody is waited for long, and whoever is absent is looked for at once.
HASTE = Pace(timeout_s=0.5, first_pause_s=0.05, longest_pause_s=0.2, reread_s=30.0)
MOCK = "org.freedesktop.DBus.Mock"

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<servicedir>{services}</servicedir>{limits}
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>{policy}
</policy></busconfig>
"""


def require_bus() -> None:
    """Skip without a message bus."""
    require(shutil.which("dbus-daemon") is not None, "dbus-daemon is not installed")


def require_mocks() -> None:
    """Skip without python-dbusmock, or a bus for it."""
    require_bus()
    require(_has_module("import dbusmock"), "python3-dbusmock is not installed")


def require_devices() -> None:
    """Skip without the real upowerd and devices for it."""
    require_bus()
    require(Path("/usr/libexec/upowerd").exists(), "upower is not installed")
    require(shutil.which("umockdev-wrapper") is not None, "umockdev is not installed")
    importing = "import gi; gi.require_version('UMockdev', '1.0')"
    require(_has_module(importing), "gir1.2-umockdev-1.0 is not installed")


def _has_module(importing: str) -> bool:
    command = [PYTHON, "-c", importing]
    return (
        Path(PYTHON).exists()
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@asynccontextmanager
async def program(
    *command: str,
    variables: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> AsyncIterator[trio.Process]:
    """A program that runs as long as this lasts; ended by SIGTERM, and if need be by SIGKILL."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(variables or {})}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                # Where a router runs in this process, SIGTERM is ignored by whoever it starts, too.
                ("env", "--default-signal=TERM", *command),
                env=environment,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        )
        yield process
        nursery.cancel_scope.cancel()


@attrs.frozen
class PrivateBus:
    """A bus of our own, and the directory that it lives in."""

    directory: Path

    @property
    def address(self) -> str:
        """Where it is, also before it is there."""
        return f"unix:path={self.directory}/bus"

    @property
    def variables(self) -> dict[str, str]:
        """What makes a program take it for its only bus."""
        names = ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS")
        return dict.fromkeys(names, self.address)

    @asynccontextmanager
    async def running(self, policy: str = "", limits: str = "") -> AsyncIterator[trio.Process]:
        """The bus, ready; on leaving it dies, and everybody on it is cut off."""
        socket, config = self.directory / "bus", self.directory / "bus.conf"
        socket.unlink(missing_ok=True)
        services = self.directory / "services"
        config.write_text(
            _CONFIG.format(socket=socket, services=services, limits=limits, policy=policy)
        )
        arguments = ["--nofork", "--nopidfile", f"--config-file={config}", "--print-address=1"]
        async with program("dbus-daemon", *arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with trio.fail_after(SOON_S):
                assert await process.stdout.receive_some(), "it ended before it was ready"
            yield process

    def activates(self, name: str, command: str) -> None:
        """Have the bus start a program for who calls a name; to be said before it runs."""
        services = self.directory / "services"
        services.mkdir(exist_ok=True)
        (services / f"{name}.service").write_text(f"[D-BUS Service]\nName={name}\nExec={command}\n")

    @asynccontextmanager
    async def mocked(
        self, name: str, *arguments: str, parameters: Mapping[str, object] | None = None
    ) -> AsyncIterator[trio.Process]:
        """A program of python-dbusmock, ready under its name; until the end of this."""
        extra = ["-p", json.dumps(parameters)] if parameters else []
        command = [PYTHON, "-m", "dbusmock", "--system", *arguments, *extra]
        async with program(*command, variables=self.variables) as process:
            await self.owned(name)
            yield process

    async def owned(self, name: str) -> None:
        """Wait until somebody has the name and answers."""
        there = trio.Event()
        async with open_bus(self.address) as bus:
            with trio.fail_after(SOON_S):
                async with bus.following(name, lambda _: there.set()) as owner:
                    if owner.unique is None:
                        await there.wait()
                peer = Remote(name, "/", "org.freedesktop.DBus.Peer")
                await bus.call(peer, "Ping", timeout_s=SOON_S)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Bus]:
        """A connection for the test itself."""
        async with open_bus(self.address) as bus:
            yield bus

    @asynccontextmanager
    async def serving(self, name: str) -> AsyncIterator[Bus]:
        """A connection that owns a name, for a service that is part of the test."""
        async with open_bus(self.address) as bus:
            await bus.call(DAEMON, "RequestName", "su", (name, 4), returns="u")
            yield bus


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, which no event tells."""
    with trio.fail_after(SOON_S):
        while not is_so():  # noqa: ASYNC110 - there is no event
            await trio.sleep(0.005)


async def tell(
    bus: Bus, remote: Remote, member: str, signature: str, *body: object
) -> tuple[Any, ...]:
    """Tell a mock what to do."""
    control = Remote(remote.name, remote.path, MOCK)
    return await bus.call(control, member, signature, body, timeout_s=SOON_S)
