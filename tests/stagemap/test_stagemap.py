"""Functions of an unmodified service as sessions, marks and stages of turns, with times computed by hand."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics, emit
from voicespan import names as n
from voicespan.stagemap import install as installing
from voicespan.stagemap import source
from voicespan.stagemap.document import parse

if TYPE_CHECKING:
    from voicespan.finished import FinishedSpan, FinishedTurn
    from voicespan.testing import VoiceRecorder

MS = 1_000_000
Install = Callable[[dict[str, Any]], None]

DESIGN: dict[str, Any] = {
    "session": {"enter": "callbot.ws:handle", "id": "arg.call_id", "transport": "websocket"},
    "turn": {
        "speech_started": "callbot.vad:Detector.on_speech",
        "speech_ended": {"call": "callbot.vad:Detector.on_silence", "at": "arg.end_ns"},
        "committed": "callbot.turns:on_end_of_turn",
    },
    "stages": {
        "asr": "callbot.asr:Recognizer.finish",
        "llm": {"call": "callbot.llm:Client.stream", "model": "self.model"},
        "tts": {"call": "callbot.tts:Synth.stream", "voice": "arg.voice", "text": "arg.text"},
    },
    "playback": {"frame": "callbot.ws:send_audio", "clear": "callbot.ws:clear"},
}


@pytest.fixture
def install(voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Give a function that installs a stage map around a service that is imported anew, on the fixed clock."""
    monkeypatch.syspath_prepend(__file__.rpartition("/")[0])
    monkeypatch.setattr(emit, "_recorder", voice)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "callbot"]:
            del sys.modules[name]

    def run(document: dict[str, Any]) -> None:
        forget()
        monkeypatch.setattr(importlib.import_module("callbot.clock"), "wait", lambda ms: voice.clock.advance(ms=ms))
        installing.install(parse(document))
        for name in ("vad", "asr", "llm", "tts", "turns", "ws", "results"):
            importlib.import_module(f"callbot.{name}")

    yield run
    forget()
    _forget_hooks()


def _forget_hooks() -> None:
    import wrapt.importer  # type: ignore[import-untyped,unused-ignore]

    for name in [name for name in wrapt.importer._post_import_hooks if name.startswith("callbot")]:
        del wrapt.importer._post_import_hooks[name]
    installing.installed = installing.Installed()
    source._around.clear()


def service(name: str) -> Any:
    """A module of the service."""
    return importlib.import_module(f"callbot.{name}")


def span(turn: FinishedTurn, name: str) -> FinishedSpan:
    """The only span of this name."""
    (found,) = [each for each in turn.spans if each.name == name]
    return found


def length_ms(turn: FinishedTurn, name: str) -> float:
    """The length of a span in milliseconds."""
    found = span(turn, name)
    return (found.end_ns - found.start_ns) / MS


async def one_call(voice: VoiceRecorder) -> str:
    """A call with one question: speech 0..1000 ms, decision at 1300."""
    ws, vad, turns = service("ws"), service("vad"), service("turns")

    async def body() -> None:
        detector = vad.Detector()
        detector.on_speech()
        voice.clock.to(1000)
        end_ns = voice.clock.now_ns
        voice.clock.to(1300)
        detector.on_silence(end_ns)
        await (await turns.on_end_of_turn(ws.answer))

    said: str = await ws.handle("call-7", body)
    return said


def test_a_mapped_service_has_the_turn_of_the_design(install: Install, voice: VoiceRecorder) -> None:
    """The map of the design makes one complete turn: every milestone, the shares, the session, model and voice."""
    install(DESIGN)
    assert asyncio.run(one_call(voice)) == "bye call-7"
    (turn,) = voice.settle(5)
    root = span(turn, n.SPAN_TURN)
    assert root.attributes[n.SESSION_ID] == "call-7"
    assert root.attributes[n.VOICE_TRANSPORT] == "websocket"
    assert root.attributes[n.VOICE_TURN_OUTCOME] == "completed"
    assert span(turn, n.SPAN_LLM).attributes[n.GEN_AI_REQUEST_MODEL] == "small-1"
    assert span(turn, n.SPAN_TTS).attributes[n.VOICE_TTS_VOICE_NAME] == "sam"
    assert span(turn, n.SPAN_TTS).attributes[n.VOICE_TEXT_LENGTH] == len("It is noon.")
    assert length_ms(turn, n.SPAN_VAD_ENDPOINT) == 300
    assert length_ms(turn, n.SPAN_ASR) == 120
    assert length_ms(turn, n.SPAN_LLM_TTFT) == 300
    assert length_ms(turn, n.SPAN_LLM) == 340  # the third token came 340 ms after the request
    assert length_ms(turn, n.SPAN_TTS_FIRST_AUDIO) == 90
    assert length_ms(turn, n.SPAN_RESPONSE) == 300 + 120 + 360 + 90
    shares = {key.removeprefix(n.SHARE_PREFIX): each for key, each in span(turn, n.SPAN_RESPONSE).attributes.items()
              if key.startswith(n.SHARE_PREFIX)}  # fmt: skip
    assert shares["asr"] == pytest.approx(0.12)
    assert shares["endpoint"] == pytest.approx(0.3)
    assert diagnostics.counters.get("internal_error") == 0


