"""Every span, event, attribute and metric name, stated once; `python -m voicespan.names` prints docs/names.md."""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

# Spans
SPAN_TURN = "voice.turn"
SPAN_VAD = "vad"
SPAN_VAD_ENDPOINT = "vad.endpoint"
SPAN_ASR = "asr"
SPAN_ASR_FINALIZE = "asr.finalize"
SPAN_LLM = "llm"
SPAN_LLM_TTFT = "llm.ttft"
SPAN_LLM_FIRST_SENTENCE = "llm.first_sentence"
SPAN_EXECUTE_TOOL = "execute_tool"
SPAN_TTS = "tts"
SPAN_TTS_FIRST_AUDIO = "tts.first_audio"
SPAN_REALTIME = "realtime"
SPAN_REALTIME_FIRST_AUDIO = "realtime.first_audio"
SPAN_PLAYBACK = "playback"
SPAN_PLAYBACK_START = "playback.start"
SPAN_PLAYBACK_GAP = "playback.gap"
SPAN_RESPONSE = "voice.response"
SPAN_ANSWER = "voice.answer"
SPAN_UNANSWERED = "voice.unanswered"
SPAN_BARGE_IN = "barge_in"
SPAN_SYNTHESIZE = "Synthesize"
SPAN_TTS_INFERENCE = "tts.inference"
SPAN_TTS_FRAMING = "tts.framing"
SPAN_AUDIO_PROCESSING = "audio.processing"
SPAN_SESSION_SETUP = "voice.session.setup"
SPAN_TOKEN_MINT = "token.mint"
SPAN_MODEL_LOAD = "model.load"
SPAN_MODEL_WARMUP = "model.warmup"
SPAN_CONTROL = "control"

# Events
EVENT_SPEECH_START = "speech_start"
EVENT_SPEECH_END = "speech_end"
EVENT_FIRST_TRANSCRIPT = "first_transcript"
EVENT_RESPONSE_CREATED = "response_created"
EVENT_VAD_SPEECH_END = "vad.speech_end"
EVENT_SPEECH_RESUMED = "voice.speech_resumed"
EVENT_USER_OVERLAP = "voice.user_overlap"
EVENT_FALSE_INTERRUPTION = "voice.false_interruption"
EVENT_HANDOFF = "voice.handoff"
EVENT_CLIENT_MARK = "voice.client.mark"
EVENT_EXCEPTION = "exception"
EVENT_EVALUATION_RESULT = "gen_ai.evaluation.result"

# Attributes of the resource
SERVICE_NAME = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE_ID = "service.instance.id"
DEPLOYMENT_ENVIRONMENT_NAME = "deployment.environment.name"
TELEMETRY_DISTRO_NAME = "telemetry.distro.name"
TELEMETRY_DISTRO_VERSION = "telemetry.distro.version"
VOICESPAN_REPLAYED = "voicespan.replayed"
VOICESPAN_RUN = "voicespan.run"

# Attributes of the session and the turn
SESSION_ID = "session.id"
CLIENT_ADDRESS = "client.address"
VOICE_TRANSPORT = "voice.transport"
VOICE_ROOM_ID = "voice.room.id"
VOICE_SESSION_END_REASON = "voice.session.end.reason"
VOICE_SESSION_FIRST_AUDIO = "voice.session.first_audio"
VOICE_TURN_INDEX = "voice.turn.index"
VOICE_TURN_INITIATOR = "voice.turn.initiator"
VOICE_TURN_TRIGGER = "voice.turn.trigger"
VOICE_TURN_INPUT = "voice.turn.input"
VOICE_TURN_OUTCOME = "voice.turn.outcome"
VOICE_TURN_NO_REPLY_REASON = "voice.turn.no_reply.reason"
VOICE_TURN_RECOVERED = "voice.turn.recovered"
VOICE_TURN_BOTTLENECK = "voice.turn.bottleneck"
VOICE_SPEECH_SEGMENTS = "voice.speech.segments"
VOICE_MEASUREMENT_POINT = "voice.measurement.point"
VOICE_CLOCK_OFFSET_ERROR_S = "voice.clock.offset_error_s"
VOICE_LINK_TYPE = "voice.link.type"

# Attributes of the heard silence
VOICE_RESPONSE_FROM = "voice.response.from"
VOICE_RESPONSE_SHARE_ENDPOINT = "voice.response.share.endpoint"
VOICE_RESPONSE_SHARE_ASR = "voice.response.share.asr"
VOICE_RESPONSE_SHARE_LLM = "voice.response.share.llm"
VOICE_RESPONSE_SHARE_TOOL = "voice.response.share.tool"
VOICE_RESPONSE_SHARE_SENTENCE = "voice.response.share.sentence"
VOICE_RESPONSE_SHARE_TTS = "voice.response.share.tts"
VOICE_RESPONSE_SHARE_SEND = "voice.response.share.send"
VOICE_RESPONSE_SHARE_NETWORK = "voice.response.share.network"
VOICE_RESPONSE_SHARE_REALTIME = "voice.response.share.realtime"
VOICE_RESPONSE_SHARE_UNATTRIBUTED = "voice.response.share.unattributed"
VOICE_CRITICAL_PATH = "voice.critical_path"

# Attributes of the stages
VOICE_COMPONENT = "voice.component"
VOICE_WORKER_ID = "voice.worker.id"
VOICE_STAGE_CANCELLED = "voice.stage.cancelled"
VOICE_STAGE_CONSUMER_WAIT_S = "voice.stage.consumer_wait_s"
VOICE_GENERATION_DISCARDED = "voice.generation.discarded"
VOICE_LANGUAGE = "voice.language"
VOICE_LLM_TOKEN_RATE = "voice.llm.token.rate"
VOICE_LLM_TOKEN_COUNT = "voice.llm.token.count"
VOICE_ALIAS = "voice.alias"
VOICE_TTS_VOICE_NAME = "voice.tts.voice.name"
VOICE_TTS_ADAPTER = "voice.tts.adapter"
VOICE_TTS_FILLER = "voice.tts.filler"
VOICE_TTS_REAL_TIME_FACTOR = "voice.tts.real_time_factor"
VOICE_TEXT_LENGTH = "voice.text.length"
VOICE_TEXT_WORD_COUNT_RANGE = "voice.text.word_count.range"
VOICE_TEXT_CHARACTER_COUNT_RANGE = "voice.text.character_count.range"
VOICE_AUDIO_FRAME_COUNT = "voice.audio.frame.count"
VOICE_AUDIO_DURATION_S = "voice.audio.duration_s"
VOICE_VAD_DETECTOR = "voice.vad.detector"
VOICE_CONTROL_COMMAND = "voice.control.command"

# Attributes of playback and barge-in
VOICE_PLAYBACK_ESTIMATED = "voice.playback.estimated"
VOICE_PLAYBACK_INTERRUPTED = "voice.playback.interrupted"
VOICE_PLAYBACK_SENT_S = "voice.playback.sent_s"
VOICE_PLAYBACK_HEARD_S = "voice.playback.heard_s"
VOICE_BARGE_IN_PHASE = "voice.barge_in.phase"
VOICE_BARGE_IN_DETECTION_S = "voice.barge_in.detection_s"
VOICE_AUDIO_JITTER_S = "voice.audio.jitter_s"
VOICE_AUDIO_LOSS = "voice.audio.loss"
VOICE_AUDIO_DELAY_S = "voice.audio.delay_s"
VOICE_AUDIO_MOS = "voice.audio.mos"

# Attributes that stand on metrics only
VOICE_MESSAGE_TYPE = "voice.message.type"
VOICE_CONNECTION_CLOSE_CODE = "voice.connection.close.code"
VOICE_VAD_EVENT = "voice.vad.event"
VOICE_AUDIO_DROP_REASON = "voice.audio.drop.reason"
VOICE_AUDIO_MOS_METHOD = "voice.audio.mos.method"
VOICE_MODEL_UNLOAD_REASON = "voice.model.unload.reason"
VOICE_INTENT_TYPE = "voice.intent.type"
VOICE_CLIENT_MARK = "voice.client.mark"
VOICE_LATENCY_TARGET_OUTCOME = "voice.latency_target.outcome"

