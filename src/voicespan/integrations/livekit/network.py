"""The network between the room and its participants, as WebRTC measures it: jitter, loss and delay of the audio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from voicespan.guard import swallowed
from voicespan.metrics.signals import audio_quality

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.metrics.audio import Direction

EVERY_S = 10.0
_FAILURES = 3
"""After so many answers in a row that did not come, nobody is asked again."""


class Network:
    """Asks a room for its statistics while a session runs in it."""

    def __init__(self, room: Any) -> None:
        self._room = room
        self._task: asyncio.Task[None] | None = None
        self._before: dict[str, tuple[int, int]] = {}
        self._told: dict[str, tuple[int, int]] = {}
        """By stream, when the other side has told last, and how often it has measured the round trip."""
        self._delay_s: float | None = None
        """One way between here and the room, as far as it is known: half of the last round trip."""

    def start(self) -> None:
        """Begin to ask, where there is a room that can tell."""
        if self._task is None and self._room is not None and hasattr(self._room, "get_rtc_stats"):
            self._task = asyncio.create_task(self._ask(), name="voicespan.network")

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self) -> None:
        failures = 0
        while failures < _FAILURES:
            await asyncio.sleep(EVERY_S)
            try:
                if self._room.isconnected():
                    stats = await asyncio.wait_for(self._room.get_rtc_stats(), EVERY_S)
                    self._sent(_of_audio(stats.publisher_stats, "remote_inbound_rtp"))
                    self._received(_of_audio(stats.subscriber_stats, "inbound_rtp"))
                failures = 0
            except Exception as error:
                failures += 1
                if failures == _FAILURES:
                    swallowed("livekit network statistics", error)

    def _received(self, streams: Iterable[Any]) -> None:
        """Take what this side has received: counts since the track began, so that the difference counts."""
        for stream in streams:
            key = stream.rtc.id
            lost, received = stream.received.packets_lost, stream.received.packets_received
            lost_before, received_before = self._before.get(key, (0, 0))
            self._before[key] = lost, received
            packets = received - received_before + lost - lost_before
            if received > received_before:
                loss = max(0.0, (lost - lost_before) / packets)
                self._told_of("receive", stream.received.jitter, loss)

    def _sent(self, streams: Iterable[Any]) -> None:
        """Take what the other side has told of the audio that it receives from here, each report once."""
        for stream in streams:
            told = stream.rtc.timestamp, stream.remote_inbound.round_trip_time_measurements
            if any(told) and self._told.get(stream.rtc.id) == told:
                continue
            self._told[stream.rtc.id] = told
            if stream.remote_inbound.round_trip_time_measurements:
                self._delay_s = stream.remote_inbound.round_trip_time / 2
            self._told_of("transmit", stream.received.jitter, stream.remote_inbound.fraction_lost)

    def _told_of(self, direction: Direction, jitter_s: float, loss: float) -> None:
        audio_quality(direction, jitter_s=jitter_s, loss=loss, delay_s=self._delay_s, measured="server")


def _of_audio(stats: Iterable[Any], kind: str) -> list[Any]:
    """Return the streams of one kind that carry audio."""
    found = [getattr(each, kind) for each in stats if each.HasField(kind)]
    return [each for each in found if each.stream.kind == "audio"]
