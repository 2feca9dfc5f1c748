"""One call for measure: hear the greeting out, ask, and see in the recording how long the silence was."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from websockets.exceptions import InvalidHandshake, InvalidURI

from voicespan.demo import pcm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from voicespan.demo.microphone import Utterance
    from voicespan.demo.recording import Recording

_LOOK_S = 0.04
_QUIET_S = 0.6
"""Who is silent for so long has finished."""
_LONGEST_SPEECH_S = 30.0


class Phone(Protocol):
    """The caller's end of a call; what is heard and said stands in the recording."""

    recording: Recording

    @property
    def room(self) -> str | None:
        """The name of the room that the call is held in, where it has one."""

    @property
    def lost(self) -> bool:
        """Whether the agent has closed the connection."""

    async def __aenter__(self) -> Self:
        """Dial."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Leave."""

    def say(self, name: str, sound: bytes) -> Utterance:
        """Begin to make this sound."""

    async def hang_up(self) -> None:
        """Say that the call is over."""


class CallFailed(Exception):
    """The call gave no latency; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """What the caller does; `question` is 16 kHz sound."""

    question: bytes
    greeting_s: float = 3.0
    """How long a greeting is waited for."""
    patience_s: float = 10.0
    """How long an answer is waited for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call: the silence that the caller heard, in seconds, or why there is none."""

    number: int
    latency_s: float | None = None
    problem: str | None = None
    trace_id: str | None = None
    """The trace of the question, where the agent tells it."""
    room: str | None = None
    """The room that the call was held in: `voice.room.id` of the agent's own turns."""


async def make_calls(
    dial: Callable[[int], Phone], calls: int, manners: Manners, *, at_once: int, told: Callable[[Outcome], None]
) -> Sequence[Outcome]:
    """Make the calls, so many at once, and return what became of each, in order; `told` gets each when it is over."""
    free = asyncio.Semaphore(at_once)

    async def one(number: int) -> Outcome:
        async with free:
            outcome = await _outcome(dial, number, manners)
            told(outcome)
            return outcome

    return await asyncio.gather(*(one(number) for number in range(calls)))


async def _outcome(dial: Callable[[int], Phone], number: int, manners: Manners) -> Outcome:
    calling = dial(number)
    try:
        async with calling as phone:
            return await _measured(phone, number, manners)
    except (CallFailed, OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        return Outcome(number, problem=str(error) or type(error).__name__, room=calling.room)


async def _measured(phone: Phone, number: int, manners: Manners) -> Outcome:
    await _hear_out(phone, manners.greeting_s)
    asked = phone.say("question", manners.question)
    while not asked.done.is_set():
        _still_there(phone)
        await asyncio.sleep(_LOOK_S)
    if not await _sound(phone, asked.end, manners.patience_s):
        raise CallFailed(f"no answer within {manners.patience_s:g} s")
    latency_s = phone.recording.silence_after(asked.begin, asked.end, len(phone.recording.heard) // 2)
    if latency_s is None:
        raise CallFailed("the answer was not heard")
    await _hear_out(phone, 0)
    await phone.hang_up()
    traceparent = asked.traceparent
    trace_id = traceparent.split("-")[1] if traceparent else None
    return Outcome(number, latency_s, trace_id=trace_id, room=phone.room)


async def _sound(phone: Phone, sample: int, wait_s: float) -> bool:
    """Wait for sound of the agent after this sample; return whether it came."""
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s:
        heard = phone.recording.heard
        if pcm.peak(bytes(heard[2 * sample :])) >= pcm.AUDIBLE:
            return True
        sample = max(sample, len(heard) // 2)
        _still_there(phone)
        await asyncio.sleep(_LOOK_S)
    return False


async def _hear_out(phone: Phone, wait_s: float) -> None:
    """Wait until the agent has begun to speak, for so long at most, and has finished."""
    if wait_s and not await _sound(phone, 0, wait_s):
        return
    until_s = time.monotonic() + _LONGEST_SPEECH_S
    while time.monotonic() < until_s and not phone.lost:
        await asyncio.sleep(_LOOK_S)
        if pcm.peak(bytes(phone.recording.heard[-2 * round(_QUIET_S * pcm.RATE) :])) < pcm.AUDIBLE:
            return


def _still_there(phone: Phone) -> None:
    if phone.lost:
        raise CallFailed("the agent hung up")