def test_wrapped_functions_stay_what_they_were(install: Install) -> None:
    """`inspect` sees the same kinds and signatures, so that grpc.aio and FastAPI treat them as before."""
    plain = {name: getattr(importlib.import_module("callbot.llm").Client, name) for name in ("stream", "lines")}
    signatures = {name: inspect.signature(each) for name, each in plain.items()}
    calls = ["stream", "lines", "complete", "ask", "fail", "open_stream"]
    install({"stages": {"llm": [f"callbot.llm:Client.{name}" for name in calls]}})
    client = service("llm").Client
    assert inspect.isasyncgenfunction(client.stream)
    assert inspect.isasyncgenfunction(client().stream)
    assert inspect.isgeneratorfunction(client.lines)
    assert inspect.iscoroutinefunction(client.complete)
    assert asyncio.iscoroutinefunction(client.complete)
    assert inspect.ismethod(client.ask)
    assert isinstance(inspect.getattr_static(client, "fail").__get__(None, client), type(client.fail))
    assert {name: inspect.signature(getattr(client, name)) for name in signatures} == signatures
    assert client.stream.__name__ == "stream"
    assert client.stream.__doc__ == "Give tokens."
    stream = client().stream("x")
    assert inspect.isasyncgen(stream)
    assert isinstance(stream, AsyncIterator)


@pytest.mark.parametrize("name", ["stream", "lines", "complete", "ask", "open_stream"])
def test_every_kind_of_function_is_a_stage(install: Install, voice: VoiceRecorder, name: str) -> None:
    """Generators, coroutines, class methods and returned streams are stages with their first token and their end."""
    install({"stages": {"llm": {"call": f"callbot.llm:Client.{name}", "model": "self.model"}}})
    client = service("llm").Client()

    async def use() -> object:
        made = getattr(client, name)("x")
        if inspect.iscoroutine(made):
            made = await made
        if hasattr(made, "request_id"):
            assert made.request_id == "r-1"
            assert type(made).__name__ == "Reply" or made.__class__.__name__ == "Reply"
        if hasattr(made, "__aiter__"):
            return [item async for item in made]
        return list(made) if hasattr(made, "__next__") else made

    answer = asyncio.run(use())
    expected = {
        "stream": (["It ", "is ", "noon."], 300, 340),
        "lines": (["one", "two"], 100, 110),
        "complete": (None, 200, 200),
        "ask": ("yes", 40, 40),
        "open_stream": (["a", "b"], 80, 110),
    }
    wanted, first_ms, whole_ms = expected[name]
    assert wanted is None or answer == wanted
    voice.settle(700)
    (turn,) = voice.turns
    assert length_ms(turn, n.SPAN_LLM_TTFT) == first_ms
    assert length_ms(turn, n.SPAN_LLM) == whole_ms
    attributes = span(turn, n.SPAN_LLM).attributes
    if name == "complete":
        assert attributes[n.GEN_AI_USAGE_OUTPUT_TOKENS] == 2


def test_errors_pass_and_fail_the_stage(install: Install, voice: VoiceRecorder) -> None:
    """What the service raises reaches its caller, and the stage says so."""
    install({"stages": {"llm": "callbot.llm:Client.fail"}})
    with pytest.raises(ConnectionError, match="no model"):
        service("llm").Client.fail("x")
    voice.settle(700)
    (turn,) = voice.turns
    assert span(turn, n.SPAN_LLM).attributes[n.ERROR_TYPE] == "ConnectionError"
    assert span(turn, n.SPAN_LLM).error == "no model"


def test_cancellation_is_silent(install: Install, voice: VoiceRecorder) -> None:
    """A task that is cancelled within a stage leaves a cancelled stage, no error, and no noise."""
    install({"stages": {"llm": "callbot.llm:Client.stream"}})

    async def use() -> None:
        stream = service("llm").Client().stream("x")
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(use())
    voice.settle(700)
    (turn,) = voice.turns
    llm = span(turn, n.SPAN_LLM)
    assert llm.attributes[n.VOICE_STAGE_CANCELLED] is True
    assert llm.error is None


def test_a_stream_that_is_never_taken_is_no_stage(install: Install, voice: VoiceRecorder) -> None:
    """A generator's body runs with its first step: one that is made and thrown away leaves nothing."""
    install({"stages": {"llm": "callbot.llm:Client.lines"}})
    stream = service("llm").Client().lines("x")
    stream.close()
    del stream
    assert voice.settle(700) == []


