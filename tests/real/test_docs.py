"""The site of the documentation, as its generator makes it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real.parts import require
from tests.real.processes import ROOT

LIMIT_S = 120


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(importlib.util.find_spec("properdocs") is not None, "properdocs is not installed")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "docs"), "--into", str(directory)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    return directory


def test_it_is_built_without_a_warning(site: Path) -> None:
    """Each page is in the navigation, and every link and anchor within leads somewhere."""
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}

    assert pages <= {page.stem for page in site.glob("*.html")}
    assert (site / "grafana.json").exists()


def test_it_needs_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font, image or frame of another host: reading it tells nobody."""
    loads = re.compile(
        r"""(?:src|srcset|data|poster)\s*=\s*["']?(?:https?:)?//|<link[^>]+href=["']?https?://"""
    )
    fetches = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//""")

    assert [] == [page.name for page in site.rglob("*.html") if loads.search(page.read_text())]
    assert [] == [style.name for style in site.rglob("*.css") if fetches.search(style.read_text())]


def test_a_link_that_leads_nowhere_is_a_failure(tmp_path: Path) -> None:
    """Or the tests above would say nothing."""
    require(importlib.util.find_spec("properdocs") is not None, "properdocs is not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[there](#nowhere) [page](none.md)\n")
    settings = (ROOT / "properdocs.yml").read_text()
    (tmp_path / "properdocs.yml").write_text(settings.partition("nav:")[0])
    done = subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert 1 == done.returncode
    assert "'#nowhere'" in done.stderr
    assert "'none.md'" in done.stderr
