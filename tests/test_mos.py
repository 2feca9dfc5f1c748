from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicespan import diagnostics
from voicespan import names as n
from voicespan.mos import mos

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder


@pytest.mark.covers("D-M12")
@pytest.mark.parametrize(
    ("loss", "jitter_s", "delay_s", "score"),
    [
        (0, 0, 0, 4.409),  # R = 93.2
        (0.05, 0, 0, 3.923),  # Ie_eff = 95 * 5 / 30.1 = 15.78, R = 77.42
        (0, 0, 0.2, 4.226),  # Id = 4.8 + 0.11 * 22.7 = 7.297, R = 85.903
        (0, 0.05, 0.1, 4.226),  # the jitter buffer adds 100 ms
        (1, 0, 3, 1.0),
    ],
)
def test_mean_opinion_score(loss: float, jitter_s: float, delay_s: float, score: float) -> None:
    """The score is that of G.107 computed by hand: delay with its knee, random loss, jitter as twice its delay."""
    assert mos(loss=loss, jitter_s=jitter_s, delay_s=delay_s) == pytest.approx(score, abs=0.001)


@given(loss=st.floats(0, 1), jitter_s=st.floats(0, 10), delay_s=st.floats(0, 10), worse=st.floats(0, 1))
def test_worse_networks_score_no_better(loss: float, jitter_s: float, delay_s: float, worse: float) -> None:
    """The score stays between 1 and 4.41, and more delay never makes it better where the scale is not at its end."""
    score = mos(loss=loss, jitter_s=jitter_s, delay_s=delay_s)
    assert 1 <= score <= 4.41
    assert mos(loss=loss, jitter_s=jitter_s, delay_s=delay_s + worse) <= score + 1e-9


def test_the_network_stands_on_playback(voice: VoiceRecorder) -> None:
    """A gateway's report gives jitter, loss, delay and the score made of them on `playback`; the latest counts."""
    with voice.session(transport="sip", measurement_point="gateway") as session:
        turn = session.agent_turn()
        turn.audio_sent(1.0)
        turn.network_measured(jitter_s=0.5, loss=0.5, round_trip_s=2)
        turn.network_measured(jitter_s=0.05, loss=0.0, round_trip_s=0.2)
    playback = next(span for span in voice.turns[0].spans if span.name == n.SPAN_PLAYBACK)
    assert playback.attributes[n.VOICE_AUDIO_JITTER_S] == 0.05
    assert playback.attributes[n.VOICE_AUDIO_LOSS] == 0
    assert playback.attributes[n.VOICE_AUDIO_DELAY_S] == 0.1
    assert playback.attributes[n.VOICE_AUDIO_MOS] == pytest.approx(4.226, abs=0.001)


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"loss": -0.1}, {"jitter_s": float("nan")}, {"round_trip_s": -1}])
def test_impossible_networks_are_refused(voice: VoiceRecorder, wrong: dict[str, float]) -> None:
    """What cannot be measured is left out, and counted."""
    with voice.session() as session:
        turn = session.agent_turn()
        turn.audio_sent(1.0)
        turn.network_measured(**wrong)
    playback = next(span for span in voice.turns[0].spans if span.name == n.SPAN_PLAYBACK)
    assert not [key for key in playback.attributes if key.startswith("voice.audio.")]
    assert diagnostics.counters.get("mark.refused") == 1


def test_no_score_without_loss(voice: VoiceRecorder) -> None:
    """Where loss is not known no score is made up."""
    with voice.session() as session:
        turn = session.agent_turn()
        turn.audio_sent(1.0)
        turn.network_measured(jitter_s=0.01)
    playback = next(span for span in voice.turns[0].spans if span.name == n.SPAN_PLAYBACK)
    assert n.VOICE_AUDIO_MOS not in playback.attributes
    assert playback.attributes[n.VOICE_AUDIO_JITTER_S] == 0.01
