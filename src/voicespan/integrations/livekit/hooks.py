"""Where the framework is listened to: each hook by its qualified name, so that one that has moved is said by name."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from voicespan import emit  # noqa: F401 - with the framework, not on the loop of a job's call
from voicespan import names as n
from voicespan.guard import swallowed
from voicespan.integrations.hook import Args, Hook, Hooks, Kwargs, quiet
from voicespan.integrations.livekit import REQUIREMENT, apart, conversation, moments
from voicespan.integrations.livekit.reply import voice_of, watched_node
from voicespan.stage import Tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from voicespan.integrations.livekit.conversation import Conversation
    from voicespan.integrations.livekit.reply import Synthesis
    from voicespan.turn import Turn

_PACKAGE = "livekit.agents"


def _quiet(where: str) -> AbstractContextManager[None]:
    return quiet(f"livekit {where}")


def _hook(module: str, name: str, wrapper: Callable[..., Any], needs: tuple[str, ...] = ()) -> Hook:
    return Hook(f"{_PACKAGE}.{module}", name, wrapper, needs)


# The session


async def _start(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    begun = None
    with _quiet("start"):
        if conversation.of(session) is None:
            begun = conversation.begin(session, kwargs.get("room"))
            HOOKS.source().adopt(begun.session)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        if begun is not None:
            with _quiet("start"):
                begun.ended(error if isinstance(error, Exception) else None)
        raise
    with _quiet("start"):
        if begun is not None:
            begun.network.start()
    return result


def _measured(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    """Take the token counts of a response of a speech-to-speech model."""
    with _quiet("metrics"):
        event = args[0] if args else kwargs["ev"]
        talk = _talk(activity) if event.type == "realtime_model_metrics" else None
        if talk is not None:
            talk.tokens_used(event.input_tokens, event.output_tokens)
    return wrapped(*args, **kwargs)


async def _close(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    talk, error = conversation.of(session), kwargs.get("error")
    with _quiet("close"):
        if talk is not None and str(getattr(kwargs.get("reason"), "value", "")) == "participant_disconnected":
            talk.hung_up()
    try:
        return await wrapped(*args, **kwargs)
    finally:
        with _quiet("close"):
            if talk is not None:
                talk.ended(getattr(error, "error", None))


def _output_changed(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("output"):
        talk = conversation.of(session)
        if talk is not None:
            talk.playback.listen(session.output.audio)
    return wrapped(*args, **kwargs)


def _participant_linked(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("participant"):
        talk = conversation.of(session)
        if talk is not None:
            talk.session.media_up()
            if _is_phone(args[0] if args else kwargs["participant"]):
                talk.session.transport = "sip"
    return wrapped(*args, **kwargs)


def _is_phone(participant: Any) -> bool:
    from livekit import rtc

    return bool(participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP)


async def _change_agent(wrapped: Any, session: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("hand-over"):
        talk = conversation.of(session)
        agent = args[0] if args else kwargs["agent"]
        if talk is not None and session._activity is not None:  # noqa: SLF001 - the first agent takes over from nobody
            live = trace.get_current_span()
            tool = getattr(live, "subject", None)
            if kwargs.get("previous_activity") == "pause" and isinstance(tool, Tool):
                tool.outlives()  # it holds a conversation of its own
            turn = talk.turn_of_task() or talk.session.replying
            if turn is not None:
                turn.handoff(str(agent.id))
    return await wrapped(*args, **kwargs)


async def _start_recognition(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    talk = _talk(activity)
    if talk is None:
        return await wrapped(*args, **kwargs)
    with talk.current():  # what listens lives longer than the turn in which an agent took over
        return await wrapped(*args, **kwargs)


# The user


def _talk(activity: Any) -> Conversation | None:
    try:
        return conversation.of(activity.session)
    except Exception as error:
        swallowed("livekit", error)
        return None


def _frame(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    """Count a frame of the user's audio, a hundred or so a second."""
    try:
        talk, frame = conversation.of(activity.session), args[0] if args else kwargs["frame"]
        if talk is not None:
            talk.session.audio_in(frame, frame.duration)
    except Exception as error:
        swallowed("livekit audio", error)
    return wrapped(*args, **kwargs)


