"""Voice pipelines by the SDK's own tracing: its spans say when the stages of a turn begin and end.

They are told as they happen, in the task that works, so that a stage is current in it. How long the first token and the
first frame took is said by the requests that are made inside (`voicespan.integrations.openai.call`).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from agents.tracing import TracingProcessor, get_current_trace

from voicespan import names as n
from voicespan.context import Scope
from voicespan.guard import guarded
from voicespan.integrations.openai.call import expected
from voicespan.integrations.openai.conversation import PROVIDER, Conversation
from voicespan.integrations.openai.event import number, text
from voicespan.sessions import current_session, session
from voicespan.stage import Llm, Stage, Tts

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.sessions import Session
    from voicespan.turn import Turn

SAMPLE_RATE = 24_000
"""Samples per second of a pipeline's audio."""
_VOICE = ("transcription", "speech_group")
"""Spans that only a voice pipeline has: other runs of agents are no calls."""
KEPT = 1024


class _Open:
    """A stage that a span stands for, while it is open."""

    __slots__ = ("scope", "stage")

    def __init__(self, stage: Stage, turn: Turn) -> None:
        self.stage = stage
        self.scope = Scope(stage, turn)
        if isinstance(stage, Llm | Tts):
            expected.set(stage)

    def close(self) -> None:
        """Restore what was current before."""
        self.scope.close()
        if expected.get() is self.stage:
            expected.set(None)
        self.stage.end()


class Pipeline:
    """One run of a voice pipeline."""

    def __init__(self, call_id: str) -> None:
        outer = current_session()
        self.own = outer is None
        self.session: Session = outer or session(call_id, measurement_point="server")
        self.clock = self.session.recorder.clock
        # For the task that runs the pipeline, and those that it starts.
        self.scope = Scope(self.session, self.session) if self.own and self.session.recorder.enabled else None
        self.ears: Conversation | None = None
        self.stages: dict[str, _Open] = {}
        """By the id of their span."""
        self.begun = False
        self.speaks = False
        """It has audio that the service will take."""
        self.done = False
        self.over = False
        if self.own:
            self.session.media_up()

    def turn(self) -> Turn:
        """Return the turn that is being answered; speech that nobody asked for is the agent's own."""
        found = self.session.replying
        if found is None:
            found = self.session.agent_turn("say" if self.begun else "greeting")
        self.begun = True
        return found

    def started(self, span: Any) -> None:
        """Take the begin of a span."""
        begin = self._BEGIN.get(span.span_data.type)
        if begin is None or len(self.stages) >= KEPT:
            return
        found = begin(self, span.span_data)
        if found is not None:
            turn, stage = found
            self.stages[span.span_id] = _Open(stage, turn)

    def ended(self, span: Any) -> None:
        """Take the end of a span."""
        data = span.span_data
        if data.type == "handoff":
            self.turn().handoff(data.to_agent or "")
        elif data.type == "transcription" and span.span_id not in self.stages and self.ears is None and data.output:
            self._heard(data)
        found = self.stages.pop(span.span_id, None)
        if found is None:
            return
        stage = found.stage
        if span.error is not None:
            stage.fail("error")
        elif data.type == "transcription":
            stage.final()  # type: ignore[attr-defined]
        elif isinstance(stage, Llm):
            _take_usage(stage, data)
        elif isinstance(stage, Tts) and data.first_content_at and not stage.began:
            stage.audio(at=_moment(self.clock.monotonic_ns(), self.clock.time_ns(), data.first_content_at))
        found.close()

    # What spans stand for

    def _transcription(self, data: Any) -> tuple[Turn, Stage] | None:
        """Take audio that is complete; a streamed one has its turns from the events of its socket."""
        if "turn_detection" in (data.model_config or {}):
            return None
        turn = self.session.user_turn()
        self.begun = True
        turn.committed()
        return turn, turn.asr(model=data.model, provider=PROVIDER)

    def _heard(self, data: Any) -> None:
        """Take a transcript of streamed audio whose socket is not known."""
        turn = self.session.user_turn()
        self.begun = True
        turn.committed()
        turn.asr(model=data.model).end()

    def _generation(self, data: Any) -> tuple[Turn, Stage]:
        turn = self.turn()
        return turn, turn.llm(model=getattr(data, "model", None))

    def _function(self, data: Any) -> tuple[Turn, Stage]:
        turn = self.turn()
        return turn, turn.tool(data.name)

    def _speech(self, data: Any) -> tuple[Turn, Stage]:
        turn, settings = self.turn(), data.model_config or {}
        return turn, turn.tts(model=data.model, voice=settings.get("voice"), text=data.input or None)

    _BEGIN: ClassVar[dict[str, Callable[[Pipeline, Any], tuple[Turn, Stage] | None]]] = {
        "transcription": _transcription,
        "generation": _generation,
        "response": _generation,
        "function": _function,
        "speech": _speech,
    }

    # The end

    def finish(self, *, done: bool = False, over: bool = False) -> bool:
        """Take that the work is done, or that all audio has left; return whether both are true."""
        self.done, self.over = self.done or done, self.over or over
        if self.done and self.scope is not None:
            self.scope.close()
        if self.done and self.over and self.own:
            self.session.end()
        return self.done and self.over


