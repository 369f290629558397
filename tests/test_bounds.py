"""The inventory of bounds names what there is: keys with their defaults, metrics and tests."""

import re
from pathlib import Path

import attrs
import pytest

from ollama_proxy.config import Config
from ollama_proxy.inbound.bounds import Bound
from tests.metrics.test_exposition import MORE, NAMES

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "bounds.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| Bound", "| ---"))
]


@attrs.frozen
class Row:
    """One bound, as it is written down."""

    name: str
    key: str
    default: str
    answer: str
    metric: str
    test: str


@pytest.mark.parametrize("row", [Row(*row) for row in ROWS], ids=lambda row: row.name)
def test_a_bound_is_what_is_written_of_it(row: Row) -> None:
    """Its key has that default, its metric is told, and its test is there."""
    if row.key != "-":
        value: object = Config()
        for name in row.key.strip("`").split("."):
            value = getattr(value, name)
        assert row.default == str(value)
    first, *_ = re.findall(r"`(\w+)`", row.metric)
    assert first in NAMES | MORE
    path, _, test = row.test.strip("`").partition("::")
    assert f"def {test}(" in (ROOT / path).read_text()


def test_every_counted_bound_is_written_down() -> None:
    """None is told by the metrics that the inventory does not have."""
    told = " ".join(row[4] for row in ROWS)

    assert [] == [bound for bound in Bound if f"`bounds_reached_total` `{bound.value}`" not in told]
