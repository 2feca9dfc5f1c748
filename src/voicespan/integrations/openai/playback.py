"""The agent's voice on its way to the user, as far as the connection shows it.

The client's own code plays it: what came is taken to be played at once and without a break, until the client says
where it has stopped (`conversation.item.truncate`), or tells what it plays (`RealtimePlaybackTracker`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan.record import GAP_NS

if TYPE_CHECKING:
    from voicespan.turn import Turn

ROUNDING_NS = 10_000_000
"""Players tell whole milliseconds, piece by piece."""
KEPT_ITEMS = 16
"""Only the latest items can still be playing."""


class _Item:
    """One spoken item of the conversation."""

    __slots__ = ("cut", "length_ns", "played_ns", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.length_ns = self.played_ns = 0
        self.cut = False


class Playback:
    """What one conversation plays."""

    def __init__(self) -> None:
        self.told = False
        """The client tells what it plays."""
        self._items: dict[str, _Item] = {}

    def given(self, turn: Turn, item_id: str, seconds: float) -> None:
        """Take audio that has reached the client; what comes of an item that was cut off is not played."""
        item = self._items.get(item_id)
        if item is None:
            if len(self._items) >= KEPT_ITEMS:
                del self._items[next(iter(self._items))]
            item = self._items[item_id] = _Item(turn)
        item.length_ns += round(seconds * 1e9)
        if not item.cut:
            turn.audio_sent(seconds)

    def cut(self, item_id: str, heard_ns: int, now_ns: int) -> Turn | None:
        """Take the client's word that it has stopped, `heard_ns` into an item; return whose turn that was."""
        item = self._items.get(item_id)
        if item is None or item.cut:
            return None
        item.cut = True
        turn, playback = item.turn, item.turn.record.playback
        was_playing = heard_ns + GAP_NS < item.length_ns
        if was_playing and turn.open and playback.first_sent_ns is not None and now_ns + GAP_NS >= playback.out_ns:
            # By our clock it was played out: the client began later than the audio came.
            turn.audio_heard(max(playback.first_sent_ns, now_ns - heard_ns))
        if was_playing:
            turn.audio_stopped(now_ns)
        return turn

    def played(self, item_id: str, length_ns: int, now_ns: int, *, complete: bool) -> None:
        """Take the client's word that it has played a part of an item; `complete`: nothing more will come of it."""
        item = self._items.get(item_id)
        if item is None or item.cut:
            return
        item.turn.audio_heard(now_ns - length_ns)  # the first word counts
        item.played_ns += length_ns
        last = next(reversed(self._items)) == item_id
        if complete and last and item.played_ns + ROUNDING_NS >= item.length_ns:
            item.turn.audio_stopped(now_ns)
