"""A voice agent, traced: what a service with its own pipeline has to write to get one trace for every utterance.

Run it with `voicespan run -- uvicorn voicespan.demo.orchestrator:app`. The marks say what happened (`user_turn`,
`committed`, `llm`, `tts`, ...); `line.py` adds what the caller reports about its playback, and `client_reports` what a
page does. `user_said` and `agent_said` hand over words and sound, which nobody takes unless told to. All else is the
agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openai
from fastapi import FastAPI, WebSocket
from starlette.datastructures import State

import voicespan
from voicespan import metrics
from voicespan.demo import admission, ears, intents, page, pcm, recognizer, scenarios, tools
from voicespan.demo.ears import Ears
from voicespan.demo.line import Line, Silenced
from voicespan.demo.memory import Memory
from voicespan.demo.synthesis import Frames, Worker
from voicespan.stage import Asr

MODEL = os.environ.get("OPENAI_MODEL", "stand-in")
VOICE = "en-us"
INSTRUCTIONS = "You are the front desk, on the telephone. Answer in one short sentence."
GREETING = "Hello! This is the front desk."
FILLER = "One moment."
ATTEMPTS = 2
WORDS_THAT_INTERRUPT = 2
FRAMES_UNTIL_SPEECH = 35
"""Who has silenced the reply and is not heard to speak for so long did not mean it."""

logger = logging.getLogger(__name__)
Sentences = asyncio.Queue[tuple[str, bool] | None]
"""What is to be said: text and whether it is a filler; None at the end."""


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect to the services behind the agent, before the first caller would have to wait for it."""
    async with (
        openai.AsyncOpenAI(max_retries=0) as client,
        Worker(os.environ["SPEECH_WORKER"]) as worker,
        Memory() as app.state.memory,
    ):
        app.state.complete, app.state.worker = client.chat.completions.create, worker
        with metrics.model_load(recognizer.MODEL):
            app.state.recognizers = recognizer.Recognizers(scenarios.questions())
        await warm_up(client)
        yield


async def warm_up(client: openai.AsyncOpenAI) -> None:
    """Ask the model once, and keep the garbage collector from what was loaded.

    The first caller would wait for both: a client's first request imports and connects, and a full collection walks
    everything that was ever imported, which holds the event loop for 100 ms and more.
    """
    hello: Any = [{"role": "user", "content": "Hello"}]
    with contextlib.suppress(openai.OpenAIError):
        chunks = await client.chat.completions.create(
            model=MODEL, messages=hello, tools=tools.TOOLS, max_tokens=1, stream=True
        )
        async for _chunk in chunks:
            pass
    gc.collect()
    gc.freeze()


