"""What one turn costs: recording it with voicespan against writing the same spans with the plain SDK.

Paired and interleaved in one run, in CPU time: what the calling thread pays, and all CPU until the bytes of the OTLP
request exist (ours redacted, the SDK's not). `spans` are our turns where somebody else's span processor wants to see
them, so that they go through the SDK. `held` is the longest that one step of our background work holds the interpreter.
Prints JSON: minima, medians, and the ratios of the minima, since medians carry the machine's other work.

    python benchmarks/recording.py [--turns 300] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from voicespan import emit
from voicespan.emit import BackgroundRecorder
from voicespan.metrics.instruments import nobody_reads
from voicespan.sdk.batch import Limits
from voicespan.sdk.export import BatchProcessor, BodySender
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


def plain_turn(tracer: trace.Tracer, session_id: str, previous: trace.SpanContext | None = None) -> trace.SpanContext:
    """The twelve spans of a plain turn by hand, with all that ours carry (tests/benchmarks/test_recording.py).

    Done well: explicit parents, one model's attributes made once, attributes at the start where they are known then.
    Nothing is concluded here: shares, bottleneck and critical path, which ours has to find out, are constants.
    """
    start, child = tracer.start_span, trace.set_span_in_context
    critical = {"voice.critical_path": True}
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
        links=[trace.Link(previous, {"voice.link.type": "previous"})] if previous is not None else None,
    )
    turn.add_event("speech_start")
    root = child(turn)
    vad = start("vad", context=root, attributes={"voice.component": "vad", **critical})
    endpoint = start("vad.endpoint", context=child(vad), attributes=critical)
    asr = start("asr", context=root, attributes={"voice.component": "asr"})
    finalize = start("asr.finalize", context=child(asr))
    response = start(
        "voice.response",
        context=root,
        attributes={
            "voice.response.from": "speech_end",
            "voice.measurement.point": "server",
            "voice.turn.initiator": "user",
            "voice.transport": "websocket",
            "voice.tts.voice.name": "amy",
            "gen_ai.request.model": "small",
        },
    )
    vad.add_event("vad.speech_end")
    turn.add_event("speech_end")
    turn.add_event("first_transcript")
    finalize.end()
    asr.end()
    endpoint.end()
    vad.end()
    turn.add_event("response_created")
    model = {"gen_ai.request.model": "small", **critical}
    llm = start(
        "llm",
        context=root,
        kind=trace.SpanKind.CLIENT,
        attributes={"voice.component": "llm", "gen_ai.operation.name": "chat", **model},
    )
    in_llm = child(llm)
    ttft = start("llm.ttft", context=in_llm, attributes=model)
    sentence = start("llm.first_sentence", context=in_llm, attributes=model)
    ttft.end()
    sentence.end()
    llm.set_attributes(
        {"voice.llm.token.count": 3, "voice.llm.token.rate": 40.0, "gen_ai.response.time_to_first_chunk": 0.1}
    )
    llm.end()
    voice = {"voice.tts.voice.name": "amy", **critical}
    tts = start(
        "tts",
        context=root,
        kind=trace.SpanKind.CLIENT,
        attributes={"voice.component": "tts", "voice.alias": "synthesize_request", **voice},
    )
    first = start("tts.first_audio", context=child(tts), attributes=voice)
    first.end()
    playback = start(
        "playback", context=root, attributes={"voice.component": "playback", "voice.measurement.point": "server"}
    )
    frames = 0
    for _ in range(FRAMES):
        frames += 1
    response.set_attributes(
        {
            "voice.turn.bottleneck": "llm",
            "voice.turn.outcome": "completed",
            "voice.response.share.endpoint": 0.1,
            "voice.response.share.llm": 0.1,
            "voice.response.share.sentence": 0.1,
            "voice.response.share.tts": 0.1,
            "voice.response.share.send": 0.1,
            "voice.response.share.unattributed": 0.1,
        }
    )
    response.end()
    tts.set_attributes(
        {"voice.audio.frame.count": frames, "voice.audio.duration_s": 0.2, "voice.tts.real_time_factor": 0.5}
    )
    tts.end()
    playback.set_attributes(
        {"voice.playback.sent_s": 0.2, "voice.playback.heard_s": 0.2, "voice.playback.estimated": True}
    )
    playback.end()
    turn.set_attributes({"voice.turn.bottleneck": "llm", "voice.turn.outcome": "completed"})
    turn.end()
    return turn.get_span_context()


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


class Way:
    """A provider, and how what it holds becomes the bodies of requests."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.keep = Keep()

    def add_keeper(self) -> None:
        """Keep spans as they end."""
        self.provider.add_span_processor(self.keep)

    def spans_to_bytes(self) -> int:
        """Encode what was kept, in batches, without redaction."""
        spans, self.keep.spans = self.keep.spans, []
        return sum(
            len(encode_spans(spans[start : start + 512]).SerializeToString()) for start in range(0, len(spans), 512)
        )


