"""What users hear: the assistant, their experience, calls, synthesis, and the real-time path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.stack import promql as q
from voicespan.stack.dashboards import common as c
from voicespan.stack.dashboards import panels as p
from voicespan.stack.dashboards.board import (
    ENGINE,
    INSTANCE,
    LANGUAGE,
    MODEL,
    TRANSPORT,
    VOICE,
    Board,
    Filter,
    custom,
)

if TYPE_CHECKING:
    from voicespan.stack.dashboards.panels import Panel
    from voicespan.stack.objectives import Objectives

EXPECTED_S = {"1-10": 1.5, "11-25": 3.0, "26-50": 5.0}
"""How long the synthesis of a text may take at most to be as usual, by its words; longer ones have no such bound."""


def assistant(objectives: Objectives) -> Board:
    """Return the main dashboard."""
    of = Filter(INSTANCE, MODEL, TRANSPORT, VOICE, LANGUAGE)
    slow = c.limit(objectives, "HighEndToEndLatency")
    heard = (
        c.silence(of, "End-to-end latency (client)", "client", line=slow),
        c.silence(of, "End-to-end latency (server)", "server", line=slow),
        c.outcomes(of),
        p.heatmap(
            "Distribution of the heard silence",
            "Turns by the length of their silence, at the chosen place of measurement.",
            q.DURATION,
            of.span(n.SPAN_RESPONSE, c.AT),
            width=16,
        ),
        c.latency(
            of,
            n.SPAN_BARGE_IN,
            "Barge-in by phase",
            "From an interruption to silence; `total` begins at the real onset of the user's speech.",
            by=(c.PHASE,),
            shares=(0.95,),
        ),
    )
    stages = (
        c.latency(
            of,
            n.SPAN_ASR_FINALIZE,
            "Speech recognition",
            "End of speech to the final transcript.",
            line=c.limit(objectives, "SttLatencyWarning"),
        ),
        c.latency(
            of,
            n.SPAN_LLM_TTFT,
            "Time to first token",
            "Request to the model to its first token.",
            line=c.limit(objectives, "LlmTtftWarning"),
        ),
        _first_audio(of, objectives, "First audio"),
        c.recorded(
            of,
            n.METRIC_VOICE_AUDIO_FRAME_JITTER,
            "Playout jitter",
            "How far frames are from their time, at the client.",
            q.is_(n.VOICE_MEASUREMENT_POINT, "client"),
            shares=(0.5, 0.95, 0.99),
            line=c.limit(objectives, "HighFrameJitter"),
        ),
        c.latency(
            of,
            n.SPAN_TOKEN_MINT,
            "Token minting (p95)",
            "Making the token with which a client connects.",
            shares=(0.95,),
        ),
        c.count(of, n.METRIC_VOICE_AUDIO_IO, "Audio in and out", "Decoded audio.", "Bps", by=(c.DIRECTION, q.POINT)),
    )
    clients = (
        c.calls(
            "HTTP requests",
            "By method, route and status.",
            of.any_span(q.SERVED, q.is_(n.HTTP_ROUTE)),
            "reqps",
            by=(q.label(n.HTTP_REQUEST_METHOD), c.ROUTE, c.STATUS),
        ),
        c.count(
            of,
            n.METRIC_VOICE_RATE_LIMIT_REJECTIONS,
            "Rate-limit rejections",
            "Requests that a rate limit refused.",
            "reqps",
            by=(c.ROUTE,),
        ),
        p.timeseries(
            "Client errors and reconnections",
            "What clients report.",
            [
                p.query(c.per_second(q.series(metric), of.direct(metric)), name)
                for metric, name in (
                    (n.METRIC_VOICE_CLIENT_ERRORS, "errors"),
                    (n.METRIC_VOICE_CLIENT_RECONNECTIONS, "reconnections"),
                )
            ],
            "cps",
        ),
    )
    processes = (
        c.level(of, n.METRIC_PROCESS_CPU_UTILIZATION, "CPU", c.CPU, "percentunit"),
        c.level(of, n.METRIC_PROCESS_MEMORY_USAGE, "Memory", "Resident memory.", "bytes"),
        p.stat(
            "Services up",
            "Processes that send a heartbeat.",
            q.total(of.metric(n.METRIC_VOICE_SERVICE_UP), (q.JOB,)),
            "none",
            limits=c.from_(1),
            legend=p.legend(q.JOB),
            width=8,
            height=8,
        ),
    )
    return Board(
        "voicespan-assistant",
        "Full-Duplex Voice Assistant - Performance Dashboard",
        "Start here: how long users wait, what they wait for, and whether anything is broken.",
        of,
        (
            ("What users hear", heard),
            ("Stages", stages),
            ("Requests and clients", clients),
            ("Processes", processes),
            ("Slow turns", (c.slow_turns(of),)),
        ),
        choices=(custom("slow", "Slow from", c.SLOW),),
    )


def _first_audio(of: Filter, objectives: Objectives, title: str, width: int = 8) -> Panel:
    return c.latency(
        of,
        n.SPAN_TTS_FIRST_AUDIO,
        title,
        "First text to synthesis to the first audio frame.",
        line=c.limit(objectives, "HighFirstAudioLatency"),
        width=width,
    )


def _jitter(of: Filter, objectives: Objectives, title: str, *by: str, width: int = 8) -> Panel:
    return c.recorded(
        of,
        n.METRIC_VOICE_AUDIO_FRAME_JITTER,
        title,
        "How far frames are from their time.",
        by=by,
        line=c.limit(objectives, "HighFrameJitter"),
        width=width,
    )


def _distribution(of: Filter, width: int = 12) -> Panel:
    return p.heatmap(
        "Distribution of the heard silence",
        "Turns by the length of their silence, at the chosen place of measurement.",
        q.DURATION,
        of.span(n.SPAN_RESPONSE, c.AT),
        width=width,
    )


def experience(objectives: Objectives) -> Board:
    """Return what users experience, without a word about machines."""
    of = Filter(MODEL, TRANSPORT, VOICE, LANGUAGE)
    target = c.limit(objectives, "LatencyTargetMissed")
    everybody = of.spans(n.SPAN_RESPONSE, n.SPAN_UNANSWERED)
    glance = (
        p.stat(
            "Answered in time",
            f"Turns that were answered within {target:g} s; who was never answered was not.",
            c.answered_within(of, target),
            "percentunit",
            limits=c.from_(0.8, 0.95),
            width=6,
        ),
        p.stat(
            "Median silence",
            "Half of the replies come sooner.",
            q.quantile(0.5, q.DURATION, of.span(n.SPAN_RESPONSE), (q.POINT,), p.RATE),
            "s",
            limits=c.until(target, c.limit(objectives, "HighEndToEndLatency")),
            legend=p.legend(q.POINT),
            width=6,
        ),
        p.stat(
            "Without an answer",
            "Turns in which the user heard nothing.",
            q.ratio(c.per_second(q.CALLS, of.span(n.SPAN_UNANSWERED)), c.per_second(q.CALLS, everybody)),
            "percentunit",
            limits=c.until(c.limit(objectives, "UnansweredTurns")),
            width=6,
        ),
        p.stat(
            "Sessions now",
            "Sessions that are open.",
            f"sum({of.metric(n.METRIC_VOICE_SESSION_ACTIVE)})",
            "none",
            width=6,
        ),
    )
    latency = (
        c.silence(of, "Heard silence", line=c.limit(objectives, "HighEndToEndLatency"), width=12),
        _distribution(of),
        c.latency(
            of,
            n.SPAN_BARGE_IN,
            "Interruptions",
            "Until the agent is silent, by phase.",
            by=(c.PHASE,),
            shares=(0.5, 0.95),
            width=12,
        ),
        c.recorded(
            of,
            n.METRIC_VOICE_CLIENT_MARK_DURATION,
            "Client's timeline (p95)",
            "End of speech to each moment that the client reported.",
            by=(q.label(n.VOICE_CLIENT_MARK),),
            width=12,
        ),
        p.lines(
            "Target compliance",
            "Sessions that met the latency target of their service.",
            c.target_met(of),
            "percentunit",
            name="met",
            most=1,
        ),
        c.latency(
            of,
            n.SPAN_PLAYBACK_GAP,
            "Gaps in the reply",
            "Nothing to hear for more than 100 ms in the middle of a reply.",
            shares=(0.5, 0.95),
        ),
        c.outcomes(of),
    )
    return Board(
        "voicespan-experience",
        "User Experience Dashboard",
        "Latency and quality as the user meets them.",
        of,
        (
            ("At a glance", glance),
            ("Latency", latency),
            ("Audio quality", (_jitter(of, objectives, "Jitter (p95)", c.DIRECTION, q.POINT), c.mos(of), c.loss(of))),
            ("Slow turns", (c.slow_turns(of),)),
        ),
        choices=(custom("slow", "Slow from", c.SLOW),),
    )


def realtime(objectives: Objectives) -> Board:
    """Return the path of a call: sessions, first audio, interruptions, frames."""
    of = Filter(INSTANCE, ENGINE, TRANSPORT, VOICE)
    message, command = (q.label(attribute) for attribute in (n.VOICE_MESSAGE_TYPE, n.VOICE_CONTROL_COMMAND))
    detected = q.label(n.VOICE_VAD_EVENT)
    sessions = (
        p.gauge(
            "Current Active Sessions",
            "Sessions that are open now.",
            f"sum({of.metric(n.METRIC_VOICE_SESSION_ACTIVE)})",
            "none",
            c.until(5, 10),
            most=20,
        ),
        p.lines(
            "Session Start Rate",
            "New sessions.",
            c.per_second(q.series(n.METRIC_VOICE_SESSION_STARTED), of.direct(n.METRIC_VOICE_SESSION_STARTED)),
            "cps",
            name="started",
            width=9,
        ),
        c.count(
            of,
            n.METRIC_VOICE_SESSION_ERRORS,
            "Error Rate",
            "Errors in sessions, by their class.",
            by=(c.ERROR,),
            width=9,
        ),
    )
    latency = (
        _first_audio(of, objectives, "First Audio Latency (p50/p95/p99)", width=12),
        c.latency(
            of,
            n.SPAN_BARGE_IN,
            "Barge-in Latency (p95)",
            "From the detection to the pause of the worker.",
            q.is_(n.VOICE_BARGE_IN_PHASE, "worker_pause"),
            shares=(0.95,),
            line=c.limit(objectives, "HighBargeInLatency"),
            width=12,
        ),
        _jitter(of, objectives, "Frame Jitter (p95)", q.POINT, width=12),
        p.heatmap(
            "Distribution of first audio",
            "Replies by the time to their first audio.",
            q.DURATION,
            of.span(n.SPAN_TTS_FIRST_AUDIO),
        ),
    )
    frames = (
        c.count(of, n.METRIC_VOICE_MESSAGES, "Messages", "On media connections.", by=(message, c.DIRECTION), width=6),
        c.recorded(
            of,
            n.METRIC_VOICE_MESSAGE_PROCESS_DURATION,
            "Handling of a message (p95)",
            "By its type.",
            by=(message,),
            width=6,
        ),
        c.count(of, n.METRIC_VOICE_AUDIO_FRAMES, "Audio frames", "Frames per second.", by=(c.DIRECTION,), width=6),
        c.count(
            of,
            n.METRIC_VOICE_AUDIO_FRAME_DROPS,
            "Dropped frames",
            "By the reason.",
            by=(q.label(n.VOICE_AUDIO_DROP_REASON),),
            width=6,
        ),
        c.count(of, n.METRIC_VOICE_VAD_EVENTS, "Speech detector", "What the detector said.", by=(detected,), width=6),
        c.recorded(
            of,
            n.METRIC_VOICE_VAD_DETECTION_DURATION,
            "Detection (p95)",
            "Time of one detection.",
            by=(detected,),
            width=6,
        ),
        c.count(
            of, n.METRIC_VOICE_CONTROL_COMMANDS, "Commands to workers", "Pause, resume, stop.", by=(command,), width=6
        ),
        c.recorded(
            of,
            n.METRIC_VOICE_CONTROL_DURATION,
            "Commands (p95)",
            "Command received to applied.",
            by=(command,),
            width=6,
        ),
    )
    return Board(
        "voicespan-realtime",
        "Realtime Performance",
        "Sessions, first audio, interruptions and frames.",
        of,
        (("Sessions", sessions), ("Latency", latency), ("Messages and frames", frames)),
    )


def calls(objectives: Objectives) -> Board:
    """Return the dashboard of a call agent."""
    of = Filter(INSTANCE, MODEL, TRANSPORT)
    target = c.limit(objectives, "LatencyTargetMissed")
    latency = (
        c.silence(of, "End-to-End Latency Percentiles", line=target, width=12),
        p.timeseries(
            "Component Latency Breakdown",
            "The p95 of the final transcript, of the whole answer of the model, and of the whole synthesis."
            + p.EXEMPLARS,
            [
                p.query(q.quantile(0.95, q.DURATION, of.span(span_name), (), p.RATE), name, exemplar=True)
                for span_name, name in ((n.SPAN_ASR_FINALIZE, "STT"), (n.SPAN_LLM, "LLM"), (n.SPAN_TTS, "TTS"))
            ],
            "s",
            width=12,
        ),
        p.lines(
            "Average silence",
            "Mean at each place of measurement; the target is a mean.",
            q.mean(q.DURATION, of.span(n.SPAN_RESPONSE), (q.POINT,), p.RATE),
            "s",
            by=(q.POINT,),
            line=target,
        ),
        p.timeseries(
            "Target Compliance",
            f"Turns that were answered within {target:g} s, and sessions that met the target of their service.",
            [p.query(c.answered_within(of, target), "turns"), p.query(c.target_met(of), "calls")],
            "percentunit",
            most=1,
        ),
        _distribution(of, width=8),
    )
    return Board(
        "voicespan-calls",
        "Call Agent",
        "A call agent: latency, calls, audio, resources.",
        of,
        (
            ("Latency", latency),
            ("Call Statistics", _call_statistics(of)),
            ("Audio Quality", (c.mos(of), _jitter(of, objectives, "Jitter", c.DIRECTION), c.loss(of))),
            (
                "System Resources",
                (
                    c.level(of, n.METRIC_PROCESS_CPU_UTILIZATION, "CPU", c.CPU, "percentunit", width=12),
                    c.level(of, n.METRIC_PROCESS_MEMORY_USAGE, "Memory", "Resident memory.", "bytes", width=12),
                ),
            ),
            ("Slow turns", (c.slow_turns(of),)),
        ),
        refresh="5s",
        choices=(custom("slow", "Slow from", c.SLOW),),
    )


def _call_statistics(of: Filter) -> tuple[Panel, ...]:
    ends = n.METRIC_VOICE_SESSION_ENDED
    in_error = [*of.direct(ends), q.is_(n.VOICE_SESSION_END_REASON, "error")]
    failed = q.ratio(c.per_second(q.series(ends), in_error), c.per_second(q.series(ends), of.direct(ends)))
    return (
        p.stat(
            "Active calls",
            "Calls that are open now.",
            f"sum({of.metric(n.METRIC_VOICE_SESSION_ACTIVE)})",
            "none",
            width=4,
            height=8,
        ),
        p.timeseries(
            "Call rate",
            "New calls, and such that never had media.",
            [
                p.query(c.per_second(q.series(metric), of.direct(metric)), name)
                for metric, name in (
                    (n.METRIC_VOICE_SESSION_STARTED, "started"),
                    (n.METRIC_VOICE_SESSION_SETUP_FAILURES, "failed set-up"),
                )
            ],
            "cps",
            width=10,
        ),
        p.lines(
            "Success rate",
            "Calls that did not end in an error.",
            f"1 - {failed}",
            "percentunit",
            name="success",
            most=1,
            width=10,
        ),
        c.count(
            of,
            ends,
            "Ends of calls",
            "By the reason.",
            by=(q.label(n.VOICE_SESSION_END_REASON),),
            stacked=True,
            width=12,
        ),
        c.latency(of, n.SPAN_SESSION_SETUP, "Call set-up", "Call offered to media.", width=12),
    )


def synthesis(objectives: Objectives) -> Board:
    """Return the dashboard of a TTS service."""
    of = Filter(INSTANCE, ENGINE, VOICE, LANGUAGE)
    resources = (
        c.level(
            of,
            n.METRIC_SYSTEM_CPU_UTILIZATION,
            "System CPU",
            "Share of the machine's processors in use.",
            "percentunit",
        ),
        c.level(of, n.METRIC_SYSTEM_MEMORY_USAGE, "System Memory", "Memory in use on the machine.", "bytes"),
        c.level(
            of,
            n.METRIC_HW_GPU_UTILIZATION,
            "GPU",
            "Share of time that the GPU was busy.",
            "percentunit",
            by=(*p.PROCESS, q.label(n.HW_ID)),
        ),
    )
    slow = p.trace_table(
        "Slow syntheses",
        "Longer than chosen above; a click opens the trace.",
        "{ " + of.trace(n.SPAN_TTS, "span:duration > $slow") + " }",
    )
    return Board(
        "voicespan-tts",
        "TTS",
        "Speech synthesis: requests, lengths of text, voices, errors, machines.",
        of,
        (
            ("Requests", _requests(of, objectives)),
            ("Length of the text", _lengths(of)),
            ("Voices and workers", _voices(of)),
            ("System Resources", resources),
            ("Slow syntheses", (slow,)),
        ),
        choices=(
            custom("words", "Words in the text", (".*", *n.WORD_COUNT_RANGES)),
            custom("slow", "Slow from", ("2s", "1s", "5s", "10s")),
        ),
    )


def _requests(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    served = of.any_span(q.SERVED, q.is_(n.HTTP_ROUTE))
    return (
        c.calls("Request Rate", "By route and status.", served, "reqps", by=(c.ROUTE, c.STATUS)),
        p.timeseries(
            "P95 Response Time",
            "Until the last byte, by route." + p.EXEMPLARS,
            p.percentiles(q.DURATION, served, (0.95,), (c.ROUTE,)),
            "s",
            line=c.limit(objectives, "TtsSlowResponses"),
        ),
        c.failures(
            "Error Rate",
            "Failed syntheses, by their class.",
            of.span(n.SPAN_TTS, q.FAILED),
            by=(c.ERROR,),
            line=c.limit(objectives, "TtsErrors"),
        ),
        p.heatmap("Response Time Distribution", "Requests by their duration.", q.DURATION, served),
        _first_audio(of, objectives, "First audio", width=12),
    )


def _lengths(of: Filter) -> tuple[Panel, ...]:
    words = q.label(n.VOICE_TEXT_WORD_COUNT_RANGE)
    measured = p.percentiles(q.DURATION, of.span(n.SPAN_TTS, q.is_(n.VOICE_TEXT_WORD_COUNT_RANGE)), (0.95,), (words,))
    usual = [p.query(f"vector({most:g})", f"usual {text}") for text, most in EXPECTED_S.items()]
    return (
        p.heatmap(
            "Word Count Performance",
            "Duration of syntheses of texts with the chosen number of words.",
            q.DURATION,
            of.span(n.SPAN_TTS, f'{words}=~"$words"'),
        ),
        p.timeseries(
            "P95 by word count",
            "Duration of the synthesis for each range of words, and what is usual at most." + p.EXEMPLARS,
            [*measured, *usual],
            "s",
            width=6,
        ),
        c.latency(
            of,
            n.SPAN_TTS,
            "P95 by characters",
            "Duration of the synthesis for each range of characters.",
            q.is_(n.VOICE_TEXT_CHARACTER_COUNT_RANGE),
            by=(q.label(n.VOICE_TEXT_CHARACTER_COUNT_RANGE),),
            shares=(0.95,),
            width=6,
        ),
    )


def _voices(of: Filter) -> tuple[Panel, ...]:
    return (
        c.latency(
            of,
            n.SPAN_TTS_FIRST_AUDIO,
            "Voice Performance",
            "First audio (p95) by voice.",
            q.is_(n.VOICE_TTS_VOICE_NAME),
            by=(c.VOICE,),
            shares=(0.95,),
        ),
        c.latency(
            of,
            n.SPAN_TTS_FIRST_AUDIO,
            "Language Performance",
            "First audio (p95) by language.",
            q.is_(n.VOICE_LANGUAGE),
            by=(c.LANGUAGE,),
            shares=(0.95,),
        ),
        c.latency(
            of,
            n.SPAN_TTS_INFERENCE,
            "Inference by worker",
            "The inference alone (p95), without queue and transport.",
            by=(c.WORKER,),
            shares=(0.95,),
        ),
        c.recorded(
            of,
            n.METRIC_VOICE_TTS_REAL_TIME_FACTOR,
            "Real-time factor (p95)",
            "Synthesis time over audio made; from 1 on speech cannot keep up.",
            by=(c.MODEL,),
            unit="none",
            line=1,
        ),
        c.level(of, n.METRIC_VOICE_TTS_VOICE_ACTIVE, "Voices in use", "Voices that are being spoken with.", "none"),
        c.level(of, n.METRIC_VOICE_INFERENCE_QUEUE_LENGTH, "Queue", "Requests that wait for a worker.", "none"),
        c.calls("Syntheses by worker", "Per second.", of.span(n.SPAN_TTS, q.is_(n.VOICE_WORKER_ID)), by=(c.WORKER,)),
    )
