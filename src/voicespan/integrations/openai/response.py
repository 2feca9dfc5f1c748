"""One response of a realtime model: the turn that it belongs to, its stage, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.integrations.openai.event import number, text

if TYPE_CHECKING:
    from voicespan.stage import Llm, Realtime
    from voicespan.turn import Turn


class Request:
    """A response that was asked for, by the client or by the end of the user's turn, and that has not begun."""

    def __init__(self, turn: Turn | None, at_ns: int, event_id: str | None = None) -> None:
        self.turn = turn
        """None for a response beside the conversation."""
        self.at_ns = at_ns
        self.event_id = event_id


class Response:
    """A response that is being made."""

    def __init__(self, turn: Turn | None, stage: Realtime | Llm | None) -> None:
        self.turn = turn
        self.stage = stage
        self.calls: dict[str, str] = {}
        """The functions that it asks for, by the ids of the calls: another response follows their results."""
        self.called_ns: int | None = None
        """When the last of them was written."""
        self.spoke = False

    def done(self, told: Any, at_ns: int) -> None:
        """Take its end at `at_ns`: token counts, and whether it was cut off, by whom or by what."""
        stage = self.stage
        if stage is None:
            return
        for name, kind in (
            (n.GEN_AI_USAGE_INPUT_TOKENS, "input_tokens"),
            (n.GEN_AI_USAGE_OUTPUT_TOKENS, "output_tokens"),
        ):
            if (count := number(told, "usage", kind)) is not None:
                stage.set(name, count)
        status = text(told, "status")
        if status == "cancelled":
            stage.cancelled()
        elif status in ("failed", "incomplete"):
            stage.fail(
                text(told, "status_details", "error", "code")
                or text(told, "status_details", "error", "type")
                or text(told, "status_details", "reason")
                or status
            )
        stage.end(at_ns)
