"""Tools, second requests, speculation, fillers, speech-to-speech: whose work the heard silence was."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from .timeline import links, passes_on

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from .timeline import Timeline


@pytest.mark.covers("B-T03", "B-M05", "F-TR07")
def test_tool_and_second_request(at: Timeline) -> None:
    """A tool call and the request after it are each a stage of their own with a share.

    1360 request · 1500 tool call · 1510 tool 1900 · 1910 request · 2100 token · 2150 sentence · 2300 frame, sent
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1500))
    at(1510)
    with turn.tool("get_weather"):
        at(1900)
    at.agent_says(turn, request=1910, token=2100, sentence=2150, audio=2300, sent=2300)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn                0     2800
        vad                       0     1300  voice.turn
        vad.endpoint              1000  1300  vad
        asr                       0     1350  voice.turn
        asr.finalize              1000  1350  asr
        llm                       1360  1500  voice.turn
        llm.ttft                  1360  1500  llm@1360
        execute_tool get_weather  1510  1900  voice.turn
        llm                       1910  2150  voice.turn
        llm.ttft                  1910  2100  llm@1910
        llm.first_sentence        1910  2150  llm@1910
        tts                       2150  2300  voice.turn
        tts.first_audio           2150  2300  tts
        playback                  2300  2800  voice.turn
        voice.response            1000  2300  voice.turn
    """,
    )
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 30,
        "llm": 330,
        "tool": 390,
        "sentence": 50,
        "tts": 150,
    }
    assert finished.root.attributes["voice.turn.bottleneck"] == "tool"
    tool = finished["execute_tool get_weather"]
    assert (
        tool.attributes["gen_ai.tool.name"],
        tool.attributes["gen_ai.operation.name"],
        tool.attributes["voice.component"],
        tool.kind,
    ) == ("get_weather", "execute_tool", "tool", "internal")
    assert all(span.attributes.get("voice.critical_path") for span in finished.all("llm"))
    assert tool.attributes["voice.critical_path"] is True


def test_two_tools_one_after_the_other(at: Timeline) -> None:
    """Only the request that answered hands a sentence to synthesis, though nobody says which one that was.

    1360 request 1400 · tool 1500 · request 1540 · tool 1640 · 1700 request · 1800 token · 1900 text
    """
    turn = at.user_says(at.session())
    for start in (1360, 1500):
        at(start)
        with turn.llm(model="m-1") as llm:
            llm.token(at=at(start + 40))
        with turn.tool("get_weather"):
            at(start + 140)
        at(start + 140)
    at(1700)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1800))
        at.voice_says(turn, text=1900, audio=2000, sent=2000)
    [finished] = at.finish()
    sentence = finished["llm.first_sentence"]
    assert (at.ms(sentence.start_ns), at.ms(sentence.end_ns)) == (1700, 1900)
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 70,
        "llm": 180,
        "tool": 200,
        "sentence": 100,
        "tts": 100,
    }
    assert at.events(finished.root, only="response_created") == [("response_created", 1360)]


def test_the_whole_first_request_is_waited_for(at: Timeline) -> None:
    """A request that only calls a tool is waited for to its end, not to its first token.

    1360 request · 1400 first token of the call · 1500 last · 1500 tool 1900 · 1900 request · 2100 token
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1400))
        llm.token(at=at(1500))
    with turn.tool("get_weather"):
        at(1900)
    at.agent_says(turn, request=1900, token=2100, sentence=2150, audio=2300, sent=2300)
    [finished] = at.finish()
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 340,
        "tool": 400,
        "sentence": 50,
        "tts": 150,
    }


