from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests import requirements

ROOT = Path(__file__).parents[1]
CATALOG = "| A-M01 | one |\n| A-M02 | two |\n| A-M03 | three |\n| A-X01 | planned |\nA-M04 is only talked about\n"
DESIGNED = "| F-TR01 | what A-M01 and A-M02 come to |\n"
TESTS = """
import pytest

@pytest.mark.covers("A-M01", "A-M02")
@pytest.mark.parametrize("number", [1, 2])
def test_one(number):
    assert number == 1 or {}

@pytest.mark.covers("A-M02")
def test_two():
    pass
"""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A report that pytest wrote of real tests, with this project's conftest, and a catalog of four."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = covers(*ids): ids\n")
    (tmp_path / "catalog.md").write_text(CATALOG)
    (tmp_path / "exceptions.toml").write_text('A-X01 = "planned only"\n')
    monkeypatch.setattr(requirements, "EXCEPTIONS", tmp_path / "exceptions.toml")
    return str(tmp_path / "report.xml"), str(tmp_path / "catalog.md")


def run(paths: tuple[str, str], second_passes: str) -> None:
    folder = Path(paths[0]).parent
    (folder / "test_it.py").write_text(TESTS.format(second_passes))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", f"--junitxml={paths[0]}", str(folder)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}  # for what the conftest imports
    subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=False)


def test_a_requirement_is_as_good_as_the_worst_of_its_tests(
    paths: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An id is passed when every parameter of every test of it passed; one without a test is open, or has a reason."""
    run(paths, "False")
    assert requirements.main([*paths, "--json"]) == 1
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["requirements"]}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"A-M01": "failed", "A-M02": "failed", "A-M03": "open", "A-X01": "excepted"}
    assert rows["A-M02"]["tests"] == {"test_it::test_one": "failed", "test_it::test_two": "passed"}
    assert rows["A-X01"]["reason"] == "planned only"


def test_the_list_says_what_is_left(paths: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """`--open` leaves out what is proved; the last line counts all."""
    run(paths, "True")
    assert requirements.main([*paths, "--open"]) == 1
    out = capsys.readouterr().out
    assert re.findall(r"^[A-E]-\S+", out, flags=re.MULTILINE) == ["A-M03"]
    assert "4 requirements: 2 passed, 1 open, 1 excepted" in out


def test_an_exception_for_what_is_proved_is_refused(paths: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """An old exception does not stay on the list."""
    run(paths, "True")
    requirements.EXCEPTIONS.write_text('A-M01 = "no way"\nA-M03 = "none"\nA-X01 = "planned"\n')
    assert requirements.main(list(paths)) == 1
    assert "excepted though a test proves them: A-M01" in capsys.readouterr().out
    requirements.EXCEPTIONS.write_text('A-M03 = "none"\nA-X01 = "planned"\n')
    assert requirements.main(list(paths)) == 0


def test_what_requirements_come_to_may_be_proved_too(
    paths: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A test of an id of part F is fine where the catalog has it, and counts for no requirement."""
    run(paths, "True")
    report, catalog = Path(paths[0]), Path(paths[1])
    report.write_text(report.read_text().replace('value="A-M02"', 'value="F-TR01"'))
    catalog.write_text("| A-M01 | one |\n| A-X01 | planned |\n" + DESIGNED)
    assert requirements.main([*paths]) == 0
    assert "2 requirements: 1 passed, 1 excepted\n" in capsys.readouterr().out
    catalog.write_text("| A-M01 | one |\n| A-X01 | planned |\n")
    assert requirements.main([*paths]) == 1
    assert "in no catalog, or excepted though a test proves them: F-TR01" in capsys.readouterr().out


def test_every_exception_of_this_project_says_why() -> None:
    """The shipped list names ids of the catalog's form, each with a sentence."""
    reasons = tomllib.loads((ROOT / "requirements/exceptions.toml").read_text())
    assert all(re.fullmatch(r"[A-E]-[A-Z]\d{2}", name) and len(reason) > 20 for name, reason in reasons.items())
