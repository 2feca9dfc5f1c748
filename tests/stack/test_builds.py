"""`scripts/go-build` builds what is not built yet, and nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = 'package main\n\nfunc main() { println("%s") }\n'


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A Go program of one line."""
    folder = tmp_path / "greeter"
    folder.mkdir()
    (folder / "go.mod").write_text("module greeter\n\ngo 1.21\n")
    (folder / "main.go").write_text(PROGRAM % "hello")
    return folder


@pytest.fixture(scope="module")
def go() -> str:
    """The folder of a Go, which then keeps what it compiles where it always does."""
    found = shutil.which("go", path=f"{os.environ['PATH']}:{ROOT / '.venv/bin'}")
    if found is None:
        pytest.skip("no Go on the PATH or in .venv")
    return str(Path(found).parent)


@pytest.fixture(autouse=True)
def compiled(go: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go's own cache is not what these tests are about."""
    asked = [f"{go}/go", "env", "GOCACHE"]
    monkeypatch.setenv("GOCACHE", subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


def build(sources: Path, cache: Path | str, path: str) -> str:
    """What the script prints: where the program is."""
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache), "PATH": f"{path}:/usr/bin:/bin"}
    done = subprocess.run(
        [ROOT / "scripts/go-build", sources, "."], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def says(program: str) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stderr.strip()


@pytest.mark.timeout(180)
def test_a_program_is_built_once_and_anew_when_its_sources_change(sources: Path, go: str, tmp_path: Path) -> None:
    """The second call needs no Go and gives the same program; a changed source gives another one beside it."""
    cache = tmp_path / "cache"
    first = build(sources, cache, go)
    assert Path(first).parent.parent == cache / "voicespan"
    assert says(first) == "hello"
    assert build(sources, cache, "/nowhere") == first
    (sources / "main.go").write_text(PROGRAM % "good morning")
    second = build(sources, cache, go)
    assert says(second) == "good morning"
    assert says(first) == "hello"
    assert [path.name for path in (cache / "voicespan").iterdir() if path.name.startswith(".")] == []


@pytest.mark.timeout(180)
def test_a_machine_without_a_cache_builds_too(sources: Path, go: str) -> None:
    """Where nothing can be kept for the user, the program is built below the checkout."""
    program = Path(build(sources, "/proc/nowhere", go))
    try:
        assert program.is_relative_to(ROOT / "build")
        assert says(str(program)) == "hello"
    finally:
        shutil.rmtree(program.parent)


@pytest.mark.timeout(180)
def test_a_build_that_fails_leaves_nothing(sources: Path, go: str, tmp_path: Path) -> None:
    """A program that does not compile fails, and no half of it is found by the next call."""
    (sources / "main.go").write_text("package main\n\nfunc main() { nonsense }\n")
    with pytest.raises(AssertionError, match="nonsense"):
        build(sources, tmp_path / "cache", go)
    assert list((tmp_path / "cache" / "voicespan").iterdir()) == []
