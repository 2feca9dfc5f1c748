"""The calls: 20 ms frames of 16-bit mono PCM at 16 kHz in both directions, and a word when audio is to be dropped."""

import asyncio
import logging

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from voicebot.llm import Client, get_weather
from voicebot.stt import Recognizer
from voicebot.tts import Synthesizer
from voicebot.vad import Detector, Event

log = logging.getLogger(__name__)
app = FastAPI()


class Line:
    """The way to the caller."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket

    async def send(self, frame: bytes) -> None:
        await self.websocket.send_bytes(frame)

    async def clear(self) -> None:
        """Have the caller's side drop what it has not played."""
        await self.websocket.send_text("clear")


@app.websocket("/calls/{call_id}")
async def call(websocket: WebSocket, call_id: str) -> None:
    """Hold a call until the caller hangs up."""
    await websocket.accept()
    line, detector, heard = Line(websocket), Detector(), bytearray()
    reply = asyncio.create_task(say(line, "Good morning."))
    try:
        while True:
            frame = await websocket.receive_bytes()
            heard += frame
            event = detector.process(frame)
            if event is Event.STARTED and not reply.done():
                reply.cancel()
                await line.clear()
            elif event is Event.ENDED:
                reply = asyncio.create_task(answer(line, bytes(heard)))
                heard.clear()
    except WebSocketDisconnect:
        log.info("%s has hung up", call_id)
    finally:
        reply.cancel()


async def answer(line: Line, audio: bytes) -> None:
    """Answer what was said."""
    question = await Recognizer().finish(audio)
    log.info("answering")
    sentence = ""
    async for token in Client("small-1").stream(question, weather=await get_weather("Rome")):
        sentence += token
    await say(line, sentence)


async def say(line: Line, text: str) -> None:
    """Speak; the caller hears it as fast as it was spoken."""
    loop = asyncio.get_running_loop()
    plays_until = loop.time()
    async for frame in Synthesizer("anna").stream(text):
        plays_until = max(plays_until, loop.time()) + 0.02
        await line.send(frame)
        await asyncio.sleep(plays_until - loop.time() - 0.1)  # no more than 100 ms ahead
