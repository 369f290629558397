"""The user's running session: its service manager and its message bus, if there are any."""

import subprocess
from pathlib import Path

from installing.places import UNIT

# What a kernel or a distribution denies namespaces by, and the value that does so.
_DENIALS = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
}
_SANDBOX = ("PrivateUsers=yes", "CapabilityBoundingSet=", "PrivateTmp=yes", "ProtectSystem=strict")
_BUS = "org.freedesktop.DBus"


def does(*command: str) -> bool:
    """Run a command quietly; whether it succeeded. One that is not there did not."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def is_running() -> bool:
    """Whether a service manager of this user answers."""
    return does("systemctl", "--user", "show", "--property=Version")


def denies_namespaces(sysctls: Path = Path("/proc/sys")) -> bool:
    """Whether users' services may not have the namespaces that the sandbox takes."""
    if is_running():
        flags = [f"--property={each}" for each in _SANDBOX]
        return not does("systemd-run", "--user", "--quiet", "--wait", "--collect", *flags, "true")
    for name, denial in _DENIALS.items():
        path = sysctls / name
        if path.exists() and path.read_text().strip() == denial:
            return True
    return False


def take_over() -> None:
    """Let the session know of new files; starts the service, and at each login."""
    _tell("daemon-reload")
    does("busctl", "--user", "call", _BUS, f"/{_BUS.replace('.', '/')}", _BUS, "ReloadConfig")
    _tell("enable", UNIT)
    _tell("restart", "--no-block", UNIT)


def let_go() -> None:
    """Stop the service, and start it no more."""
    _tell("disable", "--now", UNIT)


def forget() -> None:
    """Let the session know that files are gone."""
    _tell("daemon-reload")
    _tell("reset-failed", UNIT)


def _tell(*words: str) -> None:
    does("systemctl", "--user", *words)
