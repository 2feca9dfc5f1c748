"""What was observed of a turn: plain facts in monotonic nanoseconds, before anything is concluded from them.

`session.py`, `turn.py` and `stage.py` write them, `finish.py` reads them once the turn is closed. What most turns do
not have is a tuple, empty for all of them: with a thousand turns open, each list is one more thing that garbage
collection looks at. Who adds to one holds the lock of the session.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from voicespan.finished import AttributeValue, SpanContext
    from voicespan.metrics.level import Key
    from voicespan.words import WordCount

GAP_NS = 100_000_000
"""A pause in the reply is a `playback.gap` when it is longer than this."""

Noted = tuple[str, int, "dict[str, AttributeValue]"]
"""An event: its name, when, and its attributes."""
Detection = tuple[str, int, int | None]
"""What the detector said (`speech_start`, `speech_end`), when, and since when it was really so where that is known."""
Component = Literal["asr", "llm", "tool", "tts", "realtime"]
Input = Literal["speech", "text", "dtmf"]
Close = Literal["done", "superseded", "user_left", "dismissed", "idle", "limit", "shutdown", "transferred", "ended"]


@dataclass(slots=True)
class Failure:
    """Why a stage or a turn failed; `kind` is the value of `error.type`."""

    kind: str
    message: str
    stacktrace: str
    at_ns: int


@dataclass(slots=True)
class StageRecord:
    """One operation of the pipeline. Fields that belong to one component only say so."""

    component: Component
    start_ns: int
    attributes: dict[str, AttributeValue]
    remote: bool
    span_id: int | None = None
    """Made when first needed (a child in another library, a header), else when the turn is finished."""
    end_ns: int | None = None
    first_ns: int | None = None
    """llm: first token; tts, realtime: first audio frame; asr: final transcript."""
    last_ns: int | None = None
    """llm: last token; tts, realtime: last audio frame."""
    handed_ns: int | None = None
    """llm: first chunk handed to the synthesizer; tts: first text chunk received."""
    exhausted_ns: int | None = None
    """The wrapped stream came to its end."""
    count: int = 0
    """llm: tokens; tts, realtime: audio frames."""
    audio_ns: int = 0
    """tts, realtime: length of the audio that came out."""
    sample_rate: int | None = None
    """tts, realtime: of its frames in hertz, where they are 16-bit mono PCM."""
    characters: int = 0
    words: WordCount | None = None
    """tts: counts those of its text, where it is told."""
    consumer_wait_ns: int = 0
    """How long the consumer held items of the stream."""
    last_wait_ns: int = 0
    """The part of it that lies before the last token or frame."""
    filler: bool = False
    discarded: bool = False
    cancelled: bool = False
    background: bool = False
    """tool: does not hold its turn open."""
    failure: Failure | None = None
    events: tuple[Noted, ...] = ()
    task: Key | None = None
    """While it counts as work under way: what that count is known by."""

    @property
    def open(self) -> bool:
        """Whether the operation still runs."""
        return self.end_ns is None

    @property
    def failed(self) -> bool:
        """Whether it failed and was meant to be used."""
        return self.failure is not None and not self.discarded

    @property
    def began_ns(self) -> int:
        """When its span begins: synthesis with its first text, everything else when it was made."""
        return self.handed_ns if self.component == "tts" and self.handed_ns is not None else self.start_ns

    def produced(self, at_ns: int | None) -> bool:
        """Note that a token or frame has come; return False where its time was refused."""
        if at_ns is None:
            return False
        last_ns = self.last_ns
        if last_ns is None:
            at_ns = max(at_ns, self.start_ns)
            self.first_ns = at_ns if self.first_ns is None else self.first_ns
            self.last_ns = at_ns
        elif at_ns > last_ns:
            self.last_ns = at_ns
        self.last_wait_ns = self.consumer_wait_ns
        return True

    def ended_by(self, closed_ns: int) -> int:
        """Return when it really ended: with its last product where it went well, else when it was left, or cut off."""
        if self.end_ns is None:
            return closed_ns
        if self.failure is not None or self.cancelled or self.component in ("tool", "realtime"):
            return self.end_ns
        if self.component == "asr":
            return self.end_ns if self.first_ns is None else self.first_ns
        product_ns = self.exhausted_ns if self.last_ns is None else self.last_ns
        return self.end_ns if product_ns is None else min(product_ns, self.end_ns)


@dataclass(slots=True)
class BargeIn:
    """The user speaks while the agent is heard, and the agent stops."""

    detected_ns: int
    onset_ns: int | None
    silent_ns: int | None = None
    """When the server stopped sending or cleared its buffer."""
    phases: dict[str, int] = field(default_factory=dict)
    """End of each reported phase."""
    seen: set[str] = field(default_factory=set)
    """Those that the client has told of."""


@dataclass(slots=True)
class Playback:
    """The reply on its way to the ear: what was sent, and the clock that says when it is played out.

    Until the client reports, a frame is taken to be heard when it is sent or when the frames before it are played
    out, whichever is later.
    """

    first_sent_ns: int | None = None
    last_sent_ns: int = 0
    sent_ns: int = 0
    """Length of all audio sent."""
    end_ns: int = 0
    """When what was sent so far is played out, cut by a clear."""
    answer_ns: int | None = None
    """When the first frame that is no filler begins to play, where a filler came first."""
    filler_only: bool = True
    gaps: tuple[tuple[int, int], ...] = ()
    heard_ns: int | None = None
    """The client's report: first sample heard."""
    stopped_ns: int | None = None
    """The client's report: silent."""
    cut_ns: int | None = None
    """The client fell silent before everything was played, and no speech was known that would explain it."""
    resumed_ns: int | None = None
    """When the reply last went on: what stopped it before is history, also where a client tells of it only now."""
    paused_ns: int | None = None
    left_ns: int = 0
    """Length of audio not yet played when it was paused."""
    cleared: bool = False
    """Audio was dropped, so that sums of what was made and what was sent differ."""
    unsent_ns: int = 0
    """Length of audio cut away by clears."""
    network: dict[str, AttributeValue] | None = None
    """What the receiver said of the network, and the opinion score made of it."""

    def went_on_after(self, at_ns: int) -> bool:
        """Whether the reply was taken up again after this moment."""
        return self.resumed_ns is not None and at_ns < self.resumed_ns

    @property
    def shift_ns(self) -> int:
        """From sending to hearing, by the client's report; 0 without one."""
        if self.heard_ns is None or self.first_sent_ns is None:
            return 0
        return max(0, self.heard_ns - self.first_sent_ns)

    @property
    def first_heard_ns(self) -> int | None:
        """When the first sample was heard: by the client's report, else when it was sent; None without audio."""
        if self.first_sent_ns is None or self.heard_ns is None:
            return self.first_sent_ns
        return self.heard_ns

    @property
    def out_ns(self) -> int:
        """When the user has heard (or lost) everything sent so far; only meaningful after the first frame."""
        if self.stopped_ns is not None and self.stopped_ns >= self.last_sent_ns:
            return self.stopped_ns
        return self.end_ns if self.heard_ns is None else self.end_ns + self.shift_ns