# Attributes of the OpenTelemetry semantic conventions
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID = "gen_ai.conversation.id"
GEN_AI_AGENT_NAME = "gen_ai.agent.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_TOKEN_TYPE = "gen_ai.token.type"
GEN_AI_TOOL_NAME = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID = "gen_ai.tool.call.id"
GEN_AI_EVALUATION_NAME = "gen_ai.evaluation.name"
GEN_AI_EVALUATION_SCORE_VALUE = "gen_ai.evaluation.score.value"
GEN_AI_EVALUATION_SCORE_LABEL = "gen_ai.evaluation.score.label"
GEN_AI_EVALUATION_EXPLANATION = "gen_ai.evaluation.explanation"
HTTP_ROUTE = "http.route"
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
RPC_SYSTEM_NAME = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_RESPONSE_STATUS_CODE = "rpc.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
DB_SYSTEM_NAME = "db.system.name"
DB_NAMESPACE = "db.namespace"
DB_OPERATION_NAME = "db.operation.name"
DB_OPERATION_BATCH_SIZE = "db.operation.batch.size"
DB_RESPONSE_STATUS_CODE = "db.response.status_code"
DB_CLIENT_CONNECTION_POOL_NAME = "db.client.connection.pool.name"
DB_CLIENT_CONNECTION_STATE = "db.client.connection.state"
NETWORK_IO_DIRECTION = "network.io.direction"
HW_ID = "hw.id"
HW_TYPE = "hw.type"
HW_NAME = "hw.name"

# Metrics
METRIC_VOICE_SESSION_STARTED = "voice.session.started"
METRIC_VOICE_SESSION_ENDED = "voice.session.ended"
METRIC_VOICE_SESSION_ACTIVE = "voice.session.active"
METRIC_VOICE_SESSION_ERRORS = "voice.session.errors"
METRIC_VOICE_SESSION_SETUP_FAILURES = "voice.session.setup.failures"
METRIC_VOICE_SESSION_LATENCY_TARGET = "voice.session.latency_target"
METRIC_VOICE_MESSAGES = "voice.messages"
METRIC_VOICE_MESSAGE_PROCESS_DURATION = "voice.message.process.duration"
METRIC_VOICE_CONNECTION_ACTIVE = "voice.connection.active"
METRIC_VOICE_CONNECTION_CLOSED = "voice.connection.closed"
METRIC_VOICE_MESSAGE_IO = "voice.message.io"
METRIC_VOICE_VAD_EVENTS = "voice.vad.events"
METRIC_VOICE_VAD_DETECTION_DURATION = "voice.vad.detection.duration"
METRIC_VOICE_TTS_REAL_TIME_FACTOR = "voice.tts.real_time_factor"
METRIC_VOICE_AUDIO_FRAMES = "voice.audio.frames"
METRIC_VOICE_AUDIO_FRAME_JITTER = "voice.audio.frame.jitter"
METRIC_VOICE_AUDIO_FRAME_DROPS = "voice.audio.frame.drops"
METRIC_VOICE_AUDIO_IO = "voice.audio.io"
METRIC_VOICE_AUDIO_MOS = "voice.audio.mos"
METRIC_VOICE_AUDIO_PACKET_LOSS = "voice.audio.packet.loss"
METRIC_VOICE_MODEL_LOAD_DURATION = "voice.model.load.duration"
METRIC_VOICE_MODEL_WARMUP_DURATION = "voice.model.warmup.duration"
METRIC_VOICE_MODEL_UNLOADS = "voice.model.unloads"
METRIC_VOICE_CONTROL_COMMANDS = "voice.control.commands"
METRIC_VOICE_CONTROL_DURATION = "voice.control.duration"
METRIC_VOICE_RATE_LIMIT_REJECTIONS = "voice.rate_limit.rejections"
METRIC_VOICE_TASK_ACTIVE = "voice.task.active"
METRIC_VOICE_LLM_TOKEN_RATE = "voice.llm.token.rate"
METRIC_VOICE_INTENTS = "voice.intents"
METRIC_VOICE_CLIENT_ERRORS = "voice.client.errors"
METRIC_VOICE_CLIENT_RECONNECTIONS = "voice.client.reconnections"
METRIC_VOICE_CLIENT_MARK_DURATION = "voice.client.mark.duration"
METRIC_GEN_AI_CLIENT_TOKEN_USAGE = "gen_ai.client.token.usage"
METRIC_GEN_AI_CLIENT_OPERATION_DURATION = "gen_ai.client.operation.duration"
METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
METRIC_DB_CLIENT_OPERATION_DURATION = "db.client.operation.duration"
METRIC_HTTP_SERVER_REQUEST_DURATION = "http.server.request.duration"
METRIC_RPC_CLIENT_CALL_DURATION = "rpc.client.call.duration"
METRIC_RPC_SERVER_CALL_DURATION = "rpc.server.call.duration"
METRIC_HW_GPU_MEMORY_USAGE = "hw.gpu.memory.usage"
METRIC_HW_GPU_MEMORY_LIMIT = "hw.gpu.memory.limit"
METRIC_HW_GPU_UTILIZATION = "hw.gpu.utilization"
METRIC_HW_TEMPERATURE = "hw.temperature"
METRIC_HW_POWER = "hw.power"
METRIC_PROCESS_CPU_TIME = "process.cpu.time"
METRIC_PROCESS_CPU_UTILIZATION = "process.cpu.utilization"
METRIC_SYSTEM_CPU_UTILIZATION = "system.cpu.utilization"
METRIC_PROCESS_MEMORY_USAGE = "process.memory.usage"
METRIC_SYSTEM_MEMORY_USAGE = "system.memory.usage"
METRIC_DB_CLIENT_CONNECTION_COUNT = "db.client.connection.count"
METRIC_VOICE_INFERENCE_QUEUE_LENGTH = "voice.inference.queue.length"
METRIC_VOICE_MODEL_RESIDENT = "voice.model.resident"
METRIC_VOICE_TTS_VOICE_ACTIVE = "voice.tts.voice.active"
METRIC_VOICE_TASK_PEAK = "voice.task.peak"
METRIC_VOICE_SERVICE_UP = "voice.service.up"
METRIC_VOICE_EVENT_LOOP_DELAY = "voice.event_loop.delay"
METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED = "otel.sdk.processor.span.processed"

ALIAS_TTS = "synthesize_request"
"""What older pipelines call the span `tts`: the value of `voice.alias` on it."""
SHARE_PREFIX = "voice.response.share."
SHARE_STAGES = ("endpoint", "asr", "llm", "tool", "sentence", "tts", "send", "network", "realtime", "unattributed")
"""The parts that the heard silence is divided into, in causal order."""

# A table has a row per line or two, not a line per cell.
# fmt: off
BOUNDARIES_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 5.0,
    10.0, 30.0,
)
# fmt: on
"""Bucket boundaries in seconds of every span-derived histogram; each threshold of THRESHOLDS is one of them."""

AttributeType = Literal["string", "string[]", "int", "double", "boolean"]
SpanKind = Literal["internal", "client", "server"]
Instrument = Literal["counter", "updowncounter", "histogram", "gauge"]


class Attribute(NamedTuple):
    """What an attribute means. `values` are all its values when `closed`, else examples."""

    name: str
    type: AttributeType
    brief: str
    group: str
    values: tuple[str, ...] = ()
    closed: bool = False
    unit: str = ""
    dimension: bool = False
    """Whether the Collector makes it a label of the span-derived metrics; such values are few."""


class Event(NamedTuple):
    """A moment on a span."""

    name: str
    brief: str
    attributes: tuple[str, ...] = ()


class Span(NamedTuple):
    """A span: which interval it covers and what it may carry. A name in braces stands for its values."""

    name: str
    kind: SpanKind
    parent: str | None
    begins: str
    ends: str
    attributes: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class Metric(NamedTuple):
    """An instrument that is recorded directly, because it is not the duration of a span."""

    name: str
    instrument: Instrument
    unit: str
    brief: str
    attributes: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    observable: bool = False

    @property
    def prometheus(self) -> str:
        """The name that the Collector's Prometheus exporters give it (histograms add `_bucket`, `_sum`, `_count`)."""
        suffix = _PROMETHEUS_UNITS.get(self.unit, "")
        if self.unit == "1" and self.instrument == "gauge":
            suffix = "_ratio"
        total = "_total" if self.instrument == "counter" else ""
        return self.name.replace(".", "_") + suffix + total


class Threshold(NamedTuple):
    """A limit that an SLO, an alert or the sampling uses; it is a bucket boundary, so that it can be asked exactly."""

    on: str
    value: float
    unit: str
    purpose: str


