"""The mean opinion score follows the E-model."""

from __future__ import annotations

import pytest

from voicespan.metrics.quality import opinion


@pytest.mark.covers("D-M12")
@pytest.mark.parametrize(
    ("loss", "jitter_s", "delay_s", "score"),
    [
        (0, 0, 0, 4.41),  # R = 93.2
        (0, 0, 0.1, 4.36),  # Id = 2.4, R = 90.8
        (0, 0, 0.3, 3.71),  # Id = 7.2 + 13.5 = 20.7, R = 72.5
        (0, 0.05, 0.2, 3.71),  # the buffer adds 100 ms: the same
        (0.02, 0, 0, 4.24),  # Ie = 190 / 27.1 = 7.0, R = 86.2
        (0.2, 0, 0, 2.64),  # Ie = 1900 / 45.1 = 42.1, R = 51.1
        (1, 0, 5, 1.0),
    ],
)
def test_scores_by_hand(loss: float, jitter_s: float, delay_s: float, score: float) -> None:
    """Scores for ratings that were computed by hand from the formulas of G.107."""
    assert opinion(loss=loss, jitter_s=jitter_s, delay_s=delay_s) == pytest.approx(score, abs=0.01)


def test_it_never_gets_better_by_loss_or_delay() -> None:
    """More loss, jitter or delay is never a better score, and all are between 1 and 4.5."""
    steps = [step / 50 for step in range(51)]
    for scores in (
        [opinion(loss=step, jitter_s=0, delay_s=0.02) for step in steps],
        [opinion(loss=0, jitter_s=step, delay_s=0.02) for step in steps],
        [opinion(loss=0, jitter_s=0, delay_s=step) for step in steps],
    ):
        assert scores == sorted(scores, reverse=True)
        assert all(1 <= score <= 4.5 for score in scores)
