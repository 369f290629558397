"""A real GNOME Shell without a screen, on a private bus, with our extension in its user's home."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from gnoming.roots import ENTER, SUITES, obstacle, root_of

from ollama_proxy.bus.connection import Bus
from ollama_proxy.bus.message import CallFailed, Remote
from tests.real.buses import PrivateBus, require_bus
from tests.real.fingers import PARKING, clicking, pressing
from tests.real.parts import require
from tests.real.processes import ROOT

UUID = "ollamaproxy@anthropic.com"
START_S = 60.0  # half a dozen with nothing else to do
SOON_S = 20.0
PICTURE_MIN_BYTES = 5000  # one that could not be encoded is empty
SHELL = Remote("org.gnome.Shell", "/org/gnome/Shell", "org.gnome.Shell")
EXTENSIONS = attrs.evolve(SHELL, interface="org.gnome.Shell.Extensions")
SCREENSHOT = Remote(
    "org.gnome.Shell.Screenshot", "/org/gnome/Shell/Screenshot", "org.gnome.Shell.Screenshot"
)
ACTIVE, ERROR, OUT_OF_DATE = 1, 3, 4

_SETTINGS = f"""[org/gnome/shell]
enabled-extensions=['{UUID}']
disable-user-extensions=false
welcome-dialog-last-shown-version='999'
[org/gnome/desktop/interface]
enable-animations=false
enable-hot-corners=false
[org/gnome/desktop/background]
picture-options='none'
[org/gnome/desktop/notifications]
show-banners=false
[org/gnome/desktop/session]
idle-delay=uint32 0
"""
_INSIDE = {
    "HOME": "/run/t/home",
    "XDG_RUNTIME_DIR": "/run/t/run",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/t/bus",
    "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/t/bus",
    "GSETTINGS_BACKEND": "keyfile",
    "LIBGL_ALWAYS_SOFTWARE": "1",
    "XDG_CURRENT_DESKTOP": "GNOME",
    "XDG_SESSION_TYPE": "wayland",
    "LANG": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "NO_AT_BRIDGE": "1",
}
# What an extension does wrong, in the shell's log; the rest of it is about services not there.
_FAULTS = ("JS ERROR", "JS WARNING", "already disposed", UUID, "AI Efficiency", "Gjs-CRITICAL")

# Names for what tests look at.
_PRELUDE = """
const ours = Main.extensionManager.lookup('ollamaproxy@anthropic.com')?.stateObj;
const tile = ours?._indicator?.quickSettingsItems[0];
const quick = Main.panel.statusArea.quickSettings.menu;
"""


def suites() -> list[str]:
    """Which shells are wanted: $GNOME_SUITES; the oldest alone if it is not said."""
    return os.environ.get("GNOME_SUITES", "trixie").split()


def require_shell(suite: str) -> None:
    """Skip without a shell, or the means to run it."""
    require_bus()
    require(not (why := obstacle()), why)
    require(shutil.which("glib-compile-schemas") is not None, "glib-compile-schemas is missing")
    require(root_of(suite).exists(), f"no GNOME Shell {SUITES[suite]}: tools/real-gnome makes it")
    # Once is enough to wait for it in vain.
    assert suite not in _FAILED_TO_START, "the shell, or the extension in it, does not start"


_FAILED_TO_START: set[str] = set()


@attrs.frozen
class Desktop:
    """A shell that runs, and what a test does to it.

    Attributes:
        suite: whose shell it is.
        bus: the test's own connection to the bus.
        private: the bus.
        directory: what is /run/t for the shell.
    """

    suite: str
    bus: Bus
    private: PrivateBus
    directory: Path

    async def js(self, expression: str) -> Any:
        """The value of an expression in the shell's own process.

        Raises:
            CallFailed: there is no shell.
            AssertionError: it threw.
        """
        code = f"(() => {{ {_PRELUDE} return ({expression}); }})()"
        well, told = await self.bus.call(
            SHELL, "Eval", "s", (code,), returns="bs", timeout_s=SOON_S
        )
        assert well, f"{expression}: {told}"
        return json.loads(told) if told else None

    async def until(self, expression: str, expected: object = True) -> None:  # noqa: FBT002 - one of many values
        """Wait until an expression has a value."""
        seen: Any = None
        with trio.move_on_after(SOON_S):
            while (seen := await self.js(expression)) != expected:  # noqa: ASYNC110 - it tells when asked
                await trio.sleep(0.05)
            return
        pytest.fail(f"{expression} is {seen!r}, not {expected!r}\n{self.log()}")

    async def click(self, actor: str) -> None:
        """Click on an actor with the pointer."""
        await self.js(clicking(actor))

    async def press(self, *keys: str) -> None:
        """Press keys together, by `fingers.KEYS`."""
        await self.js(pressing(*keys))

    async def open_panel(self) -> None:
        """Open Quick Settings."""
        await self.js("quick.open(0)")
        await self.until("tile.mapped && tile.get_transformed_extents().size.width > 50")

    async def open_menu(self) -> None:
        """Open the tile's menu within it."""
        await self.open_panel()
        await self.js("tile.menu.open(0)")
        await self.until("tile.menu.box.opacity === 255 && tile.menu.box.mapped")

    async def texts(self) -> list[str]:
        """What the tile's menu says besides the modes, line by line."""
        lines: list[str] = await self.js("""[tile._trouble, tile._measures, tile._work,
            ...tile._backendLines].filter(line => line.visible).map(line => [line._name.text,
            line._text.text].filter(text => text).join(' | '))""")
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]

    async def notifications(self) -> list[str]:
        """The titles of all that are kept."""
        titles: list[str] = await self.js(
            "Main.messageTray.getSources().flatMap(each => each.notifications).map(each => each.title)"
        )
        return titles

    async def errors(self) -> list[str]:
        """What the shell noted against the extension."""
        (noted,) = await self.bus.call(EXTENSIONS, "GetExtensionErrors", "s", (UUID,), returns="as")
        return list(noted)

    async def shoot(self, name: str) -> None:
        """Take a picture, to be looked at by people: build/gnome/SUITE-NAME.png."""
        await trio.sleep(0.3)  # until the next frame; pictures prove nothing
        path = f"/run/t/{name}.png"
        well, _ = await self.bus.call(
            SCREENSHOT, "Screenshot", "bbs", (False, False, path), returns="bs", timeout_s=SOON_S
        )
        taken = self.directory / f"{name}.png"
        assert well
        assert taken.stat().st_size > PICTURE_MIN_BYTES
        pictures = ROOT / "build/gnome"
        pictures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(taken, pictures / f"{self.suite}-{name}.png")

    async def switch(self, *, on: bool) -> None:
        """Enable or disable the extension, as its user does."""
        member = "EnableExtension" if on else "DisableExtension"
        (well,) = await self.bus.call(EXTENSIONS, member, "s", (UUID,), returns="b")
        assert well
        await self.until("!!tile", on)

    async def is_active(self) -> bool:
        """Whether the extension runs.

        Raises:
            AssertionError: it does not, and never will.
        """
        (info,) = await self.bus.call(
            EXTENSIONS, "GetExtensionInfo", "s", (UUID,), returns="a{sv}", timeout_s=SOON_S
        )
        # While it is loaded it is in error, too, but without one.
        state, error = int(info.get("state", ("d", 0))[1]), info.get("error", ("s", ""))[1]
        assert not (state == ERROR and error), f"{error}\n{self.log()}"
        assert state != OUT_OF_DATE, "its metadata do not name this release"
        return state == ACTIVE

    def log(self, of: str = "shell") -> str:
        """What a program wrote."""
        return (self.directory / f"{of}.log").read_text(errors="replace")

    def faults(self) -> list[str]:
        """What in that is the extension's fault."""
        return [line for line in self.log().splitlines() if any(each in line for each in _FAULTS)]

    @asynccontextmanager
    async def preferences(self) -> AsyncIterator[None]:
        """The preferences' window, opened by the program that the shell has for it."""
        variables = _INSIDE | {"WAYLAND_DISPLAY": "wayland-0", "GSK_RENDERER": "cairo"}
        command = ("gjs", "-m", "/usr/share/gnome-shell/org.gnome.Shell.Extensions")
        async with _inside(self.suite, self.directory, "client.log", variables, *command):
            await self.private.owned("org.gnome.Shell.Extensions")
            await self.bus.call(
                Remote(
                    "org.gnome.Shell.Extensions",
                    "/org/gnome/Shell/Extensions",
                    EXTENSIONS.interface,
                ),
                "OpenExtensionPrefs",
                "ssa{sv}",
                (UUID, "", {}),
                timeout_s=SOON_S,
            )
            yield