_PROMETHEUS_UNITS = {"s": "_seconds", "By": "_bytes", "Cel": "_celsius", "W": "_watts", "{token}/s": "_per_second"}

_RESOURCE = "Resource"
_TURN = "Session and turn"
_SILENCE = "The heard silence"
_STAGE = "Stages"
_PLAYBACK = "Playback and barge-in"
_METRIC = "Only on metrics"
_SEMCONV = "OpenTelemetry semantic conventions"

WORD_COUNT_RANGES = ("0", "1-10", "11-25", "26-50", "51-100", "101-200", "200+")
CHARACTER_COUNT_RANGES = ("0", "1-50", "51-150", "151-300", "301-600", "601-1200", "1200+")

# fmt: off
ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(SERVICE_NAME, "string", "Name of the service.", _RESOURCE, ("voice-agent",)),
    Attribute(SERVICE_NAMESPACE, "string", "Group of services it belongs to.", _RESOURCE),
    Attribute(SERVICE_VERSION, "string", "Version of the service.", _RESOURCE, ("1.4.2",), dimension=True),
    Attribute(SERVICE_INSTANCE_ID, "string", "This process. Changes at every start, so it is never a label of "
              "span-derived metrics.", _RESOURCE),
    Attribute(DEPLOYMENT_ENVIRONMENT_NAME, "string", "Where it is deployed.", _RESOURCE, ("production", "staging"),
              dimension=True),
    Attribute(TELEMETRY_DISTRO_NAME, "string", "The distribution that sends the telemetry.", _RESOURCE,
              ("voicespan",), closed=True),
    Attribute(TELEMETRY_DISTRO_VERSION, "string", "Its version.", _RESOURCE),
    Attribute(VOICESPAN_REPLAYED, "boolean", "The batch waited on disk and was sent later; it stays out of the "
              "span-derived metrics, where it would count at the wrong time.", _RESOURCE),
    Attribute(VOICESPAN_RUN, "string", "Name of what is tried out (VOICESPAN_RUN), for the viewer's comparison of "
              "runs. Never a label.", _RESOURCE),

    Attribute(SESSION_ID, "string", "The call or conversation (one user's ear). Never a label.", _TURN),
    Attribute(CLIENT_ADDRESS, "string", "Address of the user, masked by default. Never a label.", _TURN),
    Attribute(VOICE_TRANSPORT, "string", "How audio reaches the user.", _TURN,
              ("websocket", "livekit", "webrtc", "http", "sip"), dimension=True),
    Attribute(VOICE_ROOM_ID, "string", "The room, where several participants share one.", _TURN),
    Attribute(VOICE_SESSION_END_REASON, "string", "Why the session ended.", _TURN,
              ("normal", "error", "client_disconnect", "timeout", "transferred"), closed=True),
    Attribute(VOICE_SESSION_FIRST_AUDIO, "double", "Media up to the first sample heard; on the first turn that the "
              "agent starts.", _TURN, unit="s"),
    Attribute(VOICE_TURN_INDEX, "int", "Number of the turn in its session, from 1.", _TURN),
    Attribute(VOICE_TURN_INITIATOR, "string", "Who began the turn.", _TURN, ("user", "agent"), closed=True,
              dimension=True),
    Attribute(VOICE_TURN_TRIGGER, "string", "Why the agent began to speak.", _TURN,
              ("greeting", "say", "no_input", "tool_result", "handoff"), closed=True),
    Attribute(VOICE_TURN_INPUT, "string", "What the user sent.", _TURN, ("speech", "text", "dtmf"), closed=True,
              dimension=True),
    Attribute(VOICE_TURN_OUTCOME, "string", "What the user got; the first that holds.", _TURN,
              ("interrupted", "error", "timeout", "completed", "no_reply"), closed=True, dimension=True),
    Attribute(VOICE_TURN_NO_REPLY_REASON, "string", "Why there was no reply; absent when the turn was ended without "
              "one. no_speech and suppressed do not count against the SLO.", _TURN,
              ("superseded", "user_left", "no_speech", "suppressed"), closed=True, dimension=True),
    Attribute(VOICE_TURN_RECOVERED, "boolean", "A stage failed, a retry or fall-back mended it.", _TURN),
    Attribute(VOICE_TURN_BOTTLENECK, "string", "The largest share of the heard silence.", _TURN, SHARE_STAGES,
              closed=True, dimension=True),
    Attribute(VOICE_SPEECH_SEGMENTS, "int", "Stretches of speech before the turn decision.", _TURN),
    Attribute(VOICE_MEASUREMENT_POINT, "string", "Where audio was observed: the ear, the telephony leg, or the "
              "sending server. Never mixed in one series.", _TURN, ("client", "gateway", "server"), closed=True,
              dimension=True),
    Attribute(VOICE_CLOCK_OFFSET_ERROR_S, "double", "Bound of the error that the client's clock adds.", _TURN,
              unit="s"),
    Attribute(VOICE_LINK_TYPE, "string", "On span links: which relation.", _TURN,
              ("previous", "interrupted", "connection", "tool"), closed=True),

    Attribute(VOICE_RESPONSE_FROM, "string", "Where the silence begins: the real end of speech, the turn decision "
              "(when the real end is not known), or the message or last digit.", _SILENCE,
              ("speech_end", "decision", "message"), closed=True),
    Attribute(VOICE_RESPONSE_SHARE_ENDPOINT, "double", "Waiting for the turn decision.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_ASR, "double", "Waiting for the final transcript.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_LLM, "double", "Waiting for the first token.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_TOOL, "double", "Waiting for tools.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_SENTENCE, "double", "First token to the first chunk handed to synthesis.",
              _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_TTS, "double", "Waiting for the first audio frame.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_SEND, "double", "First audio frame to the first frame sent.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_NETWORK, "double", "First frame sent to the first sample heard.", _SILENCE,
              unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_REALTIME, "double", "Waiting for a speech-to-speech model.", _SILENCE, unit="s"),
    Attribute(VOICE_RESPONSE_SHARE_UNATTRIBUTED, "double", "What no stage covers. All shares sum to the duration.",
              _SILENCE, unit="s"),
    Attribute(VOICE_CRITICAL_PATH, "boolean", "The span has a share of the heard silence.", _SILENCE,
              dimension=True),

    Attribute(VOICE_COMPONENT, "string", "The stage. On stage spans only: a milestone with it would halve error "
              "ratios.", _STAGE, ("vad", "asr", "llm", "tool", "tts", "playback", "realtime"), closed=True,
              dimension=True),
    Attribute(VOICE_WORKER_ID, "string", "The worker, as a stable ordinal.", _STAGE, ("tts-cosy@0",),
              dimension=True),
    Attribute(VOICE_STAGE_CANCELLED, "boolean", "The work was cancelled (barge-in, closed stream); not an error.",
              _STAGE),
    Attribute(VOICE_STAGE_CONSUMER_WAIT_S, "double", "Time that the consumer held a stream; not the producer's.",
              _STAGE, unit="s"),
    Attribute(VOICE_GENERATION_DISCARDED, "boolean", "A speculative generation that was not used.", _STAGE),
    Attribute(VOICE_LANGUAGE, "string", "BCP 47 language tag.", _STAGE, ("en-US", "de"), dimension=True),
    Attribute(VOICE_LLM_TOKEN_RATE, "double", "Tokens per second after the first.", _STAGE, unit="{token}/s"),
    Attribute(VOICE_LLM_TOKEN_COUNT, "int", "Stream chunks seen.", _STAGE, unit="{token}"),
    Attribute(VOICE_ALIAS, "string", "A second name of the span.", _STAGE, (ALIAS_TTS,), closed=True),
    Attribute(VOICE_TTS_VOICE_NAME, "string", "The voice.", _STAGE, ("sam",), dimension=True),
    Attribute(VOICE_TTS_ADAPTER, "string", "The synthesis engine of a worker.", _STAGE, ("cosyvoice2",)),
    Attribute(VOICE_TTS_FILLER, "boolean", 'Speech that only bridges the wait ("one moment").', _STAGE),
    Attribute(VOICE_TTS_REAL_TIME_FACTOR, "double", "Synthesis time over audio made; below 1 is faster than "
              "speech.", _STAGE, unit="1"),
    Attribute(VOICE_TEXT_LENGTH, "int", "Characters to synthesize.", _STAGE, unit="{character}"),
    Attribute(VOICE_TEXT_WORD_COUNT_RANGE, "string", "Words to synthesize, as a range.", _STAGE, WORD_COUNT_RANGES,
              closed=True, dimension=True),
    Attribute(VOICE_TEXT_CHARACTER_COUNT_RANGE, "string", "Characters to synthesize, as a range.", _STAGE,
              CHARACTER_COUNT_RANGES, closed=True, dimension=True),
    Attribute(VOICE_AUDIO_FRAME_COUNT, "int", "Audio frames.", _STAGE, unit="{frame}"),
    Attribute(VOICE_AUDIO_DURATION_S, "double", "Length of the audio.", _STAGE, unit="s"),
    Attribute(VOICE_VAD_DETECTOR, "string", "Name of the speech detector.", _STAGE, ("silero",)),
    Attribute(VOICE_CONTROL_COMMAND, "string", "Command to a worker.", _STAGE, ("PAUSE", "RESUME", "STOP"),
              closed=True),

    Attribute(VOICE_PLAYBACK_ESTIMATED, "boolean", "No client said what was heard: the end is first frame sent plus "
              "audio sent, cut by a clear.", _PLAYBACK),
    Attribute(VOICE_PLAYBACK_INTERRUPTED, "boolean", "The user stopped it.", _PLAYBACK),
    Attribute(VOICE_PLAYBACK_SENT_S, "double", "Audio sent.", _PLAYBACK, unit="s"),
    Attribute(VOICE_PLAYBACK_HEARD_S, "double", "Audio heard.", _PLAYBACK, unit="s"),
    Attribute(VOICE_BARGE_IN_PHASE, "string", "Which phase. `total` begins at the real onset, the others at the "
              "detection.", _PLAYBACK, ("playback_stop", "server_cancel", "worker_pause", "total"), closed=True,
              dimension=True),
    Attribute(VOICE_BARGE_IN_DETECTION_S, "double", "Real onset to its detection.", _PLAYBACK, unit="s"),
    Attribute(VOICE_AUDIO_JITTER_S, "double", "Jitter of the reply's packets, as its receiver says (RFC 3550).",
              _PLAYBACK, unit="s"),
    Attribute(VOICE_AUDIO_LOSS, "double", "Share of the reply's packets lost.", _PLAYBACK, unit="1"),
    Attribute(VOICE_AUDIO_DELAY_S, "double", "Delay on the way to the user: half the round trip.", _PLAYBACK,
              unit="s"),
    Attribute(VOICE_AUDIO_MOS, "double", "Estimated mean opinion score of the network's part, 1 to 4.4: E-model of "
              "ITU-T G.107 from jitter, loss and delay.", _PLAYBACK, unit="1"),

    Attribute(VOICE_MESSAGE_TYPE, "string", "Kind of message on the media connection.", _METRIC,
              ("SessionStarted", "AudioFrame", "SessionEnded", "Error", "SessionStart", "TextChunk", "Control")),
    Attribute(VOICE_CONNECTION_CLOSE_CODE, "string", "How a WebSocket was closed (RFC 6455, section 7.4).", _METRIC,
              ("1000", "1001", "1006", "1011")),
    Attribute(VOICE_VAD_EVENT, "string", "What the detector said.", _METRIC, ("speech_start", "speech_end"),
              closed=True),
    Attribute(VOICE_AUDIO_DROP_REASON, "string", "Why frames were dropped.", _METRIC,
              ("backpressure", "pause", "error"), closed=True),
    Attribute(VOICE_AUDIO_MOS_METHOD, "string", "How the score was made.", _METRIC, ("e_model",)),
    Attribute(VOICE_MODEL_UNLOAD_REASON, "string", "Why a model was unloaded.", _METRIC,
              ("ttl_eviction", "lru_eviction", "manual"), closed=True),
    Attribute(VOICE_INTENT_TYPE, "string", "What the user wanted.", _METRIC, ("weather", "calendar", "general")),
    Attribute(VOICE_CLIENT_MARK, "string", "Moment that the client reported.", _METRIC,
              ("speech_start", "speech_end", "first_transcript", "final_transcript", "response_created",
               "first_audio_delta", "playback_start", "playback_end", "response_complete"), closed=True),
    Attribute(VOICE_LATENCY_TARGET_OUTCOME, "string", "Whether the session met its target.", _METRIC,
              ("met", "missed"), closed=True),

    Attribute(ERROR_TYPE, "string", "Class of the failure.", _SEMCONV,
              ("worker_unavailable", "model_not_found", "timeout", "internal", "model_error", "connection_error",
               "websocket", "_OTHER"), dimension=True),
    Attribute(EXCEPTION_TYPE, "string", "Class of the exception.", _SEMCONV),
    Attribute(EXCEPTION_MESSAGE, "string", "Its message, redacted.", _SEMCONV),
    Attribute(EXCEPTION_STACKTRACE, "string", "Its traceback, redacted.", _SEMCONV),
    Attribute(GEN_AI_OPERATION_NAME, "string", "Operation, for back ends that know the GenAI conventions.", _SEMCONV,
              ("invoke_agent", "speech_to_text", "chat", "text_to_speech", "execute_tool")),
    Attribute(GEN_AI_PROVIDER_NAME, "string", "Provider of the model.", _SEMCONV, ("openai",)),
    Attribute(GEN_AI_CONVERSATION_ID, "string", "The same as `session.id`.", _SEMCONV),
    Attribute(GEN_AI_AGENT_NAME, "string", "Name of the agent.", _SEMCONV),
    Attribute(GEN_AI_REQUEST_MODEL, "string", "Model of the stage.", _SEMCONV, dimension=True),
    Attribute(GEN_AI_RESPONSE_MODEL, "string", "Model that answered.", _SEMCONV),
    Attribute(GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, "double", "Request to first token.", _SEMCONV, unit="s"),
    Attribute(GEN_AI_USAGE_INPUT_TOKENS, "int", "Tokens of the prompt.", _SEMCONV, unit="{token}"),
    Attribute(GEN_AI_USAGE_OUTPUT_TOKENS, "int", "Tokens of the answer.", _SEMCONV, unit="{token}"),
    Attribute(GEN_AI_TOKEN_TYPE, "string", "Which tokens.", _SEMCONV, ("input", "output"), closed=True),
    Attribute(GEN_AI_TOOL_NAME, "string", "The tool.", _SEMCONV, ("get_weather",), dimension=True),
    Attribute(GEN_AI_TOOL_CALL_ID, "string", "This call of the tool.", _SEMCONV),
    Attribute(GEN_AI_EVALUATION_NAME, "string", "What was judged.", _SEMCONV, ("helpful",)),
    Attribute(GEN_AI_EVALUATION_SCORE_VALUE, "double", "The verdict as a number.", _SEMCONV),
    Attribute(GEN_AI_EVALUATION_SCORE_LABEL, "string", "The verdict as a word.", _SEMCONV, ("pass", "fail")),
    Attribute(GEN_AI_EVALUATION_EXPLANATION, "string", "Why; content, which is off by default.", _SEMCONV),
    Attribute(HTTP_ROUTE, "string", "Route template.", _SEMCONV, ("/tts",), dimension=True),
    Attribute(HTTP_REQUEST_METHOD, "string", "HTTP method.", _SEMCONV, ("GET", "POST"), dimension=True),
    Attribute(HTTP_RESPONSE_STATUS_CODE, "int", "HTTP status.", _SEMCONV, ("200", "429"), dimension=True),
    Attribute(RPC_SYSTEM_NAME, "string", "RPC system.", _SEMCONV, ("grpc",)),
    Attribute(RPC_METHOD, "string", "Fully qualified `pkg.Service/Method`.", _SEMCONV, ("tts.Tts/Synthesize",),
              dimension=True),
    Attribute(RPC_RESPONSE_STATUS_CODE, "string", "Status of the call.", _SEMCONV, ("OK", "CANCELLED", "UNAVAILABLE")),
    Attribute(SERVER_ADDRESS, "string", "Host or address that is called.", _SEMCONV, ("tts-0",)),
    Attribute(SERVER_PORT, "int", "Port that is called.", _SEMCONV, ("6379", "7001")),
    Attribute(DB_SYSTEM_NAME, "string", "Database system.", _SEMCONV, ("redis",)),
    Attribute(DB_OPERATION_NAME, "string", "Database command.", _SEMCONV, ("GET", "SET", "HGETALL", "KEYS"),
              dimension=True),
    Attribute(DB_NAMESPACE, "string", "Number of the Redis database.", _SEMCONV, ("0",)),
    Attribute(DB_OPERATION_BATCH_SIZE, "int", "Commands of a pipeline, where there are several.", _SEMCONV, ("2",)),
    Attribute(DB_RESPONSE_STATUS_CODE, "string", "First word of the server's error.", _SEMCONV, ("ERR", "WRONGTYPE")),
    Attribute(DB_CLIENT_CONNECTION_POOL_NAME, "string", "The pool.", _SEMCONV),
    Attribute(DB_CLIENT_CONNECTION_STATE, "string", "State of the connections.", _SEMCONV, ("used", "idle"),
              closed=True),
    Attribute(NETWORK_IO_DIRECTION, "string", "Direction, seen from the service.", _SEMCONV,
              ("transmit", "receive"), closed=True),
    Attribute(HW_ID, "string", "The device.", _SEMCONV, ("0",)),
    Attribute(HW_TYPE, "string", "Kind of device.", _SEMCONV, ("gpu",)),
    Attribute(HW_NAME, "string", "Product name of the device.", _SEMCONV),
)