class Pipelines(TracingProcessor):
    """Hears the tracing of the SDK."""

    def __init__(self) -> None:
        self.active = False
        self._groups: dict[str, str] = {}
        """The group of each trace that runs, where it has one."""
        self._open: dict[str, Pipeline] = {}

    def turn_of(self, trace_id: str) -> Turn | None:
        """Return the turn in which a pipeline begins to speak."""
        found = self._open.get(trace_id)
        if found is None:
            return None
        found.speaks = True
        return found.turn()

    def listens(self) -> Conversation | None:
        """Return what hears the user in the pipeline that the running task works for."""
        trace = get_current_trace()
        if not self.active or trace is None or trace.trace_id == "no-op":
            return None
        pipeline = self._of(trace.trace_id)
        if pipeline.ears is None:
            pipeline.ears = Conversation(PROVIDER, ears=True)
        return pipeline.ears

    def _of(self, trace_id: str) -> Pipeline:
        found = self._open.get(trace_id)
        if found is None:
            if len(self._open) >= KEPT:  # nobody has taken its audio
                self._open.pop(next(iter(self._open))).finish(done=True, over=True)
            found = self._open[trace_id] = Pipeline(self._groups.get(trace_id) or trace_id)
        return found

    def consumed(self, turn: Turn | None) -> None:
        """Take that the audio of a pipeline has left to its end."""
        for trace_id, pipeline in list(self._open.items()):
            if turn is not None and pipeline.session is turn.session and pipeline.finish(over=True):
                del self._open[trace_id]

    def silence(self) -> None:
        """Do nothing more."""
        self.active = False
        self._open.clear()
        self._groups.clear()

    @guarded
    def on_trace_start(self, trace: Any) -> None:
        """Remember the group of a trace: the call's own id."""
        group_id = getattr(trace, "group_id", None)
        if self.active and group_id and len(self._groups) < KEPT:
            self._groups[trace.trace_id] = group_id

    @guarded
    def on_trace_end(self, trace: Any) -> None:
        """Take the end of a run; its audio may still be leaving."""
        self._groups.pop(trace.trace_id, None)
        pipeline = self._open.get(trace.trace_id)
        if pipeline is not None and pipeline.finish(done=True, over=not pipeline.speaks):
            del self._open[trace.trace_id]

    @guarded
    def on_span_start(self, span: Any) -> None:
        """Take the begin of a span."""
        if not self.active:
            return
        pipeline = self._open.get(span.trace_id)
        if pipeline is None and span.span_data.type in _VOICE:
            pipeline = self._of(span.trace_id)
        if pipeline is not None:
            pipeline.started(span)

    @guarded
    def on_span_end(self, span: Any) -> None:
        """Take the end of a span."""
        pipeline = self._open.get(span.trace_id)
        if pipeline is not None:
            pipeline.ended(span)

    def shutdown(self) -> None:
        """Do nothing: turns are closed by voicespan."""

    def force_flush(self) -> None:
        """Do nothing: nothing is queued here."""


def _take_usage(llm: Llm, data: Any) -> None:
    usage = getattr(data, "usage", None) or getattr(getattr(data, "response", None), "usage", None)
    llm.usage(input_tokens=number(usage, "input_tokens"), output_tokens=number(usage, "output_tokens"))
    model = text(getattr(data, "response", None), "model")
    if model is not None:
        llm.set(n.GEN_AI_RESPONSE_MODEL, model)


def _moment(now_ns: int, wall_ns: int, iso: str) -> int:
    """Return the monotonic time of a time stamp of the SDK."""
    return now_ns - (wall_ns - round(datetime.fromisoformat(iso).timestamp() * 1e9))


PIPELINES = Pipelines()
"""The one processor: the SDK has no way to take one away."""
