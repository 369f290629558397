"""Log lines for systemd's journal: with their severity, and what they tell as fields of their own.

The protocol is the journal's native one (systemd.io/JOURNAL_NATIVE_PROTOCOL): a field a line in one
datagram; what no datagram holds goes as a sealed file in memory. What a line says is up to `observe`.
"""

import fcntl
import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")
# As syslog(3) counts them.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG = 7
_IDENTIFIER = "ollama-proxy"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def leads_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether what is written there ends in the journal: JOURNAL_STREAM may be our parent's."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file, or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal, and where there is none, to another handler.

    A journal that does not keep up is not waited for, as every stream would wait with it: what it does
    not take is lost, and how much that was is said once it takes lines again.

    Attributes:
        lost: lines that were lost, and not yet said to be.
    """

    def __init__(self, otherwise: logging.Handler, where: Path = JOURNAL) -> None:
        """Begin.

        Args:
            otherwise: takes what the journal does not.
            where: the journal's socket.
        """
        super().__init__()
        self._otherwise = otherwise
        self._where = str(where)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            entry = _encode(self._fields(record))
        except (LookupError, TypeError, ValueError):  # the line's arguments do not fit its text
            self.handleError(record)
            return
        try:
            if self.lost:
                self._send(_encode(_loss(self.lost)))
                self.lost = 0
            self._send(entry)
        except BlockingIOError:
            self.lost += 1
        except OSError:
            self._otherwise.handle(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._where)
        except BlockingIOError:
            raise
        except OSError:  # too large, or nobody there: the second attempt tells which
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        with os.fdopen(
            os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb"
        ) as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            descriptor = struct.pack("i", file.fileno())
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
            self._socket.sendmsg([b""], rights, 0, self._where)

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), _DEBUG)
        facts: Mapping[str, object] = getattr(record, "facts", {})
        return {
            "MESSAGE": self.format(record),
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": _IDENTIFIER,
            "OLLAMA_PROXY_LOGGER": record.name,
        } | {f"OLLAMA_PROXY_{k.upper()}": str(v) for k, v in facts.items() if v is not None}


def _loss(lines: int) -> dict[str, str]:
    message = f"the journal did not keep up: {lines} lines of the log are lost"
    return {"MESSAGE": message, "PRIORITY": "4", "SYSLOG_IDENTIFIER": _IDENTIFIER}


def _encode(fields: Mapping[str, str]) -> bytes:
    """Fields with their values; one that spans lines is told by its length, in 64 bits."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)
