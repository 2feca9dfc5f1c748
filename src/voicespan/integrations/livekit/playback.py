"""The agent's voice on its way out: what the audio output was given, and what it says it has played.

Only the top of the chain of outputs is listened to; the ones below repeat every call and event. Frames come faster than
they are played, so they count from the moment when the output says that playback has started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voicespan.guard import guarded
from voicespan.integrations.livekit import moments

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.integrations.livekit.reply import Reply
    from voicespan.sessions import Session


class Playback:
    """What one conversation plays."""

    def __init__(self, session: Session, speaking: Callable[[], Reply | None]) -> None:
        self.session = session
        self.clock = session.recorder.clock
        self.speaking = speaking
        self.top: Any = None
        self.reply: Reply | None = None
        self.waiting_s = 0.0
        """Length of the audio that was given before playback has started."""
        self.given_ns: int | None = None
        """When the first frame of the segment was given."""
        self.started = False
        self.paused = False
        self.quiet_ns: int | None = None
        """When the output was told to be silent, which it reports only once it has dropped its audio."""

    @guarded
    def listen(self, output: Any) -> None:
        """Listen to an output that has become the top of the chain."""
        self.top = output
        if output is None or getattr(output, "_voicespan", None) is self:
            return
        output._voicespan = self  # noqa: SLF001
        output.capture_frame = self._capturing(output, output.capture_frame)
        for name, mark in (("clear_buffer", self.cleared), ("pause", self.pausing), ("resume", self.resumed)):
            setattr(output, name, self._followed(output, getattr(output, name), mark))
        output.on("playback_started", lambda event: self._started(output, event))
        output.on("playback_finished", lambda event: self._finished(output, event))

    def _capturing(self, output: Any, capture: Callable[[Any], Any]) -> Callable[[Any], Any]:
        async def capture_frame(frame: Any) -> None:
            if output is self.top:
                self.session.audio_out(frame, frame.duration)
                self.given(frame.duration)
            await capture(frame)

        return capture_frame

    def _followed(self, output: Any, call: Callable[[], None], mark: Callable[[], None]) -> Callable[[], None]:
        def followed() -> None:
            if output is self.top:
                mark()
            call()

        return followed

    # What the output is told

    @guarded
    def given(self, seconds: float) -> None:
        """Take a frame that was given to the output."""
        reply = self.speaking()
        if reply is not None and reply is not self.reply:
            self._forget()
            self.reply = reply
        if self.reply is None:
            return
        if self.reply.realtime is not None:
            self.reply.realtime.audio(seconds)
        if self.started:
            self.reply.turn.audio_sent(seconds)
        else:
            self.given_ns = self.clock.monotonic_ns() if self.given_ns is None else self.given_ns
            self.waiting_s += seconds

    @guarded
    def cleared(self) -> None:
        """Take the order to drop what was not played."""
        self.session.audio_stops()
        if self.reply is not None and self.started:
            self.reply.turn.audio_cleared()
            self.paused = False
            self.quiet_ns = self.quiet_ns or self.clock.monotonic_ns()

    @guarded
    def pausing(self) -> None:
        """Take the order to hold the audio back: the user speaks over it."""
        self.session.audio_stops()
        if self.reply is not None and self.started and not self.paused:
            self.paused = True
            self.quiet_ns = self.clock.monotonic_ns()
            self.reply.turn.interrupted()
            self.reply.turn.audio_paused()

    @guarded
    def resumed(self) -> None:
        """Take the order to go on; it is also given where nothing was held back."""
        if self.reply is not None and self.started and self.paused:
            self.paused, self.quiet_ns = False, None
            self.reply.turn.audio_resumed()

    # What the output says

    @guarded
    def _started(self, output: Any, event: Any) -> None:
        if output is not self.top or self.reply is None or self.started:
            return
        self.started = self.reply.spoken = True
        self.reply.turn.audio_sent(self.waiting_s, moments.of_wall(self.clock, event.created_at))
        self.waiting_s = 0.0

    @guarded
    def _finished(self, output: Any, event: Any) -> None:
        reply = self.reply
        if output is self.top:
            self.session.audio_stops()
        if output is not self.top or reply is None:
            return
        if not self.started and event.playback_position > 0:
            # An output that never says when it starts: the first frame was played when it was given.
            reply.spoken = True
            reply.turn.audio_sent(event.playback_position, self.given_ns)
            self.started = True
        if self.started:
            reply.turn.audio_stopped(self.quiet_ns)
        self._forget()

    def _forget(self) -> None:
        self.waiting_s = 0.0
        self.given_ns = self.quiet_ns = None
        self.started = self.paused = False