EVENTS: tuple[Event, ...] = (
    Event(EVENT_SPEECH_START, "The user began to speak."),
    Event(EVENT_SPEECH_END, "The user really stopped speaking (the last time before the turn decision)."),
    Event(EVENT_FIRST_TRANSCRIPT, "The first partial transcript."),
    Event(EVENT_RESPONSE_CREATED, "The first request to a model."),
    Event(EVENT_VAD_SPEECH_END, "The detector decided that speech had ended (real end plus hangover)."),
    Event(EVENT_SPEECH_RESUMED, "The user spoke again before the turn decision."),
    Event(EVENT_USER_OVERLAP, 'The user made a sound that was no utterance while the agent spoke (cough, "mhm").'),
    Event(EVENT_FALSE_INTERRUPTION, "Audio was paused for a sound that was no interruption, and went on."),
    Event(EVENT_HANDOFF, "Another agent took over.", (GEN_AI_AGENT_NAME,)),
    Event(EVENT_CLIENT_MARK, "A moment of the client's own, on its clock, translated.",
          (VOICE_CLIENT_MARK, VOICE_CLOCK_OFFSET_ERROR_S)),
    Event(EVENT_EVALUATION_RESULT, "A score or feedback on the turn: a log record of its trace, sent when it is known.",
          (GEN_AI_EVALUATION_NAME, GEN_AI_EVALUATION_SCORE_VALUE, GEN_AI_EVALUATION_SCORE_LABEL,
           GEN_AI_EVALUATION_EXPLANATION)),
    Event(EVENT_EXCEPTION, "An exception ended the stage.", (EXCEPTION_TYPE, EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE)),
)

