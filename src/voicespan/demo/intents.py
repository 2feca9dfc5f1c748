"""What the caller wants, in one word, by a word of the question."""

from __future__ import annotations

_BY_WORD = {
    "weather": "weather",
    "balance": "account",
    "password": "account",
    "messages": "messages",
    "order": "order",
    "table": "booking",
    "person": "transfer",
}


def of(question: str) -> str:
    """Return the intent of a question; `general` when no word tells."""
    return next((intent for word, intent in _BY_WORD.items() if word in question), "general")
