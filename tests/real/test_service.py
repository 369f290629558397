"""The service as systemd runs it: started, asked, reloaded, hung, activated, and gone again."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from installing.places import UNIT

from tests.real.parts import require
from tests.real.processes import ROOT
from tests.real.sessions import UserSession, user_session, wait_until

CONFIG = ".config/ollama-proxy/config.toml"


@pytest.fixture(scope="module")
def session() -> Iterator[UserSession]:
    """A session in which the router was installed, by its user, in the way that the README tells."""
    with user_session() as session:
        found = session.run(ROOT / "tools/find-python")
        require(found.returncode == 0, "this clone, or a Python, is not for every user to read")
        pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_") and k != "PIP_CACHE_DIR"}
        done = session.run(ROOT / "tools/install", "--extras=", **pip)
        assert 0 == done.returncode, done.stderr
        assert "started, now and at each login" in done.stdout, done.stdout
        yield session


def is_active(session: UserSession) -> bool:
    return session.show(UNIT, "ActiveState") == "active"


def tell(session: UserSession, *words: str) -> None:
    done = session.run("systemctl", "--user", *words)
    assert 0 == done.returncode, done.stderr


def test_it_runs(session: UserSession) -> None:
    """Ready at the first attempt, within its whole sandbox, with a line about how it is."""
    wait_until(lambda: is_active(session))
    main = session.show(UNIT, "MainPID")

    assert ("0", "") == (session.show(UNIT, "NRestarts"), session.show(UNIT, "DropInPaths"))
    assert "0 of 1 backends healthy, mode " in session.show(UNIT, "StatusText")
    status = Path(f"/proc/{main}/status").read_text()
    assert ["1", "2", "0" * 16] == [
        line.split()[1]
        for name in ("NoNewPrivs:", "Seccomp:", "CapBnd:")
        for line in status.splitlines()
        if line.startswith(name)
    ]
    manager = f"/proc/{session.process.pid}/ns"
    assert all(
        Path(f"/proc/{main}/ns/{kind}").readlink() != Path(f"{manager}/{kind}").readlink()
        for kind in ("mnt", "user")
    )


def test_its_lines_are_in_the_journal(session: UserSession) -> None:
    """By the journal's own protocol, with fields: one for each fact of a request that is known."""
    wait_until(lambda: is_active(session))
    url = session.run(session.home / ".local/bin/ollama-proxy", "status", "--json")
    assert "degraded" in url.stdout or "down" in url.stdout, url.stderr
    entries = session.journal("_TRANSPORT=journal", "SYSLOG_IDENTIFIER=ollama-proxy")
    logged = [json.loads(line) for line in entries.splitlines()]

    assert logged
    assert {"ollama_proxy"} <= {entry["OLLAMA_PROXY_LOGGER"].partition(".")[0] for entry in logged}
    assert {entry["PRIORITY"] for entry in logged} <= {"3", "4", "6"}


def test_it_reloads(session: UserSession) -> None:
    """`systemctl reload` has the file read again, and the state of the unit follows."""
    wait_until(lambda: is_active(session))
    config = session.home / CONFIG
    config.write_text(config.read_text() + '\n[efficiency]\nmode = "quiet"\n')
    tell(session, "reload", UNIT)
    wait_until(lambda: session.show(UNIT, "StatusText").endswith("mode quiet"))

    assert is_active(session)


def test_a_loop_that_hangs_is_started_anew(session: UserSession) -> None:
    """The watchdog ends a process that is silent, and another one takes its place."""
    drop_in = session.home / f".config/systemd/user/{UNIT}.d/test.conf"
    session.run("mkdir", "-p", drop_in.parent)
    drop_in.write_text("[Service]\nWatchdogSec=2\nRestartSec=0\n")
    tell(session, "daemon-reload")
    tell(session, "restart", UNIT)
    os.kill(int(session.show(UNIT, "MainPID")), signal.SIGSTOP)
    wait_until(lambda: session.show(UNIT, "NRestarts") == "1" and is_active(session))
    drop_in.unlink()

    # The manager's word reaches the journal when it does.
    wait_until(lambda: "watchdog" in session.journal(f"USER_UNIT={UNIT}").lower())


def test_a_call_on_the_bus_starts_it(session: UserSession) -> None:
    """Whoever calls one of its names, as the tile does, finds it running."""
    tell(session, "stop", UNIT)
    name = "ie.fio.OllamaProxy.Efficiency"
    peer = ("/", "org.freedesktop.DBus.Peer", "Ping")
    session.run("busctl", "--user", "--timeout=3", "call", name, *peer)
    wait_until(lambda: is_active(session))


def test_it_is_gone_when_uninstalled(session: UserSession) -> None:
    """Stopped, disabled, and nothing left but what others may have put there."""
    done = session.run(ROOT / "tools/uninstall", "--purge")
    left = [
        path
        for path in session.home.rglob("*")
        if path.is_file() and ".cache" not in path.parts and ".d" != path.parent.suffix
    ]

    assert (0, []) == (done.returncode, left), done.stderr
    assert "inactive" == session.show(UNIT, "ActiveState")
    assert "not-found" == session.show(UNIT, "LoadState")
