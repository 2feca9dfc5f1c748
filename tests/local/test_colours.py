"""The colours of the stages: the same on the page and in the terminal, and told apart by every eye."""

from __future__ import annotations

import itertools

import pytest

from voicespan import names as n
from voicespan.local import page
from voicespan.local.stages import ACCENT, COLOURS

from .vision import VISIONS, contrast, difference, lab

APART = 10.0
"""Any two stages can stand side by side in a strip, since those between them may have no share."""

GROUNDS = {"light": "#ffffff", "dark": "#1d1f25"}


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
        ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_distance_is_the_published_one(
    one: tuple[float, float, float], other: tuple[float, float, float], distance: float
) -> None:
    """The distance used here gives the published test values of CIEDE2000, from either side."""
    assert difference(one, other) == pytest.approx(distance, abs=1e-4)
    assert difference(other, one) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("vision", VISIONS)
def test_stages_can_be_told_apart(vision: str) -> None:
    """Any two stages are far apart for normal eyes and for protan, deutan and tritan ones."""
    assert set(COLOURS) == set(n.SHARE_STAGES)
    seen = {stage: lab(colour, vision) for stage, colour in COLOURS.items()}
    distances = {pair: difference(seen[pair[0]], seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    assert {pair: far for pair, far in distances.items() if far < APART} == {}


@pytest.mark.parametrize("ground", GROUNDS)
def test_stages_stand_out_from_the_ground(ground: str) -> None:
    """Every stage is seen on a light and on a dark ground; only what no stage explains may be faint, and is striped."""
    faint = {stage for stage, colour in COLOURS.items() if contrast(colour, GROUNDS[ground]) < 2.25}
    assert faint <= {"unattributed"}


def test_page_and_terminal_agree() -> None:
    """A stage has the same colour on the page as in the terminal."""
    style = (page.STATIC / "style.css").read_text()
    for stage, colour in {**COLOURS, "silence": ACCENT}.items():
        assert f"--{stage}: {colour};" in style
        assert f".on-{stage} {{" in style
    assert "repeating-linear-gradient" in style.split(".on-unattributed {")[1].split("}")[0]
