"""A real browser without a screen, driven over a pipe that it does not outlive; it leaves nothing behind."""

import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import attrs
import psutil
import pytest

from tests.real.parts import require

CHROMIUM = "chromium"
SOON_S = 30.0
GOODBYE_MAX_S = 20.0
# What it would look for on the network by itself, the machines of CI do not have.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# It is told on descriptor 3, and tells on 4.
_PIPED = 'exec "$@" 3<&0 4>&1 </dev/null >&2'


def require_browser() -> None:
    """Skip without one."""
    require(shutil.which(CHROMIUM) is not None, "chromium is not installed")


@attrs.define(eq=False)
class Browser:
    """One that runs.

    Attributes:
        process: its first.
        log: what it wrote.
    """

    process: "subprocess.Popen[bytes]"
    log: Path
    _calls: int = 0
    _unread: bytearray = attrs.field(factory=bytearray)
    _events: list[dict[str, Any]] = attrs.field(factory=list)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol, and what came of it."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (told := self._read()).get("id") != self._calls:
            self._events.append(told)
        assert "error" not in told, f"{method}: {told['error']}"
        result: dict[str, Any] = told["result"]
        return result

    def event(self, method: str, session: str) -> dict[str, Any]:
        """The oldest of an event that nobody has asked for yet; waits for it."""
        known = next((each for each in self._events if _is(each, method, session)), None)
        if known is not None:
            self._events.remove(known)
        while known is None:
            told = self._read()
            if _is(told, method, session):
                known = told
            else:
                self._events.append(told)
        params: dict[str, Any] = known["params"]
        return params

    def told(self, session: str) -> list[dict[str, Any]]:
        """The events of a page that nobody has asked for yet, the oldest first."""
        return [each for each in self._events if each.get("sessionId") == session]

    def _read(self) -> dict[str, Any]:
        output = self.process.stdout
        assert output is not None
        while b"\0" not in self._unread:
            self._unread += self._some(output)
        line, _, rest = bytes(self._unread).partition(b"\0")
        self._unread[:] = rest
        told: dict[str, Any] = json.loads(line)
        return told

    def _some(self, output: IO[bytes]) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            data = os.read(output.fileno(), 1 << 16) if selector.select(SOON_S) else b""
        if not data:
            pytest.fail(f"the browser does not answer\n{self.log.read_text(errors='replace')}")
        return data

    @contextmanager
    def page(self, url: str) -> Iterator["Page"]:
        """A page that has been loaded, until this ends."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.call("Network.enable", session)
        told = self.call("Page.navigate", session, url=url)
        assert "errorText" not in told, told
        self.event("Page.loadEventFired", session)
        yield Page(self, session)
        self.call("Target.closeTarget", targetId=target)
        self._events = [each for each in self._events if each.get("sessionId") != session]


@attrs.frozen
class Page:
    """One that is shown."""

    browser: Browser
    session: str

    def run(self, body: str) -> Any:
        """What a body of an async function in the page returns, as JSON has it.

        Raises:
            AssertionError: it threw.
        """
        told = self.browser.call(
            "Runtime.evaluate",
            self.session,
            expression=f"(async () => {{ {body} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def event(self, method: str) -> dict[str, Any]:
        """What the browser tells of the page; waits for it."""
        return self.browser.event(method, self.session)


def _is(told: dict[str, Any], method: str, session: str) -> bool:
    return (told.get("method"), told.get("sessionId")) == (method, session)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser from its start to its end, with a new profile."""
    require_browser()
    with tempfile.TemporaryDirectory() as home:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={home}/profile"]
        log = Path(home) / "log"
        with (
            log.open("wb") as written,
            subprocess.Popen(
                ["sh", "-c", _PIPED, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                env={"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"},
                start_new_session=True,
            ) as process,
        ):
            try:
                yield Browser(process, log)
            finally:
                _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End it and what it started: first by asking."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for each in family for child in each.children(recursive=True)]
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=GOODBYE_MAX_S)
    if left:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        psutil.wait_procs(left, timeout=GOODBYE_MAX_S)
