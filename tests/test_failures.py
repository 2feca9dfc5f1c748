from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tests.failures import ROOT, failures, main, row

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "failures.md"


def test_the_page_has_every_failure() -> None:
    """docs/failures.md has a row for each marked test and no other: its words, and where it is; numbers may differ."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    expected = [row(each, {}).split(" | ") for each in failures()]
    shown = [line.split(" | ") for line in rows]
    assert [[*cells[:2], cells[-1]] for cells in shown] == [[*cells[:2], cells[-1]] for cells in expected]


def test_every_failure_measures() -> None:
    """A marked test takes the fixture `measured`, itself or by a fixture of its module."""
    for each in failures():
        module = ast.parse((ROOT / each.path).read_text())
        functions = {
            node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        takes = {argument.arg for argument in functions[each.test].args.args}
        takes |= {argument.arg for name in takes & functions.keys() for argument in functions[name].args.args}
        assert "measured" in takes, each


def test_a_failure_that_did_not_pass_is_on_no_page(tmp_path: Path) -> None:
    """Without a result of each marked test there is no page, and the exit status says so."""
    report = tmp_path / "report.xml"
    report.write_text("<testsuites/>")
    assert main(str(report)) == 1
