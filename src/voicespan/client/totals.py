"""What was taken of each client already: its report numbers, and its absolute counts, of which the news is made."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from voicespan.client.report import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voicespan.client.report import Report

MAX_CLIENTS = 10_000
_WINDOW = 64
"""Reports may overtake each other by this many."""
_MAX_WORDS = 20


@dataclass(slots=True)
class _Client:
    """One page: the highest report number, which of those before it were taken, and the highest counts."""

    newest: int = 0
    taken: int = 0
    counts: Counters = field(default_factory=Counters)


class Totals:
    """Remembers at most `MAX_CLIENTS` clients; the one that was heard longest ago is forgotten.

    The first report of a client counts from zero. A client of which only later ones are known (the server was
    restarted) counts from there on: what was counted before is not counted again.
    """

    def __init__(self, max_clients: int = MAX_CLIENTS) -> None:
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._max_clients = max_clients

    def __len__(self) -> int:
        """Return how many clients are remembered."""
        return len(self._clients)

    def is_new(self, report: Report) -> bool:
        """Return whether the report was not taken before, and remember it."""
        known = self._clients.get(report.client)
        client = known or _Client(counts=Counters() if report.number == 1 else report.counters or Counters())
        self._clients[report.client] = client
        self._clients.move_to_end(report.client)
        if len(self._clients) > self._max_clients:
            self._clients.popitem(last=False)
        ahead = report.number - client.newest
        if ahead > 0:
            client.taken = ((client.taken << min(ahead, _WINDOW)) | 1) & ((1 << _WINDOW) - 1)
            client.newest = report.number
            return True
        if -ahead >= _WINDOW:
            return False
        bit = 1 << -ahead  # never more than the window: a client may send any two numbers
        if client.taken & bit:
            return False
        client.taken |= bit
        return True

    def news(self, report: Report) -> Counters:
        """Return what was counted since the counts before. A count that went down counts nothing."""
        client = self._clients.get(report.client)
        if client is None or report.counters is None:
            return Counters()
        before, now = client.counts, report.counters
        plain = [name for name in Counters.model_fields if name not in ("errors", "intents")]
        highest = {name: max(getattr(before, name), getattr(now, name)) for name in plain}
        errors, intents = _highest(before.errors, now.errors), _highest(before.intents, now.intents)
        client.counts = Counters(**highest, errors=errors, intents=intents)
        return Counters(
            **{name: highest[name] - getattr(before, name) for name in plain},
            errors=_differences(before.errors, errors),
            intents=_differences(before.intents, intents),
        )


def _highest(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """The higher of each two counts; of new words no more than there is room for."""
    merged = dict(before)
    for word, count in now.items():
        if word in merged or len(merged) < _MAX_WORDS:
            merged[word] = max(merged.get(word, 0), count)
    return merged


def _differences(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {word: count - before.get(word, 0) for word, count in now.items() if count > before.get(word, 0)}
