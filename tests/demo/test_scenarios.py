"""The scenarios' own rules."""

from __future__ import annotations

from itertools import islice

import pytest

from voicespan.demo import scenarios
from voicespan.demo.scenarios import SCENARIOS, Scenario


def test_names_and_questions_are_unique() -> None:
    """A name or question stands for one scenario."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    asked = [scenario.question for scenario in SCENARIOS if scenario.question]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each.question], ids=lambda each: each.name)
def test_a_scenario_is_known_by_question_and_reply(scenario: Scenario) -> None:
    """Model and speech worker find the same scenario, the one by its question, the other by each sentence."""
    assert scenarios.for_question(scenario.question) is scenario
    for sentence in scenario.reply.split(". "):
        assert scenarios.for_sentence(sentence) is scenario
    assert scenarios.named(scenario.name) is scenario


def test_what_is_unknown_is_said_so() -> None:
    """A question of nobody's gets the reply that asks for another; an unknown name is an error."""
    assert scenarios.for_question("how old are you") is scenarios.UNKNOWN
    assert scenarios.for_sentence("I am ten years old.") is scenarios.UNKNOWN
    with pytest.raises(KeyError):
        scenarios.named("nobody")


def test_tokens_make_the_reply() -> None:
    """The tokens, put together, are the reply."""
    for scenario in SCENARIOS:
        assert "".join(scenario.tokens) == scenario.reply


def test_jitter_is_seeded() -> None:
    """The same seed gives the same factors, another seed others, all of them within a fifth of 1."""
    first, again, other = (list(islice(scenarios.jitter(seed, "plain"), 20)) for seed in (1, 1, 2))
    assert first == again != other
    assert all(0.8 <= factor <= 1.2 for factor in first)
