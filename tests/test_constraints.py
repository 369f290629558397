"""The tested set is written down whole: each dependency once, with its hash, as pyproject.toml wants it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "constraints.txt").read_text()
LINES = [line for line in TEXT.splitlines() if not line.startswith("#")]
PINNED = {line.partition("==")[0]: line.partition("==")[2].split()[0] for line in LINES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = sorted({*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)})


def test_each_line_is_a_version_and_a_hash() -> None:
    """And nothing that says where it came from."""
    line = re.compile(r"[a-z0-9-]+==[^ ]+ --hash=sha256:[0-9a-f]{64}")

    assert [] == [each for each in LINES if not line.fullmatch(each)]
    assert len(LINES) == len(PINNED)


@pytest.mark.parametrize("wanted", WANTED)
def test_what_is_wanted_is_pinned(wanted: str) -> None:
    """To a version that is allowed; where it is not, run tools/pin."""
    requirement = Requirement(wanted)
    name = canonicalize_name(requirement.name)

    assert requirement.specifier.contains(PINNED[name], prereleases=True)
