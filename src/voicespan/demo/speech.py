"""Speech from text by espeak-ng, called in process through its C interface."""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

from voicespan.demo import pcm

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_BUFFER_MS = 20

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True)
class Voice:
    """An espeak-ng voice; `speed` is in words per minute, `pitch` from 0 to 99."""

    name: str
    speed: int = 170
    pitch: int = 50


AGENT = Voice("en-us")
CALLER = Voice("en-us+f3", speed=175)


class SpeechError(RuntimeError):
    """espeak-ng cannot be loaded, or does not know the voice."""


def synthesized(text: str, voice: Voice = AGENT) -> bytes:
    """Return the spoken text at 16 kHz, without silence around it.

    Takes about 1 ms of processor time per second of sound, and the same again to resample it.

    Raises:
        SpeechError: espeak-ng cannot be loaded, or does not know the voice.

    """
    engine = _engine()
    return pcm.trimmed(pcm.resampled(engine.say(text, voice), engine.rate))


def load() -> None:
    """Load the library, if that was not done.

    Raises:
        SpeechError: espeak-ng cannot be loaded.

    """
    _engine()


class _Engine:
    """The library's one and only state: one utterance at a time."""

    def __init__(self, library: Any, data_path: str) -> None:
        self.rate: int = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data_path.encode(), 0)
        if self.rate <= 0:
            raise SpeechError(f"espeak-ng did not start (code {self.rate})")
        self._library = library
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._callback = _Callback(self._collect)  # the library keeps the pointer: this must live as long
        library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: Voice) -> bytes:
        with self._lock:
            if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise SpeechError(f"espeak-ng has no voice {voice.name!r}")
            self._library.espeak_SetParameter(_PARAMETER_RATE, voice.speed, 0)
            self._library.espeak_SetParameter(_PARAMETER_PITCH, voice.pitch, 0)
            encoded = text.encode()
            self._library.espeak_Synth(
                encoded, ctypes.c_size_t(len(encoded) + 1), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            self._library.espeak_Synchronize()
            spoken = b"".join(self._chunks)
            self._chunks.clear()
            return spoken

    def _collect(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0


@cache
def _engine() -> _Engine:
    import espeakng_loader

    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise SpeechError(f"espeak-ng cannot be loaded: {error}") from error
    return _Engine(library, espeakng_loader.get_data_path())