@asynccontextmanager
async def desktop(
    suite: str, private: PrivateBus, settings: str = "", locale: str = "C.UTF-8"
) -> AsyncIterator[Desktop]:
    """A shell with our extension in it, from its start to its end.

    Args:
        suite: whose shell.
        private: a bus that runs.
        settings: of the extension, as lines of a key file.
        locale: its user's.
    """
    directory = private.directory
    home = directory / "home"
    keyfile = home / ".config/glib-2.0/settings/keyfile"
    keyfile.parent.mkdir(parents=True)
    keyfile.write_text(f"{_SETTINGS}[org/gnome/shell/extensions/ollamaproxy]\n{settings}\n")
    (directory / "run").mkdir(mode=0o700)
    extensions = home / ".local/share/gnome-shell/extensions"
    await trio.run_process(
        [sys.executable, str(ROOT / "tools/pack-extension"), "--into", str(extensions)],
        capture_stdout=True,
    )
    # The last lets us look into it.
    command = (
        "gnome-shell",
        "--headless",
        "--virtual-monitor",
        "1280x800",
        "--no-x11",
        "--unsafe-mode",
    )
    variables = _INSIDE | {"LANG": locale}
    async with (
        _inside(suite, directory, "shell.log", variables, *command),
        private.client() as bus,
    ):
        shown = Desktop(suite, bus, private, directory)
        with trio.move_on_after(START_S) as patience:
            await _until(partial(shown.js, "!Main.layoutManager._startingUp"))
            await _until(shown.is_active)
            assert await shown.js(PARKING)
            await shown.js("Main.overview.hide()")
        if patience.cancelled_caught:
            _FAILED_TO_START.add(suite)
            pytest.fail(f"the shell, or the extension in it, did not start\n{shown.log()}")
        await shown.until("!Main.overview.visible")
        yield shown


async def _until(is_so: Callable[[], Awaitable[Any]]) -> None:
    while True:
        try:
            if await is_so():
                return
        except CallFailed:
            pass  # nobody is there yet
        await trio.sleep(0.05)


@asynccontextmanager
async def _inside(
    suite: str, directory: Path, log: str, variables: dict[str, str], *command: str
) -> AsyncIterator[None]:
    """A program in a suite's root, as long as this lasts."""
    words = [str(ENTER), str(root_of(suite)), str(directory)]
    words += [f"{name}={value}" for name, value in variables.items()]
    async with trio.open_nursery() as nursery:
        with (directory / log).open("wb") as written:
            await nursery.start(
                partial(
                    trio.run_process,
                    [*words, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=written,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            )
        yield
        nursery.cancel_scope.cancel()