_STAGE_ATTRIBUTES = (VOICE_COMPONENT, VOICE_CRITICAL_PATH, VOICE_STAGE_CANCELLED, ERROR_TYPE)
_MODEL_ATTRIBUTES = (GEN_AI_OPERATION_NAME, GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL, GEN_AI_AGENT_NAME)
_COPIED_ATTRIBUTES = (GEN_AI_REQUEST_MODEL, VOICE_TTS_VOICE_NAME, VOICE_LANGUAGE, VOICE_WORKER_ID)
_SILENCE_ATTRIBUTES = (
    VOICE_RESPONSE_FROM, VOICE_TRANSPORT, VOICE_MEASUREMENT_POINT, VOICE_CLOCK_OFFSET_ERROR_S, VOICE_TURN_INITIATOR,
    VOICE_TURN_OUTCOME, VOICE_TURN_NO_REPLY_REASON, VOICE_TURN_BOTTLENECK, ERROR_TYPE, *_COPIED_ATTRIBUTES,
)
_SHARE_ATTRIBUTES = tuple(SHARE_PREFIX + stage for stage in SHARE_STAGES)

SPANS: tuple[Span, ...] = (
    Span(SPAN_TURN, "internal", None, "onset of user speech, message, or the agent's own start",
         "last sample heard, interruption, failure, hang-up or time-out",
         (SESSION_ID, GEN_AI_CONVERSATION_ID, GEN_AI_OPERATION_NAME, GEN_AI_AGENT_NAME, VOICE_TRANSPORT, VOICE_ROOM_ID,
          VOICE_SESSION_FIRST_AUDIO, VOICE_TURN_INDEX, VOICE_TURN_INITIATOR, VOICE_TURN_TRIGGER, VOICE_TURN_INPUT,
          VOICE_TURN_OUTCOME, VOICE_TURN_NO_REPLY_REASON, VOICE_TURN_RECOVERED, VOICE_TURN_BOTTLENECK,
          VOICE_SPEECH_SEGMENTS, GEN_AI_TOOL_NAME, ERROR_TYPE),
         (EVENT_SPEECH_START, EVENT_SPEECH_END, EVENT_FIRST_TRANSCRIPT, EVENT_RESPONSE_CREATED, EVENT_SPEECH_RESUMED,
          EVENT_USER_OVERLAP, EVENT_FALSE_INTERRUPTION, EVENT_HANDOFF, EVENT_CLIENT_MARK, EVENT_EXCEPTION)),
    Span(SPAN_VAD, "internal", SPAN_TURN, "onset of user speech", "turn decision",
         (*_STAGE_ATTRIBUTES, VOICE_VAD_DETECTOR), (EVENT_VAD_SPEECH_END,)),
    Span(SPAN_VAD_ENDPOINT, "internal", SPAN_VAD, "real end of speech", "turn decision", (VOICE_CRITICAL_PATH,)),
    Span(SPAN_ASR, "client", SPAN_TURN, "first audio to the recognizer", "final transcript",
         (*_STAGE_ATTRIBUTES, *_MODEL_ATTRIBUTES, VOICE_LANGUAGE), (EVENT_EXCEPTION,)),
    Span(SPAN_ASR_FINALIZE, "internal", SPAN_ASR, "real end of speech",
         "final transcript (length 0 when it was there first)",
         (VOICE_CRITICAL_PATH, GEN_AI_REQUEST_MODEL, VOICE_LANGUAGE)),
    Span(SPAN_LLM, "client", SPAN_TURN, "request", "last token",
         (*_STAGE_ATTRIBUTES, *_MODEL_ATTRIBUTES, GEN_AI_RESPONSE_MODEL, GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK,
          GEN_AI_USAGE_INPUT_TOKENS, GEN_AI_USAGE_OUTPUT_TOKENS, VOICE_LLM_TOKEN_RATE, VOICE_LLM_TOKEN_COUNT,
          VOICE_STAGE_CONSUMER_WAIT_S, VOICE_GENERATION_DISCARDED), (EVENT_EXCEPTION,)),
    Span(SPAN_LLM_TTFT, "internal", SPAN_LLM, "request", "first token", (VOICE_CRITICAL_PATH, GEN_AI_REQUEST_MODEL)),
    Span(SPAN_LLM_FIRST_SENTENCE, "internal", SPAN_LLM, "request", "first chunk handed to synthesis",
         (VOICE_CRITICAL_PATH, GEN_AI_REQUEST_MODEL)),
    Span(SPAN_EXECUTE_TOOL + " {gen_ai.tool.name}", "internal", SPAN_TURN, "call", "result",
         (*_STAGE_ATTRIBUTES, GEN_AI_OPERATION_NAME, GEN_AI_AGENT_NAME, GEN_AI_TOOL_NAME, GEN_AI_TOOL_CALL_ID,
          VOICE_GENERATION_DISCARDED), (EVENT_EXCEPTION,)),
    Span(SPAN_TTS, "client", SPAN_TURN, "first text chunk", "last audio frame",
         (*_STAGE_ATTRIBUTES, *_MODEL_ATTRIBUTES, VOICE_ALIAS, VOICE_TTS_VOICE_NAME, VOICE_TTS_ADAPTER,
          VOICE_TTS_FILLER, VOICE_TTS_REAL_TIME_FACTOR, VOICE_LANGUAGE, VOICE_WORKER_ID, VOICE_TEXT_LENGTH,
          VOICE_TEXT_WORD_COUNT_RANGE, VOICE_TEXT_CHARACTER_COUNT_RANGE, VOICE_AUDIO_FRAME_COUNT,
          VOICE_AUDIO_DURATION_S, VOICE_STAGE_CONSUMER_WAIT_S, VOICE_GENERATION_DISCARDED), (EVENT_EXCEPTION,)),
    Span(SPAN_TTS_FIRST_AUDIO, "internal", SPAN_TTS, "first text chunk", "first audio frame",
         (VOICE_CRITICAL_PATH, *_COPIED_ATTRIBUTES)),
    Span(SPAN_REALTIME, "client", SPAN_TURN, "commit or request to a speech-to-speech model", "response done",
         (*_STAGE_ATTRIBUTES, *_MODEL_ATTRIBUTES, GEN_AI_RESPONSE_MODEL, GEN_AI_USAGE_INPUT_TOKENS,
          GEN_AI_USAGE_OUTPUT_TOKENS, VOICE_TTS_VOICE_NAME, VOICE_AUDIO_FRAME_COUNT, VOICE_AUDIO_DURATION_S,
          VOICE_STAGE_CONSUMER_WAIT_S, VOICE_GENERATION_DISCARDED),
         (EVENT_EXCEPTION,)),
    Span(SPAN_REALTIME_FIRST_AUDIO, "internal", SPAN_REALTIME, "commit or request", "first audio frame",
         (VOICE_CRITICAL_PATH, GEN_AI_REQUEST_MODEL, VOICE_TTS_VOICE_NAME)),
    Span(SPAN_PLAYBACK, "internal", SPAN_TURN, "first frame sent", "last sample heard, or the stop",
         (*_STAGE_ATTRIBUTES, VOICE_MEASUREMENT_POINT, VOICE_CLOCK_OFFSET_ERROR_S, VOICE_PLAYBACK_ESTIMATED,
          VOICE_PLAYBACK_INTERRUPTED, VOICE_PLAYBACK_SENT_S, VOICE_PLAYBACK_HEARD_S, VOICE_AUDIO_FRAME_COUNT,
          VOICE_AUDIO_JITTER_S, VOICE_AUDIO_LOSS, VOICE_AUDIO_DELAY_S, VOICE_AUDIO_MOS)),
    Span(SPAN_PLAYBACK_START, "internal", SPAN_PLAYBACK, "first frame sent",
         "first sample heard (network and jitter buffer)",
         (VOICE_CRITICAL_PATH, VOICE_MEASUREMENT_POINT, VOICE_CLOCK_OFFSET_ERROR_S)),
    Span(SPAN_PLAYBACK_GAP, "internal", SPAN_PLAYBACK, "reply unfinished and nothing to hear",
         "audio again; only when longer than 100 ms", (VOICE_MEASUREMENT_POINT,)),
    Span(SPAN_RESPONSE, "internal", SPAN_TURN, "real end of speech",
         "first sample heard: the silence that the user hears, the headline",
         (*_SILENCE_ATTRIBUTES, *_SHARE_ATTRIBUTES)),
    Span(SPAN_ANSWER, "internal", SPAN_TURN, "real end of speech",
         "first sample that is no filler; only when a filler came first",
         _SILENCE_ATTRIBUTES),
    Span(SPAN_UNANSWERED, "internal", SPAN_TURN, "real end of speech",
         "hang-up, superseding speech, error or time-out; in place of voice.response",
         (*_SILENCE_ATTRIBUTES, *_SHARE_ATTRIBUTES)),
    Span(SPAN_BARGE_IN, "internal", SPAN_TURN, "detection (`total`: real onset)",
         "playback stopped, cancel sent, worker paused (`total`: silent)",
         (VOICE_BARGE_IN_PHASE, VOICE_BARGE_IN_DETECTION_S, VOICE_MEASUREMENT_POINT, *_COPIED_ATTRIBUTES)),
    Span("{rpc.method}", "client", SPAN_TTS, "call of the worker", "end of the stream",
         (RPC_SYSTEM_NAME, RPC_METHOD, RPC_RESPONSE_STATUS_CODE, VOICE_WORKER_ID, SERVER_ADDRESS, SERVER_PORT,
          ERROR_TYPE)),
    Span(SPAN_SYNTHESIZE, "server", "{rpc.method}", "request at the worker", "end of the stream",
         (RPC_SYSTEM_NAME, RPC_METHOD, RPC_RESPONSE_STATUS_CODE, VOICE_WORKER_ID, ERROR_TYPE)),
    Span(SPAN_TTS_INFERENCE, "internal", SPAN_SYNTHESIZE, "inference begins", "inference ends",
         (VOICE_WORKER_ID, GEN_AI_REQUEST_MODEL, VOICE_TTS_ADAPTER, VOICE_TTS_REAL_TIME_FACTOR, ERROR_TYPE)),
    Span(SPAN_TTS_FRAMING, "internal", SPAN_SYNTHESIZE, "first sample to cut into frames", "last frame handed on",
         (VOICE_WORKER_ID, VOICE_AUDIO_FRAME_COUNT)),
    Span(SPAN_AUDIO_PROCESSING, "internal", SPAN_TTS, "first frame to process", "last frame processed",
         (VOICE_AUDIO_FRAME_COUNT, ERROR_TYPE)),
    Span(SPAN_SESSION_SETUP, "server", None, "call offered", "media flows, or failure (its own trace)",
         (SESSION_ID, CLIENT_ADDRESS, VOICE_TRANSPORT, VOICE_ROOM_ID, ERROR_TYPE)),
    Span(SPAN_TOKEN_MINT, "internal", "{http.request.method} {http.route}", "token asked for", "token made",
         (ERROR_TYPE,)),
    Span("{http.request.method} {http.route}", "server", None, "request", "response sent",
         (HTTP_ROUTE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, VOICE_TTS_VOICE_NAME, VOICE_LANGUAGE,
          CLIENT_ADDRESS, ERROR_TYPE)),
    Span(SPAN_MODEL_LOAD, "internal", None, "load begins", "model ready (its own trace)",
         (GEN_AI_REQUEST_MODEL, VOICE_WORKER_ID, ERROR_TYPE)),
    Span(SPAN_MODEL_WARMUP, "internal", None, "warm-up begins", "model warm (its own trace)",
         (GEN_AI_REQUEST_MODEL, VOICE_WORKER_ID, ERROR_TYPE)),
    Span(SPAN_CONTROL, "internal", None, "command received", "command applied",
         (VOICE_CONTROL_COMMAND, VOICE_WORKER_ID, ERROR_TYPE)),
    Span("{db.operation.name}", "client", None, "command sent", "answer read",
         (DB_SYSTEM_NAME, DB_NAMESPACE, DB_OPERATION_NAME, DB_OPERATION_BATCH_SIZE, DB_RESPONSE_STATUS_CODE,
          SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE)),
)

_OPERATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_GEN_AI_METRIC = (GEN_AI_OPERATION_NAME, GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL, ERROR_TYPE)
_GPU = (HW_ID, HW_TYPE, HW_NAME)
_RPC = (RPC_SYSTEM_NAME, RPC_METHOD, RPC_RESPONSE_STATUS_CODE, ERROR_TYPE)
_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

METRICS: tuple[Metric, ...] = (
    Metric(METRIC_VOICE_SESSION_STARTED, "counter", "{session}", "Sessions started.",
           (VOICE_TRANSPORT, GEN_AI_REQUEST_MODEL)),
    Metric(METRIC_VOICE_SESSION_ENDED, "counter", "{session}", "Sessions ended.",
           (VOICE_TRANSPORT, GEN_AI_REQUEST_MODEL, VOICE_SESSION_END_REASON)),
    Metric(METRIC_VOICE_SESSION_ACTIVE, "updowncounter", "{session}", "Sessions open now.",
           (VOICE_TRANSPORT, GEN_AI_REQUEST_MODEL, VOICE_TTS_ADAPTER), observable=True),
    Metric(METRIC_VOICE_SESSION_ERRORS, "counter", "{error}", "Errors in sessions.", (ERROR_TYPE,)),
    Metric(METRIC_VOICE_SESSION_SETUP_FAILURES, "counter", "{session}", "Calls that never had media.",
           (VOICE_TRANSPORT, ERROR_TYPE)),
    Metric(METRIC_VOICE_SESSION_LATENCY_TARGET, "counter", "{session}", "Sessions by whether they met the target.",
           (VOICE_LATENCY_TARGET_OUTCOME,)),
    Metric(METRIC_VOICE_MESSAGES, "counter", "{message}", "Messages on media connections.",
           (VOICE_MESSAGE_TYPE, NETWORK_IO_DIRECTION), observable=True),
    Metric(METRIC_VOICE_MESSAGE_PROCESS_DURATION, "histogram", "s", "Handling of one message.", (VOICE_MESSAGE_TYPE,),
           (0.001, 0.005, 0.01, 0.05, 0.1)),
    Metric(METRIC_VOICE_CONNECTION_ACTIVE, "updowncounter", "{connection}", "Media connections open now.",
           (VOICE_TRANSPORT,), observable=True),
    Metric(METRIC_VOICE_CONNECTION_CLOSED, "counter", "{connection}", "Media connections that were closed.",
           (VOICE_TRANSPORT, VOICE_CONNECTION_CLOSE_CODE)),
    Metric(METRIC_VOICE_MESSAGE_IO, "counter", "By", "Content of messages on media connections.",
           (NETWORK_IO_DIRECTION,), observable=True),
    Metric(METRIC_VOICE_VAD_EVENTS, "counter", "{event}", "What the speech detector said.", (VOICE_VAD_EVENT,)),
    Metric(METRIC_VOICE_VAD_DETECTION_DURATION, "histogram", "s", "Time of one detection.", (VOICE_VAD_EVENT,),
           (0.01, 0.025, 0.05, 0.1)),
    Metric(METRIC_VOICE_TTS_REAL_TIME_FACTOR, "histogram", "1", "Synthesis time over audio made.",
           (GEN_AI_REQUEST_MODEL,), (0.1, 0.2, 0.3, 0.5, 1.0)),
    Metric(METRIC_VOICE_AUDIO_FRAMES, "counter", "{frame}", "Audio frames.", (NETWORK_IO_DIRECTION,), observable=True),
    Metric(METRIC_VOICE_AUDIO_FRAME_JITTER, "histogram", "s", "Deviation of a frame from its time.",
           (NETWORK_IO_DIRECTION, VOICE_MEASUREMENT_POINT), (0.001, 0.005, 0.01, 0.02, 0.05)),
    Metric(METRIC_VOICE_AUDIO_FRAME_DROPS, "counter", "{frame}", "Audio frames dropped.", (VOICE_AUDIO_DROP_REASON,),
           observable=True),
    Metric(METRIC_VOICE_AUDIO_IO, "counter", "By", "Decoded audio.", (NETWORK_IO_DIRECTION, VOICE_MEASUREMENT_POINT),
           observable=True),
    Metric(METRIC_VOICE_AUDIO_MOS, "histogram", "{score}", "Mean opinion score.",
           (NETWORK_IO_DIRECTION, VOICE_AUDIO_MOS_METHOD), (1, 2, 2.5, 3, 3.5, 3.8, 4, 4.2, 4.5)),
    Metric(METRIC_VOICE_AUDIO_PACKET_LOSS, "histogram", "1", "Share of packets lost.", (NETWORK_IO_DIRECTION,),
           (0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1)),
    Metric(METRIC_VOICE_MODEL_LOAD_DURATION, "histogram", "s", "Loading of a model.", (GEN_AI_REQUEST_MODEL,),
           (1, 2, 5, 10, 30, 60)),
    Metric(METRIC_VOICE_MODEL_WARMUP_DURATION, "histogram", "s", "Warm-up of a model.", (GEN_AI_REQUEST_MODEL,),
           (0.1, 0.3, 0.5, 1)),
    Metric(METRIC_VOICE_MODEL_UNLOADS, "counter", "{unload}", "Models unloaded.",
           (GEN_AI_REQUEST_MODEL, VOICE_MODEL_UNLOAD_REASON)),
    Metric(METRIC_VOICE_CONTROL_COMMANDS, "counter", "{command}", "Commands to workers.", (VOICE_CONTROL_COMMAND,)),
    Metric(METRIC_VOICE_CONTROL_DURATION, "histogram", "s", "Command received to applied.", (VOICE_CONTROL_COMMAND,),
           (0.005, 0.01, 0.02, 0.05)),
    Metric(METRIC_VOICE_RATE_LIMIT_REJECTIONS, "counter", "{request}", "Requests refused by a rate limit.",
           (HTTP_ROUTE,)),
    Metric(METRIC_VOICE_TASK_ACTIVE, "updowncounter", "{task}", "Work under way.", (VOICE_COMPONENT,), observable=True),
    Metric(METRIC_VOICE_LLM_TOKEN_RATE, "histogram", "{token}/s", "Tokens per second after the first.",
           (GEN_AI_REQUEST_MODEL,), (1, 5, 10, 20, 50, 100, 200, 500)),
    Metric(METRIC_VOICE_INTENTS, "counter", "{intent}", "What users wanted.", (VOICE_INTENT_TYPE,)),
    Metric(METRIC_VOICE_CLIENT_ERRORS, "counter", "{error}", "Errors that clients reported.", (ERROR_TYPE,)),
    Metric(METRIC_VOICE_CLIENT_RECONNECTIONS, "counter", "{reconnection}", "Reconnections of clients."),
    Metric(METRIC_VOICE_CLIENT_MARK_DURATION, "histogram", "s", "End of user speech to the mark (first_transcript: "
           "from the start of speech; response_complete: from response.created).", (VOICE_CLIENT_MARK,),
           (0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 3, 5, 10)),
    Metric(METRIC_GEN_AI_CLIENT_TOKEN_USAGE, "histogram", "{token}", "Tokens of one request.",
           (*_GEN_AI_METRIC, GEN_AI_TOKEN_TYPE, VOICE_GENERATION_DISCARDED), _TOKENS),
    Metric(METRIC_GEN_AI_CLIENT_OPERATION_DURATION, "histogram", "s", "Request to last token.", _GEN_AI_METRIC,
           _OPERATION_S),
    Metric(METRIC_GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, "histogram", "s", "Request to first token.",
           _GEN_AI_METRIC, _OPERATION_S),
    Metric(METRIC_DB_CLIENT_OPERATION_DURATION, "histogram", "s", "One database command.",
           (DB_SYSTEM_NAME, DB_OPERATION_NAME, ERROR_TYPE), (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)),
    Metric(METRIC_HTTP_SERVER_REQUEST_DURATION, "histogram", "s", "One HTTP request.",
           (HTTP_ROUTE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, ERROR_TYPE),
           (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)),
    Metric(METRIC_RPC_CLIENT_CALL_DURATION, "histogram", "s", "One gRPC call, at its client.", _RPC, _CALL_S),
    Metric(METRIC_RPC_SERVER_CALL_DURATION, "histogram", "s", "One gRPC call, at its server.", _RPC, _CALL_S),
    Metric(METRIC_HW_GPU_MEMORY_USAGE, "updowncounter", "By", "GPU memory in use.", _GPU, observable=True),
    Metric(METRIC_HW_GPU_MEMORY_LIMIT, "updowncounter", "By", "GPU memory there is.", _GPU, observable=True),
    Metric(METRIC_HW_GPU_UTILIZATION, "gauge", "1", "Share of time that the GPU was busy.", _GPU, observable=True),
    Metric(METRIC_HW_TEMPERATURE, "gauge", "Cel", "Temperature of the device.", _GPU, observable=True),
    Metric(METRIC_HW_POWER, "gauge", "W", "Power the device draws.", _GPU, observable=True),
    Metric(METRIC_PROCESS_CPU_TIME, "counter", "s", "Processor time used.", observable=True),
    Metric(METRIC_PROCESS_CPU_UTILIZATION, "gauge", "1", "Processor time over elapsed time and cores.",
           observable=True),
    Metric(METRIC_SYSTEM_CPU_UTILIZATION, "gauge", "1", "Share of the machine's processors in use.", observable=True),
    Metric(METRIC_PROCESS_MEMORY_USAGE, "updowncounter", "By", "Resident memory.", observable=True),
    Metric(METRIC_SYSTEM_MEMORY_USAGE, "updowncounter", "By", "Memory in use on the machine.", observable=True),
    Metric(METRIC_DB_CLIENT_CONNECTION_COUNT, "updowncounter", "{connection}", "Connections of a pool.",
           (DB_CLIENT_CONNECTION_POOL_NAME, DB_CLIENT_CONNECTION_STATE), observable=True),
    Metric(METRIC_VOICE_INFERENCE_QUEUE_LENGTH, "updowncounter", "{request}", "Requests waiting for a worker.",
           observable=True),
    Metric(METRIC_VOICE_MODEL_RESIDENT, "updowncounter", "{model}", "Models in memory.", observable=True),
    Metric(METRIC_VOICE_TTS_VOICE_ACTIVE, "updowncounter", "{voice}", "Voices in use.", observable=True),
    Metric(METRIC_VOICE_TASK_PEAK, "gauge", "{task}", "Most work under way since the collection before.",
           (VOICE_COMPONENT,), observable=True),
    Metric(METRIC_VOICE_SERVICE_UP, "updowncounter", "1", "1; 0 is the last word of a process that ends on purpose.",
           observable=True),
    Metric(METRIC_VOICE_EVENT_LOOP_DELAY, "histogram", "s", "How late the event loop ran a timer.", (),
           (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)),
    Metric(METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED, "counter", "{span}", "Spans that the queue took; those it dropped "
           "have `error.type=queue_full`.", (ERROR_TYPE,), observable=True),
)

THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(SPAN_RESPONSE, 0.6, "s", "SLO of the heard silence; average over a test of 100 calls; kept by sampling"),
    Threshold(SPAN_RESPONSE, 1.5, "s", "alert on p95"),
    Threshold(SPAN_TTS_FIRST_AUDIO, 0.3, "s", "SLO on a GPU; alert on p95; kept by sampling"),
    Threshold(SPAN_TTS_FIRST_AUDIO, 0.5, "s", "SLO on a CPU"),
    Threshold(SPAN_BARGE_IN, 0.05, "s", "SLO and alert of the phase worker_pause"),
    Threshold(SPAN_ASR_FINALIZE, 1.5, "s", "warning on p90; kept by sampling"),
    Threshold(SPAN_ASR_FINALIZE, 2.5, "s", "critical on p90"),
    Threshold(SPAN_LLM_TTFT, 2.0, "s", "warning on p90; kept by sampling"),
    Threshold(SPAN_LLM_TTFT, 3.5, "s", "critical on p90"),
    Threshold("{http.request.method} {http.route}", 10.0, "s", "alert on p95 of the TTS endpoint"),
    Threshold(METRIC_VOICE_AUDIO_FRAME_JITTER, 0.01, "s", "SLO and alert on p95"),
    Threshold(METRIC_VOICE_EVENT_LOOP_DELAY, 0.05, "s", "alert on p95"),
)

