"""Whatever a pipeline reports, in whatever order and from wherever: no mark raises, and no turn says what is not so."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.testing import VoiceRecorder

from .timeline import MS, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.finished import FinishedTurn
    from voicespan.stage import Stage
    from voicespan.turn import Turn


class Pipeline:
    """A pipeline that reports at random, and remembers what it reported of which turn."""

    def __init__(self) -> None:
        self.voice = VoiceRecorder()
        self.session = self.voice.session("call-7", measurement_point="client")
        self.turns: list[Turn] = []
        self.stages: list[tuple[Turn, Stage]] = []
        self.said: defaultdict[int, set[str]] = defaultdict(set)

    def step(self, name: str, which: int, wait_ms: int, offset_ms: int | None) -> None:
        """Let time pass, then report one thing about one turn (of those there were) or stage."""
        self.voice.clock.advance(ms=wait_ms)
        at = None if offset_ms is None else self.voice.clock.now_ns + offset_ms * MS
        if name in SESSION_STEPS:
            SESSION_STEPS[name](self, at)
        elif name in TURN_STEPS and self.turns:
            turn = self.turns[-1 - which % len(self.turns)]
            self.said[turn.trace_id].add(name)
            TURN_STEPS[name](self, turn, at)
        elif name in STAGE_STEPS and self.stages:
            turn, stage = self.stages[-1 - which % len(self.stages)]
            self.said[turn.trace_id].add(name)
            STAGE_STEPS[name](stage, at)

    def user(self, at: int | None, kind: str = "speech") -> None:
        """Begin a turn of the user, or go on with it."""
        turn = self.session.user_turn(at=at, input=kind)  # type: ignore[arg-type]
        if turn not in self.turns:
            self.turns.append(turn)

    def begin(self, turn: Turn, stage: Stage) -> None:
        """Remember a stage for later reports."""
        self.stages.append((turn, stage))

    def over(self) -> list[FinishedTurn]:
        """End the session and what still runs; return what was finished."""
        self.session.end()
        for _, stage in self.stages:
            stage.end()
        return self.voice.turns


def product(stage: Stage, at: int | None) -> None:
    """Report what this kind of stage makes: a token, a frame, a transcript."""
    for mark in ("token", "audio", "final"):
        if hasattr(stage, mark):
            getattr(stage, mark)(at=at)


def handed(stage: Stage, at: int | None) -> None:
    if hasattr(stage, "sentence"):
        stage.sentence(at=at)
    if hasattr(stage, "text"):
        stage.text("It is sunny.", at=at)


SESSION_STEPS: dict[str, Callable[[Pipeline, int | None], object]] = {
    "user_turn": Pipeline.user,
    "text_turn": lambda pipeline, at: pipeline.user(at, "text"),
    "agent_turn": lambda pipeline, at: pipeline.turns.append(pipeline.session.agent_turn("say")),
    "media_up": lambda pipeline, at: pipeline.session.media_up(at),
    "settle": lambda pipeline, at: pipeline.voice.settle(0),
    "long_wait": lambda pipeline, at: (pipeline.voice.clock.advance(s=61), pipeline.voice.settle()),
    "hung_up": lambda pipeline, at: pipeline.session.hung_up(at),
}
TURN_STEPS: dict[str, Callable[[Pipeline, Turn, int | None], object]] = {
    "speech_ended": lambda pipeline, turn, at: turn.speech_ended(at=at),
    "committed": lambda pipeline, turn, at: turn.committed(at=at),
    "transcript": lambda pipeline, turn, at: turn.transcript(at=at),
    "partial": lambda pipeline, turn, at: turn.transcript(at=at, final=False),
    "dismissed": lambda pipeline, turn, at: turn.dismissed(),
    "asr": lambda pipeline, turn, at: pipeline.begin(turn, turn.asr(model="a-1")),
    "llm": lambda pipeline, turn, at: pipeline.begin(turn, turn.llm(model="m-1")),
    "tool": lambda pipeline, turn, at: pipeline.begin(turn, turn.tool("t")),
    "background": lambda pipeline, turn, at: pipeline.begin(turn, turn.tool("b", background=True)),
    "tts": lambda pipeline, turn, at: pipeline.begin(turn, turn.tts(voice="sam")),
    "filler": lambda pipeline, turn, at: pipeline.begin(turn, turn.tts(voice="sam", filler=True)),
    "realtime": lambda pipeline, turn, at: pipeline.begin(turn, turn.realtime(model="r-1")),
    "audio_sent": lambda pipeline, turn, at: turn.audio_sent(0.4, at=at),
    "audio_heard": lambda pipeline, turn, at: turn.audio_heard(at=at),
    "audio_stopped": lambda pipeline, turn, at: turn.audio_stopped(at=at),
    "audio_cleared": lambda pipeline, turn, at: turn.audio_cleared(at=at),
    "audio_resumed": lambda pipeline, turn, at: turn.audio_resumed(at=at),
    "interrupted": lambda pipeline, turn, at: turn.interrupted(at=at),
    "server_cancel": lambda pipeline, turn, at: turn.barge_in("server_cancel", at=at),
    "handoff": lambda pipeline, turn, at: turn.handoff("other"),
    "failed": lambda pipeline, turn, at: turn.failed("broken"),
    "suppressed": lambda pipeline, turn, at: turn.suppressed(),
    "end": lambda pipeline, turn, at: turn.end(at=at),
}
STAGE_STEPS: dict[str, Callable[[Stage, int | None], object]] = {
    "stage.end": lambda stage, at: stage.end(at=at),
    "stage.fail": lambda stage, at: stage.fail(ConnectionError("refused")),
    "stage.cancelled": lambda stage, at: stage.cancelled(),
    "product": product,
    "handed": handed,
    "discarded": lambda stage, at: getattr(stage, "discarded", stage.cancelled)(),
    "outlives": lambda stage, at: getattr(stage, "outlives", stage.cancelled)(),
    "stage.dropped": lambda stage, at: stage.dropped(),
}


STEPS = st.tuples(
    st.sampled_from([*SESSION_STEPS, *TURN_STEPS, *STAGE_STEPS]),
    st.integers(0, 3),
    st.sampled_from([0, 1, 20, 150, 700, 3000]),
    st.sampled_from([None, None, 0, -1, -120, -2000, -40_000, 30, 5_000_000_000, -10_000_000]),
)
# Most sequences begin as turns do, so that the rules after the beginning are reached as well.
OPENINGS = st.sampled_from(
    [
        [],
        ["user_turn", "speech_ended", "committed", "transcript"],
        [
            "user_turn",
            "speech_ended",
            "committed",
            "llm",
            "product",
            "handed",
            "tts",
            "handed",
            "product",
            "audio_sent",
        ],
        ["user_turn", "committed", "realtime", "product", "audio_sent", "audio_heard", "user_turn", "interrupted"],
        ["agent_turn", "tts", "product", "audio_sent", "user_turn", "audio_cleared"],
        ["user_turn", "committed", "filler", "product", "audio_sent", "llm", "stage.fail", "llm", "product"],
    ]
)

NEEDS = {
    "llm.ttft": {"product"},
    "llm.first_sentence": {"product"},
    "tts.first_audio": {"audio"},
    "realtime.first_audio": {"audio"},
    "playback": {"audio_sent"},
    "playback.start": {"audio_sent", "audio_heard"},
    "playback.gap": {"audio_sent"},
    "voice.response": {"audio_sent"},
    "voice.answer": {"audio_sent", "filler"},
    "barge_in": {"audio_sent"},
    "execute_tool t": {"tool"},
    "llm": {"llm"},
    "tts": {"tts"},
    "realtime": {"realtime"},
}


def only_what_happened(turn: FinishedTurn, said: set[str]) -> None:
    """Fail when the turn has a span for something that was never reported."""
    if "filler" in said:
        said = said | {"tts"}
    if said & {"product", "audio_sent"}:
        said = said | {"audio"}  # what was sent had been made
    for span in turn.spans:
        assert NEEDS.get(span.name, set()) <= said, (span.name, said)
    if turn.late:
        return
    events = {event.name for event in turn.root.events}
    assert "first_transcript" not in events or said & {"transcript", "partial", "product"}
    assert turn.outcome != "interrupted" or "audio_sent" in said
    assert turn.outcome != "error" or said & {"failed", "stage.fail"}
    assert "voice.turn.recovered" not in turn.root.attributes or "stage.fail" in said


@settings(max_examples=300, deadline=None)
@given(opening=OPENINGS, steps=st.lists(STEPS, max_size=40))
def test_any_sequence_of_marks(opening: list[str], steps: list[tuple[str, int, int, int | None]]) -> None:
    """Marks in any order, twice, late, impossible: each turn is finished once, its shares sum, nothing is made up."""
    pipeline = Pipeline()
    for name in opening:
        pipeline.step(name, 0, 100, None)
    for step in steps:
        pipeline.step(*step)
    finished = pipeline.over()
    whole = [turn.trace_id for turn in finished if not turn.late]
    assert sorted(whole) == sorted(turn.trace_id for turn in pipeline.turns if not turn.dropped)
    assert not any(turn.open for turn in pipeline.turns)
    for turn in finished:
        check(turn)
        only_what_happened(turn, pipeline.said[turn.trace_id])
    before = list(finished)
    for report in TURN_STEPS.values():
        for late in pipeline.turns:
            report(pipeline, late, None)
    assert pipeline.voice.turns == before


@settings(max_examples=300, deadline=None)
@given(opening=OPENINGS, steps=st.lists(STEPS, max_size=40), looks=st.integers(1, 3))
def test_a_turn_is_looked_at_when_it_is_over(
    opening: list[str], steps: list[tuple[str, int, int, int | None]], looks: int
) -> None:
    """A turn that says that it need not be looked at yet is not over, whatever was reported since the last look."""
    pipeline = Pipeline()
    for name in opening:
        pipeline.step(name, 0, 100, None)
    for number, step in enumerate(steps):
        if number % looks == 0:
            pipeline.voice.settle()
        pipeline.step(*step)
        now_ns = pipeline.voice.clock.now_ns
        for turn in pipeline.turns:
            look_ns = turn.look_ns
            if turn.open and look_ns > now_ns:
                pipeline.session.close_if_due(turn, now_ns)
                assert turn.open
                turn.look_ns = look_ns


def test_marks_from_several_threads() -> None:
    """Eight threads that report on the same turns at once: nothing raises, and each turn is finished once."""
    pipeline = Pipeline()
    errors: list[BaseException] = []
    start = threading.Barrier(8)
    steps = [*SESSION_STEPS, *TURN_STEPS, *STAGE_STEPS]
    steps.remove("hung_up")

    def report(seed: int) -> None:
        start.wait()
        try:
            for index in range(400):
                pipeline.step(steps[(seed * 7 + index * (seed + 3)) % len(steps)], index, seed % 3, None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=report, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finished = pipeline.over()
    assert errors == []
    whole = [turn.trace_id for turn in finished if not turn.late]
    assert len(whole) == len(set(whole))
    assert set(whole) == {turn.trace_id for turn in pipeline.turns if not turn.dropped}
    for turn in finished:
        check(turn)


def test_open_turns_are_bounded() -> None:
    """A service that never ends its turns does not fill the memory: the oldest is closed."""
    voice = VoiceRecorder()
    session = voice.session("call-7")
    turns = [session.agent_turn("say") for _ in range(1000)]
    assert sum(turn.open for turn in turns) <= 100
    session.end()
    assert len(voice.turns) == 1000


def test_what_a_turn_holds_is_bounded() -> None:
    """Stages and events without end do not fill the memory either."""
    voice = VoiceRecorder()
    session = voice.session("call-7")
    turn = session.user_turn(input="text")
    for _ in range(5000):
        turn.event("again")
        turn.tool("again").end()
    session.end()
    [finished] = voice.turns
    assert len(finished.root.events) <= 1000
    assert len(finished.spans) <= 1000