@pytest.mark.parametrize(("call", "root"), [("process", "result"), ("events", "item.type")])
def test_results_and_items_can_be_marks(install: Install, voice: VoiceRecorder, call: str, root: str) -> None:
    """A detector that returns or yields events is mapped by conditions on them."""
    marks = {
        "speech_started": {"call": f"callbot.vad:Detector.{call}", "if": {root: "START"}},
        "speech_ended": {"call": f"callbot.vad:Detector.{call}", "if": {root: ["END"]}},
        "committed": "callbot.turns:on_end_of_turn",
    }
    install({**DESIGN, "turn": marks})
    ws, vad, turns = service("ws"), service("vad"), service("turns")

    async def body() -> None:
        detector = vad.Detector()
        for frame in (b"-", b"s", b"-", b"e"):
            voice.clock.advance(ms=100)
            if call == "process":
                detector.process(frame)
            else:
                list(detector.events([frame]))
        await (await turns.on_end_of_turn(ws.answer))

    asyncio.run(ws.handle("call-8", body))
    (turn,) = voice.settle(5)
    assert length_ms(turn, n.SPAN_VAD) == 200


def test_sessions_by_callbacks_are_found_by_their_object(install: Install, voice: VoiceRecorder) -> None:
    """Without any context, marks find the session by the object (or id) that both calls name."""
    install(
        {
            "session": {
                "start": "callbot.ws:Phone.picked_up", "end": "callbot.ws:Phone.hung_up",
                "id": "arg.number", "key": "self",
            },
            "turn": {"text": {"call": "callbot.ws:Phone.heard", "session": "self"}},
        }
    )  # fmt: skip
    one, two = service("ws").Phone(), service("ws").Phone()
    one.picked_up("+100")
    two.picked_up("+200")
    two.heard("hello")
    voice.clock.advance(s=1)
    two.hung_up()
    two.heard("anybody?")  # after the end: nobody's
    (turn,) = voice.settle(1)
    assert span(turn, n.SPAN_TURN).attributes[n.SESSION_ID] == "+200"
    assert span(turn, n.SPAN_TURN).attributes[n.VOICE_TURN_INPUT] == "text"


def test_a_tool_has_its_name(install: Install, voice: VoiceRecorder) -> None:
    """A tool takes its name from the map, else from the function."""
    install({"stages": {"tool": [
        {"call": "callbot.llm:look_up", "attributes": {"weather.city": "arg.city", "weather.answer": "result"}}
    ]}})  # fmt: skip
    assert service("llm").look_up(city="Rome") == "sunny"
    voice.settle(700)
    (turn,) = voice.turns
    tool = span(turn, f"{n.SPAN_EXECUTE_TOOL} look_up")
    assert tool.attributes["weather.city"] == "Rome"
    assert tool.attributes["weather.answer"] == "sunny"


def test_a_wrong_name_is_said_with_the_nearest(
    install: Install, voice: VoiceRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function that is not there is said when its module is imported, and the service runs on."""
    install({**DESIGN, "stages": {"llm": "callbot.llm:Client.strem", "asr": "callbot.asr:Reconizer.finish"}})
    assert asyncio.run(one_call(voice)) == "bye call-7"
    said = capsys.readouterr().err
    assert "callbot.llm:Client.strem: there is no 'strem': did you mean 'stream'?" in said
    assert "did you mean 'Recognizer'?" in said


def test_paths_that_lead_nowhere_hurt_nobody(install: Install, voice: VoiceRecorder) -> None:
    """A path that does not fit the call, or raises, costs the attribute and not the call."""
    llm = {
        "call": "callbot.llm:Client.stream",
        "model": "self.nothing.here",
        "attributes": {"a": "arg.7", "b": "arg.prompt.x"},
    }
    install({**DESIGN, "stages": {**DESIGN["stages"], "llm": llm}})
    assert asyncio.run(one_call(voice)) == "bye call-7"
    (turn,) = voice.settle(5)
    attributes = span(turn, n.SPAN_LLM).attributes
    assert n.GEN_AI_REQUEST_MODEL not in attributes
    assert not {"a", "b"} & set(attributes)


def test_an_agent_that_speaks_first_has_its_own_turn(install: Install, voice: VoiceRecorder) -> None:
    """Speech synthesis within a session, before the user has spoken, is a turn of the agent."""
    install(DESIGN)
    ws, tts = service("ws"), service("tts")

    async def body() -> None:
        async for frame in tts.Synth().stream("Hello"):
            await ws.send_audio(frame)

    asyncio.run(ws.handle("call-9", body))
    (turn,) = voice.settle(5)
    assert span(turn, n.SPAN_TURN).attributes[n.VOICE_TURN_INITIATOR] == "agent"
    assert turn.spans[0].attributes[n.VOICE_TURN_OUTCOME] == "completed"


def test_a_speech_service_without_calls_has_a_turn_for_each_request(install: Install, voice: VoiceRecorder) -> None:
    """Where only synthesis is mapped, each request is a turn, and the audio that it gives counts as sent."""
    install({"stages": {"tts": {"call": "callbot.tts:Synth.stream", "text": "arg.text"}}})

    async def request() -> None:
        async for _ in service("tts").Synth().stream("Hello"):
            pass

    asyncio.run(request())
    asyncio.run(request())
    first, second = voice.settle(700)
    assert length_ms(first, n.SPAN_RESPONSE) == 90
    assert first.trace_id != second.trace_id
    assert first.spans[0].attributes[n.SESSION_ID] != second.spans[0].attributes[n.SESSION_ID]