# fmt: on
DIMENSIONS: tuple[str, ...] = tuple(attribute.name for attribute in ATTRIBUTES if attribute.dimension)
"""The dimensions of the Collector's `span_metrics`."""

_INTRO = """\
# Names

Generated by `python -m voicespan.names`; edit `src/voicespan/names.py`.

One utterance is one trace with the root `voice.turn`. A stage span covers an operation (`llm`: request to last
token); its milestone child covers the latency that the stage adds (`llm.ttft`: request to first token). The silence
that the user hears is the span `voice.response`.

Names are lower case and dotted. Where OpenTelemetry has a name, it is used; ours are under `voice.`. Units stand
beside a metric, never in its name: seconds, bytes, ratios from 0 to 1. An attribute has no unit field: those
in seconds end in `_s`, except the shares of the heard silence and `voice.session.first_audio`.

The Collector makes a histogram (`traces.span.metrics.duration`, seconds) and a counter (`traces.span.metrics.calls`)
of every span. Attributes marked **label** split them; all others stay on the spans.
"""

_FIELD = """\
## The field's names

| Ours | Commonly | LiveKit Agents | Pipecat |
|---|---|---|---|
| `voice.response` | voice-to-voice latency, response time | `lk.e2e_latency` | `turn.user_bot_latency_seconds` |
| `vad.endpoint` | end-of-utterance delay, endpointing | `lk.end_of_turn_delay` | `stop_secs` + turn analyzer |
| `asr.finalize` | transcription delay, STT latency | `lk.transcription_delay` | `metrics.ttfb` of `stt` |
| `llm.ttft` | time to first token | `lk.response.ttft` | `metrics.ttfb` of `llm` |
| `llm.first_sentence` | time to first sentence | `llm_node_ttfs` | text aggregation time |
| `tts.first_audio` | TTFB of TTS, first audio latency | `lk.response.ttfb` | `metrics.ttfb` of `tts` |
| `playback.start` | network and jitter buffer | none | none |
| `barge_in` | interruption | `lk.interrupted` (a flag) | `turn.was_interrupted` (a flag) |
| `voice.unanswered` | none | none | none |
| `voice.session.first_audio` | greeting latency | none | first bot speech latency |

Why `voice.response` differs from both:

| | `voice.response` | LiveKit `e2e_latency` | Pipecat `user_bot_latency` |
|---|---|---|---|
| begins | real end of speech; the last one when the user went on | end of speech as the detector back-dates it | \
the detector's decision less its configured `stop_secs` |
| ends | first sample heard, where the client reports it; else first frame sent, and `voice.measurement.point` and \
`voice.playback.estimated` say so | first frame pushed into the server's output queue | the bot-started frame, which \
is pushed before the audio is written |
| network, jitter buffer | included with a client report (`playback.start`) | not included | not included |
| filler first ("one moment") | counts as heard; `voice.answer` counts to the real answer | counts as the answer | \
counts as the answer |
| user hangs up, or nothing is ever said | `voice.unanswered` counts the silence | no value | no value |
| clock | monotonic | wall | wall |
| where it appears | a span per turn: histogram and exemplars as it happens | attribute; histogram when the call \
ends | attribute, no histogram |

Expect `voice.response` to be larger than either by the network's share, and more often present.
"""


def document() -> str:
    """Return docs/names.md."""
    sections = [_INTRO, _spans(), _events(), _attributes(), _metrics(), _thresholds(), _FIELD]
    return "\n".join(sections)


def _spans() -> str:
    rows = [
        f"| `{span.name}` | {_code(span.parent)} | {span.kind.upper()} | {span.begins} | {span.ends} | "
        f"{_codes(span.attributes)} | {_codes(span.events)} |"
        for span in SPANS
    ]
    head = "| Span | Parent | Kind | Begins | Ends | May carry | Events |\n|---|---|---|---|---|---|---|"
    note = "A stage is CLIENT when it calls another process, INTERNAL in this one. Names in braces stand for values."
    return f"## Spans\n\n{note}\n\n{head}\n" + "\n".join(rows) + "\n"


def _events() -> str:
    rows = [
        f"| `{event.name}` | {_codes(tuple(span.name for span in SPANS if event.name in span.events))} | "
        f"{event.brief} | {_codes(event.attributes)} |"
        for event in EVENTS
    ]
    return "## Events\n\n| Event | On | Meaning | Attributes |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _attributes() -> str:
    lines = ["## Attributes"]
    for group in dict.fromkeys(attribute.group for attribute in ATTRIBUTES):
        lines += ["", f"### {group}", "", "| Attribute | Type | Label | Meaning | Values |", "|---|---|---|---|---|"]
        lines += [_attribute(attribute) for attribute in ATTRIBUTES if attribute.group == group]
    return "\n".join(lines) + "\n"


def _attribute(attribute: Attribute) -> str:
    kind = f"{attribute.type}, {_code(attribute.unit)}" if attribute.unit else attribute.type
    values = _codes(attribute.values)
    if values and not attribute.closed:
        values = f"such as {values}"
    label = "**label**" if attribute.dimension else ""
    return f"| `{attribute.name}` | {kind} | {label} | {attribute.brief} | {values} |"


def _metrics() -> str:
    rows = []
    for metric in METRICS:
        instrument = ("observable " if metric.observable else "") + metric.instrument
        buckets = ", ".join(f"{boundary:g}" for boundary in metric.boundaries)
        rows.append(
            f"| `{metric.name}` | {instrument} | {_code(metric.unit)} | {metric.brief} | "
            f"{_codes(metric.attributes)} | {buckets} | `{metric.prometheus}` |"
        )
    head = (
        "| Metric | Instrument | Unit | Meaning | Attributes | Buckets | In Prometheus |\n|---|---|---|---|---|---|---|"
    )
    span_buckets = ", ".join(f"{boundary:g}" for boundary in BOUNDARIES_S)
    note = f"Durations of spans are not recorded a second time. Buckets of the span-derived ones (s): {span_buckets}."
    return f"## Metrics\n\n{note}\n\n{head}\n" + "\n".join(rows) + "\n"


def _thresholds() -> str:
    rows = [f"| `{limit.on}` | {limit.value:g} {limit.unit} | {limit.purpose} |" for limit in THRESHOLDS]
    return "## Thresholds\n\n| On | Limit | For |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _codes(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(document())
