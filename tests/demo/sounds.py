"""Sounds to test with: tones, noise, and speech on a line that is not quite silent."""

from __future__ import annotations

import math
import random
from array import array

from voicespan.demo import pcm
from voicespan.demo.speech import CALLER, Voice, synthesized


def tone(duration_s: float, hertz: float = 440.0, level: int = 8000, rate: int = pcm.RATE) -> bytes:
    """Return a sine tone."""
    step = 2 * math.pi * hertz / rate
    return array("h", (round(level * math.sin(step * index)) for index in range(round(duration_s * rate)))).tobytes()


def noise(duration_s: float, level: int, seed: int = 1) -> bytes:
    """Return white noise."""
    generator = random.Random(seed)
    return array("h", (generator.randint(-level, level) for _ in range(round(duration_s * pcm.RATE)))).tobytes()


def spoken(text: str, voice: Voice = CALLER) -> bytes:
    """Return what the caller says."""
    return synthesized(f"{text}?", voice)


def cough() -> bytes:
    """Return the caller's cough."""
    from voicespan.demo.caller import cough_sound

    return cough_sound()


def on_the_line(*sounds: bytes, before_s: float = 0.61, after_s: float = 0.8) -> bytes:
    """Return the sounds one after the other, with faint noise under and around them."""
    clean = pcm.silence(before_s) + b"".join(sounds) + pcm.silence(after_s)
    background = array("h", noise(pcm.seconds(clean), 12))
    samples = array("h", clean)
    return array("h", (max(-32768, min(32767, a + b)) for a, b in zip(samples, background, strict=True))).tobytes()
