"""Whatever a mapped function returns, its caller gets, and the stage lasts as long as the work."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import diagnostics
from voicespan import names as n
from voicespan.sessions import current_session
from voicespan.stagemap import install as installing

from .test_stagemap import install, length_ms, service, span

if TYPE_CHECKING:
    from voicespan.finished import FinishedSpan
    from voicespan.testing import VoiceRecorder

    from .test_stagemap import Install

__all__ = ["install"]
MODULE = "callbot.results"


def only(voice: VoiceRecorder, name: str) -> FinishedSpan:
    """The span of this name in the only turn."""
    (turn,) = voice.settle(700)
    return span(turn, name)


def test_a_list_stays_a_list(install: Install, voice: VoiceRecorder) -> None:
    """The items of a container are marks, and the caller gets the container itself, as often as it likes."""
    say = {"text": {"call": f"{MODULE}:Model.words", "session": "item", "if": {"item": "b"}}}
    install({"session": {"start": f"{MODULE}:heard", "end": f"{MODULE}:finish", "id": "arg.text"}, "turn": say})
    results = service("results")
    results.heard(None, "b")
    words = results.Model().words("a b c")
    assert words == ["a", "b", "c"]
    assert type(words) is list
    assert len(voice.settle(700)) == 1


async def test_a_stream_that_is_broken_off_is_over(install: Install, voice: VoiceRecorder) -> None:
    """`break` ends the stage, so that the turn is over long before its limit of ten minutes."""
    install({"stages": {"llm": "callbot.llm:Client.stream"}})
    async for _ in service("llm").Client().stream("x"):
        break
    voice.settle(120)
    assert len(voice.turns) == 1
    assert only(voice, n.SPAN_LLM).attributes[n.VOICE_STAGE_CANCELLED] is True


async def test_a_manager_is_a_stage_until_its_stream_is_over(install: Install, voice: VoiceRecorder) -> None:
    """A function that returns a manager has no token yet; the stream that the manager gives has."""
    install({"stages": {"llm": f"{MODULE}:Model.opened"}})
    async with service("results").Model().opened() as stream:
        assert [token async for token in stream] == ["a", "b"]
    (turn,) = voice.settle(700)
    assert length_ms(turn, n.SPAN_LLM_TTFT) == 50
    assert length_ms(turn, n.SPAN_LLM) == 80


async def test_what_is_awaited_lasts_until_then(install: Install, voice: VoiceRecorder) -> None:
    """A call object with `__await__` is the stage until it has its answer."""
    install({"stages": {"llm": f"{MODULE}:Model.ask"}})
    assert await service("results").Model().ask() == "yes"
    assert only(voice, n.SPAN_LLM).duration_ns == 70_000_000


def test_a_future_of_a_thread_lasts_until_it_is_settled(install: Install, voice: VoiceRecorder) -> None:
    """A tool that works in a pool is measured to its result."""
    install({"stages": {"tool": f"{MODULE}:look_up"}})
    with ThreadPoolExecutor(1) as pool:
        future = service("results").look_up(pool)
        service("results").goes_on.set()
        assert future.result() == "sunny"
    assert only(voice, f"{n.SPAN_EXECUTE_TOOL} look_up").duration_ns == 200_000_000


def test_arrays_are_audio(install: Install, voice: VoiceRecorder) -> None:
    """What a synthesizer returns as an array is neither true nor false, and has its length."""
    install({"stages": {"tts": f"{MODULE}:Voice.array"}})
    assert service("results").Voice().array("hello").size == 8000
    attributes = only(voice, n.SPAN_TTS).attributes
    assert attributes[n.VOICE_AUDIO_DURATION_S] == pytest.approx(0.5)
    assert diagnostics.counters.get("internal_error") == 0


@pytest.mark.parametrize("option", [{"audio": "item.data"}, {"seconds": "item.seconds"}])
def test_audio_in_objects_is_found(install: Install, voice: VoiceRecorder, option: dict[str, str]) -> None:
    """The audio, or its length, in a chunk that is an object is named in the map."""
    install({"stages": {"tts": {"call": f"{MODULE}:Voice.chunks", **option}}})
    assert len(list(service("results").Voice().chunks("hello"))) == 2
    assert only(voice, n.SPAN_TTS).attributes[n.VOICE_AUDIO_DURATION_S] == pytest.approx(0.2)


def test_a_property_that_raises_costs_its_value_only(install: Install, voice: VoiceRecorder) -> None:
    """The stage is there without the model that could not be read."""
    install({"stages": {"tts": {"call": f"{MODULE}:Voice.array", "model": "self.model"}}})
    service("results").Voice().array("hello")
    assert n.GEN_AI_REQUEST_MODEL not in only(voice, n.SPAN_TTS).attributes


def test_a_value_that_is_no_text_is_written_as_one(install: Install, voice: VoiceRecorder) -> None:
    """A model that is an object is told by its text."""
    install({"stages": {"llm": {"call": "callbot.llm:Client.ask", "model": "arg.prompt"}}})
    service("llm").Client.ask(SimpleNamespace(a=1))
    assert only(voice, n.SPAN_LLM).attributes[n.GEN_AI_REQUEST_MODEL] == "namespace(a=1)"


async def test_a_session_lasts_as_long_as_its_coroutine(install: Install, voice: VoiceRecorder) -> None:
    """A function that returns its coroutine is a session until that has run."""
    install({"session": {"enter": f"{MODULE}:call", "id": "arg.0"}, "turn": {"text": f"{MODULE}:heard"}})
    found: list[object] = []

    async def body() -> None:
        found.append(current_session())
        service("results").heard(None, "hello")
        voice.clock.advance(s=2)

    assert await service("results").call("call-1", body) == "bye call-1"
    (session,) = found
    assert session is not None
    (turn,) = voice.settle(1)
    assert turn.spans[0].attributes[n.SESSION_ID] == "call-1"
    assert turn.spans[0].duration_ns == 2_000_000_000
    assert current_session() is None


async def test_sessions_begin_and_end_with_coroutines(install: Install, voice: VoiceRecorder) -> None:
    """`start` takes the result of a returned coroutine; `end` is when its coroutine has run."""
    session = {
        "start": f"{MODULE}:begin", "end": f"{MODULE}:finish", "id": "result.id", "key": "result.id",
        "end_key": "arg.0.id",
    }  # fmt: skip
    install({"session": session, "turn": {"text": {"call": f"{MODULE}:heard", "session": "arg.call.id"}}})
    results = service("results")
    call = await results.begin("+100")
    ending = results.finish(call)
    assert voice.turns == []
    await ending
    (turn,) = voice.settle(1)
    assert turn.spans[0].attributes[n.SESSION_ID] == "+100"


def phone(voice: VoiceRecorder) -> Any:
    """A phone whose calls are told by call-backs."""
    return service("ws").Phone()


CALLBACKS: dict[str, Any] = {
    "session": {
        "start": "callbot.ws:Phone.picked_up", "end": "callbot.ws:Phone.hung_up", "id": "arg.number", "key": "self",
    },
    "turn": {"text": {"call": "callbot.ws:Phone.heard", "session": "self"}},
}  # fmt: skip


def test_who_comes_back_with_the_same_id_is_a_new_session(install: Install, voice: VoiceRecorder) -> None:
    """The late end of the connection before takes nothing from the one that took its id."""
    turn = {"text": {"call": "callbot.ws:Phone.heard", "session": "arg.text"}}
    install({**CALLBACKS, "turn": turn})
    old, new = phone(voice), phone(voice)
    old.picked_up("+100")
    old.heard("+100")
    new.picked_up("+100")
    assert len(voice.settle(0)) == 1  # the old one is over: the line was lost
    old.hung_up()
    new.heard("+100")
    voice.clock.advance(s=1)
    new.hung_up()
    assert len(voice.settle(1)) == 2


async def test_the_handler_before_leaves_the_name_to_the_one_after(install: Install, voice: VoiceRecorder) -> None:
    """A reconnect overlaps: the first handler returns, and the second is still found by its id."""
    marks = {"text": {"call": "callbot.ws:Phone.heard", "session": "arg.text"}}
    install({"session": {"enter": "callbot.ws:handle", "id": "arg.call_id"}, "turn": marks})
    handle, first, second = service("ws").handle, asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(handle("7", first.wait))
    await asyncio.sleep(0)
    two = asyncio.create_task(handle("7", second.wait))
    await asyncio.sleep(0)
    first.set()
    await one
    phone(voice).heard("7")
    second.set()
    await two
    assert len(voice.settle(1)) == 1


def test_a_map_that_cannot_be_installed_is_said_as_that(
    voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of ours in the map does not claim that telemetry is off."""

    def broken(_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(installing, "read", broken)
    installing.install_file("voicespan.yaml")
    assert "stages: voicespan.yaml" in capsys.readouterr().err
