"""The import law."""

import subprocess
import sys
from pathlib import Path


def test_the_import_law_is_kept() -> None:
    """No room imports what it must not; `tools/layers` names the line that does."""
    layers = Path(__file__).parent.parent / "tools" / "layers"
    result = subprocess.run([sys.executable, layers], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout
