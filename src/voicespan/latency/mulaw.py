"""G.711 mu-law at 8 kHz, the sound of telephone gateways, from and to 16-bit sound at 16 kHz.

The companding is that of ITU-T G.711 as in Sun's public-domain g711.c: a bias of 132 on 16-bit samples, 8 segments.
"""

from __future__ import annotations

from array import array

_BIAS = 0x84
_CLIP = 32_635


def _decoded(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + _BIAS << ((code & 0x70) >> 4)) - _BIAS
    return -magnitude if code & 0x80 else magnitude


def _encoded(sample: int) -> int:
    sign, magnitude = (0x80, -sample) if sample < 0 else (0, sample)
    magnitude = min(magnitude, _CLIP) + _BIAS
    segment = magnitude.bit_length() - 8
    return ~(sign | (segment << 4) | ((magnitude >> (segment + 3)) & 0x0F)) & 0xFF


_SAMPLES = tuple(_decoded(code) for code in range(256))
_CODES = bytes(_encoded(sample) for sample in range(-32_768, 32_768))


def encode(pcm: bytes) -> bytes:
    """Return 16 kHz sound as mu-law at 8 kHz; each two samples become their mean."""
    samples = memoryview(pcm).cast("h")
    return bytes(_CODES[(samples[at] + samples[at + 1]) // 2 + 32_768] for at in range(0, len(samples) - 1, 2))


def decode(codes: bytes) -> bytes:
    """Return mu-law at 8 kHz as 16 kHz sound; each sample is there twice."""
    return array("h", (sample for code in codes for sample in (_SAMPLES[code],) * 2)).tobytes()
