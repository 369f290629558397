"""A machine's kernel files in memory, as they were recorded: `path = value`, `-> link`, `= !ERRNO`.

The recordings are in tests/sensors/machines; each says where its values are from, and which were
made up to complete it. An overlay replaces entries of the machine that it belongs to.
"""

import errno
import os
import posixpath
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

MACHINES = Path(__file__).parent.parent / "sensors" / "machines"
LINKS_MAX = 40  # as the kernel's


@attrs.frozen
class _Link:
    target: str


@attrs.frozen
class _Failing:
    error: int


_Entry = bytes | _Link | _Failing


def _entries(text: str) -> Iterator[tuple[str, _Entry]]:
    for line in text.splitlines():
        if not line.startswith("/"):
            continue
        if " -> " in line:
            path, _, target = line.partition(" -> ")
            yield path, _Link(target)
            continue
        path, _, value = line.partition(" =")
        value = value.removeprefix(" ")
        if value.startswith("!"):
            yield path, _Failing(getattr(errno, value[1:]))
        else:
            yield path, value.encode().decode("unicode_escape").encode("latin-1") + b"\n"


def names() -> list[str]:
    """All recorded machines that are complete by themselves."""
    files = MACHINES.glob("*.txt")
    return sorted(
        f.stem for f in files if ".overlay" not in f.stem and not f.stem.startswith("nvml")
    )


def recorded(name: str, *overlays: str) -> "Machine":
    """A recorded machine, with overlays laid upon it in turn."""
    machine = Machine()
    for part in (name, *(f"{overlay}.overlay" for overlay in overlays)):
        for path, entry in _entries((MACHINES / f"{part}.txt").read_text()):
            machine._put(path, entry)
    return machine


class Machine:
    """Files in memory: satisfies `sensors.files.Files`.

    Attributes:
        opened: every path that was read, in order, without symbolic links.
        hangs: paths whose reading blocks until `let_go`.
    """

    def __init__(self, files: Mapping[str, str] | None = None) -> None:
        """Begin with some files, or none."""
        self._entries: dict[str, _Entry] = {}
        self.opened: list[str] = []
        self.hangs: set[str] = set()
        self._released = threading.Event()
        for path, content in (files or {}).items():
            self.write(path, content)

    # -- what tests do to it -----------------------------------------------------------------------

    def write(self, path: str, content: str | bytes) -> None:
        """Let a file hold something else, or exist; text gets its newline."""
        self._put(path, content if isinstance(content, bytes) else content.encode() + b"\n")

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link."""
        self._put(path, _Link(target))

    def fail(self, path: str, error: int) -> None:
        """Let reading a file fail with an errno."""
        self._put(path, _Failing(error))

    def remove(self, path: str) -> None:
        """Take a file, or a directory with all in it, away."""
        real = self._resolve(path, follow_last=False)
        for known in [p for p in self._entries if p == real or p.startswith(real + "/")]:
            del self._entries[known]

    def move(self, old: str, new: str) -> None:
        """Give a directory another name, as a new enumeration does."""
        for known in [p for p in self._entries if p == old or p.startswith(old + "/")]:
            self._entries[new + known[len(old) :]] = self._entries.pop(known)

    def hang(self, path: str) -> None:
        """Let reading a file block."""
        self.hangs.add(self._resolve(path))

    def let_go(self) -> None:
        """Let everything that blocks go on."""
        self.hangs.clear()
        self._released.set()
        self._released = threading.Event()

    def unpack(self, root: Path) -> None:
        """Write all of it below a directory; what cannot be read is left out."""
        for path, entry in self._entries.items():
            at = root / path.lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            match entry:
                case bytes():
                    at.write_bytes(entry)
                case _Link(target):
                    at.symlink_to(target)
                case _Failing():
                    pass

    @property
    def size(self) -> int:
        """How many files and links it has."""
        return len(self._entries)

    def _put(self, path: str, entry: _Entry) -> None:
        self._entries[self._resolve(path, follow_last=False)] = entry

    # -- what sensors see --------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        """See `Files`."""
        real = self._resolve(path)
        self.opened.append(real)
        if real in self.hangs:
            self._released.wait()
        match self._entries.get(real):
            case bytes() as content:
                return content
            case _Failing(error):
                raise OSError(error, os.strerror(error), path)
            case _:
                is_directory = any(p.startswith(real + "/") for p in self._entries)
                error = errno.EISDIR if is_directory else errno.ENOENT
                raise OSError(error, os.strerror(error), path)

    def list(self, path: str) -> list[str]:
        """See `Files`."""
        real = self._resolve(path)
        inside = {
            p[len(real) + 1 :].split("/")[0] for p in self._entries if p.startswith(real + "/")
        }
        if not inside:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return sorted(inside)

    def real(self, path: str) -> str:
        """See `Files`."""
        return self._resolve(path)

    def _resolve(self, path: str, *, follow_last: bool = True) -> str:
        parts = [p for p in path.split("/") if p]
        found = ""
        links = 0
        while parts:
            name = parts.pop(0)
            found = posixpath.normpath(f"{found}/{name}")
            entry = self._entries.get(found)
            if isinstance(entry, _Link) and (parts or follow_last):
                links += 1
                if links > LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = posixpath.join(posixpath.dirname(found), entry.target)
                parts = [p for p in posixpath.normpath(target).split("/") if p] + parts
                found = ""
        return found
