"""Files that are their owner's alone, written whole or not at all, by one at a time."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TOO_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO
_MAX_BYTES: Final = 1 << 20


class StateFault(Exception):  # noqa: N818 - the owner's to mend
    """What is kept cannot be read or written; the message says what and why."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only one that writes there. The directory is made if need be. Raises StateFault."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateFault(f"{directory} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_private(path: Path, content: bytes) -> None:
    """Put a file in place, whole, for its owner alone. Raises StateFault."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(number, "wb") as file:  # noqa: PTH123 - a descriptor, whose mode was never another
                file.write(content)
                file.flush()
                os.fsync(number)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateFault(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path) -> bytes | None:
    """A file that is its owner's alone; None where there is none. Raises StateFault."""
    try:
        # Not blocking: a pipe in its place would hold up the start.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(number).st_mode
            # Of a directory it would fail, and leave the descriptor open.
            with open(number, "rb", closefd=False) as file:
                content = file.read(_MAX_BYTES) if stat.S_ISREG(mode) else b""
        finally:
            os.close(number)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateFault(f"{path} cannot be read: {error.strerror}") from error
    if mode & _TOO_OPEN:
        raise StateFault(
            f"{path} can be read or written by others (mode {stat.S_IMODE(mode):o}); if nobody has, make"
            f" it yours alone: chmod 600 {path}"
        )
    return content
