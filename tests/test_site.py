from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=\"?(?P<address>[^\"\s>]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error: a dead link or anchor, or a page that no menu has."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    """The pages of docs/ and those that stand beside what they describe are pages of one site."""
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages |= {path.relative_to(ROOT) for path in (ROOT / "examples").glob("*/README.md")}
    pages |= {Path(name) for name in ("benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
    names = {page.with_name("index.html" if page.name == "README.md" else f"{page.stem}.html") for page in pages}
    assert {name for name in names if not (site / name).is_file()} == set()


def test_a_link_out_of_the_docs_folder_stays_on_the_site(site: Path) -> None:
    """A reader of the site who follows a link to an example or back is not sent to a file that is not there."""
    assert "examples/pipecat/index.html" in (site / "integrations.html").read_text()
    assert "../../integrations.html" in (site / "examples" / "pipecat" / "index.html").read_text()


def test_the_site_is_read_without_a_network(site: Path) -> None:
    """No page loads a script, a font, a style or a picture from another address."""
    for page in site.rglob("*.html"):
        loaded = [found["address"] for found in _LOADED.finditer(page.read_text())]
        assert loaded
        assert [address for address in loaded if address.startswith(("http:", "https:", "//"))] == [], page