app = FastAPI(lifespan=lifespan)
app.include_router(admission.router)
page.serve(app)
app.mount("/api", voicespan.client_reports())


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that calls are taken."""
    return {"status": "ok"}


@app.websocket("/call")
async def call(websocket: WebSocket) -> None:
    """Take one call, unless its token is not valid."""
    token = websocket.query_params.get("token")
    with voicespan.session(transport="websocket", model=MODEL, sample_rate=pcm.RATE) as session:
        if token is not None and not admission.tokens.take(token):
            session.end("error", error="invalid_token")
            await websocket.close()
            return
        await websocket.accept()
        with metrics.connection("websocket"):
            async with Line(websocket, session) as line:
                await Call(session, line, app.state).run()


class Call:
    """One call: listens, understands, answers, and falls silent when the caller speaks."""

    turn: voicespan.Turn
    """The caller's latest; there is one as soon as speech was heard."""
    frames: Frames
    """What the worker speaks, or spoke last."""

    def __init__(self, session: voicespan.Session, line: Line, services: State) -> None:
        self.session = session
        self.line = line
        self.services = services
        self.onset_ns: int | None = None
        self.speaking = False
        self.waiting = 0
        """Frames since the caller has silenced the reply, while nothing was said."""
        self.reply: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Greet, then react to what is heard until the caller hangs up."""
        with Ears(self.services.recognizers) as listener:
            async for came in self.line.frames():
                if isinstance(came, Silenced):
                    await self.hold_tongue(came.at)
                    continue
                self.reply = self.reply or asyncio.create_task(self.greet())
                for heard in await listener.listen(came):
                    await self.react(heard)
                await self.await_speech()
        await self.stop_reply()

    async def react(self, heard: ears.Heard) -> None:
        """Do what the moment asks for."""
        match heard:
            case ears.SpeechStarted(sample):
                self.speaking = True
                self.onset_ns = self.line.spoken_at(sample)
                self.turn = self.session.user_turn(at=self.onset_ns)
            case ears.SpeechLasts():
                await self.hold_tongue()
            case ears.RecognitionFailed(error):
                failed = self.recognition()
                failed.fail(error)
                failed.end()
            case ears.WordsHeard(count):
                self.turn.transcript(final=False)
                self.line.hearing(count)
                if count >= WORDS_THAT_INTERRUPT:
                    await self.yield_floor()
            case ears.SpeechEnded(sample):
                self.turn.speech_ended(at=self.line.spoken_at(sample))
            case ears.TurnEnded(text, lasted, sound):
                self.speaking = False
                if text in scenarios.BACKCHANNELS or not (text or lasted):
                    await self.go_on()
                    self.turn.dismissed()
                else:
                    self.turn.user_said(text or "", audio=sound, sample_rate=pcm.RATE)
                    await self.answer(text or "")

    # The floor: who may speak

    async def hold_tongue(self, at: int | None = None) -> None:
        """Pause: it is no cough, but it may be a mere "right". A caller's own detector has noticed it at `at`."""
        if (playing := self.line.speaker.turn) and self.line.speaker.held is None:
            self.waiting = 0
            playing.interrupted(at=at)
            self.line.speaker.hold()
            with playing.use():
                await self.frames.pause()
            playing.barge_in("worker_pause")

    async def await_speech(self) -> None:
        """Go on after a while in which nothing was said: it was a noise that silenced the reply."""
        self.waiting = 0 if self.speaking or self.line.speaker.held is None else self.waiting + 1
        if self.waiting >= FRAMES_UNTIL_SPEECH:
            await self.go_on()

    async def go_on(self) -> None:
        """Take the reply up where it was, if it was held: nothing was said that asks for another."""
        if playing := self.line.speaker.held:
            self.line.speaker.resume()
            with playing.use():
                await self.frames.resume()

    async def yield_floor(self) -> None:
        """Give the reply up: the caller has something to say."""
        if playing := self.line.speaker.turn:
            await self.stop_reply()
            playing.barge_in("server_cancel")

    async def stop_reply(self) -> None:
        """Cancel what thinks and speaks, and drop what was not heard yet."""
        self.line.speaker.drop()
        if self.reply is not None:
            self.reply.cancel()
            await asyncio.gather(self.reply, return_exceptions=True)

    async def answer(self, question: str) -> None:
        """Commit to the caller's turn and begin the reply."""
        with self.recognition() as asr:
            asr.final()
        self.turn.committed()
        self.line.announce(self.turn)
        self.line.understood(question)
        await self.stop_reply()
        self.reply = asyncio.create_task(self.respond(self.turn, question))

    def recognition(self) -> Asr:
        """Begin the stage of an attempt to recognize the question: it has followed since the onset."""
        asr = self.turn.asr(model=recognizer.MODEL, provider="pocketsphinx", language="en-US", remote=False)
        asr.audio(at=self.onset_ns)
        return asr

    # The reply: think and speak at the same time

    async def greet(self) -> None:
        """Speak first."""
        turn = self.session.agent_turn(trigger="greeting")
        self.line.announce(turn, initiator="agent")
        with turn.use():
            await self.say(turn, GREETING)
            self.line.speaker.finish(turn)
            turn.end()

    async def respond(self, turn: voicespan.Turn, question: str) -> None:
        """Answer; a failure ends this turn, not the call."""
        intent = intents.of(question)
        metrics.intent(intent)
        sentences: Sentences = asyncio.Queue()
        with turn.use():
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.think(turn, question, sentences))
                    tasks.create_task(self.speak(turn, sentences))
                    tasks.create_task(self.services.memory.asked(intent))
            except* (openai.OpenAIError, grpc.RpcError) as failures:
                logger.exception("no reply", exc_info=failures.exceptions[0])
            self.line.speaker.finish(turn)
            turn.end()

    async def think(self, turn: voicespan.Turn, question: str, sentences: Sentences) -> None:
        """Ask the model until it has answered, and do what it asks for in between."""
        messages: list[Any] = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]
        while called := await self.generate(turn, messages, sentences):
            sentences.put_nowait((FILLER, True))
            with turn.tool(called.function.name):
                result = await tools.call(called.function.name, called.function.arguments)
            messages.append({"role": "assistant", "tool_calls": [called.model_dump()]})
            messages.append({"role": "tool", "tool_call_id": called.id, "content": result})
        sentences.put_nowait(None)

    async def generate(self, turn: voicespan.Turn, messages: list[Any], sentences: Sentences) -> Any:
        """Pass on the model's sentences as they come, or return the tool call that it wants; tries twice."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with turn.llm(model=MODEL, provider="openai") as llm:
                    stream = await self.services.complete(
                        model=MODEL,
                        messages=messages,
                        tools=tools.TOOLS,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
                    return await pass_on(llm.stream(stream), sentences)
            except openai.InternalServerError:
                if attempt == ATTEMPTS:
                    raise
                logger.warning("the model refused, trying again")
        return None

    async def speak(self, turn: voicespan.Turn, sentences: Sentences) -> None:
        """Say what comes, in order."""
        while (sentence := await sentences.get()) is not None:
            text, filler = sentence
            await self.say(turn, text, filler=filler)

    async def say(self, turn: voicespan.Turn, text: str, *, filler: bool = False) -> None:
        """Have the worker speak the text and play it to the caller."""
        with turn.tts(
            voice=VOICE, model="espeak-ng", language="en-US", filler=filler, text=text, sample_rate=pcm.RATE
        ) as tts:
            self.line.saying(text)
            async with self.services.worker.synthesize(text, VOICE) as self.frames:
                tts.worker(await self.frames.worker_id())
                words = f"{text} "
                async for frame in tts.stream(self.frames):
                    turn.agent_said(words, audio=frame, sample_rate=pcm.RATE)
                    words = ""
                    await self.line.speaker.play(turn, frame)


async def pass_on(chunks: AsyncIterator[Any], sentences: Sentences) -> Any:
    """Cut what the model says into sentences; return its tool call when it makes one instead."""
    text, called = "", None
    async for chunk in chunks:
        if not chunk.choices:  # the last one, with the tokens that are billed
            continue
        delta = chunk.choices[0].delta
        if delta.tool_calls:
            called = merged(called, delta.tool_calls[0])
        text += delta.content or ""
        *whole, text = re.split(r"(?<=[.!?])\s+", text)
        for sentence in whole:
            sentences.put_nowait((sentence, False))
    if text:
        sentences.put_nowait((text, False))
    return called


def merged(called: Any, delta: Any) -> Any:
    """Return the tool call with what another chunk adds to its arguments."""
    if called is None:
        return delta
    called.function.arguments += delta.function.arguments or ""
    return called
