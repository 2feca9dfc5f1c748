"""How good a call sounds, from its network: the E-model of ITU-T G.107, with G.711 and its loss concealment.

R = 93.2 - Id - Ie_eff. Id, the impairment by delay, in the common simplification (Cole and Rosenbluth 2001):
0.024 d + 0.11 (d - 177.3) for d above 177.3 ms. Ie_eff = Ie + (95 - Ie) Ppl / (Ppl + Bpl) with Ie = 0 and Bpl = 25.1
for G.711 with concealment (ITU-T G.113, appendix I). MOS of R by G.107, annex B.
"""

from __future__ import annotations

_R0 = 93.2
_LOSS_ROBUSTNESS = 25.1
_DELAY_KNEE_MS = 177.3
_BUFFER_OF_JITTER = 2
"""A jitter buffer holds about twice the jitter back."""


def opinion(*, loss: float, jitter_s: float, delay_s: float) -> float:
    """Return the estimated mean opinion score, from 1 (bad) to 4.4 (as good as a telephone gets).

    `loss` is the share of packets lost, 0 to 1; `delay_s` the one-way delay without the jitter buffer.
    """
    delay_ms = 1000 * (delay_s + _BUFFER_OF_JITTER * jitter_s)
    by_delay = 0.024 * delay_ms + 0.11 * max(0.0, delay_ms - _DELAY_KNEE_MS)
    percent = 100 * loss
    by_loss = 95 * percent / (percent + _LOSS_ROBUSTNESS)
    rating = min(100.0, max(0.0, _R0 - by_delay - by_loss))
    return max(1.0, 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6)
