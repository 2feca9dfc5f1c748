"""The plain turn: what is said, thought and heard, once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .timeline import links

if TYPE_CHECKING:
    from .timeline import Timeline

PLAIN = """
    voice.turn           0     2310
    vad                  0     1300  voice.turn
    vad.endpoint         1000  1300  vad
    asr                  0     1350  voice.turn
    asr.finalize         1000  1350  asr
    llm                  1360  1660  voice.turn
    llm.ttft             1360  1560  llm
    llm.first_sentence   1360  1660  llm
    tts                  1660  1800  voice.turn
    tts.first_audio      1660  1800  tts
    playback             1810  2310  voice.turn
    voice.response       1000  1810  voice.turn
"""


@pytest.mark.covers(
    "A-T01",
    "A-T02",
    "A-M11",
    "B-T01",
    "B-T02",
    "B-T04",
    "B-T05",
    "B-M02",
    "B-M03",
    "B-M04",
    "B-M06",
    "C-M05",
    "C-M15",
    "D-M01",
    "D-M02",
    "D-M03",
    "D-M04",
    "F-TR01",
    "F-TR02",
    "F-TR03",
    "F-TR04",
    "F-TR05",
    "F-TR06",
    "F-TR08",
    "F-TR09",
)
def test_twelve_spans(at: Timeline) -> None:
    """A plain turn is twelve spans, and each begins and ends where its name says.

    0 onset · 1000 end of speech · 1200 detector says so · 1300 turn decision · 1350 final transcript ·
    1360 request · 1560 first token · 1660 first sentence, to synthesis · 1800 first frame · 1810 sent, 0.5 s long
    """
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    at.expect(finished, PLAIN)


@pytest.mark.covers("F-TR24")
def test_shares_of_the_silence(at: Timeline) -> None:
    """The 810 ms that the user waited are divided among what caused them.

    1000 endpoint 1300 asr 1350 nothing 1360 llm 1560 sentence 1660 tts 1800 send 1810
    """
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 200,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }
    assert finished["voice.response"].attributes["voice.turn.bottleneck"] == "endpoint"
    assert finished.root.attributes["voice.turn.bottleneck"] == "endpoint"
    assert at.critical(finished) >= {
        "vad",
        "vad.endpoint",
        "asr",
        "asr.finalize",
        "llm",
        "llm.ttft",
        "llm.first_sentence",
        "tts",
        "tts.first_audio",
    }
    assert not at.critical(finished) & {"voice.turn", "voice.response", "playback.start"}


@pytest.mark.covers("A-T01", "A-T02")
def test_root_says_what_the_turn_was(at: Timeline) -> None:
    """The root says whose turn it was, in which session, with which outcome, and when speech began and ended."""
    session = at.session("call-7", transport="websocket", room_id="room-1")
    turn = at.user_says(session)
    at.agent_says(turn)
    [finished] = at.finish()
    root = finished.root
    assert finished.session_id == "call-7"
    assert {
        key: root.attributes[key]
        for key in (
            "session.id",
            "gen_ai.conversation.id",
            "gen_ai.operation.name",
            "voice.transport",
            "voice.room.id",
            "voice.turn.index",
            "voice.turn.initiator",
            "voice.turn.input",
            "voice.turn.outcome",
            "voice.speech.segments",
        )
    } == {
        "session.id": "call-7",
        "gen_ai.conversation.id": "call-7",
        "gen_ai.operation.name": "invoke_agent",
        "voice.transport": "websocket",
        "voice.room.id": "room-1",
        "voice.turn.index": 1,
        "voice.turn.initiator": "user",
        "voice.turn.input": "speech",
        "voice.turn.outcome": "completed",
        "voice.speech.segments": 1,
    }
    assert "voice.turn.recovered" not in root.attributes
    assert "voice.turn.trigger" not in root.attributes
    assert "error.type" not in root.attributes
    assert root.error is None
    assert root.kind == "internal"
    assert ("speech_start", 0) in at.events(root)
    assert ("speech_end", 1000) in at.events(root)
    assert ("response_created", 1360) in at.events(root)
    assert at.events(finished["vad"]) == [("vad.speech_end", 1200)]


def test_stages_name_their_component_model_and_operation(at: Timeline) -> None:
    """A stage span says which component it is, milestones do not; back ends for GenAI find their attributes."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    components = {
        span.name: span.attributes["voice.component"] for span in finished.spans if "voice.component" in span.attributes
    }
    assert components == {"vad": "vad", "asr": "asr", "llm": "llm", "tts": "tts", "playback": "playback"}
    llm = finished["llm"]
    assert (
        llm.kind,
        llm.attributes["gen_ai.operation.name"],
        llm.attributes["gen_ai.request.model"],
        llm.attributes["gen_ai.provider.name"],
    ) == ("client", "chat", "m-1", "openai")
    assert llm.attributes["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.2)
    tts = finished["tts"]
    assert (
        tts.kind,
        tts.attributes["gen_ai.request.model"],
        tts.attributes["voice.tts.voice.name"],
    ) == ("client", "v-1", "sam")
    assert "gen_ai.operation.name" not in tts.attributes
    assert finished["llm.ttft"].attributes["gen_ai.request.model"] == "m-1"
    assert finished["tts.first_audio"].attributes["gen_ai.request.model"] == "v-1"
    assert finished["tts.first_audio"].attributes["voice.tts.voice.name"] == "sam"


@pytest.mark.covers("C-T02", "F-TR08")
def test_synthesis_has_a_second_name(at: Timeline) -> None:
    """Who looks for `synthesize_request` finds tts, with its model, its length of text and its frames."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    [request] = [span for span in finished.spans if span.attributes.get("voice.alias") == "synthesize_request"]
    assert request is finished["tts"]
    attributes = ("gen_ai.request.model", "voice.text.length", "voice.audio.frame.count")
    assert [request.attributes[name] for name in attributes] == ["v-1", len("It is sunny."), 1]


def test_the_silence_can_be_split_by_what_caused_it(at: Timeline) -> None:
    """voice.response carries copies of what a dashboard splits it by."""
    session = at.session(transport="livekit")
    at(80)
    turn = session.user_turn(at=at(0))
    with turn.asr(model="a-1", language="de") as asr:
        asr.audio(at=at(100))
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        asr.final(at=at(1350))
    at.model_says(turn)
    with turn.tts(voice="sam", model="v-1", language="de") as tts:
        tts.text("Gut.", at=at(1660))
        tts.worker("tts-cosy@0")
        tts.audio(seconds=0.5, at=at(1800))
        turn.audio_sent(0.5, at=at(1810))
    [finished] = at.finish()
    attributes = finished["voice.response"].attributes
    assert {
        key: attributes[key]
        for key in (
            "voice.transport",
            "voice.measurement.point",
            "voice.turn.initiator",
            "voice.turn.outcome",
            "voice.turn.bottleneck",
            "gen_ai.request.model",
            "voice.tts.voice.name",
            "voice.language",
            "voice.worker.id",
            "voice.response.from",
        )
    } == {
        "voice.transport": "livekit",
        "voice.measurement.point": "server",
        "voice.turn.initiator": "user",
        "voice.turn.outcome": "completed",
        "voice.turn.bottleneck": "endpoint",
        "gen_ai.request.model": "m-1",
        "voice.tts.voice.name": "sam",
        "voice.language": "de",
        "voice.worker.id": "tts-cosy@0",
        "voice.response.from": "speech_end",
    }
    assert finished["tts"].attributes["voice.worker.id"] == "tts-cosy@0"


def test_draft_operations_need_the_switch(at: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GenAI operations of the voice stages are drafts: VOICESPAN_GENAI_DRAFTS turns them on."""
    monkeypatch.setenv("VOICESPAN_GENAI_DRAFTS", "true")
    at(80)
    turn = at.session().user_turn(at=at(0))
    with turn.asr(model="a-1") as asr:
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        asr.final(at=at(1350))
    at.agent_says(turn)
    [finished] = at.finish()
    operations = {name: finished[name].attributes["gen_ai.operation.name"] for name in ("asr", "llm", "tts")}
    assert operations == {"asr": "speech_to_text", "llm": "chat", "tts": "text_to_speech"}


@pytest.mark.covers("B-M01")
def test_recognizer_stage(at: Timeline) -> None:
    """With a recognizer stage, asr begins with the first audio it was given and ends with the final transcript.

    0 onset · 120 first audio to the recognizer · 1000 end · 1300 decision · 1350 final transcript · 1400 block left
    """
    at(80)
    turn = at.session().user_turn(at=at(0))
    with turn.asr(model="a-1", provider="acme", language="en-US") as asr:
        asr.audio(at=at(120))
        at(1200)
        turn.speech_ended(at=at(1000))
        turn.committed(at=at(1300))
        asr.final(at=at(1350))
        asr.final(at=at(1400))
    at.agent_says(turn, request=1410)
    [finished] = at.finish()
    assert (at.ms(finished["asr"].start_ns), at.ms(finished["asr"].end_ns)) == (120, 1350)
    assert (at.ms(finished["asr.finalize"].start_ns), at.ms(finished["asr.finalize"].end_ns)) == (1000, 1350)
    attributes = finished["asr"].attributes
    assert (
        attributes["gen_ai.request.model"],
        attributes["voice.language"],
        attributes["gen_ai.provider.name"],
    ) == ("a-1", "en-US", "acme")
    assert finished["asr.finalize"].attributes["gen_ai.request.model"] == "a-1"
    assert finished["asr"].kind == "client"


def test_a_stage_ends_with_its_work_not_with_its_block(at: Timeline) -> None:
    """llm ends with the last token, tts begins with the first text and ends with the last frame, whatever surrounds it.

    1360 request · 1560 first token · 1650 last token · 1700 block left · 1710 synthesizer opened · 1730 first text ·
    1800 first frame · 1900 last frame · 2000 block left
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        llm.token(at=at(1650))
        at(1700)
    at(1710)
    with turn.tts(voice="sam") as tts:
        tts.text("Yes.", at=at(1730))
        tts.audio(seconds=0.2, at=at(1800))
        turn.audio_sent(0.2, at=at(1800))
        tts.audio(seconds=0.2, at=at(1900))
        turn.audio_sent(0.2, at=at(1900))
        at(2000)
    [finished] = at.finish()
    at.expect(
        finished,
        """
        voice.turn           0     2200
        vad                  0     1300  voice.turn
        vad.endpoint         1000  1300  vad
        asr                  0     1350  voice.turn
        asr.finalize         1000  1350  asr
        llm                  1360  1650  voice.turn
        llm.ttft             1360  1560  llm
        llm.first_sentence   1360  1730  llm
        tts                  1730  1900  voice.turn
        tts.first_audio      1730  1800  tts
        playback             1800  2200  voice.turn
        voice.response       1000  1800  voice.turn
    """,
    )


def test_first_and_last_frame(at: Timeline) -> None:
    """The first frame ends tts.first_audio and begins the way to the user; the last ends tts.

    1660 text · 1800, 1805 frames · 1810 sent · 1900 last frame
    """
    turn = at.user_says(at.session())
    at.model_says(turn)
    with turn.tts(voice="sam") as tts:
        tts.text("It is sunny.", at=at(1660))
        tts.audio(seconds=0.1, at=at(1800))
        tts.audio(seconds=0.1, at=at(1805))
        turn.audio_sent(0.2, at=at(1810))
        tts.audio(seconds=0.1, at=at(1900))
        turn.audio_sent(0.1, at=at(1910))
    [finished] = at.finish()
    assert (at.ms(finished["tts"].start_ns), at.ms(finished["tts"].end_ns)) == (1660, 1900)
    assert at.ms(finished["tts.first_audio"].end_ns) == 1800
    shares = at.shares(finished)
    assert (shares["tts"], shares["send"]) == (140, 10)
    assert finished["tts"].attributes["voice.audio.frame.count"] == 3
    assert finished["tts"].attributes["voice.tts.real_time_factor"] == pytest.approx(0.24 / 0.3)


def test_first_sentence_is_known_from_the_synthesizer(at: Timeline) -> None:
    """Without llm.sentence(), the first text that synthesis gets ends llm.first_sentence.

    1360 request · 1560 first token · 1660 first text to synthesis, while the model goes on to 1900
    """
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        with turn.tts(voice="sam") as tts:
            tts.text("It is ", at=at(1660))
            tts.audio(seconds=0.5, at=at(1800))
            turn.audio_sent(0.5, at=at(1810))
            llm.token(at=at(1900))
    [finished] = at.finish()
    sentence = finished["llm.first_sentence"]
    assert (at.ms(sentence.start_ns), at.ms(sentence.end_ns)) == (1360, 1660)
    assert at.ms(finished["llm"].end_ns) == 1900
    assert at.shares(finished) == {
        "endpoint": 300,
        "asr": 50,
        "unattributed": 10,
        "llm": 200,
        "sentence": 100,
        "tts": 140,
        "send": 10,
    }


def test_text_and_audio_are_counted_on_tts(at: Timeline) -> None:
    """tts carries the length and the ranges of its text, and how much audio came of it; the text itself stays here."""
    turn = at.user_says(at.session())
    at.agent_says(turn)
    [finished] = at.finish()
    attributes = finished["tts"].attributes
    assert attributes["voice.text.length"] == len("It is sunny.")
    assert attributes["voice.text.word_count.range"] == "1-10"
    assert attributes["voice.text.character_count.range"] == "1-50"
    assert attributes["voice.audio.frame.count"] == 1
    assert attributes["voice.audio.duration_s"] == pytest.approx(0.5)
    assert attributes["voice.tts.real_time_factor"] == pytest.approx(0.14 / 0.5)
    assert not any("sunny" in str(value) for span in finished.spans for value in span.attributes.values())


@pytest.mark.covers("E-Q01")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (0, "0"),
        (1, "1-10"),
        (10, "1-10"),
        (11, "11-25"),
        (50, "26-50"),
        (100, "51-100"),
        (200, "101-200"),
        (201, "200+"),
    ],
)
def test_ranges_do_not_overlap(at: Timeline, words: int, expected: str) -> None:
    """Every number of words is in one range; none is in the range of none."""
    turn = at.user_says(at.session())
    at(1660)
    with turn.tts(voice="sam") as tts:
        tts.text("word " * words or " ")
        tts.audio(seconds=0.5, at=at(1800))
        turn.audio_sent(0.5, at=at(1810))
    [finished] = at.finish()
    assert finished["tts"].attributes["voice.text.word_count.range"] == expected


def test_tokens_are_counted_on_llm(at: Timeline) -> None:
    """llm carries the tokens that the provider billed."""
    turn = at.user_says(at.session())
    at(1360)
    with turn.llm(model="m-1") as llm:
        llm.token(at=at(1560))
        llm.token(2, at=at(1700))
        llm.token(at=at(1760))
        llm.usage(input_tokens=40, output_tokens=7)
    at.voice_says(turn, text=1770, audio=1800)
    [finished] = at.finish()
    attributes = finished["llm"].attributes
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (40, 7)
    assert attributes["voice.llm.token.count"] == 4
    assert attributes["voice.llm.token.rate"] == pytest.approx(3 / 0.2)


def test_turns_of_a_session_are_numbered_and_linked(at: Timeline) -> None:
    """Each utterance is a trace of its own; turn n links to turn n-1, the first to none."""
    session = at.session("call-7")
    for start in (0, 10_000, 20_000):
        turn = at.user_says(session, onset=start, end=start + 1000, commit=start + 1300, transcript=start + 1350)
        at.agent_says(
            turn, request=start + 1360, token=start + 1560, sentence=start + 1660, audio=start + 1800, sent=start + 1810
        )
        at.finish(count=start // 10_000 + 1, within_s=5)
    first, second, third = at.voice.turns
    assert len({turn.trace_id for turn in at.voice.turns}) == 3
    assert [turn.root.attributes["voice.turn.index"] for turn in at.voice.turns] == [1, 2, 3]
    assert [at.ms(turn.root.start_ns) for turn in at.voice.turns] == [0, 10_000, 20_000]
    assert links(first) == []
    assert links(second) == [("previous", first.trace_id)]
    assert links(third) == [("previous", second.trace_id)]
    assert third.root.links[0].context.span_id == second.root.span_id


def test_sessions_do_not_mix(at: Timeline) -> None:
    """Two calls at the same time have turns, numbers and links of their own."""
    one, two = at.session("one"), at.session("two")
    at(80)
    turn_one, turn_two = one.user_turn(at=at(0)), two.user_turn(at=at(40))
    at(1200)
    for turn, end in ((turn_one, 1000), (turn_two, 1010)):
        turn.speech_ended(at=at(end))
    turn_one.committed(at=at(1300))
    turn_two.committed(at=at(1320))
    at.model_says(turn_two, request=1400, token=1500, sentence=1600)
    at.model_says(turn_one, request=1600, token=1700, sentence=1800)
    at.voice_says(turn_two, text=1800, audio=1850, sent=1860)
    at.voice_says(turn_one, text=1860, audio=1900, sent=1910, seconds=1)
    turns = {turn.session_id: turn for turn in at.finish(count=2)}
    assert (at.ms(turns["one"]["voice.response"].start_ns), at.ms(turns["one"]["voice.response"].end_ns)) == (
        1000,
        1910,
    )
    assert (at.ms(turns["two"]["voice.response"].start_ns), at.ms(turns["two"]["voice.response"].end_ns)) == (
        1010,
        1860,
    )
    assert [turn.root.attributes["voice.turn.index"] for turn in turns.values()] == [1, 1]
    assert links(turns["one"]) == links(turns["two"]) == []
