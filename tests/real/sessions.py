"""A user's session as systemd makes it: a real manager, journal and bus, on a /run of their own.

A mount and a cgroup namespace keep all of it from the machine, which may run no systemd at all. What
`user@.service` and PID 1 would have prepared is prepared here. Needs root, to be another user.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.real.parts import require

NOBODY = 65534
RUNTIME = f"/run/user/{NOBODY}"
MANAGER = "/usr/lib/systemd/systemd"
JOURNALD = "/usr/lib/systemd/systemd-journald"
LIMIT_S = 60.0
SETUP = f"""
set -eu
group=/sys/fs/cgroup/$(basename "$1")
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system /run/systemd/unit-root /run/systemd/journald.conf.d
mkdir -p {RUNTIME}/systemd/inaccessible
(cd {RUNTIME}/systemd/inaccessible && touch reg && mkdir dir && mkfifo fifo sock && chmod 000 *)
chown -R {NOBODY} {RUNTIME} && chmod 700 {RUNTIME}
printf '[Journal]\\nReadKMsg=no\\nStorage=volatile\\n' > /run/systemd/journald.conf.d/test.conf
while umount -l /sys/fs/cgroup 2> /dev/null; do :; done
mount -t cgroup2 none /sys/fs/cgroup
mkdir "$group" && echo $$ > "$group/cgroup.procs" && chown -R {NOBODY} "$group"
{JOURNALD} & echo $! > "$1/journald.pid"
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups \
    env -i HOME="$1/home" XDG_DATA_HOME="$1/home/.local/share" PATH=/usr/local/bin:/usr/bin:/bin \
    XDG_RUNTIME_DIR={RUNTIME} {MANAGER} --user --log-target=journal
"""


@attrs.frozen
class UserSession:
    """A session that runs.

    Attributes:
        home: its user's home directory.
        process: its service manager.
        journald: the process of its journal.
    """

    home: Path
    process: "subprocess.Popen[bytes]"
    journald: int

    def run(self, *command: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as the user, in the session."""
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        environment = {
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "XDG_RUNTIME_DIR": RUNTIME,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        return subprocess.run(
            [*self._enter(), *user, *command],
            env=environment | variables,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S * 4,
        )

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "--user", "show", "--value", f"-p{name}", unit).stdout.strip()

    def journal(self, *matches: str) -> str:
        """What the journal has, one JSON object a line."""
        read = ["journalctl", "--directory=/run/log/journal", "--output=json", *matches]
        entered = [*self._enter(), *read]
        return subprocess.run(entered, capture_output=True, text=True, check=False).stdout

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self.journald}", "--mount", "--cgroup"]


@contextmanager
def user_session() -> Iterator[UserSession]:
    """A session from its begin to its end, which leaves neither processes nor files."""
    require(os.geteuid() == 0, "only root can make a session for another user")
    for part in (MANAGER, JOURNALD, "unshare", "nsenter", "setpriv"):
        require(shutil.which(part) is not None, f"{part} is not there")
    # Not where temporary files are: services with PrivateTmp= do not see those.
    with tempfile.TemporaryDirectory(prefix="session-", dir="/var/lib") as directory:
        place = Path(directory)
        place.chmod(0o755)
        (place / "home").mkdir()
        shutil.chown(place / "home", NOBODY, NOBODY)
        isolated = ["unshare", "--mount", "--propagation=private", "--cgroup"]
        with (place / "log").open("w+b") as log:
            process = subprocess.Popen(
                [*isolated, "sh", "-c", SETUP, "sh", place], stdout=log, stderr=log
            )
            journald = 0
            try:
                written = place / "journald.pid"
                wait_until(lambda: process.poll() is not None or written.exists())
                log.seek(0)
                require(process.poll() is None, f"no session: {log.read().decode()}")
                wait_until(lambda: written.read_text().endswith("\n"))
                journald = int(written.read_text())
                session = UserSession(place / "home", process, journald)
                asked = ("systemctl", "--user", "is-system-running", "--wait")
                wait_until(lambda: session.run(*asked).returncode == 0)
                yield session
            finally:
                process.terminate()
                process.wait(LIMIT_S)
                if journald:
                    leave = f"find /sys/fs/cgroup/{place.name} -depth -type d -exec rmdir {{}} +"
                    enter = ["nsenter", f"--target={journald}", "--mount", "sh", "-c"]
                    # It is in that group itself, and the last one there.
                    move = f"echo {journald} > /sys/fs/cgroup/cgroup.procs"
                    subprocess.run([*enter, f"{move}; {leave}"], check=False, timeout=LIMIT_S)
                    os.kill(journald, 15)


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until something that only tells when asked is so."""
    end = time.clock_gettime(time.CLOCK_MONOTONIC) + LIMIT_S
    while not is_so():
        assert time.clock_gettime(time.CLOCK_MONOTONIC) < end, "it did not come to pass"
        os.sched_yield()