def test_parallel_tools(at: Timeline) -> None:
    """Of tools that run at the same time, each has the part that none before it covers.

    1510 a 1900 · 1515 b 2200 · 1520 c 1700: a 390, b 300 more, c nothing
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1500))
    at(1510)
    with turn.tool("a") as first:
        at(1515)
        with turn.tool("b"):
            at(1520)
            with turn.tool("c"):
                at(1700)
            at(1900)
            first.end()
            at(2200)
    at.agent_says(turn, request=2210, token=2400, sentence=2450, audio=2600, sent=2600)
    [finished] = at.finish()
    intervals = {span.name: (at.ms(span.start_ns), at.ms(span.end_ns)) for span in finished.spans}
    assert intervals["execute_tool a"] == (1510, 1900)
    assert intervals["execute_tool b"] == (1515, 2200)
    assert intervals["execute_tool c"] == (1520, 1700)
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 30,
        "llm": 330,
        "tool": 690,
        "sentence": 50,
        "tts": 150,
    }
    assert {"execute_tool a", "execute_tool b"} <= at.critical(finished)
    assert "execute_tool c" not in at.critical(finished)


def test_speculative_generation_that_was_kept(at: Timeline) -> None:
    """What was generated before the decision costs the user only what is left of it.

    1100 request · 1280 token · 1300 decision · 1350 transcript · 1380 sentence · 1500 frame · 1510 sent
    """
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.speech_ended(at=at(1000))
    at(1100)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1280))
        turn.committed(at=at(1300))
        turn.transcript(at=at(1350))
        llm.token(at=at(1380))
        llm.sentence(at=at(1380))
    at.voice_says(turn, text=1380, audio=1500, sent=1510)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0     2010
        vad                  0     1300  voice.turn
        vad.endpoint         1000  1300  vad
        asr                  0     1350  voice.turn
        asr.finalize         1000  1350  asr
        llm                  1100  1380  voice.turn
        llm.ttft             1100  1280  llm
        llm.first_sentence   1100  1380  llm
        tts                  1380  1500  voice.turn
        tts.first_audio      1380  1500  tts
        playback             1510  2010  voice.turn
        voice.response       1000  1510  voice.turn
    """,
    )
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "sentence": 30, "tts": 120, "send": 10}
    assert "llm.ttft" not in at.critical(finished)
    assert "voice.generation.discarded" not in finished["llm"].attributes


def test_discarded_speculative_generation(at: Timeline) -> None:
    """A generation that was thrown away keeps its span and its tokens, and takes no share.

    500 end · 550 request · 700 token · 800 speaks again, discarded · 1000 end · 1300 decision · then the plain reply
    """
    session = at.session()
    at(80)
    turn = session.user_turn(at=at(0))
    turn.speech_ended(at=at(500))
    at(550)
    with turn.llm(model="m-1") as thrown_away:
        thrown_away.token(at=at(700))
        thrown_away.usage(input_tokens=30, output_tokens=3)
        at(800)
        session.user_turn(at=at(800))
        thrown_away.discarded()
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    turn.transcript(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    first, second = finished.all("llm")
    assert first.attributes["voice.generation.discarded"] is True
    assert first.attributes["gen_ai.usage.output_tokens"] == 3
    assert first.error is None
    assert "voice.critical_path" not in first.attributes
    assert "voice.generation.discarded" not in second.attributes
    ttfts = [(at.ms(span.start_ns), at.ms(span.end_ns)) for span in finished.all("llm.ttft")]
    assert ttfts == [(550, 700), (1360, 1560)]
    assert finished.outcome == "completed"
    assert "voice.turn.recovered" not in finished.root.attributes
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 200,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }


def test_discarded_after_the_decision(at: Timeline) -> None:
    """A generation on an old transcript, discarded after the decision, leaves its time unattributed.

    1100 request · 1400 discarded · 1410 request · 1610 token · 1710 sentence · 1850 frame · 1860 sent
    """
    at(80)
    turn = at.session().user_turn(at=at(0))
    turn.speech_ended(at=at(1000))
    at(1100)
    with turn.llm(model="m-1") as thrown_away:
        turn.committed(at=at(1300))
        turn.transcript(at=at(1350))
        at(1400)
        thrown_away.discarded()
    at.agent_says(turn, request=1410, token=1610, sentence=1710, audio=1850, sent=1860)
    [finished] = at.finish()
    assert len(finished.all("llm.ttft")) == 1
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 60,
        "llm": 200,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }


def test_filler_before_the_answer(at: Timeline) -> None:
    """ "One moment" ends the silence that is heard; voice.answer counts on to the real answer.

    1360 request · 1400 filler text · 1450 frame · 1460 sent, 0.4 s · 2000 token · 2100 sentence · 2250 frame ·
    2260 sent, 0.5 s. The model had no part in the filler: 1350 to 1400 is unattributed.
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        at(1400)
        with turn.tts(voice="sam", filler=True) as filler:
            filler.text("One moment.", at=at(1400))
            filler.audio(seconds=0.4, at=at(1450))
            turn.audio_sent(0.4, at=at(1460))
        llm.token(at=at(2000))
        llm.token(at=at(2100))
        llm.sentence(at=at(2100))
    at.voice_says(turn, text=2100, audio=2250, sent=2260)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0     2760
        vad                  0     1300  voice.turn
        vad.endpoint         1000  1300  vad
        asr                  0     1350  voice.turn
        asr.finalize         1000  1350  asr
        llm                  1360  2100  voice.turn
        llm.ttft             1360  2000  llm
        llm.first_sentence   1360  2100  llm
        tts                  1400  1450  voice.turn
        tts.first_audio      1400  1450  tts@1400
        tts                  2100  2250  voice.turn
        tts.first_audio      2100  2250  tts@2100
        playback             1460  2760  voice.turn
        playback.gap         1860  2260  playback
        voice.response       1000  1460  voice.turn
        voice.answer         1000  2260  voice.turn
    """,
    )
    assert at.shares(finished) == {"endpoint": 300, "asr": 50, "unattributed": 50, "tts": 50, "send": 10}
    assert finished.all("tts")[0].attributes["voice.tts.filler"] is True
    assert "voice.tts.filler" not in finished.all("tts")[1].attributes


