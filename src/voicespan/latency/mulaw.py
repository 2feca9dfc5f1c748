"""G.711 mu-law at 8 kHz, the sound of telephone gateways, from and to 16-bit sound at 16 kHz.

The companding is that of ITU-T G.711 on samples of 14 bits, as in Sun's public-domain g711.c: a bias of 33, 8 segments.
"""

from __future__ import annotations

from array import array

_BIAS = 33
_CLIP = 8_158


def _decoded(code: int) -> int:
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 1) + _BIAS) << ((code & 0x70) >> 4)) - _BIAS
    return -4 * magnitude if code & 0x80 else 4 * magnitude


def _encoded(sample: int) -> int:
    magnitude = min(abs(sample >> 2), _CLIP) + _BIAS
    segment = magnitude.bit_length() - 6
    return ~((0x80 if sample < 0 else 0) | (segment << 4) | ((magnitude >> (segment + 1)) & 0x0F)) & 0xFF


_SAMPLES = tuple(_decoded(code) for code in range(256))
_CODES = bytes(_encoded(sample) for sample in range(-32_768, 32_768))


def encode(pcm: bytes) -> bytes:
    """Return 16 kHz sound as mu-law at 8 kHz; each two samples become their mean."""
    samples = memoryview(pcm).cast("h")
    return bytes(_CODES[(samples[at] + samples[at + 1]) // 2 + 32_768] for at in range(0, len(samples) - 1, 2))


def decode(codes: bytes) -> bytes:
    """Return mu-law at 8 kHz as 16 kHz sound; each sample is there twice."""
    return array("h", (sample for code in codes for sample in (_SAMPLES[code],) * 2)).tobytes()
