"""A call on a clock that stands still until the scenario moves it; all times are milliseconds after zero."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from voicespan.finished import FinishedSpan, FinishedTurn, Link
    from voicespan.sessions import Session
    from voicespan.testing import VoiceRecorder
    from voicespan.turn import Turn

MS = 1_000_000
SPANS = {span.name.partition(" ")[0]: span for span in names.SPANS}
ATTRIBUTES = {attribute.name for attribute in names.ATTRIBUTES}
EVENTS = {event.name for event in names.EVENTS}


class Timeline:
    """Moves the clock, plays the usual parts of a call, and reads finished turns in the scenario's own times."""

    def __init__(self, voice: VoiceRecorder) -> None:
        self.voice = voice
        self._zero_ns = voice.clock.now_ns
        self._zero_unix_ns = voice.clock.time_ns()

    def __call__(self, ms: float) -> int:
        """Move the clock forward to `ms` unless it is later already; return that moment for `at=`."""
        moment_ns = self.ns(ms)
        if moment_ns > self.voice.clock.now_ns:
            self.voice.clock.advance(ms=(moment_ns - self.voice.clock.now_ns) / MS)
        return moment_ns

    def ns(self, ms: float) -> int:
        """Return the moment without moving the clock (it may lie in the future)."""
        return self._zero_ns + round(ms * MS)

    def session(self, session_id: str = "call-7", **options: Any) -> Session:
        """Return a session of this call."""
        return self.voice.session(session_id, **options)

    def user_says(
        self,
        session: Session,
        *,
        onset: float = 0,
        end: float = 1000,
        commit: float = 1300,
        transcript: float = 1350,
    ) -> Turn:
        """One stretch of speech as a detector reports it: the onset 80 ms late, the end 200 ms late."""
        self(onset + 80)
        turn = session.user_turn(at=self(onset))
        self(end + 200)
        turn.speech_ended(at=self(end))
        turn.committed(at=self(commit))
        turn.transcript(at=self(transcript))
        return turn

    def agent_says(
        self,
        turn: Turn,
        *,
        request: float = 1360,
        token: float = 1560,
        sentence: float = 1660,
        audio: float = 1800,
        sent: float = 1810,
        seconds: float = 0.5,
    ) -> None:
        """One request, one sentence, one piece of audio; the last token is the one that completes the sentence."""
        self.model_says(turn, request=request, token=token, sentence=sentence)
        self.voice_says(turn, text=sentence, audio=audio, sent=sent, seconds=seconds)

    def model_says(self, turn: Turn, *, request: float = 1360, token: float = 1560, sentence: float = 1660) -> None:
        """One request whose answer is one sentence."""
        self(request)
        with turn.llm(model="m-1", provider="openai") as llm:
            llm.token(at=self(token))
            llm.token(at=self(sentence))
            llm.sentence(at=self(sentence))

    def voice_says(
        self,
        turn: Turn,
        *,
        text: float = 1660,
        audio: float = 1800,
        sent: float = 1810,
        seconds: float = 0.5,
    ) -> None:
        """One text that becomes one piece of audio, sent at once."""
        self(text)
        with turn.tts(voice="sam", model="v-1") as tts:
            tts.text("It is sunny.", at=self(text))
            tts.audio(seconds=seconds, at=self(audio))
            turn.audio_sent(seconds, at=self(sent))

    def finish(self, count: int = 1, *, within_s: float = 10) -> list[FinishedTurn]:
        """Let that much time pass; return the turns that are finished then, of which there must be `count`."""
        self.voice.settle(within_s)
        turns = list(self.voice.turns)
        assert len(turns) == count, [self.show(turn) for turn in turns]
        return turns

    def ms(self, unix_ns: int) -> float:
        """Return a time of a span or event in milliseconds after zero."""
        return (unix_ns - self._zero_unix_ns) / MS

    def show(self, turn: FinishedTurn) -> str:
        """Return the spans as a table: name, start, end, parent; `name@start` where a parent's name is not unique."""
        return "\n".join("  ".join(row) for row in sorted(self._rows(turn)))

    def expect(self, turn: FinishedTurn, table: str) -> None:
        """Fail unless the spans are those of the table: columns as in `show`, `*` for a time that is not the point."""
        __tracebackhide__ = True
        wanted = sorted(_parse(table))
        got = sorted(self._rows(turn))
        if len(wanted) != len(got) or not all(_same(want, have) for want, have in zip(wanted, got, strict=True)):
            missing = ["  ".join(row) for row in wanted if not any(_same(row, have) for have in got)]
            surplus = ["  ".join(row) for row in got if not any(_same(want, row) for want in wanted)]
            pytest.fail("\n".join(["expected:", *missing, "got:", *surplus, "the whole turn:", self.show(turn)]))

    def events(self, span: FinishedSpan, *, only: str | None = None) -> list[tuple[str, float]]:
        """Return name and time of the span's events in order of time."""
        listed = [(event.name, self.ms(event.time_ns)) for event in span.events if only in {None, event.name}]
        return sorted(listed, key=lambda event: event[1])

    def shares(self, turn: FinishedTurn) -> dict[str, float]:
        """Return the shares of the heard silence that are not zero, in milliseconds."""
        return {stage: round(share_s * 1000, 6) for stage, share_s in turn.shares.items() if share_s}

    def critical(self, turn: FinishedTurn) -> set[str]:
        """Return the names of the spans on the critical path."""
        return {span.name for span in turn.spans if span.attributes.get(names.VOICE_CRITICAL_PATH)}

    def _rows(self, turn: FinishedTurn) -> list[tuple[str, ...]]:
        named = {span.span_id: span for span in turn.spans}
        rows: list[tuple[str, ...]] = []
        for span in turn.spans:
            parent = named.get(span.parent_id) if span.parent_id is not None else None
            label = ""
            if parent is not None:
                label = parent.name
                if len(turn.all(parent.name)) > 1:
                    label += f"@{self.ms(parent.start_ns):g}"
            times = (f"{self.ms(span.start_ns):g}", f"{self.ms(span.end_ns):g}")
            rows.append((span.name, *times, label) if label else (span.name, *times))
        return rows


