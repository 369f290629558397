"""How the kernel's files are read: a number or why there is none, and never an exception for it.

Paths are the kernel's own (`/sys/...`, `/proc/...`), whatever directory stands for them: tests and
users with recorded machines set `sensors.sysfs_root` and `procfs_root`.
"""

import errno
import os
import re
from typing import Protocol

import attrs

from ollama_proxy.policy.readings import Quality

MOST_BYTES = 1 << 16  # gpu_metrics has a few hundred; no attribute is longer than a page


class Files(Protocol):
    """What sensors read. Every method raises OSError as the kernel would."""

    def read(self, path: str) -> bytes:
        """A file's content."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def real(self, path: str) -> str:
        """The path without symbolic links, also where it leads nowhere."""


@attrs.frozen
class KernelFiles:
    """The files of this machine, or of a recorded one."""

    sysfs_root: str = "/sys"
    procfs_root: str = "/proc"

    def read(self, path: str) -> bytes:
        """See `Files`."""
        # One open, one read, one close: sysfs answers a read in one piece, and this is the hot path.
        descriptor = os.open(self._mapped(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, MOST_BYTES)
        finally:
            os.close(descriptor)

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        return sorted(os.listdir(self._mapped(path)))  # noqa: PTH208 - names, not paths

    def real(self, path: str) -> str:
        """See `Files`."""
        found = os.path.realpath(self._mapped(path))
        for root, name in ((self.sysfs_root, "/sys"), (self.procfs_root, "/proc")):
            true_root = os.path.realpath(root)
            if found == true_root or found.startswith(true_root + "/"):
                return name + found[len(true_root) :]
        return found

    def _mapped(self, path: str) -> str:
        if path.startswith("/sys/"):
            return self.sysfs_root + path[4:]
        if path.startswith("/proc/"):
            return self.procfs_root + path[5:]
        # A link may lead anywhere; what is not the kernel's is not there.
        raise FileNotFoundError(errno.ENOENT, "not one of the kernel's files", path)


@attrs.frozen
class Reading:
    """A number, or why there is none."""

    value: float | None
    quality: Quality = Quality.OK


_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ELOOP}
_ASLEEP = {errno.EBUSY, errno.ENXIO, errno.ENODATA, errno.EAGAIN}
_DENIED = {errno.EACCES, errno.EPERM}
_NUMBER = re.compile(rb"[+-]?\d{1,24}(\.\d{1,9})?")


def why_lost(error: OSError) -> Quality:
    """What a failed read says of the thing that was read."""
    if error.errno in _ABSENT:
        return Quality.ABSENT
    if error.errno in _ASLEEP:
        return Quality.ASLEEP
    if error.errno in _DENIED:
        return Quality.DENIED
    return Quality.ERROR


def read_number(
    files: Files,
    path: str,
    *,
    scale: float = 1.0,
    lowest: float = float("-inf"),
    highest: float = float("inf"),
) -> Reading:
    """Read one number, times `scale`; beyond `lowest` and `highest` it is implausible."""
    try:
        raw = files.read(path)
    except OSError as error:
        return Reading(None, why_lost(error))
    text = raw.strip()
    if not _NUMBER.fullmatch(text):
        return Reading(None, Quality.ERROR)
    value = float(text) * scale
    if not lowest <= value <= highest:
        return Reading(None, Quality.IMPLAUSIBLE)
    return Reading(value)


def read_text(files: Files, path: str) -> str | None:
    """Read one line of text; None where it cannot be read. Bytes that are no text are marked."""
    try:
        raw = files.read(path)
    except OSError:
        return None
    return raw.decode(errors="replace").strip("\n\0 \t")


def list_or_nothing(files: Files, path: str) -> list[str]:
    """The names in a directory; none where there is no such directory."""
    try:
        return files.list(path)
    except OSError:
        return []
