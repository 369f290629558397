"""The table of docs/reliability.md speaks of tests that there are."""

import ast
import re

from tests.real.processes import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_row_is_backed_by_a_test() -> None:
    """Each row of faults names one at least, and each that is named exists."""
    told = (ROOT / "docs" / "reliability.md").read_text().partition("## Faults")[2]
    rows = [
        line
        for line in told.partition("## Measured")[0].splitlines()
        if line.startswith("| ") and not line.startswith(("| fault |", "| ---"))
    ]
    assert len(rows) > 20
    assert [] == [row for row in rows if not NAMED.search(row)]
    missing = [
        f"{path}::{name}"
        for path, name in NAMED.findall(told)
        if name
        not in {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
    ]
    assert [] == missing
