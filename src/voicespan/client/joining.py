"""Where a client's moments go: into its turn, translated to this machine's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from voicespan import diagnostics, exchange
from voicespan.clock import NS_PER_MS, RemoteClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voicespan.client.forward import Forward
    from voicespan.client.report import Exchanges, Network, Report, TurnMarks
    from voicespan.turn import Turn

WAIT_S = 3.0
"""How long the marks of a turn that is not known here are kept."""
MAX_WAITING = 500
TRAILING_NS = 1_000_000_000
"""Speech ends in silence that was synthesized with it: what falls silent this much early was not cut."""


class Turns(Protocol):
    """Who knows the open turns."""

    def open_turn(self, trace_id: int) -> Turn | None:
        """Return the turn of this trace while it is open."""


class Joining:
    """Gives marks to open turns. Not thread-safe: the event loop's thread calls it."""

    def __init__(self, turns: Turns, now_ns: Callable[[], int], server: str, *, forward: Forward | None = None) -> None:
        """`forward` knows the turns that other processes have."""
        self._turns = turns
        self._forward = forward
        self._now_ns = now_ns
        self._server = server
        self._waiting: list[tuple[int, TurnMarks, RemoteClock]] = []

    def __len__(self) -> int:
        """Return how many turns' marks wait."""
        return len(self._waiting)

    def take(self, report: Report) -> None:
        """Give every mark to its turn; what belongs to a turn that is not known waits for it a while."""
        self.retry()
        clock = self._clock(report.clocks)
        for marks in report.turns:
            if marks.traceparent is None:
                continue
            if not clock.known:
                diagnostics.counters.add("client.no_clock")
            elif (turn := self._turn(marks.traceparent)) is not None:
                join(turn, marks, clock, report.network)
            elif self._forward is not None and self._forward.take(marks, clock):
                continue
            elif len(self._waiting) < MAX_WAITING:
                self._waiting.append((self._now_ns(), marks, clock))
            else:
                diagnostics.counters.add("client.waiting_full")

    def retry(self) -> None:
        """Give marks that wait to turns that are known by now, and drop those that have waited for too long."""
        waiting, self._waiting = self._waiting, []
        for since_ns, marks, clock in waiting:
            turn = self._turn(marks.traceparent or "")
            if turn is not None:
                join(turn, marks, clock, None)
            elif self._now_ns() - since_ns < WAIT_S * 1e9:
                self._waiting.append((since_ns, marks, clock))
            else:
                diagnostics.counters.add("client.unknown_turn")
                diagnostics.say(
                    "client.unknown_turn",
                    "a client reports on a turn that is over, or that another process has: it must reach the same one",
                )

    def _turn(self, traceparent: str) -> Turn | None:
        _, trace_id, span_id, _ = traceparent.split("-")
        turn = self._turns.open_turn(int(trace_id, 16))
        return turn if turn is not None and turn.record.span_id == int(span_id, 16) else None

    def _clock(self, told: Iterable[Exchanges]) -> RemoteClock:
        """The client's clock; exchanges with another machine, or that end in the future, say nothing of it."""
        clock, now_ns = RemoteClock(), self._now_ns()
        for each in told:
            if each.server == self._server:
                for stamps in each.exchanges:
                    exchange.learn(clock, stamps, now_ns)
        return clock


def join(turn: Turn, marks: TurnMarks, clock: RemoteClock, network: Network | None) -> None:
    """Give the marks to the turn, in the order in which they happened."""
    turn.session.reports = True  # from now on the turn waits for what the client hears
    before_ns = round(marks.error_ms * NS_PER_MS)
    for mark, at_ms in sorted(marks.marks.items(), key=lambda item: item[1]):
        estimate = clock.estimate(round(at_ms * NS_PER_MS))
        if estimate is not None:
            error_ns = before_ns + estimate.error_ns
            turn.client_marked(mark, estimate.local_ns, error_ns=error_ns)
            if mark == "playback_start":
                turn.audio_heard(estimate.local_ns, error_ns=error_ns)
    for each in marks.barge_in:
        start_ns, end_ns = (clock.local_ns(round(at * NS_PER_MS)) for at in (each.start_ms, each.end_ms))
        if start_ns is not None and end_ns is not None and each.phase != "total":
            turn.interrupted(start_ns)  # the total is concluded from the onset and the silence
            turn.barge_in(each.phase, end_ns, reported=True)
    silent_ms = marks.marks.get("playback_end")
    silent_ns = None if silent_ms is None else clock.local_ns(round(silent_ms * NS_PER_MS))
    if silent_ns is not None:
        turn.audio_stopped(_played_out(turn, silent_ns))
    if network is not None:
        turn.network_measured(
            jitter_s=None if network.jitter_ms is None else network.jitter_ms / 1e3,
            loss=network.loss,
            round_trip_s=None if network.round_trip_ms is None else network.round_trip_ms / 1e3,
        )


def _played_out(turn: Turn, silent_ns: int) -> int:
    """When the last sample was played, silent or not, where nobody stopped the reply."""
    record = turn.record
    early = 0 < record.playback.out_ns - silent_ns < TRAILING_NS
    return record.playback.out_ns if early and record.barge_in is None else silent_ns