def test_no_answer_span_without_a_filler(at: Timeline) -> None:
    """voice.answer would only repeat voice.response when no filler came first."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    assert finished.get("voice.answer") is None


def test_a_filler_without_an_answer(at: Timeline) -> None:
    """When only the filler was heard, there is a response, and no answer is made up."""
    turn = at.user_says(at.session())
    at(1360)
    with passes_on(ConnectionError), turn.llm(model="m-1"):
        at(1400)
        with turn.tts(voice="sam", filler=True) as filler:
            filler.text("One moment.", at=at(1400))
            filler.audio(seconds=0.4, at=at(1450))
            turn.audio_sent(0.4, at=at(1460))
        at(3000)
        raise ConnectionError("refused")
    turn.end(at=at(3000))
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].end_ns) == 1460
    assert finished.get("voice.answer") is None
    assert finished.outcome == "error"


def test_speech_to_speech(at: Timeline) -> None:
    """A realtime model is one stage in place of asr, llm and tts.

    1300 decision and request · 1700 first audio · 1710 sent, 0.5 s · 2000 done
    """
    at(80)
    turn = at.session().user_turn(at=at(0))
    at(1200)
    turn.speech_ended(at=at(1000))
    turn.committed(at=at(1300))
    with turn.realtime(model="r-1", provider="openai") as realtime:
        realtime.audio(at=at(1700))
        turn.audio_sent(0.5, at=at(1710))
        at(2000)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn            0     2210
        vad                   0     1300  voice.turn
        vad.endpoint          1000  1300  vad
        realtime              1300  2000  voice.turn
        realtime.first_audio  1300  1700  realtime
        playback              1710  2210  voice.turn
        voice.response        1000  1710  voice.turn
    """,
    )
    assert at.shares(finished) == {"endpoint": 300, "realtime": 400, "send": 10}
    assert finished.root.attributes["voice.turn.bottleneck"] == "realtime"
    assert finished["realtime"].attributes["voice.component"] == "realtime"
    assert {"realtime", "realtime.first_audio"} <= at.critical(finished)


def test_a_tool_that_outlives_its_turn(at: Timeline) -> None:
    """A background tool does not hold the turn open; its span comes later, and what it says is linked to it.

    1400 booking begins · the reply plays 1810 to 2310 · 10000 booked · 10100 the agent says so
    """
    session = at.session()
    turn = at.user_says(session)
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1400))
        booking = turn.tool("book", background=True)
        llm.token(at=at(1660))
        llm.sentence(at=at(1660))
    at.voice_says(turn)
    [finished] = at.finish(within_s=5)
    assert at.ms(finished.root.end_ns) == 2310
    assert finished.get("execute_tool book") is None
    at(10_000)
    booking.end()
    said = session.agent_turn(trigger="tool_result", tool=booking)
    at.voice_says(said, text=10_100, audio=10_200, sent=10_210)
    first, late, second = at.finish(count=3)
    assert first is finished
    assert late.late
    assert late.trace_id == finished.trace_id
    [tool] = late.spans
    assert (tool.name, at.ms(tool.start_ns), at.ms(tool.end_ns)) == ("execute_tool book", 1400, 10_000)
    assert tool.parent_id == finished.root.span_id
    assert second.root.attributes["voice.turn.trigger"] == "tool_result"
    assert ("tool", finished.trace_id) in links(second)
    assert ("previous", finished.trace_id) in links(second)
    [link] = [link for link in second.root.links if link.attributes["voice.link.type"] == "tool"]
    assert link.context.span_id == tool.span_id


async def test_the_consumer_s_time_is_not_the_model_s(at: Timeline) -> None:
    """While the service holds a token, the model is not waited for, and the stage says how long that was.

    1360 request · 1560 token, held for 300 ms · 1960 token
    """
    turn = at.user_says(at.session())

    async def tokens() -> AsyncIterator[str]:
        at(1560)
        yield "It "
        at(1960)
        yield "is."

    at(1360)
    with turn.llm(model="m-1") as llm:
        async for token in llm.stream(tokens()):
            if token == "It ":
                at(1860)
    turn.end()
    [finished] = at.voice.turns
    assert finished["llm"].attributes["voice.stage.consumer_wait_s"] == pytest.approx(0.3)
    assert finished["llm"].attributes["voice.llm.token.rate"] == pytest.approx(1 / 0.1)
    assert (at.ms(finished["llm.ttft"].start_ns), at.ms(finished["llm.ttft"].end_ns)) == (1360, 1560)


