"""Whether the test turn can be read where it should be: in a viewer, in Tempo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.doctor.ask import Program, Unanswered, within
from voicespan.doctor.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voicespan.doctor.check import Wanted

_REFUSED = (401, 403)


def is_viewer(program: Program) -> bool:
    """Whether a viewer of voicespan answers there."""
    try:
        told = program.ask("/health").json()
    except Unanswered:
        return False
    return isinstance(told, dict) and told.get("service") == "voicespan"


def viewer(program: Program, trace_id: str, wait_s: float) -> Check:
    """Read the turn from a viewer."""
    return _read("viewer", program, f"/api/turns/{trace_id}", wait_s, "VOICESPAN_TOKEN is what the viewer asks for")


def tempo(wanted: Wanted, trace_id: str) -> Iterator[Check]:
    """Read the turn from Tempo by its trace id."""
    if wanted.tempo is not None:
        program = Program(wanted.tempo, wanted.headers)
        yield _read(
            "tempo",
            program,
            f"/api/v2/traces/{trace_id}",
            wanted.wait_s,
            "see whether the Collector exports traces to this Tempo, and its log",
        )


def _read(name: str, program: Program, path: str, wait_s: float, remedy: str) -> Check:
    status = 0
    text = ""

    def seen() -> bool:
        nonlocal status, text
        answer = program.ask(path)
        status, text = answer.status, answer.text
        return (answer.ok and n.SPAN_TURN in text) or status in _REFUSED

    try:
        found = within(wait_s, seen)
    except Unanswered as error:
        return Check(name, "fail", f"nobody answers at {program.shown}: {error}", f"is this the address of {name}?")
    if status in _REFUSED:
        return Check(
            name, "fail", f"{program.shown} does not let us read: {status}", "--header NAME=VALUE, or " + remedy
        )
    if not found:
        return Check(name, "fail", f"the test turn is not in {program.shown} after {wait_s:g} s ({status})", remedy)
    return Check(name, "ok", f"the test turn was read back from {program.shown}")