@dataclass(slots=True)
class TurnRecord:
    """Everything observed of one turn, in monotonic nanoseconds."""

    session_id: str
    trace_id: int
    span_id: int
    sampled: bool
    wall_offset_ns: int
    """Unix time less monotonic time, read once at the onset: the turn's wall-clock anchor."""
    onset_ns: int
    announced_ns: int
    """When the onset was reported; detectors know it only afterwards."""
    input: Input = "speech"
    trigger: str | None = None
    """Set for speech that the agent starts."""
    index: int | None = None
    transport: str | None = None
    measurement_point: str = "client"
    """Where the client's reports are taken."""
    clock_error_ns: int | None = None
    media_up_ns: int | None = None
    """Set on the first agent turn of a session: when media flowed."""
    hangover_ns: int | None = None
    speech_end_ns: int | None = None
    detected_ns: int | None = None
    """The detector's own decision that speech has ended."""
    segments: int = 1
    committed_ns: int | None = None
    partial_ns: int | None = None
    transcript_ns: int | None = None
    stages: list[StageRecord] = field(default_factory=list)
    playback: Playback = field(default_factory=Playback)
    barge_in: BargeIn | None = None
    failure: Failure | None = None
    suppressed: bool = False
    ended_ns: int | None = None
    close: Close | None = None
    closed_ns: int = 0
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    events: tuple[Noted, ...] = ()
    links: tuple[tuple[SpanContext, str], ...] = ()
    active_ns: int = 0
    """The latest activity; the idle time-out counts from it."""
    detections: tuple[Detection, ...] = ()
    genai_drafts: bool = False

    @property
    def observed_at(self) -> str:
        """Where the first sample was observed: at the client's (or gateway's) report, else at the server."""
        return "server" if self.playback.heard_ns is None else self.measurement_point

    @property
    def voice(self) -> StageRecord | None:
        """The synthesis (or realtime response) that was heard first: the earliest with audio."""
        found, found_ns = None, 0
        for stage in self.stages:
            first_ns = stage.first_ns
            if first_ns is None or stage.discarded or stage.component not in ("tts", "realtime"):
                continue
            if found is None or first_ns < found_ns:
                found, found_ns = stage, first_ns
        return found

    @property
    def busy(self) -> bool:
        """Whether a stage still runs for which the turn waits."""
        for stage in self.stages:  # noqa: SIM110 - looked at in every turn's end, several times a second
            if stage.end_ns is None and not stage.background:
                return True
        return False

    def last(self, component: Component) -> StageRecord | None:
        """Return the latest stage of a component that was meant to be used."""
        found = None
        for stage in self.stages:
            if (
                stage.component == component
                and not stage.discarded
                and (found is None or stage.start_ns > found.start_ns)
            ):
                found = stage
        return found

    def handed_over(self, llm: StageRecord) -> int | None:
        """Return when a generation reached the synthesizer: as reported, else when the next voice began."""
        first_ns = llm.first_ns
        if first_ns is None or llm.handed_ns is not None:
            return llm.handed_ns
        next_ns = voice_ns = None
        for other in self.stages:
            if other.component == "llm":
                if other.start_ns > llm.start_ns and (next_ns is None or other.start_ns < next_ns):
                    next_ns = other.start_ns
            elif other.component == "tts" and not other.filler and not other.discarded:
                began_ns = other.began_ns
                if began_ns >= first_ns and (voice_ns is None or began_ns < voice_ns):
                    voice_ns = began_ns
        until_ns = self.closed_ns if next_ns is None else next_ns
        return voice_ns if voice_ns is not None and voice_ns <= until_ns else None
