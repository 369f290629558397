"""A real avahi-daemon on a bus of our own, which speaks to nobody but this machine."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ollama_proxy.discovery.avahi import NAME
from tests.real.buses import PrivateBus, program, require_bus
from tests.real.parts import require

RUNNING = Path("/run/avahi-daemon/pid")
_CONFIG = """[server]
host-name=nest
allow-interfaces=lo
use-ipv6=no
disallow-other-stacks=no
[publish]
publish-workstation=no
publish-hinfo=no
"""


def require_avahi() -> None:
    """Skip without avahi-daemon, or where it may not run: it wants root, and to be the only one."""
    require_bus()
    require(shutil.which("avahi-daemon") is not None, "avahi-daemon is not installed")
    require(os.geteuid() == 0, "avahi-daemon runs for root alone")
    require(not _is_running(), "this machine's own avahi-daemon runs, and there is but one")


def _is_running() -> bool:
    try:
        number = int(RUNNING.read_text())
        os.kill(number, 0)
    except (OSError, ValueError):
        return False
    return True


@asynccontextmanager
async def avahi(private: PrivateBus) -> AsyncIterator[trio.Process]:
    """One that has its name on the bus; until the end of this."""
    config = private.directory / "avahi.conf"
    config.write_text(_CONFIG)
    arguments = ("--no-rlimits", "--no-drop-root", "--no-chroot", f"--file={config}")
    with trio.fail_after(20):
        while _is_running():  # noqa: ASYNC110 - the one before is about to end
            await trio.sleep(0.01)
    async with program("avahi-daemon", *arguments, variables=private.variables) as process:
        await private.owned(NAME)
        yield process
