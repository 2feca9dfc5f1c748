"""How good a call sounds by its network: the E-model of ITU-T G.107 (06/2015), simplified to delay, jitter and loss.

R = 93.2 - Id - Ie_eff, with all other parameters at their defaults (G.107, table 2).

- Id, the impairment by delay d in ms: 0.024 d + 0.11 (d - 177.3) H(d - 177.3), the fit of R. G. Cole and
  J. H. Rosenbluth, "Voice over IP performance monitoring", ACM SIGCOMM CCR 31(2), 2001.
- Ie_eff = Ie + (95 - Ie) Ppl / (Ppl + Bpl), for random loss of Ppl percent. Ie = 0 and Bpl = 25.1 are those of G.711
  with packet loss concealment (ITU-T G.113, appendix I).
- MOS = 1 + 0.035 R + R (R - 60) (100 - R) 7e-6 for 0 < R < 100 (G.107, annex B).
"""

from __future__ import annotations

_R0 = 93.2
_LOSS_ROBUSTNESS = 25.1
_DELAY_KNEE_MS = 177.3
_BUFFER_PER_JITTER = 2
"""A jitter buffer holds back about twice the jitter."""


def mos(*, loss: float, jitter_s: float = 0.0, delay_s: float = 0.0) -> float:
    """Return the estimated mean opinion score, from 1 (bad) to 4.41 (as good as a telephone gets).

    `loss` is the share of packets lost, 0 to 1; `delay_s` the one-way delay without the jitter buffer, whose delay is
    taken to be twice `jitter_s`.
    """
    delay_ms = 1000 * (delay_s + _BUFFER_PER_JITTER * jitter_s)
    by_delay = 0.024 * delay_ms + 0.11 * max(0.0, delay_ms - _DELAY_KNEE_MS)
    percent = 100 * loss
    by_loss = 95 * percent / (percent + _LOSS_ROBUSTNESS)
    rating = max(0.0, _R0 - by_delay - by_loss)
    # Below R = 6.5 the polynomial dips under 1, where the scale ends.
    return max(1.0, 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6)
