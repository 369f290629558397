"""schemathesis on /openapi.json: whatever our own description allows, no answer is the router's fault."""

import os
import shutil
from pathlib import Path

import trio

from tests.real.parts import require
from tests.real.processes import ROOT
from tests.routers import backend, configured, fakes, running

EXAMPLES = 5
LIMIT_S = 120.0
# Its own interpreter's: it would bring its plugin into every run of ours.
PROGRAM = ROOT / ".venv-api" / "bin" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


async def test_every_endpoint_is_as_it_is_described(tmp_path: Path) -> None:
    """No 5xx, no status, type or body that is not in the description; for good and bad input."""
    found = shutil.which("schemathesis", path=f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    require(found is not None, "schemathesis is not installed")
    assert found is not None
    async with (
        fakes("npu") as servers,
        running(configured(backend("npu", servers["npu"].url)), limit_s=LIMIT_S) as owner,
    ):
        done = await trio.run_process(
            [
                found,
                "run",
                f"{owner.url}/openapi.json",
                "--checks",
                ",".join(CHECKS),
                "--max-examples",
                str(EXAMPLES),
                "--phases",
                "examples,coverage,fuzzing",
                "--exclude-path",
                "/events",
                "--request-timeout",
                "5",
                "--no-color",
                "--seed",
                "1",
            ],
            check=False,
            cwd=tmp_path,
            capture_stdout=True,
            capture_stderr=True,
        )

    assert 0 == done.returncode, done.stdout.decode()[-6000:]
