"""Events of the realtime protocol, which come as objects of the client library or as plain dictionaries."""

from __future__ import annotations

from typing import Any


def field(event: Any, *names: str) -> Any:
    """Return a field of an event, or of what it holds; None where there is none."""
    found = event
    for name in names:
        found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
        if found is None:
            return None
    return found


def text(event: Any, *names: str) -> str | None:
    """Return a field that is a text and not empty."""
    found = field(event, *names)
    return found if isinstance(found, str) and found else None


def number(event: Any, *names: str) -> int | None:
    """Return a field that is a number, as an integer."""
    found = field(event, *names)
    return round(found) if isinstance(found, int | float) else None


def plain(part: Any) -> dict[str, Any]:
    """Return an object of the library as a dictionary of what was sent: what is null differs from what is missing."""
    if isinstance(part, dict):
        return part
    dump = getattr(part, "model_dump", None)
    found = dump(exclude_unset=True) if callable(dump) else None
    return found if isinstance(found, dict) else {}
