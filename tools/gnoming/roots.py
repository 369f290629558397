"""Where the roots are, and what makes one that is missing."""

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
MAKE, ENTER = HERE / "make-root", HERE / "enter"
# Debian's suites, and the GNOME Shell that each has; 49 is in none.
SUITES = {"trixie": "48", "forky": "50", "sid": "51"}
NEEDED = ("apt-get", "apt-cache", "dpkg-deb", "unshare", "pivot_root", "chroot")


def home() -> Path:
    """The directory of all roots: $GNOME_ROOTS, or one in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GNOME_ROOTS") or Path(cache) / "ollama-proxy/gnome")


def root_of(suite: str) -> Path:
    """Where a suite's root is or will be: another one once it is made in another way."""
    digest = hashlib.sha256(MAKE.read_bytes()).hexdigest()
    return home() / f"{suite}-{digest[:8]}"


def obstacle() -> str:
    """Why a root can neither be made nor entered here; empty if nothing is in the way."""
    if os.geteuid():
        return "GNOME Shell's root needs the superuser: mount, pivot_root"
    if platform.machine() != "x86_64":
        return "GNOME Shell's root is made for x86_64 alone"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def prepare(suite: str) -> Path:
    """Make a suite's root if there is none yet (half a gigabyte; half a minute).

    Raises:
        CalledProcessError: its packages cannot be had, or do not fit together.
    """
    root = root_of(suite)
    if not root.exists():
        home().mkdir(parents=True, exist_ok=True)
        begun = root.with_name(f"{root.name}.{os.getpid()}")
        try:
            subprocess.run([MAKE, suite, begun], check=True)
            begun.rename(root)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return root
