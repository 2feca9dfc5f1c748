"""Prints, for each requirement of the catalog, the tests that prove it and how they ended in the last run.

    python -m tests.requirements REPORT CATALOG [--json] [--open]

REPORT is what `make test` wrote (JUnit's XML, with a property `covers` for each id). requirements/exceptions.toml says
why an id has no test. Ends with 1 when an id has neither, or a test of it failed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

_ROW = re.compile(r"^\| (?P<id>[A-E]-[A-Z]\d{2}) \|", re.MULTILINE)
_DESIGNED = re.compile(r"^\| (?P<id>F-[A-Z]{1,2}\d{2}) \|", re.MULTILINE)
"""What the requirements of all parts come to, in the catalog's part F: tests may prove it, and none is counted."""
EXCEPTIONS = Path(__file__).parents[1] / "requirements" / "exceptions.toml"
_WORST_FIRST = ("failed", "skipped", "passed")


def outcome(case: ET.Element) -> str:
    """Return how a test ended."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def proofs(report: Path) -> dict[str, dict[str, str]]:
    """Return the tests of each id, with the worst end of a test that has several parameters."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{(case.get('name') or '').partition('[')[0]}"
        for each in case.iterfind("properties/property[@name='covers']"):
            before = found[each.get("value", "")].get(name, "passed")
            found[each.get("value", "")][name] = min(before, outcome(case), key=_WORST_FIRST.index)
    return found


def state(tests: dict[str, str], reason: str | None) -> str:
    """Return what is known of a requirement: passed, failed, skipped, excepted or open."""
    if not tests:
        return "excepted" if reason else "open"
    ends = set(tests.values())
    return "failed" if "failed" in ends else "passed" if "passed" in ends else "skipped"


def row_of(name: str, tests: dict[str, str], reason: str | None) -> dict[str, Any]:
    """Return what is printed for one requirement."""
    return {"id": name, "state": state(tests, reason), "tests": tests, "reason": reason}


def main(arguments: list[str]) -> int:
    """Print the table and its sums."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--open", action="store_true", help="only those that are neither proved nor excepted")
    given = parser.parse_args(arguments)
    for path in (given.report, given.catalog):
        if not path.is_file():
            parser.error(f"{path} is not there" + (": run `make test`" if path == given.report else ""))
    catalog = given.catalog.read_text()
    ids, known = sorted(set(_ROW.findall(catalog))), {*_ROW.findall(catalog), *_DESIGNED.findall(catalog)}
    reasons: dict[str, str] = tomllib.loads(EXCEPTIONS.read_text())
    tests = proofs(given.report)
    rows = [row_of(each, tests.get(each, {}), reasons.get(each)) for each in ids]
    stale = sorted({each for each in reasons if tests.get(each)} | (set(reasons) | set(tests)) - known)
    shown = [row for row in rows if not given.open or row["state"] not in {"passed", "excepted"}]
    if given.json:
        print(json.dumps({"requirements": shown, "stale": stale}, indent=1))
    else:
        for row in shown:
            names = sorted(row["tests"])
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print(f"{row['id']}  {row['state']:<8}  {names[0] + more if names else row['reason'] or ''}")
        sums = Counter(row["state"] for row in rows)
        print(f"{len(ids)} requirements: " + ", ".join(f"{count} {name}" for name, count in sums.most_common()))
        if stale:
            print(f"in no catalog, or excepted though a test proves them: {', '.join(stale)}")
    return int(bool(stale) or any(row["state"] in {"failed", "open"} for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
