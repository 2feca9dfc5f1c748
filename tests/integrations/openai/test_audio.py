"""The clock of the user's audio, computed by hand."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from voicespan.integrations.openai.audio import AudioClock, bytes_of, bytes_per_s
from voicespan.integrations.openai.conversation import Conversation

MS = 1_000_000

if TYPE_CHECKING:
    from voicespan.testing import VoiceRecorder


def test_steady_audio() -> None:
    """A sample was recorded as long before its chunk was sent as it lies before the end of that."""
    clock = AudioClock()
    for count in range(1, 501):
        clock.sent(20 * MS, 1_000 * MS + count * 20 * MS)
    assert clock.time_of(1_234 * MS) == 2_234 * MS
    assert clock.time_of(20_000 * MS) is None
    assert len(clock._pieces) == 1


def test_a_chunk_that_is_late() -> None:
    """A chunk that the network or a busy loop has held back was recorded at its pace: the next ones tell."""
    clock = AudioClock()
    clock.sent(20 * MS, 20 * MS)
    clock.sent(20 * MS, 190 * MS)
    assert clock.time_of(40 * MS) == 190 * MS
    for count in range(3, 11):
        clock.sent(20 * MS, max(191, count * 20) * MS)
    assert clock.time_of(40 * MS) == 40 * MS


def test_a_pause_of_the_microphone() -> None:
    """Time without audio is on the clock, and not in the position."""
    clock = AudioClock()
    for count in range(1, 51):
        clock.sent(20 * MS, count * 20 * MS)
    for count in range(1, 51):
        clock.sent(20 * MS, 5_000 * MS + count * 20 * MS)
    assert clock.time_of(990 * MS) == 990 * MS
    assert clock.time_of(1_010 * MS) == 5_010 * MS
    assert clock.run_since(0) == 5_000 * MS + 1
    assert clock.run_since(1_500 * MS) == 5_500 * MS + 1
    assert clock.run_since(2_000 * MS) is None


def test_what_is_kept() -> None:
    """Audio whose every chunk is later than the one before is forgotten after a minute."""
    clock = AudioClock()
    for count in range(1, 9_001):
        clock.sent(20 * MS, count * 23 * MS)
    assert len(clock._pieces) <= 3_002
    assert clock.time_of(179_000 * MS) is not None


@pytest.mark.parametrize("length", [0, 1, 2, 3, 960, 961, 962])
def test_the_length_of_base64(length: int) -> None:
    """The number of bytes is known without decoding."""
    assert bytes_of(base64.b64encode(bytes(length)).decode()) == length


def test_formats() -> None:
    """The protocol's formats have their rates, by name or as objects; what is unknown is taken for PCM."""
    assert bytes_per_s({"type": "audio/pcm", "rate": 24_000}) == bytes_per_s("pcm16") == bytes_per_s(None) == 48_000
    assert bytes_per_s({"type": "audio/pcmu"}) == bytes_per_s("g711_alaw") == 8_000


def test_what_the_server_waits_for_is_no_speech(voice: VoiceRecorder) -> None:
    """The onset is without the padding that the server takes along, the end without the silence that it waits for."""
    detection = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 400}
    frame = {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(960)).decode()}
    with voice.session("call-7"):
        call = Conversation()
        made = {"id": "s", "type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        call.received({"type": "session.created", "session": made})
        for count in range(1, 81):
            voice.clock.advance(ms=20)
            call.sent(frame)
            if count == 50:  # the user speaks from 800 ms on
                call.received({"type": "input_audio_buffer.speech_started", "audio_start_ms": 500, "item_id": "u"})
        call.received({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 1600, "item_id": "u"})
        call.received({"type": "input_audio_buffer.committed", "item_id": "u"})
    (turn,) = voice.settle(5)
    assert turn["vad"].duration_ns == 800_000_000
    assert turn["vad.endpoint"].duration_ns == 400_000_000
