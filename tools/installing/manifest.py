"""What was installed, so that exactly this is removed: written down before each of it is made."""

import contextlib
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from installing.places import Places


@dataclass
class Manifest:
    """All that is ours.

    Attributes:
        places: what it is below.
        dry: whether nothing is touched, and what would be is printed.
        files: single files and links.
        trees: directories with all in them.
        directories: those that were made for something to lie in; removed when they are empty.
    """

    places: Places
    dry: bool = False
    files: list[str] = field(default_factory=list)
    trees: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    _made: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, places: Places, *, dry: bool) -> "Manifest":
        """What was installed there, which may be nothing."""
        try:
            known = json.loads(places.manifest.read_text())
        except FileNotFoundError:
            return cls(places, dry)
        except ValueError as fault:
            sys.exit(
                f"{places.manifest} is damaged ({fault}): nothing is known of what was installed"
            )
        return cls(places, dry, known["files"], known["trees"], known["directories"])

    @property
    def is_empty(self) -> bool:
        """Whether nothing was installed."""
        return not (self.files or self.trees or self.directories)

    def is_foreign(self, path: Path) -> bool:
        """Whether somebody else's lies there."""
        return os.path.lexists(path) and str(path) not in {*self.files, *self.trees}

    # -- adding ------------------------------------------------------------------------------------

    def write(self, path: Path, text: str) -> None:
        """Put a file in place; whoever reads it sees the old one or the new one."""
        if self._announce("write", path):
            return
        self._add(self.files, path)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.replace(path)

    def link(self, path: Path, target: Path) -> None:
        """Put a symbolic link in place."""
        if self._announce("link", path):
            return
        self._add(self.files, path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def claim_tree(self, path: Path) -> bool:
        """A whole directory is about to be made; returns whether it really is."""
        if self._announce("make", path):
            return False
        self._add(self.trees, path)
        return True

    def make_room(self, path: Path) -> None:
        """Make the directories that `path` lies in."""
        for directory in [*reversed(self.places.manifest.parents), *reversed(path.parents)]:
            if not directory.exists():
                if str(directory) not in self.directories:
                    self.directories.append(str(directory))
                directory.mkdir()
        self._save()

    def drop_stale(self) -> None:
        """Remove what an earlier installation made, and this one did not."""
        for name in sorted(set(self.files) - self._made):
            self.remove(Path(name))
            if not self.dry:
                self.files.remove(name)
        if not self.dry:
            self._save()

    def _announce(self, deed: str, path: Path) -> bool:
        self._made.add(str(path))
        if self.dry:
            print(f"would {deed} {path}")
        return self.dry

    def _add(self, kind: list[str], path: Path) -> None:
        if str(path) not in kind:
            kind.append(str(path))
        self.make_room(path)

    def _save(self) -> None:
        kept = {"files": self.files, "trees": self.trees, "directories": self.directories}
        new = self.places.manifest.with_suffix(".new")
        new.write_text(json.dumps(kept, indent=1) + "\n")
        new.replace(self.places.manifest)

    # -- removing ----------------------------------------------------------------------------------

    def remove_all(self) -> None:
        """Remove everything, then the directories that are empty now."""
        for name in [*self.files, *self.trees]:
            self.remove(Path(name))
        self.remove(self.places.manifest)
        for name in reversed(self.directories):
            if not self.dry:
                with contextlib.suppress(OSError):  # somebody else's lies in it
                    Path(name).rmdir()

    def remove(self, path: Path) -> None:
        """Remove one file, link or tree."""
        if not os.path.lexists(path) or self._announce("remove", path):
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(self._checked(path))
        else:
            self._checked(path).unlink()

    def _checked(self, path: Path) -> Path:
        """The same; a manifest that names anything else than ours is not followed."""
        roots = {self.places.bin, self.places.data, self.places.config}
        if ".." in path.parts or not roots.intersection(path.parents):
            raise ValueError(f"{self.places.manifest}: {path} is not where we install")
        return path
