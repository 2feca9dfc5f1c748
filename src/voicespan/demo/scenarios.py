"""What the caller may ask, what is answered, and how quick or broken the services behind the agent are then.

The agent knows nothing of this: the language-model stand-in recognizes a scenario by its question, the speech worker
by a sentence of its reply.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question and the behaviour that it meets; times are in seconds."""

    name: str
    question: str
    reply: str
    title: str = ""
    """What the demo shows by it."""
    first_token_s: float = 0.25
    """Request to first token of the model."""
    token_s: float = 0.025
    """From one token to the next."""
    first_audio_s: float = 0.12
    """Request to first sound of the speech worker."""
    city: str | None = None
    """The model calls the weather tool with it before it answers."""
    hearing_fails: int = 0
    """How many attempts to recognize the question time out before one succeeds."""
    refusals: int = 0
    """How many requests the model refuses before it answers."""
    speech_fails: bool = False
    """The speech worker fails to speak the reply."""
    outcome: str | None = "completed"
    """The `voice.turn.outcome` to expect; None is any."""

    @property
    def tokens(self) -> list[str]:
        """The reply as the model streams it: words with the space before them."""
        return re.findall(r"\s*\S+", self.reply)


GREETING = Scenario("greeting", "", "Hello! This is the front desk.", title="the agent greets")

SCENARIOS = (
    GREETING,
    Scenario("plain", "what time do you open tomorrow", "We open at eight.", title="a plain turn"),
    Scenario(
        "tool",
        "what is the weather in london",
        "It is raining in London.",
        title="a tool call, a filler bridges it",
        city="London",
    ),
    Scenario(
        "slow_model",
        "what is my account balance",
        "You have ten dollars.",
        title="the language model is slow",
        first_token_s=1.3,
    ),
    Scenario(
        "slow_speech",
        "how do i reset my password",
        "Press the red button.",
        title="the speech worker is slow",
        first_audio_s=1.0,
    ),
    Scenario(
        "cough",
        "please read my messages",
        "You have one new message. Anna will be late for dinner.",
        title="the caller coughs into the reply",
    ),
    Scenario(
        "story",
        "tell me a long story",
        "Once upon a time there was a small telephone. It rang all day and all night, and nobody knew why. "
        "So the telephone began to listen, and it heard the silence between the words.",
        title="a false interruption, then a real one",
        outcome="interrupted",
    ),
    Scenario(
        "retry",
        "where is my order",
        "It will arrive on Monday.",
        title="the model refuses once, the retry succeeds",
        refusals=1,
    ),
    Scenario(
        "broken",
        "can you book a table for two",
        "Your table is booked.",
        title="the speech worker fails",
        speech_fails=True,
        outcome="error",
    ),
    Scenario(
        "unanswered",
        "i want to speak to a person",
        "I will put you through.",
        title="the caller gives up in the silence",
        hearing_fails=1,
        first_token_s=8.0,
        outcome="no_reply",
    ),
)

UNKNOWN = Scenario("unknown", "", "Sorry, could you say that again?")
BACKCHANNELS = frozenset({"right", "okay"})
"""What a listener says without wanting the word."""


def named(name: str) -> Scenario:
    """Return the scenario with this name.

    Raises:
        KeyError: there is none.

    """
    return {scenario.name: scenario for scenario in SCENARIOS}[name]


def questions() -> set[str]:
    """Return everything that the recognizer has to understand."""
    return {scenario.question for scenario in SCENARIOS if scenario.question} | BACKCHANNELS


def for_question(text: str) -> Scenario:
    """Return the scenario that this question belongs to, `UNKNOWN` when it is none of ours."""
    return next((scenario for scenario in SCENARIOS if text and scenario.question == text), UNKNOWN)


def for_sentence(text: str) -> Scenario:
    """Return the scenario whose reply contains this sentence, `UNKNOWN` when none does."""
    return next((scenario for scenario in SCENARIOS if text.strip() in scenario.reply), UNKNOWN)


def jitter(seed: int, name: str) -> Iterator[float]:
    """Yield factors around 1 that are the same in every run with this seed."""
    generator = random.Random(f"{seed}:{name}")  # noqa: S311 - a simulation, no secret
    while True:
        yield generator.uniform(0.8, 1.2)
