"""What is said in open turns: kept where it is wanted, bounded, and given away once the turn is over."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from voicespan import content, diagnostics, settings, viewer
from voicespan.content import Content
from voicespan.settings import Settings

if TYPE_CHECKING:
    from voicespan import Session, Turn
    from voicespan.testing import VoiceRecorder


def close(turn: Turn) -> None:
    """End a turn that was committed, so that it is over."""
    turn.committed()
    turn.suppressed()


def taken(kept: Content) -> dict[str, tuple[str, bytes, int | None]]:
    """What is taken, by side."""
    return {each.role: (each.said.text.decode(), bytes(each.said.audio), each.said.sample_rate) for each in kept.take()}


@pytest.fixture
def session(voice: VoiceRecorder) -> Session:
    """A session of this test."""
    return voice.session()


def test_calls_append(session: Session) -> None:
    """Text and audio of several calls follow one another; they are given away once, when the turn is over."""
    kept, turn = Content(), session.user_turn()
    kept.add(turn, "user", "What is", b"\1\0", 16_000)
    kept.add(turn, "user", " it?", array("h", [2]), None)
    kept.add(turn, "agent", "Nine.", None, None)
    assert kept.take() == []
    close(turn)
    assert taken(kept) == {"user": ("What is it?", b"\1\0\2\0", 16_000), "agent": ("Nine.", b"", None)}
    assert kept.take() == []


def test_sides_are_bounded(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond the bounds of a side, or of all turns together, is left out and counted."""
    monkeypatch.setattr(content, "MAX_TEXT_BYTES", 4)
    monkeypatch.setattr(content, "MAX_AUDIO_BYTES", 6)
    monkeypatch.setattr(content, "MAX_BYTES", 15)
    kept, turn, other = Content(), session.user_turn(), session.agent_turn()
    kept.add(turn, "user", "abcdef", bytes(8), 8000)
    kept.add(turn, "user", "g", bytes(2), 8000)
    kept.add(other, "agent", "abcdef", bytes(8), 8000)
    close(turn)
    assert taken(kept) == {"user": ("abcd", bytes(6), 8000)}
    kept.add(other, "user", "", bytes(8), 8000)
    close(other)
    other.end()
    assert taken(kept) == {"agent": ("abcd", b"\0", 8000), "user": ("", bytes(6), 8000)}
    assert diagnostics.counters.get("content.over_limit") == 7


def test_what_was_no_utterance_is_forgotten(session: Session) -> None:
    """A cough, and a turn that no sampler wants, are not given away."""
    kept, cough = Content(), session.user_turn()
    kept.add(cough, "user", "ahem", None, None)
    cough.dismissed()
    unsampled = session.user_turn()
    unsampled.record.sampled = False
    kept.add(unsampled, "user", "hello", None, None)
    close(unsampled)
    assert kept.take() == []


def test_nothing_is_taken_where_it_is_not_wanted(session: Session) -> None:
    """Once nobody wants it, what there is is forgotten, and nothing is added."""
    kept, turn = Content(), session.user_turn()
    kept.add(turn, "user", "before", None, None)
    kept.wanted = False
    kept.add(turn, "user", "after", None, None)
    kept.wanted = True
    close(turn)
    assert kept.take() == []


@pytest.mark.parametrize(("first", "second"), [((None,), (None,)), ((16_000,), (8000,))])
def test_audio_needs_one_sample_rate(session: Session, first: tuple[int | None], second: tuple[int | None]) -> None:
    """Audio without a sample rate, or with another than before, is left out and said; the text stays."""
    kept, turn = Content(), session.user_turn()
    kept.add(turn, "user", "one", b"\1\0", *first)
    kept.add(turn, "user", " two", b"\2\0", *second)
    close(turn)
    text, audio, _ = taken(kept)["user"]
    assert (text, audio) == ("one two", b"\1\0" if first[0] else b"")
    assert diagnostics.counters.get("content.refused") == (1 if first[0] else 2)


def test_marks_take_nothing_unless_asked(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VOICESPAN_CONTENT `user_said` and `agent_said` hand nothing on; with it, both sides."""
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(viewer, "said", lambda *each: given.append(each))
    turn = session.user_turn()
    turn.user_said("secret")
    turn.agent_said("secret")
    assert given == []
    settings.reset(Settings(content=True))
    turn.user_said("hello", audio=b"\1\0", sample_rate=8000)
    turn.agent_said("hi")
    assert given == [(turn, "user", "hello", b"\1\0", 8000), (turn, "agent", "hi", None, None)]
    close(turn)
    turn.agent_said("late")
    assert len(given) == 2
    assert diagnostics.counters.get("mark.late") == 1


@pytest.mark.parametrize("audio", ["secret", 7, array("d", [1.0])])
def test_wrong_use_raises_nothing_and_tells_nothing(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], audio: object
) -> None:
    """What is no PCM is an error of ours that is counted, and no word of it is said on stderr."""
    settings.reset(Settings(content=True))
    monkeypatch.setattr(viewer, "said", Content().add)
    turn = session.user_turn()
    turn.user_said("secret", audio=audio, sample_rate=8000)  # type: ignore[arg-type]
    turn.user_said(b"secret")  # type: ignore[arg-type]
    assert diagnostics.counters.get("internal_error") == 2
    assert "secret" not in capsys.readouterr().err
