"""A file that grows to a size, then is renamed and begun anew; so many of them are kept.

`PATH` is the newest, `PATH.1` the one before. Everything here may block: it is called in a thread.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import attrs

# Of a FIFO that nobody reads: an error at once, not a thread that waits for ever.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
_MODE = 0o600  # which models somebody uses, and when, is nobody else's business


@attrs.define(eq=False)
class RotatingFile:
    """Lines in files.

    Attributes:
        path: the newest.
        max_bytes: of each; a line that would not fit any more begins the next one.
        files: how many there are at most, the newest included.
    """

    path: Path
    max_bytes: int
    files: int
    _descriptor: int = -1
    _size: int = 0
    _is_torn: bool = False  # its last line may lack its end

    def write(self, lines: list[bytes]) -> None:
        """Append lines, and take out of the list what got in. Each ends with a line break.

        The list may grow meanwhile, at its end.

        Raises:
            OSError: what is left in the list did not: the disk is full, the directory is not there ...
        """
        while lines:
            try:
                self._open()
                count, size = self._fitting(lines)
                self._append(b"".join(lines[:count]), size)
            except OSError:
                self.close()  # whoever made room may have taken the file away
                raise
            del lines[:count]

    def _fitting(self, lines: Sequence[bytes]) -> tuple[int, int]:
        """How many of some lines fit, and their size; at the least one, in a new file if need be."""
        if self._size and self._size + len(lines[0]) > self.max_bytes:
            self._rotate()
        count, size = 0, 0
        for line in lines:
            if count and self._size + size + len(line) > self.max_bytes:
                break
            count, size = count + 1, size + len(line)
        return count, size

    def _append(self, data: bytes, size: int) -> None:
        if self._is_torn:
            data = b"\n" + data
        left = memoryview(data)
        while left:
            # A write that was cut short by a full disk fails when the rest of it is tried.
            done = os.write(self._descriptor, left)
            left = left[done:]
            self._is_torn = bool(left)
        self._size += size

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        self._descriptor = os.open(self.path, _FLAGS, _MODE)
        self._size = os.fstat(self._descriptor).st_size
        # Who wrote it last may have been cut off; an empty line is no harm.
        self._is_torn = self._size > 0

    def _rotate(self) -> None:
        self.close()
        for number in range(self.files - 1, 0, -1):
            older = self._numbered(number)
            newer = self._numbered(number - 1)
            if newer.exists():
                newer.replace(older)
        if self.files == 1:
            self.path.unlink(missing_ok=True)
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
