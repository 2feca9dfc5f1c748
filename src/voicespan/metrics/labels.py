"""Which values a label may have: listed ones, or the first few that come; everything else is `other`.

A label value makes a time series that stays. What comes with a request (a voice, a language, a route) may be anything.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from voicespan import diagnostics, settings
from voicespan import names as n
from voicespan.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Value = str | bool | int | float

OTHER = "other"
_OTHER_ERROR = "_OTHER"
"""The semantic conventions' word for it on `error.type`."""
_MAX_LENGTH = 100

NEVER = frozenset(
    {n.SESSION_ID, n.CLIENT_ADDRESS, n.GEN_AI_CONVERSATION_ID, n.GEN_AI_TOOL_CALL_ID, n.SERVICE_INSTANCE_ID}
)
"""Identities: never a label."""

_CLOSED = {attribute.name: frozenset(attribute.values) for attribute in n.ATTRIBUTES if attribute.closed}


class Labels:
    """The label values of this process, by attribute."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Value, Value]] = {}
        self._listed: dict[str, frozenset[Value]] = dict(_CLOSED)
        self._lock = threading.Lock()

    def allow(self, attribute: str, values: Iterable[Value]) -> None:
        """Let the label have these values only; all others become `other`."""
        with self._lock:
            self._listed[attribute] = frozenset(values)
            self._known.pop(attribute, None)

    def of(self, attributes: Mapping[str, Value | None]) -> dict[str, Value]:
        """Return attributes as labels: without those that are None or identities, and each with a bounded value."""
        return {
            key: self.value(key, value) for key, value in attributes.items() if value is not None and key not in NEVER
        }

    def value(self, attribute: str, value: Value) -> Value:
        """Return the value as the label has it."""
        known = self._known.get(attribute)
        found = known.get(value) if known is not None else None
        return self._decide(attribute, value) if found is None else found

    def _decide(self, attribute: str, value: Value) -> Value:
        other = _OTHER_ERROR if attribute == n.ERROR_TYPE else OTHER
        listed = self._listed.get(attribute)
        if listed is not None:
            return value if value in listed else other
        if isinstance(value, str) and (not value or len(value) > _MAX_LENGTH or redact(value) != value):
            return other
        with self._lock:
            known = self._known.setdefault(attribute, {})
            if len(known) < settings.current().label_values:
                return known.setdefault(value, value)
        diagnostics.counters.add("label.over_limit")
        diagnostics.say(
            f"label.{attribute}",
            f"the label {attribute} has had {len(known)} values, further ones are {other!r}: "
            "VOICESPAN_LABEL_VALUES allows more, voicespan.metrics.allow lists those that count",
        )
        return other

    def forget(self) -> None:
        """Forget values and lists: for tests."""
        self._known = {}
        self._listed = dict(_CLOSED)

    def after_fork(self) -> None:
        """Take a lock that no thread of the parent holds."""
        self._lock = threading.Lock()


labels = Labels()
