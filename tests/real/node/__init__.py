"""What the tests take from npm; tools/node-parts puts it into build/node."""

import shutil

from tests.real.parts import require
from tests.real.processes import ROOT

MODULES = ROOT / "build/node/node_modules"


def require_modules() -> None:
    """Skip without Node, or what is installed for it."""
    require(shutil.which("node") is not None, "Node is not installed")
    installed = (MODULES.parent / "installed").exists()
    require(installed, "the packages of tests/real/node are not installed: tools/node-parts does")
