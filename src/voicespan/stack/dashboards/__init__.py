"""The dashboards of Grafana, made from the names that they ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan.stack.dashboards import insights, machines, voices

if TYPE_CHECKING:
    from voicespan.stack.dashboards.board import Board
    from voicespan.stack.objectives import Objectives


def boards(objectives: Objectives) -> tuple[Board, ...]:
    """Return every dashboard; the lines that they draw are the limits of the user's file."""
    return (
        voices.assistant(objectives),
        voices.experience(objectives),
        insights.pipeline(objectives),
        insights.promises(objectives),
        insights.versions(objectives),
        voices.realtime(objectives),
        voices.calls(objectives),
        voices.synthesis(objectives),
        machines.resources(objectives),
        machines.operations(objectives),
        machines.telemetry(objectives),
        insights.business(),
    )
