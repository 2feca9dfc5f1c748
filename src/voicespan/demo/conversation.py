"""One conversation with everything it needs, and what became of each of its scenarios."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from voicespan.demo import truth
from voicespan.demo.processes import MODEL_VARIABLE, Processes, ProcessFailed
from voicespan.demo.scenarios import GREETING, Scenario

if TYPE_CHECKING:
    from voicespan.local.server import Receiver
    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

_ARRIVAL_TIMEOUT_S = 6.0
_SETTLED_AFTER_S = 0.4
"""The speech worker and the caller send their spans of a turn a little later than the agent."""


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario, its turn as the telemetry tells it, and the silence that the caller's recording has."""

    scenario: Scenario
    turn: Turn | None
    recorded_s: float | None

    @property
    def problem(self) -> str | None:
        """What is wrong with the turn; None when it is what was expected."""
        if self.turn is None:
            return "no turn arrived"
        if not self.turn.complete:
            return "the root of the turn is missing"
        if self.scenario.outcome not in (None, self.turn.outcome):
            return f"the outcome is {self.turn.outcome}, not {self.scenario.outcome}"
        return None


@dataclass(frozen=True, slots=True)
class Listener:
    """Who wants to hear how the conversation goes."""

    says: Callable[[str], None] = lambda _: None
    """A sentence about the processes."""
    begins: Callable[[Scenario], None] = lambda _: None
    """The caller begins a scenario."""
    arrives: Callable[[Turn, Sequence[Span]], None] = lambda *_: None
    """A turn has arrived with all its spans."""


async def converse(
    script: Sequence[Scenario],
    receiver: Receiver,
    directory: Path,
    *,
    seed: int = 0,
    listener: Listener | None = None,
    scrape: bool = False,
) -> list[Result]:
    """Hold the conversation and return what became of each scenario, in order.

    With `scrape` the directory has the services' metrics afterwards.

    Raises:
        ProcessFailed: a process did not start, or the call broke off.

    """
    listener = listener or Listener()
    if os.environ.get(MODEL_VARIABLE):
        script = [replace(scenario, outcome=None) for scenario in script]  # whatever that model makes of it
    begin = time.monotonic()
    async with (
        Processes(
            endpoint=receiver.endpoint,
            directory=directory,
            seed=seed,
            content=receiver.content,
            metrics=receiver.forward is not None,
            scrape=scrape,
            say=listener.says,
        ) as processes,
        _Arrivals(receiver, listener.arrives),
    ):
        listener.says(f"agent, speech worker and model are up after {time.monotonic() - begin:.1f} s")
        names = {scenario.name: scenario for scenario in script}
        async for name in processes.call(list(names)):
            listener.begins(names[name])
        await _all_complete(receiver, _trace_ids(truth.read(processes.truth)).values())
        await asyncio.sleep(_SETTLED_AFTER_S)
        await asyncio.to_thread(processes.scrape)
    notes = list(truth.read(processes.truth))
    trace_ids, recorded = _trace_ids(notes), _recorded(notes)
    return [Result(each, _turn(receiver, trace_ids.get(each.name)), recorded.get(each.name)) for each in script]


async def attend(
    receiver: Receiver,
    directory: Path,
    opened: Callable[[str], None],
    *,
    seed: int = 0,
    listener: Listener | None = None,
) -> None:
    """Let a person talk to the agent, from the page at the address that `opened` is given, until cancelled.

    Raises:
        ProcessFailed: a process did not start, or the agent has ended.

    """
    listener = listener or Listener()
    async with (
        Processes(
            endpoint=receiver.endpoint,
            directory=directory,
            seed=seed,
            content=receiver.content,
            metrics=receiver.forward is not None,
            page=True,
            say=listener.says,
        ) as processes,
        _Arrivals(receiver, listener.arrives),
    ):
        opened(processes.page)
        await processes.orchestrator.ended()
        raise ProcessFailed(f"the agent has ended: {processes.orchestrator.ending()}")


class _Arrivals:
    """Tells of every turn once, when its root and what belongs to it have arrived."""

    def __init__(self, receiver: Receiver, arrives: Callable[[Turn, Sequence[Span]], None]) -> None:
        self._receiver = receiver
        self._arrives = arrives
        self._seen: set[str] = set()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> None:
        self._end = self._receiver.store.listen(self._changed)

    async def __aexit__(self, *_: object) -> None:
        self._end()
        for trace_id in sorted(self._seen):
            self._tell(trace_id)

    def _changed(self, turns: list[Turn]) -> None:
        """Take what has changed, in the storing thread."""
        for turn in turns:
            if turn.complete:
                self._loop.call_soon_threadsafe(self._root_arrived, turn.trace_id)

    def _root_arrived(self, trace_id: str) -> None:
        if trace_id not in self._seen:
            self._seen.add(trace_id)
            self._loop.call_later(_SETTLED_AFTER_S, self._tell, trace_id)

    def _tell(self, trace_id: str) -> None:
        reader = self._receiver.store.reader
        turn = reader.turn(trace_id)
        if turn is not None:
            self._arrives(turn, reader.spans(trace_id))


async def _all_complete(receiver: Receiver, trace_ids: Iterable[str]) -> None:
    """Wait until these turns are there, but not for ever: what is missing is the result's to tell."""
    waiting = set(trace_ids)
    until = time.monotonic() + _ARRIVAL_TIMEOUT_S
    while waiting and time.monotonic() < until:
        await asyncio.sleep(0.1)
        waiting = {each for each in waiting if not ((turn := _turn(receiver, each)) and turn.complete)}


def _turn(receiver: Receiver, trace_id: str | None) -> Turn | None:
    return None if trace_id is None else receiver.store.reader.turn(trace_id)


def _trace_ids(notes: Iterable[truth.Note]) -> dict[str, str]:
    """Return the trace id of each scenario that got one: the greeting's is that of the agent's first words."""
    found: dict[str, str] = {}
    for note in notes:
        traceparent = note.details.get("traceparent")
        if not isinstance(traceparent, str):
            continue
        if note.event == "agent.first_frame":
            found.setdefault(GREETING.name, _trace_id(traceparent))
        elif note.event == "caller.utterance":
            found[note.scenario] = _trace_id(traceparent)
    return found


def _recorded(notes: Iterable[truth.Note]) -> dict[str, float]:
    silences = {note.scenario: note.details["silence_s"] for note in notes if note.event == "caller.utterance"}
    return {name: silence_s for name, silence_s in silences.items() if isinstance(silence_s, float)}


def _trace_id(traceparent: str) -> str:
    return traceparent.split("-")[1]
