"""One realtime connection as a session: what its events mean for turns. Whoever calls `sent` and `received` guards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from voicespan import names as n
from voicespan.context import Scope
from voicespan.integrations.openai.audio import AudioClock, bytes_of
from voicespan.integrations.openai.event import field, number, text
from voicespan.integrations.openai.playback import Playback
from voicespan.integrations.openai.response import Request, Response
from voicespan.integrations.openai.settings import Settings
from voicespan.sessions import current_session, session
from voicespan.stage import Llm, is_cancellation

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.sessions import MeasurementPoint, Session, Trigger
    from voicespan.stage import Realtime, Tool
    from voicespan.turn import Turn

PROVIDER = "openai"
KEPT = 64
"""How many items, tools and requests are remembered; a server that never answers must not fill the memory."""
_NO_FAULT = ("response_cancel_not_active",)
"""Errors that say that there was nothing to do."""


class Conversation:
    """What is known of one realtime connection. Events may come from several threads."""

    def __init__(
        self, provider: str = PROVIDER, measurement_point: MeasurementPoint = "server", *, ears: bool = False
    ) -> None:
        """Begin with the connection; `ears`: it only transcribes, for a pipeline that answers every utterance."""
        outer = current_session()
        self.own = outer is None
        """The call is this connection; else the connection is a part of a call that is known already."""
        self.session: Session = outer or session(measurement_point=measurement_point, id_follows=True)
        # For this task and those that it starts, until the connection is closed.
        self._scope = Scope(self.session, self.session) if self.own and self.session.recorder.enabled else None
        self.provider = provider
        self._ears = ears
        self.clock = self.session.recorder.clock
        self.settings = Settings()
        self.playback = Playback()
        self._lock = threading.RLock()
        self._audio = AudioClock()
        self._created = False
        self._begun = False
        """Somebody has spoken."""
        self._speech: Turn | None = None
        """The user's turn while it is not committed."""
        self._offered_ns: int | None = None
        """When the user's audio was committed, while nobody has asked for an answer to it."""
        self._asked: Turn | None = None
        """The user's turn that was committed last."""
        self._typed = False
        """A message was written, and nobody has asked for an answer to it."""
        self._told: tuple[Turn, Tool] | None = None
        """A tool whose result was given to the model, while nobody has asked for an answer to it."""
        self._committed_at_ns = 0
        """Position in the user's audio of the last commit."""
        self._users: dict[str, Turn] = {}
        """The user's turns by item of the conversation."""
        self._commits_sent: list[Turn] = []
        """The user's turns whose commit by the client the server has not confirmed."""
        self._transcribing: dict[str, int] = {}
        """When the items were committed that are being transcribed."""
        self._silences: set[str] = set()
        """Items of silence that the server answers."""
        self._tools: dict[str, tuple[Turn, Tool]] = {}
        self._pending: list[Request] = []
        self._responses: dict[str, Response] = {}

    # What the hooks tell

    def received(self, event: Any) -> None:
        """Take an event of the server."""
        take = self._RECEIVED.get(field(event, "type"))
        if take is not None:
            with self._lock:
                if self._ears or not self.settings.listens_only:
                    take(self, event, self.clock.monotonic_ns())

    def sent(self, event: Any) -> None:
        """Take an event that the client is about to send."""
        take = self._SENT.get(field(event, "type"))
        if take is not None:
            with self._lock:
                if self._ears or not self.settings.listens_only:
                    take(self, event, self.clock.monotonic_ns())

    def lost(self, error: BaseException | None) -> None:
        """Take the end of the connection: what was being made fails with it, or was left behind by the service."""
        with self._lock:
            for response in self._responses.values():
                if response.stage is not None:
                    if error is None or is_cancellation(error):
                        response.stage.cancelled()
                    else:
                        response.stage.fail(error)
                    response.stage.end()
            for _, tool in self._tools.values():
                tool.cancelled()
                tool.end()
            self._responses.clear()
            self._tools.clear()
            self._pending.clear()
            if self.own:
                if error is None:
                    self.session.end()
                else:
                    self.session.end("error", error=error)
            if self._scope is not None:
                self._scope.close()

    def tool(self, call_id: str | None) -> Tool | None:
        """Return a tool that is being executed."""
        found = self._tools.get(call_id or "")
        return found[1] if found is not None else None

    def handed_over(self, agent: str) -> None:
        """Take that another agent goes on."""
        with self._lock:
            turn = self.session.replying
            if turn is not None:
                turn.handoff(agent)

    def played(self, item_id: str, seconds: float) -> None:
        """Take the client's word that it has played a part of an item."""
        with self._lock:
            complete = not any(response.spoke for response in self._responses.values())
            self.playback.played(item_id, round(seconds * 1e9), self.clock.monotonic_ns(), complete=complete)

    # The session

    def _session_created(self, event: Any, now_ns: int) -> None:
        if self._created:  # a new connection in place of the old one: the server counts anew
            self._audio = AudioClock()
            self._committed_at_ns = 0
            self._responses.clear()
            self._pending.clear()
        self._created = True
        self.settings.take(field(event, "session"))
        session_id = text(event, "session", "id")
        if self.own and session_id is not None:
            self.session.identified(session_id)
        self.session.media_up(now_ns)

    def _session_updated(self, event: Any, _now_ns: int) -> None:
        self.settings.take(field(event, "session"))

    # The user speaks

    def _appended(self, event: Any, now_ns: int) -> None:
        length_ns = bytes_of(field(event, "audio")) * 1_000_000_000 // self.settings.input_bytes_per_s
        self._audio.sent(length_ns, now_ns)

    def _speech_started(self, event: Any, _now_ns: int) -> None:
        start_ms = number(event, "audio_start_ms")
        onset_ns = None
        if start_ms is not None:
            # What the server takes along from before the speech is not the speech.
            onset_ns = self._audio.time_of(start_ms * 1_000_000 + self.settings.padding_ns)
        self._begun = True
        self._speech = self.session.user_turn(at=onset_ns)
        self._offered_ns = None
        self._remember(text(event, "item_id"), self._speech)

    def _speech_stopped(self, event: Any, _now_ns: int) -> None:
        turn = self._users.get(text(event, "item_id") or "") or self._speech
        end_ms, silence_ns = number(event, "audio_end_ms"), self.settings.silence_ns
        if turn is not None and turn.open:
            at_ns = None
            if end_ms is not None and silence_ns is not None:
                at_ns = self._audio.time_of(end_ms * 1_000_000 - silence_ns)
            turn.speech_ended(at_ns)

    def _silence_answered(self, event: Any, _now_ns: int) -> None:
        self._silences.add(text(event, "item_id") or "")

    def _buffer_committed(self, event: Any, now_ns: int) -> None:
        item_id = text(event, "item_id") or ""
        if item_id in self._silences:
            self._silences.discard(item_id)
            self._push(Request(self.session.agent_turn("no_input"), now_ns))
            return
        by_client = self._commits_sent.pop(0) if self._commits_sent else None
        turn = by_client or self._users.get(item_id) or self._speech
        if turn is None:
            return
        self._remember(item_id, turn)
        if self.settings.transcriber is not None and len(self._transcribing) < KEPT:
            self._transcribing[item_id] = now_ns
        if by_client is not None:
            return
        self._committed_at_ns = self._audio.position_ns
        if self.settings.answers:
            self._commit(turn, now_ns)
            if not self._ears:
                self._push(Request(turn, now_ns))
        else:
            self._offered_ns = now_ns

    def _commits(self, _event: Any, now_ns: int) -> None:
        """Take the client's commit: without a detector it is also the first that is known of an utterance."""
        turn = self._speech
        if self.settings.detector is None or turn is None or not turn.open:
            onset_ns = self._onset_ns()
            self._begun = True
            turn = self._speech = self.session.user_turn(at=onset_ns)
        turn.speech_ended()
        self._committed_at_ns = self._audio.position_ns
        self._offered_ns = now_ns
        if len(self._commits_sent) < KEPT:
            self._commits_sent.append(turn)

    def _onset_ns(self) -> int | None:
        """Return when an utterance began that no detector has told of: with its audio, which has no break.

        A microphone that was open while the agent spoke tells nothing before the agent was silent.
        """
        onset_ns = self._audio.run_since(self._committed_at_ns)
        turn = self.session.replying
        playback = None if turn is None else turn.record.playback
        if onset_ns is None or playback is None or playback.first_sent_ns is None:
            return onset_ns
        if onset_ns <= playback.first_sent_ns and playback.out_ns < self.clock.monotonic_ns():
            return max(onset_ns, playback.out_ns)
        return onset_ns

    def _clears(self, _event: Any, _now_ns: int) -> None:
        self._committed_at_ns = self._audio.position_ns

    def _commit(self, turn: Turn, at_ns: int) -> None:
        turn.committed(at_ns)
        self._asked, self._speech, self._offered_ns = turn, None, None
        for call_id, (asked, tool) in list(self._tools.items()):
            if asked is not turn:
                tool.outlives()  # the user has moved on
                if not tool.open:
                    del self._tools[call_id]

    def _deletes(self, event: Any, _now_ns: int) -> None:
        turn = self._users.pop(text(event, "item_id") or "", None)
        if turn is not None and turn.open and turn.record.committed_ns is None:
            turn.dismissed()
            if turn is self._speech:
                self._speech, self._offered_ns = None, None

    def _transcribed(self, event: Any, now_ns: int) -> None:
        self._recognized(event, now_ns, None)

    def _not_transcribed(self, event: Any, now_ns: int) -> None:
        self._recognized(event, now_ns, text(event, "error", "code") or text(event, "error", "type") or "error")

    def _recognized(self, event: Any, now_ns: int, error: str | None) -> None:
        """Take a transcript, or that there is none; it may come when the answer is over, and is then nobody's."""
        item_id = text(event, "item_id") or ""
        turn, from_ns = self._users.get(item_id), self._transcribing.pop(item_id, None)
        if turn is None or not turn.open:
            return
        recognition = turn.asr(model=self.settings.transcriber, provider=self.provider)
        recognition.audio(from_ns)
        if error is not None:
            recognition.fail(error)
        elif field(event, "transcript"):
            recognition.final(now_ns)
        recognition.end(now_ns)

    def _remember(self, item_id: str | None, turn: Turn) -> None:
        if item_id:
            self._users[item_id] = turn
            if len(self._users) > KEPT:
                del self._users[next(iter(self._users))]

    # Responses

    def _requests(self, event: Any, now_ns: int) -> None:
        beside = field(event, "response", "conversation") == "none"
        turn = None if beside else self._turn_to_answer(now_ns)
        self._push(Request(turn, now_ns, text(event, "event_id")))

    def _turn_to_answer(self, now_ns: int) -> Turn:
        """Return the turn that a response belongs to which the client asks for."""
        speech, told, typed, asked = self._speech, self._told, self._typed, self._asked
        self._told, self._typed = None, False
        offered_ns = self._offered_ns
        if speech is not None and speech.open and (offered_ns is not None or speech.record.detected_ns is not None):
            # With a detector the decision to answer is the client's request, which may be made as soon as the user is
            # silent; else it was the client's commit.
            self._commit(speech, now_ns if self.settings.detector is not None or offered_ns is None else offered_ns)
            return speech
        if told is not None:
            turn, tool = told
            return turn if turn.open else self.session.agent_turn("tool_result", tool=tool)
        if typed:
            self._begun = True
            self._asked = self.session.user_turn(input="text")
            return self._asked
        if asked is not None and asked.open and asked.record.playback.first_sent_ns is None:
            return asked
        return self._speaks_up()

    def _speaks_up(self) -> Turn:
        trigger: Trigger = "say" if self._begun else "greeting"
        self._begun = True
        return self.session.agent_turn(trigger)

    def _push(self, request: Request) -> None:
        if len(self._pending) < KEPT:
            self._pending.append(request)

    def _response_created(self, event: Any, now_ns: int) -> None:
        response_id = text(event, "response", "id")
        if response_id is None:
            return
        request = self._pending.pop(0) if self._pending else Request(self._turn_to_answer(now_ns), now_ns)
        turn = request.turn
        if turn is None or not turn.open:
            turn = None
        self._responses[response_id] = Response(turn, None if turn is None else self._stage(turn, request.at_ns))

    def _stage(self, turn: Turn, at_ns: int) -> Realtime | Llm:
        settings = self.settings
        if settings.speaks:
            return turn.realtime(model=settings.model, provider=self.provider, voice=settings.voice, at=at_ns)
        return turn.llm(model=settings.model, provider=self.provider, at=at_ns)

    def _audio_delta(self, event: Any, _now_ns: int) -> None:
        response = self._response_of(event)
        if response is None or response.turn is None or response.stage is None or isinstance(response.stage, Llm):
            return
        seconds = bytes_of(field(event, "delta")) / self.settings.output_bytes_per_s
        response.spoke = True
        response.stage.audio(seconds)
        self.playback.given(response.turn, text(event, "item_id") or "", seconds)

    def _text_delta(self, event: Any, _now_ns: int) -> None:
        response = self._responses.get(text(event, "response_id") or "")
        if response is not None and isinstance(response.stage, Llm):
            response.stage.token()

    def _output_added(self, event: Any, _now_ns: int) -> None:
        """Take that the model begins to write a call, or that the server itself calls a tool."""
        kind, response = text(event, "item", "type"), self._response_of(event)
        if response is None:
            return
        if kind == "mcp_call":
            self._begin_tool(response, text(event, "item", "id"), text(event, "item", "name"))
        elif kind == "function_call" and (call_id := text(event, "item", "call_id")) is not None:
            response.calls[call_id] = text(event, "item", "name") or ""

    def _function_called(self, event: Any, now_ns: int) -> None:
        """Take that a call is written; the service may have its result before the next event is read."""
        response, call_id = self._response_of(event), text(event, "call_id") or ""
        if response is not None:
            name = text(event, "name") or response.calls.get(call_id)
            response.calls[call_id] = name or ""
            response.called_ns = now_ns
            self._begin_tool(response, call_id, name)

    def _response_of(self, event: Any) -> Response | None:
        found = self._responses.get(text(event, "response_id") or "")
        return found if found is not None and found.turn is not None else None

    def _begin_tool(self, response: Response, call_id: str | None, name: str | None) -> None:
        if call_id and call_id not in self._tools and response.turn is not None and len(self._tools) < KEPT:
            tool = response.turn.tool(name or "")
            tool.set(n.GEN_AI_TOOL_CALL_ID, call_id)
            self._tools[call_id] = response.turn, tool

    def _tool_done(self, event: Any, _now_ns: int) -> None:
        self._end_tool(text(event, "item_id"))

    def _tool_failed(self, event: Any, _now_ns: int) -> None:
        self._end_tool(text(event, "item_id"), "error")

    def _end_tool(self, call_id: str | None, error: str | None = None) -> tuple[Turn, Tool] | None:
        found = self._tools.pop(call_id or "", None)
        if found is not None:
            if error is not None:
                found[1].fail(error)
            found[1].end()
        return found

    def _creates(self, event: Any, _now_ns: int) -> None:
        """Take an item that the client adds: the result of a tool, or a message that was typed."""
        kind = text(event, "item", "type")
        if kind == "function_call_output":
            self._told = self._end_tool(text(event, "item", "call_id")) or self._told
        elif kind == "message" and text(event, "item", "role") == "user":
            self._typed = True

    def _response_done(self, event: Any, now_ns: int) -> None:
        response = self._responses.pop(text(event, "response", "id") or "", None)
        if response is None or response.turn is None:
            return
        told, turn = field(event, "response"), response.turn
        status = text(told, "status")
        if status == "cancelled" and turn.pending is not None:
            turn.interrupted(min(turn.pending.record.announced_ns, now_ns))
            turn.barge_in("server_cancel", now_ns)
        # A service that reads no further until it has a result sees the end of the response behind the result.
        answered = response.called_ns is not None and not any(call_id in self._tools for call_id in response.calls)
        response.done(told, response.called_ns if answered and response.called_ns is not None else now_ns)
        waits = bool(response.calls) or any(asked is turn for asked, _ in self._tools.values())
        waits = waits or any(request.turn is turn for request in self._pending)
        waits = waits or any(other.turn is turn for other in self._responses.values())
        if status in ("completed", "incomplete") and self.settings.speaks and not waits:
            turn.end(now_ns)

    # The client stops it

    def _cancels(self, _event: Any, now_ns: int) -> None:
        turn = self.session.replying
        if turn is not None and turn.pending is not None:
            turn.interrupted(now_ns)

    def _truncates(self, event: Any, now_ns: int) -> None:
        heard_ms = number(event, "audio_end_ms") or 0
        self.playback.cut(text(event, "item_id") or "", heard_ms * 1_000_000, now_ns)

    # Failures

    def _failed(self, event: Any, _now_ns: int) -> None:
        """Take an error: of the request that it names, else the server's own of what it is asked to do."""
        code = text(event, "error", "code") or text(event, "error", "type") or "error"
        if code in _NO_FAULT:
            return
        if code == "input_audio_buffer_commit_empty":
            if self._commits_sent:
                self._commits_sent.pop(0).dismissed()
            return
        event_id = text(event, "error", "event_id")
        for request in self._pending:
            ours = request.event_id is not None and request.event_id == event_id
            if ours or text(event, "error", "type") == "server_error":
                self._pending.remove(request)
                if request.turn is not None:
                    request.turn.failed(code)
                    if request.turn.record.trigger is not None:
                        request.turn.end()
                return

    _RECEIVED: ClassVar[dict[Any, Callable[[Conversation, Any, int], None]]] = {
        "session.created": _session_created,
        "session.updated": _session_updated,
        "input_audio_buffer.speech_started": _speech_started,
        "input_audio_buffer.speech_stopped": _speech_stopped,
        "input_audio_buffer.committed": _buffer_committed,
        "input_audio_buffer.timeout_triggered": _silence_answered,
        "conversation.item.input_audio_transcription.completed": _transcribed,
        "conversation.item.input_audio_transcription.failed": _not_transcribed,
        "response.created": _response_created,
        "response.output_audio.delta": _audio_delta,
        "response.audio.delta": _audio_delta,
        "response.output_text.delta": _text_delta,
        "response.text.delta": _text_delta,
        "response.output_item.added": _output_added,
        "response.function_call_arguments.done": _function_called,
        "response.mcp_call.completed": _tool_done,
        "response.mcp_call.failed": _tool_failed,
        "response.done": _response_done,
        "error": _failed,
    }
    """What is read of the server's events; `response.audio` and `response.text` are names of the beta."""

    _SENT: ClassVar[dict[Any, Callable[[Conversation, Any, int], None]]] = {
        "input_audio_buffer.append": _appended,
        "input_audio_buffer.commit": _commits,
        "input_audio_buffer.clear": _clears,
        "response.create": _requests,
        "response.cancel": _cancels,
        "conversation.item.create": _creates,
        "conversation.item.truncate": _truncates,
        "conversation.item.delete": _deletes,
    }