def _inferred(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("detector"):
        talk, event = _talk(activity), args[0] if args else kwargs["ev"]
        if talk is not None:
            talk.inferred(event.raw_accumulated_speech, event.raw_accumulated_silence, event.inference_duration)
    return wrapped(*args, **kwargs)


def _onset(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("onset"):
        talk = _talk(activity)
        if talk is not None:
            started_s = kwargs["speech_start_time"] if "speech_start_time" in kwargs else args[1]
            at_ns = moments.of_wall(talk.clock, started_s)
            talk.onset(at_ns)
            talk.recognizes(activity.stt, at_ns)
    return wrapped(*args, **kwargs)


def _silence(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("end of speech"):
        talk, event = _talk(activity), args[0] if args else kwargs.get("ev")
        if talk is not None and event is not None:
            talk.silence(moments.ago(talk.clock, event.silence_duration + event.inference_duration))
    return wrapped(*args, **kwargs)


def _partial(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("transcript"):
        talk, event = _talk(activity), args[0] if args else kwargs["ev"]
        if talk is not None and event.alternatives and event.alternatives[0].text:
            talk.partial()
    return wrapped(*args, **kwargs)


def _final(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("transcript"):
        talk, event = _talk(activity), args[0] if args else kwargs["ev"]
        if talk is not None:
            talk.transcript(activity.stt, event)
    return wrapped(*args, **kwargs)


def _speculate(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    talk = _talk(activity)
    if talk is None or talk.speech is None:
        return wrapped(*args, **kwargs)
    with talk.works_on(talk.speech):
        return wrapped(*args, **kwargs)


def _end_of_turn(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    talk, turn, now_ns, before, info = _talk(activity), None, 0, None, None
    with _quiet("end of turn"):
        info = args[0] if args else kwargs["info"]
        if talk is not None:
            now_ns = talk.clock.monotonic_ns()
            turn = talk.speech if talk.speech is not None and talk.speech.open else talk.onset(None)
            before = activity._user_turn_completed_atask  # noqa: SLF001
    if talk is None or turn is None:
        return wrapped(*args, **kwargs)
    with talk.works_on(turn):
        taken = wrapped(*args, **kwargs)
    with _quiet("end of turn"):
        if taken:
            _take_end(talk, turn, activity, info, now_ns)
            if activity._user_turn_completed_atask is before:  # noqa: SLF001
                turn.end()  # it is draining, and answers nobody
            elif info.skip_reply and activity.realtime_llm_session is None:
                turn.suppressed()
    return taken


def _take_end(talk: Conversation, turn: Turn, activity: Any, info: Any, now_ns: int) -> None:
    stopped_s = info.metrics.stopped_speaking_at
    # Without a detector the framework takes the transcript's arrival for the end of speech.
    heard = activity.vad is not None or activity._turn_detection == "stt"  # noqa: SLF001
    if not talk.speech_ended and heard and stopped_s is not None:
        turn.speech_ended(moments.of_wall(talk.clock, stopped_s))
    talk.committed(turn, now_ns)


async def _complete(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    try:
        return await wrapped(*args, **kwargs)
    finally:
        with _quiet("end of turn"):
            talk = _talk(activity)
            turn = None if talk is None else talk.turn_of_task()
            if talk is not None and turn is not None:
                _take_silence(talk, turn, asked=activity.realtime_llm_session is None)


def _take_silence(talk: Conversation, turn: Turn, *, asked: bool) -> None:
    """Take the end of what follows an utterance; where it has not asked for a reply, none will come.

    A speech-to-speech model answers without being asked.
    """
    declined = turn in apart.declined
    apart.declined.discard(turn)
    if turn not in talk.working:
        if declined:
            turn.suppressed()
        elif asked:
            turn.end()


def _forget(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("clear"):
        talk = _talk(activity)
        if talk is not None:
            talk.forgotten()
    return wrapped(*args, **kwargs)


def _failure(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("error"):
        error = args[0] if args else kwargs["error"]
        talk = _talk(activity)
        if talk is not None and error.type == "stt_error":
            talk.recognizer_failed(activity.stt, error.error, recoverable=error.recoverable)
        elif talk is not None and error.recoverable:  # what is not, is raised where it is watched
            reply = conversation.current_reply()
            attempts = getattr(reply, _ATTEMPTS.get(error.type, ""), None)
            if attempts is not None:
                attempts.failed(error.error)
    return wrapped(*args, **kwargs)


_ATTEMPTS = {"llm_error": "generation", "tts_error": "synthesis"}
"""By the kind of error, what of a reply is attempted again."""


# A model that listens and speaks by itself


def _heard(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("onset"):
        talk = _talk(activity)
        if talk is not None and (talk.speech is None or not talk.speech.open):
            talk.onset(None)
    return wrapped(*args, **kwargs)


def _answering(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("end of turn"):
        talk = _talk(activity)
        if talk is not None and talk.speech is not None and activity._rt_turn_detection_enabled:  # noqa: SLF001
            turn = talk.speech
            talk.committed(turn, talk.clock.monotonic_ns())
            talk.expect(turn, activity.llm)
    return wrapped(*args, **kwargs)


def _generation(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    """Take a response that the model begins by itself: its speech is made in the tasks of this call."""
    talk, turn = _talk(activity), None
    with _quiet("generation"):
        event = args[0] if args else kwargs["ev"]
        if talk is not None and not event.user_initiated:
            turn = talk.turn_for(spoken=True)
    if talk is None or turn is None:
        return wrapped(*args, **kwargs)
    with talk.works_on(turn):
        return wrapped(*args, **kwargs)


async def _respond(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("generation"):
        talk, handle = _talk(activity), kwargs["speech_handle"]
        reply = conversation.reply_of(handle)
        if reply is None and talk is not None:
            reply = talk.adopt(handle, talk.turn_for(spoken=True))
        if talk is not None and reply is not None:
            talk.responds(reply, activity.llm)
            event = kwargs["generation_ev"]
            messages = reply.responds(event.message_stream)
            kwargs = {**kwargs, "generation_ev": dataclasses.replace(event, message_stream=messages)}
    return await wrapped(*args, **kwargs)


# The agent


def _speech(wrapped: Any, activity: Any, args: Args, kwargs: Kwargs) -> Any:
    """Take a speech that is being made, by `say` or for a reply, for part of its turn."""
    talk, turn, known = _talk(activity), None, True
    with _quiet("speech"):
        if talk is not None:
            spoken = getattr(kwargs.get("input_details"), "modality", None) == "audio"
            turn = talk.turn_for(typed=bool(kwargs.get("user_message")), spoken=spoken)
            known = turn in talk.working or turn.record.committed_ns is not None
    if talk is None or turn is None:
        return wrapped(*args, **kwargs)
    try:
        with talk.works_on(turn):
            handle = wrapped(*args, **kwargs)
    except Exception:
        if not known and turn.record.trigger is not None:
            turn.dismissed()
        raise
    with _quiet("speech"):
        reply = talk.adopt(handle, turn)
        if activity.realtime_llm_session is not None and "input_details" in kwargs:
            talk.responds(reply, activity.llm)
    return handle


def _stop(wrapped: Any, handle: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("interruption"):
        if not handle.interrupted and not handle.done():
            conversation.stopped(handle)
    return wrapped(*args, **kwargs)


def _done(wrapped: Any, handle: Any, args: Args, kwargs: Kwargs) -> Any:
    result = wrapped(*args, **kwargs)
    with _quiet("speech"):
        conversation.done(handle, handle._error)  # noqa: SLF001
    return result


def _infer(wrapped: Any, _module: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("llm"):
        reply = conversation.current_reply()
        if reply is not None:
            generation = reply.generates(kwargs.get("model"), kwargs.get("provider"))
            kwargs = {**kwargs, "node": watched_node(kwargs["node"], generation, generation.chunk)}
    return wrapped(*args, **kwargs)


def _synthesize(wrapped: Any, _module: Any, args: Args, kwargs: Kwargs) -> Any:
    with _quiet("tts"):
        reply = conversation.current_reply()
        if reply is not None:
            activity = getattr(getattr(kwargs["node"], "__self__", None), "_activity", None)
            voice = voice_of(getattr(activity, "tts", None))
            synthesis = reply.synthesizes(kwargs.get("model"), kwargs.get("provider"), voice)
            node = watched_node(kwargs["node"], synthesis, synthesis.frame)
            kwargs = {**kwargs, "node": functools.partial(_synthesizing, synthesis, node)}
    return wrapped(*args, **kwargs)


def _synthesizing(synthesis: Synthesis, node: Callable[..., Any], text: Any, *settings: Any) -> Any:
    return node(synthesis.text(text), *settings)


async def _execute(wrapped: Any, executor: Any, args: Args, kwargs: Kwargs) -> Any:
    tool = None
    with _quiet("tool"):
        call = kwargs["run_ctx"].function_call
        reply = conversation.reply_of(kwargs["run_ctx"].speech_handle)
        if reply is not None:
            tool = reply.turn.tool(call.name)
            tool.set(n.GEN_AI_TOOL_CALL_ID, call.call_id)
    if tool is None:
        return await wrapped(*args, **kwargs)
    before = trace.get_current_span()
    scope = tool.step_begins()
    apart.carry(before)
    try:
        result = await wrapped(*args, **kwargs)
    except BaseException as error:
        if type(error).__name__ == "StopResponse":
            tool.end()
        else:
            tool.step_failed(error)
        raise
    finally:
        tool.step_ends(scope)
    with _quiet("tool"):
        running = executor._running_tasks.get(call.call_id)  # noqa: SLF001
        if running is not None and not running.exe_task.done():
            tool.outlives()  # it has told how far it is, and goes on
            _going_on[kwargs["run_ctx"]] = tool
            running.exe_task.add_done_callback(lambda task: _settled(tool, task))
        else:
            tool.end()
    return result


def _result(wrapped: Any, context: Any, args: Args, kwargs: Kwargs) -> Any:
    """Take what a tool tells; the last of it is the result, which then waits for a silence to be said in."""
    with _quiet("tool"):
        tool = _going_on.get(context)
        if tool is not None and kwargs.get("call_id_suffix") == "_final":
            output = args[0] if args else kwargs["message"]
            if isinstance(output, Exception) and type(output).__name__ != "StopResponse":
                tool.fail(output)
            tool.end()
    return wrapped(*args, **kwargs)


_going_on: weakref.WeakKeyDictionary[Any, Tool] = weakref.WeakKeyDictionary()
"""Tools that have told something and go on, by their context."""


def _settled(tool: Tool, task: Any) -> None:
    if task.cancelled():
        tool.cancelled()
    elif isinstance(task.exception() or task.result(), Exception):
        tool.fail(task.exception() or task.result())
    tool.end()


ATTRIBUTES = (
    (
        "voice.agent_activity",
        "AgentActivity",
        ("_user_turn_completed_atask", "_turn_detection", "_rt_turn_detection_enabled"),
    ),
    ("voice.agent_activity", "AgentActivity", ("realtime_llm_session", "session", "stt", "vad", "llm", "tts")),
    ("voice.agent_session", "AgentSession", ("_activity", "user_state", "output")),
    ("voice.speech_handle", "SpeechHandle", ("_error", "_interrupt_source", "interrupted", "scheduled", "done")),
    ("voice.tool_executor", "_ToolExecutor", ("_running_tasks",)),
    ("telemetry.traces", "_DynamicTracer", ("_tracer_provider", "_tracer")),
)
"""Attributes of the framework's objects that the hooks read, by class."""

HOOKS = Hooks(
    REQUIREMENT,
    _hook("voice.agent_session", "AgentSession.start", _start),
    _hook("voice.agent_session", "AgentSession._aclose_impl", _close),
    _hook("voice.agent_session", "AgentSession._on_audio_output_changed", _output_changed),
    _hook("voice.agent_session", "AgentSession._on_room_io_participant_linked", _participant_linked),
    _hook("voice.agent_session", "AgentSession._update_activity", _change_agent, ("agent", "previous_activity")),
    _hook("voice.agent_activity", "AgentActivity._start_session", _start_recognition),
    _hook("voice.agent_activity", "AgentActivity.push_audio", _frame, ("frame",)),
    _hook("voice.agent_activity", "AgentActivity.on_vad_inference_done", _inferred, ("ev",)),
    _hook("voice.agent_activity", "AgentActivity.on_start_of_speech", _onset, ("speech_start_time",)),
    _hook("voice.agent_activity", "AgentActivity.on_end_of_speech", _silence, ("ev",)),
    _hook("voice.agent_activity", "AgentActivity.on_interim_transcript", _partial, ("ev",)),
    _hook("voice.agent_activity", "AgentActivity.on_final_transcript", _final, ("ev",)),
    _hook("voice.agent_activity", "AgentActivity.on_preemptive_generation", _speculate),
    _hook("voice.agent_activity", "AgentActivity.on_end_of_turn", _end_of_turn, ("info",)),
    _hook("voice.agent_activity", "AgentActivity._user_turn_completed_impl", _complete),
    _hook("voice.agent_activity", "AgentActivity.clear_user_turn", _forget),
    _hook("voice.agent_activity", "AgentActivity._on_error", _failure, ("error",)),
    _hook("voice.agent_activity", "AgentActivity._on_metrics_collected", _measured, ("ev",)),
    _hook("voice.agent_activity", "AgentActivity._on_input_speech_started", _heard),
    _hook("voice.agent_activity", "AgentActivity._on_input_speech_stopped", _answering),
    _hook("voice.agent_activity", "AgentActivity._on_generation_created", _generation, ("ev",)),
    _hook(
        "voice.agent_activity", "AgentActivity._realtime_generation_task", _respond, ("speech_handle", "generation_ev")
    ),
    _hook("voice.agent_activity", "AgentActivity.say", _speech),
    _hook("voice.agent_activity", "AgentActivity._generate_reply", _speech, ("user_message",)),
    _hook("voice.agent_activity", "perform_llm_inference", _infer, ("node", "model", "provider")),
    _hook("voice.agent_activity", "perform_tts_inference", _synthesize, ("node", "model", "provider")),
    _hook("voice.speech_handle", "SpeechHandle._cancel", _stop),
    _hook("voice.speech_handle", "SpeechHandle._mark_done", _done),
    _hook("voice.tool_executor", "_ToolExecutor.execute", _execute, ("run_ctx",)),
    _hook("voice.events", "RunContext._make_update_output", _result),
    _hook("telemetry.traces", "_DynamicTracer.set_provider", apart.set_provider),
    _hook("telemetry.traces", "get_logger_provider", apart.get_logger_provider),
    _hook("telemetry.traces", "set_logger_provider", apart.set_logger_provider),
    _hook("telemetry.otel_metrics", "_job_attrs", apart.job_attributes),
    onset="VAD event",
    attributes=tuple((f"{_PACKAGE}.{module}", kind, names) for module, kind, names in ATTRIBUTES),
)


def install() -> None:
    """Put every hook in place, and keep the framework's own telemetry apart."""
    if HOOKS.install():
        from livekit.agents.telemetry import tracer

        apart.keep_tracer_apart(tracer)


def remove() -> None:
    """Take every hook away again."""
    HOOKS.remove()