async def test_the_consumer_s_time_is_not_the_voice_s(at: Timeline) -> None:
    """The real-time factor leaves out the time for which the service held a frame.

    1660 text · 1800 frame of 0.1 s, held for 300 ms · 2200 frame of 0.1 s
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    frame = bytes(2 * 1600)

    async def frames() -> AsyncIterator[bytes]:
        at(1800)
        yield frame
        at(2200)
        yield frame

    with turn.tts(voice="sam", sample_rate=16_000) as tts:
        tts.text("It is sunny.", at=at(1660))
        async for _ in tts.stream(frames()):
            turn.audio_sent(0.1)
            at(2100)
    [finished] = at.finish()
    attributes = finished["tts"].attributes
    assert attributes["voice.stage.consumer_wait_s"] == pytest.approx(0.3)
    assert attributes["voice.audio.duration_s"] == pytest.approx(0.2)
    assert attributes["voice.tts.real_time_factor"] == pytest.approx(0.24 / 0.2)


async def test_a_closed_stream_is_cancelled(at: Timeline) -> None:
    """Whoever closes the stream early cancels the stage, and the inner stream is closed with it."""
    turn = at.user_says(at.session())
    closed = []

    async def frames() -> AsyncGenerator[bytes]:
        try:
            while True:
                at(1800)
                yield b"\0\0"
        finally:
            closed.append(True)

    at.model_says(turn)
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        async with contextlib.aclosing(tts.stream(frames())) as stream:
            async for _ in stream:
                turn.audio_sent(0.5, at=at(1810))
                break
    [finished] = at.finish()
    assert closed == [True]
    assert finished["tts"].attributes["voice.stage.cancelled"] is True
    assert finished["tts"].error is None
    assert finished.outcome == "completed"


def test_a_synchronous_stream(at: Timeline) -> None:
    """A plain iterator is measured like an asynchronous one, and an empty chunk is no token."""
    turn = at.user_says(at.session())

    def tokens() -> Iterator[str]:
        at(1500)
        yield ""
        at(1560)
        yield "It "
        at(1660)
        yield "is."

    at(1360)
    with turn.llm(model="m-1") as llm:
        assert list(llm.stream(tokens())) == ["", "It ", "is."]
    at.voice_says(turn)
    [finished] = at.finish()
    assert (at.ms(finished["llm.ttft"].start_ns), at.ms(finished["llm.ttft"].end_ns)) == (1360, 1560)
    assert at.ms(finished["llm"].end_ns) == 1660


def test_a_second_sentence_begins_while_the_first_still_leaves(at: Timeline) -> None:
    """Frames of the first sentence that leave while the second is being made are not taken for the second's own.

    Text 1400, two frames 1500 and 1510, sent 1520 and 1720 · second text 1600, its frame 1800, sent 1920.
    """
    turn = at.user_says(at.session())
    with turn.llm():
        at(1390)
    first = turn.tts(text="First.")
    first.text("First.", at=at(1400))
    first.audio(seconds=0.2, at=at(1500))
    first.audio(seconds=0.2, at=at(1510))
    first.end()
    turn.audio_sent(0.2, at=at(1520))
    at(1600)
    second = turn.tts(text="Second.")
    turn.audio_sent(0.2, at=at(1720))
    second.audio(seconds=0.2, at=at(1800))
    second.end()
    turn.audio_sent(0.2, at=at(1920))
    [finished] = at.finish()
    assert [at.ms(span.end_ns) for span in finished.all("tts.first_audio")] == [1500, 1800]


def test_the_rest_of_a_filler_is_not_the_answer(at: Timeline) -> None:
    """The answer is heard when the filler's audio has left, also if it was made before.

    Filler made 1450, 0.4 s, leaves 1460 and 1660 · answer made 1600, leaves 1860.
    """
    turn = at.user_says(at.session())
    at(1400)
    with turn.tts(filler=True, text="One moment.") as filler:
        filler.audio(seconds=0.4, at=at(1450))
        turn.audio_sent(0.2, at=at(1460))
    with turn.tts(text="Yes.") as answer:
        answer.audio(seconds=0.2, at=at(1600))
        turn.audio_sent(0.2, at=at(1660))
        turn.audio_sent(0.2, at=at(1860))
    [finished] = at.finish()
    assert at.ms(finished["voice.response"].end_ns) == 1460
    assert at.ms(finished["voice.answer"].end_ns) == 1860
