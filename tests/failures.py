"""Prints docs/failures.md: what goes wrong, what is promised then, and what the tests that prove it have measured.

    python -m tests.failures REPORT

REPORT is what `make failures` wrote (JUnit's XML). A row is a mark `failure(fault, promise)` of a test. Ends with 1,
and prints no page, when a marked test has not passed.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[1]
_COLUMNS = ("call", "block", "memory", "lost")

HEAD = """# When something goes wrong

Telemetry never hurts the call. Each row is a test that breaks something on purpose, with real processes, sockets and
disks, while calls are held; `make failures` runs them all and writes this page from what they measured.

*Calls*: the frames of audio that went out, of those that should. *Longest block*: of the event loop that the calls live
on, from a pulse every 5 ms; the machine and the interpreter have pauses of their own, which the first row shows.
*Memory*: what the process grew by meanwhile. *Lost*: counted by `otel.sdk.processor.span.processed` and said in a line,
and exactly what is missing. Where nothing stands, the test has nothing to measure of that kind.

| what goes wrong | what is promised | calls | longest block | memory | lost | test |
|---|---|---|---|---|---|---|"""
TAIL = """
Not met, or not in our hands: Python's own collector of garbage stops all threads for a moment that grows with the
objects that live (10,000 turns that never end: about a tenth of a second); what is in a process that is killed and has
not reached the spool or the Collector is gone; `VOICESPAN_SPOOL_DIR` is off unless it is set. What waits to be sent is
at most `OTEL_BSP_MAX_QUEUE_SIZE` spans and 64 MiB of turns."""


@dataclass(frozen=True)
class Failure:
    """One mark: the fault, what is promised, and the test that proves it."""

    fault: str
    promise: str
    path: str
    test: str


def failures() -> list[Failure]:
    """Return the marks of all tests, in the order in which they stand, those of test_failures.py first."""
    found = [each for path in sorted((ROOT / "tests").rglob("test_*.py")) for each in _of(path)]
    return sorted(found, key=lambda each: each.path != "tests/processes/test_failures.py")


def _of(path: Path) -> list[Failure]:
    module = ast.parse(path.read_text())
    constants = {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def words(node: ast.expr) -> str:
        return str(node.value if isinstance(node, ast.Constant) else constants[ast.unparse(node)])

    return [
        Failure(words(call.args[0]), words(call.args[1]), path.relative_to(ROOT).as_posix(), test.name)
        for test in module.body
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in test.decorator_list
        for call in ast.walk(decorator)
        if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] == "failure"
    ]


def measured(report: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return what each test that passed has measured, by its name and fault."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        passed = not any(case.find(end) is not None for end in ("failure", "error", "skipped"))
        properties = {each.get("name"): each.get("value", "") for each in case.iterfind("properties/property")}
        if passed and "fault" in properties:
            test = (case.get("name") or "").partition("[")[0]
            found[test, json.loads(properties["fault"])[0]] = json.loads(properties.get("measured", "{}"))
    return found


def row(failure: Failure, found: dict[str, str]) -> str:
    """Return the row of one fault."""
    test = f"[{failure.test}](../{failure.path})"
    return f"| {' | '.join([failure.fault, failure.promise, *(found.get(name, '') for name in _COLUMNS), test])} |"


def main(report: str) -> int:
    """Print the page."""
    found = measured(Path(report))
    rows = failures()
    lacking = [f"{each.test}: {each.fault}" for each in rows if (each.test, each.fault) not in found]
    if lacking:
        print("\n".join(["these have not passed:", *lacking]), file=sys.stderr)
        return 1
    busy = f"\nThe numbers are of a machine with {os.cpu_count()} cores and a load of {os.getloadavg()[1]:.0f}."
    print("\n".join([HEAD, *(row(each, found[each.test, each.fault]) for each in rows), busy, TAIL]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