def passes_on(error: type[BaseException]) -> AbstractContextManager[object]:
    """Fail unless the block is left by this error: what a stage records, the service still sees."""
    return pytest.raises(error)


def links(turn: FinishedTurn) -> list[tuple[str, int]]:
    """Return relation and trace id of the links of the root."""
    return sorted(_relation(link) for link in turn.root.links)


def _relation(link: Link) -> tuple[str, int]:
    return str(link.attributes[names.VOICE_LINK_TYPE]), link.context.trace_id


def _parse(table: str) -> list[tuple[str, ...]]:
    return [tuple(re.split(r"\s{2,}", line.strip())) for line in table.strip().splitlines()]


def _same(wanted: tuple[str, ...], got: tuple[str, ...]) -> bool:
    return len(wanted) == len(got) and all(want in {"*", have} for want, have in zip(wanted, got, strict=True))


def check(turn: FinishedTurn) -> None:
    """Fail unless the turn keeps what every turn must keep."""
    ids = [span.span_id for span in turn.spans]
    assert len(ids) == len(set(ids))
    assert all(span.end_ns >= span.start_ns for span in turn.spans)
    if turn.late:
        return
    root = turn.root
    assert root.name == names.SPAN_TURN
    assert root.parent_id is None
    for span in turn.spans[1:]:
        assert span.name != names.SPAN_TURN
        assert span.parent_id in ids
        assert root.start_ns <= span.start_ns
        assert span.end_ns <= root.end_ns
    _check_names(turn)
    _check_milestones(turn)
    _check_silence(turn)
    assert (root.error is not None) == (turn.outcome in {"error", "timeout"})
    assert names.VOICE_TURN_NO_REPLY_REASON not in root.attributes or turn.outcome == "no_reply"


def _check_names(turn: FinishedTurn) -> None:
    """What has a name in the table stands only on the spans that the table gives it to."""
    for span in turn.spans:
        row = SPANS[span.name.partition(" ")[0]]
        assert span.attributes.keys() & ATTRIBUTES <= set(row.attributes), span.name
        assert {event.name for event in span.events} & EVENTS <= set(row.events), span.name
        for event in span.events:
            known = next((listed.attributes for listed in names.EVENTS if listed.name == event.name), None)
            assert known is None or set(event.attributes) <= set(known), event.name
        assert span.kind in {row.kind, "internal"}


def _check_milestones(turn: FinishedTurn) -> None:
    parents = {span.span_id: span for span in turn.spans}
    for name, stage in (
        (names.SPAN_LLM_TTFT, names.SPAN_LLM),
        (names.SPAN_TTS_FIRST_AUDIO, names.SPAN_TTS),
        (names.SPAN_PLAYBACK_START, names.SPAN_PLAYBACK),
        (names.SPAN_VAD_ENDPOINT, names.SPAN_VAD),
        (names.SPAN_ASR_FINALIZE, names.SPAN_ASR),
        (names.SPAN_REALTIME_FIRST_AUDIO, names.SPAN_REALTIME),
    ):
        for milestone in turn.all(name):
            assert milestone.parent_id is not None
            assert parents[milestone.parent_id].name == stage
    if turn.all(names.SPAN_BARGE_IN):
        assert turn.get(names.SPAN_PLAYBACK) is not None


def _check_silence(turn: FinishedTurn) -> None:
    assert len(turn.all(names.SPAN_RESPONSE)) + len(turn.all(names.SPAN_UNANSWERED)) <= 1
    assert (turn.get(names.SPAN_RESPONSE) is None) or (turn.get(names.SPAN_PLAYBACK) is not None)
    silence = turn.response
    if silence is None:
        assert turn.shares == {}
        return
    shares = turn.shares
    duration_s = silence.duration_ns / 1e9
    assert sum(shares.values()) == pytest.approx(duration_s, rel=1e-9, abs=1e-12)
    assert all(share_s >= 0 for share_s in shares.values())
    assert set(shares) <= set(names.SHARE_STAGES)
    if duration_s:
        bottleneck = str(silence.attributes[names.VOICE_TURN_BOTTLENECK])
        assert shares[bottleneck] == max(shares.values())
