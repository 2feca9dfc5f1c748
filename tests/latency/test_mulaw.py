"""The telephone's companding."""

from __future__ import annotations

import warnings
from array import array

from voicespan.latency import mulaw

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop  # Python's own until 3.12; later the package that Pipecat brings


def test_it_is_what_python_had() -> None:
    """Every code means what the interpreter's own module says, and every sample gets its code."""
    codes = bytes(range(256))
    decoded = array("h", mulaw.decode(codes))
    assert decoded[0::2] == decoded[1::2] == array("h", audioop.ulaw2lin(codes, 2))
    samples = array("h", range(-32_768, 32_768, 7))
    doubled = array("h", (sample for sample in samples for _ in range(2)))
    assert mulaw.encode(doubled.tobytes()) == audioop.lin2ulaw(samples.tobytes(), 2)
