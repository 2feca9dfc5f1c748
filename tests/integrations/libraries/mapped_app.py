"""A function that a stage map names."""

from __future__ import annotations


async def think(question: str) -> str:
    """Stand for a model."""
    return question
