"""What agent and caller say to each other on the WebSocket beside the 20 ms frames of sound, which are binary.

Times are monotonic nanoseconds of the caller's clock, except `t1` and `t2` of the clock exchange, which are the
agent's. A speech is everything that the agent says in one turn. What is said in words, and that a reply begins or is
complete, has the names of the realtime protocol, which `performance-tracker.js` knows.
"""

from __future__ import annotations

import json
from typing import Any

# From the caller.
START = "start"
"""`at`: the microphone's first sample was taken then; `again`: how often it was tried in vain before."""
MICROPHONE = "microphone"
"""`sample`, `at`: its sample with this number was taken then, and those after it without a gap.

Said anew now and then, because sound cards drift, and for a later sample when some before it were lost.
"""
TROUBLE = "trouble"
"""`error`: something went wrong at the caller's end."""
PING = "ping"
"""`t0`: sent then; the agent answers with `PONG`."""
CLOCK = "clock"
"""`t0` to `t3`: one finished exchange, for the agent's estimate of the caller's clock."""
HEARD = "heard"
"""`speech`, `at`: its first sample came out of the speaker then; `waited`, in ns since the caller's last sound."""
STOPPED = "stopped"
"""`speech`, `at`, `played`: the speaker fell silent then, after so many frames of it.

A page says no `at`, and no `HEARD`: its tracker measures what is heard, and reports it to the endpoint."""
CANCEL = "response.cancel"
"""`at`: the caller began to speak over the reply, as its own detector noticed then, and has silenced it."""
REPORT = "report"
"""`jitter` and `delay` in ns, `frames` played and `missing`: how the last speech came over the line."""
HANG_UP = "hang_up"
"""`at`: the caller has left."""

# From the agent.
PONG = "pong"
"""`t0` as it came, `t1` received, `t2` answered."""
TURN = "turn"
"""`traceparent`, `session`: the trace of what the caller has said, or, with `initiator` "agent", of what comes next."""
HEARING = "conversation.item.input_audio_transcription.delta"
"""`words`: so many were heard by now."""
UNDERSTOOD = "conversation.item.input_audio_transcription.completed"
"""`transcript`: what the caller has said; empty where it was nothing known."""
ANSWERING = "response.created"
SAYING = "response.audio_transcript.delta"
"""`delta`: the sentence that is spoken next."""
SPEECH = "speech"
"""`speech`, `traceparent`: the frames that follow belong to it."""
COMPLETE = "response.done"
"""`speech`: there are no more frames of it."""
CLEAR = "clear"
"""`speech`: drop what is not played yet, and say `STOPPED`."""

Message = dict[str, Any]


def encoded(type: str, **fields: str | float) -> str:  # noqa: A002
    """Return a message as it goes over the line."""
    return json.dumps({"type": type, **fields})


def decoded(text: str) -> Message:
    """Return a message's fields, `type` among them.

    Raises:
        ValueError: it is no such message.

    """
    message = json.loads(text)
    if not isinstance(message, dict) or "type" not in message:
        raise ValueError(f"not a message: {text[:80]}")
    return message
