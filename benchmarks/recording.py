"""What one turn costs: recording it with voicespan against writing the same spans with the plain SDK.

Two figures, each paired and interleaved in one run: the time on the calling thread, and all CPU of the process until
the turn's OTLP bytes exist. Prints JSON: medians, spread and the ratio of the medians.

    python benchmarks/recording.py [--turns 300] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from voicespan.emit import BackgroundRecorder
from voicespan.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

FRAMES = 10


class Keep(SpanProcessor):
    """Keeps ended spans, as the queue of a batch processor does; costs next to nothing."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def plain_turn(tracer: trace.Tracer, session_id: str) -> None:
    """The twelve spans of a plain turn by hand, done well: explicit parents, attributes at the start."""
    start, child = tracer.start_span, trace.set_span_in_context
    turn = start(
        "voice.turn",
        attributes={
            "session.id": session_id,
            "gen_ai.conversation.id": session_id,
            "gen_ai.operation.name": "invoke_agent",
            "voice.turn.initiator": "user",
            "voice.turn.input": "speech",
            "voice.turn.index": 1,
            "voice.speech.segments": 1,
            "voice.transport": "websocket",
        },
    )
    root = child(turn)
    vad = start("vad", context=root, attributes={"voice.component": "vad"})
    endpoint = start("vad.endpoint", context=child(vad))
    asr = start("asr", context=root, attributes={"voice.component": "asr"})
    finalize = start("asr.finalize", context=child(asr))
    response = start("voice.response", context=root, attributes={"voice.response.from": "speech_end"})
    vad.add_event("vad.speech_end")
    finalize.end()
    asr.end()
    endpoint.end()
    vad.end()
    model = {"gen_ai.request.model": "small", "gen_ai.operation.name": "chat"}
    llm = start("llm", context=root, attributes={"voice.component": "llm", **model})
    in_llm = child(llm)
    ttft = start("llm.ttft", context=in_llm, attributes=model)
    sentence = start("llm.first_sentence", context=in_llm, attributes=model)
    ttft.end()
    sentence.end()
    llm.set_attribute("voice.llm.token.count", 3)
    llm.end()
    voice = {"voice.tts.voice.name": "amy", "voice.component": "tts"}
    tts = start("tts", context=root, attributes=voice)
    first = start("tts.first_audio", context=child(tts), attributes={"voice.tts.voice.name": "amy"})
    first.end()
    playback = start("playback", context=root, attributes={"voice.component": "playback"})
    frames = 0
    for _ in range(FRAMES):
        frames += 1
    response.set_attribute("voice.turn.bottleneck", "llm")
    response.set_attribute("voice.turn.outcome", "completed")
    for stage in ("endpoint", "asr", "llm", "sentence", "tts", "send", "unattributed"):
        response.set_attribute(f"voice.response.share.{stage}", 0.1)
    response.end()
    tts.set_attribute("voice.audio.frame.count", frames)
    tts.end()
    playback.end()
    turn.set_attribute("voice.turn.bottleneck", "llm")
    turn.set_attribute("voice.turn.outcome", "completed")
    turn.end()


def our_turn(session: Session) -> None:
    """The same turn through marks."""
    turn = session.user_turn()
    turn.speech_ended(at=time.monotonic_ns())
    turn.transcript()
    turn.committed()
    with turn.llm(model="small") as llm:
        llm.token()
        llm.token()
        llm.token()
    with turn.tts(voice="amy") as tts:
        tts.audio(0.02)
        for _ in range(FRAMES):
            turn.audio_sent(0.0)
    turn.end()


def measure(work: Callable[[], object], clock: Callable[[], int]) -> int:
    begin = clock()
    work()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    keep = Keep()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keep)
    trace.set_tracer_provider(provider)
    tracer = provider.get_tracer("plain")
    recorder = BackgroundRecorder()
    recorder._thread = recorder  # type: ignore[assignment]  # no thread: the background work is measured apart

    def plain() -> None:
        for index in range(arguments.turns):
            plain_turn(tracer, f"call-{index % 10}")

    def ours() -> None:
        with Session(recorder, "call-1", transport="websocket") as session:
            for _ in range(arguments.turns):
                our_turn(session)

    def to_bytes() -> None:
        for start in range(0, len(keep.spans), 64):
            encode_spans(keep.spans[start : start + 64]).SerializeToString()

    samples: dict[str, list[float]] = {name: [] for name in ("plain", "ours", "plain_to_bytes", "ours_to_bytes")}
    spans = {}
    for _ in range(arguments.rounds):
        for name, record in (("plain", plain), ("ours", ours)):
            keep.spans.clear()
            caller = measure(record, time.perf_counter_ns)
            rest = measure(recorder.drain, time.process_time_ns) + measure(to_bytes, time.process_time_ns)
            spans[name] = len(keep.spans) / arguments.turns
            samples[name].append(caller / arguments.turns / 1e3)
            samples[f"{name}_to_bytes"].append((caller + rest) / arguments.turns / 1e3)

    def row(name: str) -> dict[str, float]:
        values = sorted(samples[name])
        return {
            "median_us": round(statistics.median(values), 2),
            "min_us": round(values[0], 2),
            "max_us": round(values[-1], 2),
        }

    print(
        json.dumps(
            {
                "benchmark": "recording",
                "spans_per_turn": spans,
                "caller": {"plain": row("plain"), "voicespan": row("ours")},
                "all_cpu_to_bytes": {"plain": row("plain_to_bytes"), "voicespan": row("ours_to_bytes")},
                "ratio_caller": round(statistics.median(samples["ours"]) / statistics.median(samples["plain"]), 3),
                "ratio_all_cpu": round(
                    statistics.median(samples["ours_to_bytes"]) / statistics.median(samples["plain_to_bytes"]), 3
                ),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
