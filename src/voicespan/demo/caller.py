"""The scripted caller: asks every question of the scenarios, coughs, agrees, interrupts, and hangs up in a silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from opentelemetry import propagate, trace
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from voicespan.demo import admission, pcm, scenarios, truth
from voicespan.demo.scenarios import Scenario
from voicespan.demo.speech import CALLER, Voice, synthesized
from voicespan.demo.telephone import Playing, Telephone

CLOCK_OFFSET_NS = 2_718_281_828_459
"""The caller's clock is another one than the agent's, as on two machines."""
_PATIENCE_S = 8.0
"""Who hears nothing for so long asks the next question."""
_PAUSE_S = 0.25
_COUGH_S = 0.17
_COUGH_FADE_S = 0.02

_tracer = trace.get_tracer("voicespan.demo.caller")


class CallFailed(RuntimeError):
    """The connection was lost before the end."""


async def run(url: str, names: Sequence[str], *, seed: int, recording: Path | None) -> None:
    """Make the call, and write down what was heard in it.

    Raises:
        CallFailed: the connection was lost before the end.

    """
    in_vain = await _dial_with_an_old_token(url)
    token = await admission.ask(url.replace("ws:", "http:").removesuffix("/call"))
    dial = f"{url}?token={token}"
    async with Telephone(dial, seed=seed, clock_offset_ns=CLOCK_OFFSET_NS, in_vain=in_vain) as phone:
        caller = Caller(phone)
        try:
            await caller.converse([scenarios.named(name) for name in names])
        finally:
            caller.testify()
            if recording is not None:
                phone.recording.write(recording)


class Caller:
    """What the caller does in each scenario."""

    def __init__(self, phone: Telephone) -> None:
        self.phone = phone
        self._manners: dict[str, Callable[[Scenario], Awaitable[None]]] = {
            "greeting": self.listen,
            "cough": self.ask_and_cough,
            "story": self.ask_and_agree,
            "broken": self.ask_and_wait,
            "unanswered": self.ask_and_hang_up,
        }

    async def converse(self, script: Sequence[Scenario]) -> None:
        """Go through the script and hang up.

        Raises:
            CallFailed: the connection was lost before the end.

        """
        for scenario in script:
            _tell(scenario)
            await self._manners.get(scenario.name, self.ask_and_listen)(scenario)
            if self.phone.lost and not self.phone.hung_up:
                raise CallFailed(f"the agent hung up in the scenario {scenario.name!r}")
        await self._hang_up()

    async def listen(self, _scenario: Scenario) -> None:
        """Hear the agent out."""
        await self._hear_out(await self._reply(0))

    async def ask_and_listen(self, scenario: Scenario) -> None:
        """Ask, and hear the agent out."""
        await self._hear_out(await self._ask(scenario))

    async def ask_and_cough(self, scenario: Scenario) -> None:
        """Ask, and clear the throat while the agent answers."""
        speech = await self._ask(scenario)
        await asyncio.sleep(0.8)
        await self.phone.say("ahem", cough_sound()).done.wait()
        await self._hear_out(speech)

    async def ask_and_agree(self, scenario: Scenario) -> None:
        """Ask, say "right" while the agent speaks, and let it go on: the next question interrupts it."""
        await self._ask(scenario)
        await asyncio.sleep(1.3)
        await self.phone.say("right", synthesized("right", CALLER)).done.wait()
        await asyncio.sleep(2.2)

    async def ask_and_wait(self, scenario: Scenario) -> None:
        """Ask, and give up waiting after a while."""
        await self._say(scenario)
        await asyncio.sleep(1.5)

    async def ask_and_hang_up(self, scenario: Scenario) -> None:
        """Ask, and hang up in the silence."""
        await self._say(scenario)
        await asyncio.sleep(1.2)
        await self._hang_up()

    async def _hang_up(self) -> None:
        if not self.phone.hung_up:
            truth.note("caller.hung_up", "")
            await self.phone.hang_up()

    async def _say(self, scenario: Scenario) -> None:
        await self.phone.say(scenario.name, synthesized(f"{scenario.question}?", CALLER)).done.wait()

    async def _ask(self, scenario: Scenario) -> Playing | None:
        before = len(self.phone.speeches)
        await self._say(scenario)
        return await self._reply(before)

    async def _reply(self, number: int) -> Playing | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                return await self.phone.speech(number)
        return None

    async def _hear_out(self, speech: Playing | None) -> None:
        if speech is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await speech.stopped.wait()
        _trace(self.phone, speech)
        await asyncio.sleep(_PAUSE_S)

    def testify(self) -> None:
        """Note what the recording says about every utterance: the truth that the spans are compared with."""
        recording, utterances = self.phone.recording, self.phone.utterances
        ends = [*(later.begin for later in utterances[1:]), len(recording.heard) // 2]
        for utterance, until in zip(utterances, ends, strict=False):
            begin, end = utterance.begin, utterance.end
            truth.note(
                "caller.utterance",
                utterance.name,
                at_ns=self._machine_ns(begin),
                traceparent=utterance.traceparent,
                end_ns=self._machine_ns(recording.last_sound(begin, end)),
                silence_s=recording.silence_after(begin, end, until),
                answer_s=recording.answer_after(begin, end, until),
                still_heard_s=recording.sound_after(begin, end),
            )

    def _machine_ns(self, sample: int) -> int:
        return self.phone.machine_ns(self.phone.began_ns + sample * 1_000_000_000 // pcm.RATE)


async def _dial_with_an_old_token(url: str) -> int:
    """Call with the token of yesterday's call; return how often it was in vain."""
    try:
        async with connect(f"{url}?token=of-yesterday", open_timeout=10):
            return 0
    except InvalidStatus:
        return 1


def cough_sound() -> bytes:
    """Return a short clearing of the throat."""
    sound = synthesized("ahem", Voice(CALLER.name, speed=400))
    return pcm.faded(sound[: 2 * round(_COUGH_S * pcm.RATE)], _COUGH_FADE_S)


def _trace(phone: Telephone, speech: Playing) -> None:
    """Record the caller's own view in the agent's trace: from the first sample heard to the last."""
    if speech.heard_ns is None or speech.stopped_ns is None:
        return
    wall_offset_ns = time.time_ns() - time.monotonic_ns()
    begin_ns, end_ns = (phone.machine_ns(at) + wall_offset_ns for at in (speech.heard_ns, speech.stopped_ns))
    context = propagate.extract({"traceparent": speech.traceparent})
    _tracer.start_span("caller.playback", context, start_time=begin_ns).end(end_ns)


def _tell(scenario: Scenario) -> None:
    """Say on stdout how far the script is; the supervisor shows it."""
    sys.stdout.write(json.dumps({"scenario": scenario.name}) + "\n")
    sys.stdout.flush()
