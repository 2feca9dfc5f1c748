"""What is checked before a version is released."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
IMAGE = "deploy/kubernetes/base/instrumentation.yaml"
FILES = ("scripts/release", "src/voicespan/version.py", IMAGE, "deploy/compose.demo.yaml")
CHANGES = """# Changelog

## [Unreleased]

## [{version}] - 2026-12-01

### Added

- A first release.

## [0.0.1] - 2026-01-01

- Before it.
"""


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a copy of the project."""
    command = [sys.executable, str(folder / "scripts/release"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A project whose files say the same."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(CHANGES.format(version=__version__))
    return tmp_path


def changed(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Return what makes a change in a file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def test_a_project_that_is_ready(ready: Path) -> None:
    """Where version, changelog and images agree nothing is said, and the notes are the version's part."""
    done = release(ready, "check", f"v{__version__}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert release(ready, "notes", f"v{__version__}").stdout == "### Added\n\n- A first release.\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("src/voicespan/version.py", __version__, "0.9.9"), "the version is 0.9.9"),
        (changed("CHANGELOG.md", "2026-12-01", "soon"), "no date, but 'soon'"),
        (changed("CHANGELOG.md", f"[{__version__}]", "[0.9.9]"), f"nothing is said of {__version__}"),
        (changed("CHANGELOG.md", "[Unreleased]", "[Unreleased]\n\n- More."), "belongs under the version"),
        (changed(IMAGE, __version__, "0.9.9"), "voicespan-instrumentation is 0.9.9"),
    ],
)
def test_what_does_not_fit_is_said(ready: Path, change: Callable[[Path], None], said: str) -> None:
    """One thing that was forgotten is one line, and no release."""
    change(ready)
    done = release(ready, "check", f"v{__version__}")
    assert done.returncode == 1
    assert [said in line for line in done.stdout.splitlines()] == [True]


@pytest.mark.parametrize("words", [(), ("check",), ("publish", "v1"), ("notes", "v7.7.7")])
def test_wrong_use_is_explained(ready: Path, words: tuple[str, ...]) -> None:
    """Without a task and a known version the script says how it is called."""
    done = release(ready, *words)
    assert done.returncode == 1
    assert "scripts/release check" in done.stderr


def test_a_tag_without_its_letter(ready: Path) -> None:
    """A tag is v and the version."""
    done = release(ready, "check", __version__)
    assert (done.returncode, done.stdout) == (1, f"{__version__}: a tag is v and the version\n")


def test_the_projects_own_files_agree() -> None:
    """Whatever is not released yet: version and images say the same."""
    done = release(ROOT, "check", f"v{__version__}")
    assert [line for line in done.stdout.splitlines() if not line.startswith("CHANGELOG.md")] == []
