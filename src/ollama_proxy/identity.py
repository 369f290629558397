"""What this router is called among others: the same over restarts, and no word of whose machine it is."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_DIGITS = 16


def derive_node_id(port: int, machine_ids: Iterable[Path] = MACHINE_IDS) -> str:
    """A name for the router at a port of this machine: hexadecimal digits.

    The machine's id is the key of a hash and never told (machine-id(5) asks for that). Where there
    is none, or the port is any that is free, the name is made up anew at each start.

    Args:
        port: of its HTTP door; 0 for any.
        machine_ids: files that may have the machine's id.
    """
    machine = _first(machine_ids) if port else b""
    if not machine:
        return secrets.token_hex(_DIGITS // 2)
    name = b"ollama-proxy node %d" % port
    return hmac.new(machine, name, hashlib.sha256).hexdigest()[:_DIGITS]


def _first(files: Iterable[Path]) -> bytes:
    for file in files:
        try:
            with file.open("rb") as opened:
                found = opened.read(256).strip()
        except OSError:
            continue
        if found and found != b"uninitialized":
            return found
    return b""
