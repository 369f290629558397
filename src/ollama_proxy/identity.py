"""Who this router is among others: an id that stays, and tells nothing of the machine.

systemd's rule for /etc/machine-id: it is shown to nobody; what is derived from it for one purpose may be.
"""

import hmac
import logging
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_KEPT = "machine-id"
_PURPOSE = "ollama-proxy node, at port "
_LENGTH = 32

log = logging.getLogger("ollama_proxy")


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Where what must outlive the process is kept; None where there is no such place.

    Args:
        environ: STATE_DIRECTORY is systemd's; XDG_STATE_HOME and HOME are a user's.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given.startswith("/"):
        return Path(given)
    home = environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):  # the XDG specification: ignore what is relative
        home = f"{environ['HOME']}/.local/state" if environ.get("HOME") else ""
    return Path(home, "ollama-proxy") if home else None


def node_id(port: int, state: Path | None, *, machine_ids: Sequence[Path] = MACHINE_IDS) -> str:
    """The id of the router of this machine at a port: 32 hexadecimal digits.

    Args:
        port: of HTTP; there may be a router at each. 0: any that is free, and another id each time.
        state: where a machine without an id (a container) keeps one; None: it has another each time.
        machine_ids: files that may hold the machine's.
    """
    if not port:
        return secrets.token_hex(_LENGTH // 2)
    machine = next(filter(None, map(_read, machine_ids)), None) or _kept(state)
    return hmac.digest(machine.encode(), f"{_PURPOSE}{port}".encode(), "sha256").hex()[:_LENGTH]


def machine_since_start(port: int, *, boot_id: Path = BOOT_ID) -> str:
    """What tells this machine, from its last start on, from another that has the same id: its copy.

    Empty where nothing does. A container is a machine: it has the kernel's id of others, and its own name.

    Args:
        port: of HTTP.
        boot_id: the kernel's word for this start.
    """
    try:
        with boot_id.open(encoding="ascii") as file:
            start = file.read(_LENGTH + 6).strip()
    except (OSError, ValueError):
        return ""
    if not re.fullmatch(r"[0-9a-f-]{36}", start):
        return ""
    told = f"{_PURPOSE}{port}, on {socket.gethostname()}"
    return hmac.digest(start.encode(), told.encode(), "sha256").hex()[:_LENGTH]


def _read(path: Path) -> str:
    """The id in a file; empty where there is none, as before a machine's first start."""
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(_LENGTH + 2).strip()
    except (OSError, ValueError):
        return ""
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else ""


def _kept(state: Path | None) -> str:
    made = secrets.token_hex(_LENGTH // 2)
    if state is None:
        log.warning("this machine has no id, and no directory to keep one in: see fleet.node_id")
        return made
    path = state / _KEPT
    if known := _read(path):
        return known
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Two that start at once have one id: the first's.
        draft = state / f"{_KEPT}.{made}"
        draft.write_text(made + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            if not _read(path):  # a crash left it empty
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        log.warning(
            "this machine has no id, and none can be kept in %s (%s): this router has another each"
            " time it starts; set fleet.node_id",
            state,
            error.strerror,
        )
        return made
    return _read(path) or made