class Ours(Way):
    """Our queue and sender, which is asked for the bodies by hand."""

    def __init__(self) -> None:
        super().__init__()
        exporter = OTLPSpanExporter(endpoint="http://127.0.0.1:9/v1/traces")
        self.processor = BatchProcessor(exporter, limits=Limits(queue=1 << 30, batch=512, size=1 << 30))
        self.provider.add_span_processor(self.processor)
        self.batcher = self.processor.batcher
        self.batcher._thread = self  # type: ignore[assignment]  # no thread: its work is measured apart
        self.recorder = BackgroundRecorder()
        self.recorder._thread = self  # type: ignore[assignment]
        self.recorder._sdk = self.provider

    def body(self) -> int:
        """Take one batch out of the queue and make a body of it."""
        sender = self.batcher._sender
        assert isinstance(sender, BodySender)
        return len(sender.body(self.batcher._take()))

    def bodies(self) -> None:
        """Empty the queue."""
        while self.batcher._queue:
            self.body()

    def held_ms(self, turns: int) -> dict[str, float]:
        """The longest step of each kind, each the best of several runs: the machine has other things to do."""
        steps: dict[str, list[float]] = {"a_turn": [], "a_body": []}
        for _ in range(5):
            our_turns(self.recorder, turns)
            longest = 0.0
            while self.recorder._closed:
                work = self.recorder._closed.popleft()
                longest = max(longest, measure(work, time.thread_time_ns) / 1e6)
            steps["a_turn"].append(longest)
            longest = 0.0
            while self.batcher._queue:
                longest = max(longest, measure(self.body, time.thread_time_ns) / 1e6)
            steps["a_body"].append(longest)
        return {name: round(min(values), 3) for name, values in steps.items()}


def our_turns(recorder: BackgroundRecorder, turns: int) -> None:
    with Session(recorder, "call-1", transport="websocket") as session:
        for _ in range(turns):
            our_turn(session)


def measure(work: Callable[[], object], clock: Callable[[], int]) -> int:
    begin = clock()
    work()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()

    plain, ours, seen = Way(), Ours(), Ours()
    plain.add_keeper()
    seen.provider.add_span_processor(SpanProcessor())
    trace.set_tracer_provider(plain.provider)
    meters = MeterProvider(shutdown_on_exit=False)
    metrics.set_meter_provider(meters)
    nobody_reads(meters)
    emit.BREATH_NS = 1 << 60  # in a pause the machine's other work would come into the figures
    tracer = plain.provider.get_tracer("plain")

    def plainly() -> None:
        previous = None
        for _ in range(arguments.turns):
            previous = plain_turn(tracer, "call-1", previous)

    def background(way: Ours) -> None:
        way.recorder.drain()
        way.bodies()

    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "plain": (plainly, plain.spans_to_bytes),
        "voicespan": (lambda: our_turns(ours.recorder, arguments.turns), lambda: background(ours)),
        "spans": (lambda: our_turns(seen.recorder, arguments.turns), lambda: background(seen)),
    }
    callers: dict[str, list[float]] = {name: [] for name in works}
    alls: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, (record, rest) in works.items():
            caller = measure(record, time.thread_time_ns)
            callers[name].append(caller / arguments.turns / 1e3)
            alls[name].append((caller + measure(rest, time.thread_time_ns)) / arguments.turns / 1e3)

    def rows(samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
        return {
            name: {
                "min_us": round(min(values), 2),
                "median_us": round(statistics.median(values), 2),
                "ratio": round(min(values) / min(samples["plain"]), 3),
            }
            for name, values in samples.items()
        }

    print(
        json.dumps(
            {
                "benchmark": "recording",
                "caller": rows(callers),
                "all_cpu_to_bytes": rows(alls),
                "ratio_caller": round(min(callers["voicespan"]) / min(callers["plain"]), 3),
                "ratio_all_cpu": round(min(alls["voicespan"]) / min(alls["plain"]), 3),
                "held_ms": ours.held_ms(arguments.turns),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
