"""The files of proto/ keep to buf's rules, but for the exceptions that proto/buf.yaml explains."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real.node import MODULES, require_modules
from tests.real.processes import ROOT


def lint(protos: Path, home: Path) -> "subprocess.CompletedProcess[str]":
    """What buf finds."""
    require_modules()
    return subprocess.run(
        [MODULES / ".bin/buf", "lint"],
        cwd=protos,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


def test_proto_is_in_order(tmp_path: Path) -> None:
    """Nothing is found that is not excepted."""
    done = lint(ROOT / "proto", tmp_path)

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize(
    "path",
    [
        "ollama_proxy.proto",
        "compute/v1/compute.proto",
        "ollama_proxy/status.proto",
    ],
)
def test_what_is_new_has_no_exception(tmp_path: Path, path: str) -> None:
    """A field that is named otherwise is found in each file of ours."""
    protos = shutil.copytree(ROOT / "proto", tmp_path / "proto")
    with (protos / path).open("a") as written:
        written.write("\nmessage Added {\n  string notAsOthers = 1;\n}\n")
    done = lint(protos, tmp_path)

    assert 0 != done.returncode
    assert "lower_snake_case" in done.stdout
