"""The tracker in Chromium, against a real service."""

from __future__ import annotations

import gzip
import json
import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import voicespan
from voicespan import names as n

from .service import Service, running, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

BROWSER = Path(__file__).parents[2] / "browser"
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
MS = 1_000_000

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}: apt-get install chromium")
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium that plays without a click."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def service() -> Iterator[Service]:
    """A service with the endpoint."""
    with running() as started:
        yield started


@pytest.fixture
def lines() -> list[str]:
    """What the page writes to its console."""
    return []


@pytest.fixture
def page(browser: Browser, service: Service, lines: list[str]) -> Iterator[Page]:
    """The page, once its clock is known."""
    opened = browser.new_page()
    opened.on("console", lambda message: lines.append(message.text))
    opened.add_init_script(NOTE)
    opened.goto(service.address)
    wait_for(lambda: any(any(len(clock.exchanges) > 1 for clock in each.report.clocks) for each in service.taken))
    yield opened
    opened.close()


NOTE = """window.began = performance.now();
const log = console.log;
console.log = (text) => { if (text.includes("Periodic")) window.logged ??= performance.now(); log(text); };"""


def begun(session: voicespan.Session) -> voicespan.Turn:
    """A committed utterance of half a second, its reply of two seconds on its way."""
    now = time.monotonic_ns()
    turn = session.user_turn(at=now - 700 * MS)
    turn.speech_ended(at=now - 200 * MS)
    turn.committed()
    return turn


ALL_MARKS = """async (traceparent) => {
  const tracker = window.perfTracker, pause = (ms) => new Promise((done) => setTimeout(done, ms));
  tracker.markSpeechStart();
  const sent = tracker.trackAudioSend(640);
  tracker.trackAudioSend(640);
  tracker.turn(traceparent);
  await pause(20);
  tracker.trackFirstTranscript();
  const partial = performance.now();
  await pause(5);
  tracker.trackFirstTranscript();
  tracker.markSpeechEnd();
  await pause(20);
  tracker.trackFinalTranscript();
  tracker.trackResponseCreated();
  await pause(10);
  let delta;
  for (const audio of ["AAAA", "AAAA", "AAA="]) {
    tracker.trackFirstAudioDelta("item-1");
    delta ??= performance.now();
    tracker.trackAudioReceived(audio.length);
    await pause(5);
  }
  tracker.trackAudioPlaybackStart();
  await pause(30);
  tracker.trackResponseComplete();
  const start = performance.now();
  await pause(10);
  tracker.trackBargeIn("playback_stop", start);
  tracker.trackBargeIn("server_cancel", start);
  tracker.trackBargeIn("total", start);
  tracker.trackError("websocket", { message: "gone" });
  tracker.trackError("websocket", { message: "gone again" });
  tracker.trackReconnection();
  tracker.quality.userIntents = { weather: 5, calendar: 3, general: 12 };
  return { sent, partial, delta, now: performance.now() };
}"""


@pytest.mark.covers(
    "A-T01", "A-T02", "A-T03", "A-T04", "A-T05", "A-T06", "A-T07", "A-T09", "A-T10", "A-T11", "A-T12", "A-T13",
    "A-U01", "A-U02", "A-U03", "A-U04", "A-E02", "A-M15", "A-M17", "A-M18", "A-M19", "F-TR23", "A-V02", "A-V07",
    "A-V08",
)  # fmt: skip
def test_every_mark_reaches_the_turn(page: Page, service: Service) -> None:
    """Each mark of the page's turn is an event of the server's turn, and its playback and barge-in are the client's."""
    with voicespan.session(transport="websocket") as session:
        turn = begun(session)
        turn.audio_sent(2.0)
        times = page.evaluate(ALL_MARKS, turn.traceparent)
        assert 0 < times["sent"] < times["now"]
        wait_for(lambda: "playback_end" in service.marks())
        wait_for(lambda: turn.record.barge_in and len(turn.record.barge_in.phases) == 2)
    finished = service.finished(turn.trace_id)
    root = finished.spans[0]
    marked = [event.attributes[n.VOICE_CLIENT_MARK] for event in root.events if event.name == n.EVENT_CLIENT_MARK]
    assert sorted(marked) == sorted(
        ["speech_start", "speech_end", "first_transcript", "final_transcript", "response_created", "first_audio_delta",
         "playback_start", "playback_end", "response_complete"]
    )  # fmt: skip
    response = next(span for span in finished.spans if span.name == n.SPAN_RESPONSE)
    assert response.attributes[n.VOICE_MEASUREMENT_POINT] == "client"
    assert 0 < float(response.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S]) < 0.5  # type: ignore[arg-type]
    phases = {span.attributes[n.VOICE_BARGE_IN_PHASE]: span for span in finished.spans if span.name == n.SPAN_BARGE_IN}
    assert {"playback_stop", "server_cancel"} <= phases.keys()
    assert 9 * MS < phases["playback_stop"].end_ns - phases["playback_stop"].start_ns < 1000 * MS
    durations = {name: value for each in service.taken for of in each.report.turns
                 for name, value in of.durations_ms.items()}  # fmt: skip
    marks = service.marks()
    assert marks["first_transcript"] <= times["partial"]
    assert marks["first_audio_delta"] <= times["delta"]
    assert durations["first_transcript"] == pytest.approx(marks["first_transcript"] - marks["speech_start"])
    for mark in ("final_transcript", "response_created", "first_audio_delta", "playback_start"):
        assert durations[mark] == pytest.approx(marks[mark] - marks["speech_end"])
    assert durations["response_complete"] == pytest.approx(marks["response_complete"] - marks["response_created"])


@pytest.mark.covers(
    "A-L01", "A-L02", "A-L03", "A-L04", "A-L05", "A-M09", "A-M10", "A-M12", "A-M13", "A-M16", "A-M20", "A-M21", "A-M22",
    "A-M23", "A-M24", "A-M25", "A-T08", "A-T14", "A-T15", "A-T16", "A-U07", "A-Q04", "A-V09", "A-V10", "A-V11",
    "A-V12", "A-S02",
)  # fmt: skip
def test_the_periodic_report(page: Page, service: Service, lines: list[str]) -> None:
    """Every ten seconds the counts and latencies are logged and sent, in the exact words."""
    with voicespan.session() as session:
        turn = begun(session)
        page.evaluate(ALL_MARKS, turn.traceparent)
        assert not any("Periodic" in line for line in lines)
        page.wait_for_function("() => window.logged", timeout=20_000)
    assert page.evaluate("() => window.logged - window.began") >= 9_990
    periodic = next(line for line in lines if line.startswith("[Metrics] Periodic Report: {"))
    written = json.loads(periodic.removeprefix("[Metrics] Periodic Report: "))
    assert "[Metrics] Speech started" in lines
    for words in ("ASR latency", "Time to First Token", "End-to-End Latency"):
        assert [line for line in lines if re.fullmatch(rf"\[Metrics\] {words}: \d+\.\d\dms", line)], words
    assert written["quality"] == {"userIntents": {"weather": 5, "calendar": 3, "general": 12}}
    assert {"asr", "ttft", "e2e", "playback_stop", "server_cancel", "total"} == written["latencies"].keys()
    taken = wait_for(lambda: next((each for each in service.taken if each.news.errors), None))
    assert taken.news.errors == {"websocket": 2}
    assert taken.news.reconnections == 1
    assert taken.news.intents == {"weather": 5, "calendar": 3, "general": 12}
    assert (taken.news.audio_sent_chunks, taken.news.audio_sent_bytes) == (2, 1280)
    assert (taken.news.audio_received_chunks, taken.news.audio_received_bytes) == (3, 9)
    assert taken.report.latencies["asr"].count == 1
    assert taken.report.stability
    assert taken.report.stability.longest_gap_ms > 0
    sent = json.dumps(taken.report.model_dump(mode="json"))
    assert len(sent) < 10_000
    assert "gone" not in sent


@pytest.mark.covers("A-T01", "A-T05")
def test_marks_wait_for_the_name_of_their_turn(page: Page, service: Service) -> None:
    """What was reported before the server has said whose turn it is stands in that turn afterwards, once."""
    with voicespan.session(transport="websocket") as session:
        turn = begun(session)
        turn.audio_sent(2.0)
        page.evaluate("""() => { const tracker = window.perfTracker;
          tracker.markSpeechStart(); tracker.trackFirstTranscript(); tracker.markSpeechEnd(); }""")
        wait_for(lambda: "speech_end" in service.marks())
        assert all(each.traceparent is None for taken in service.taken for each in taken.report.turns)
        page.evaluate("""(name) => { window.perfTracker.turn(name); window.perfTracker.trackFinalTranscript(); }""",
                      turn.traceparent)  # fmt: skip
        wait_for(lambda: "final_transcript" in service.marks())
        session.hung_up()
    marked = [event.attributes[n.VOICE_CLIENT_MARK] for event in service.finished(turn.trace_id).spans[0].events
              if event.name == n.EVENT_CLIENT_MARK]  # fmt: skip
    assert sorted(marked) == ["final_transcript", "first_transcript", "speech_end", "speech_start"]
    durations = [name for each in service.taken for of in each.report.turns for name in of.durations_ms]
    assert sorted(durations) == ["final_transcript", "first_transcript"]


@pytest.mark.covers("A-L06")
def test_nothing_is_logged_unless_wanted(page: Page, service: Service, lines: list[str]) -> None:
    """Without enableLogging the tracker writes no line."""
    page.evaluate("""() => { window.perfTracker.stop();
      const quiet = new PerformanceTracker({ sendToServer: false });
      quiet.markSpeechStart(); quiet.markSpeechEnd(); quiet.trackFinalTranscript();
      quiet.trackAudioPlaybackStart(); }""")
    assert [line for line in lines if line.startswith("[Metrics]")] == []


@pytest.mark.covers("A-U05", "A-U06")
def test_the_export_button(page: Page) -> None:
    """The button stands where the design puts it, and a click on it downloads what was measured."""
    page.evaluate("() => { window.perfTracker.markSpeechStart(); window.perfTracker.addExportButton(); }")
    button = page.locator("button#export-metrics")
    assert button.text_content() == "📊 Export Metrics"
    assert button.get_attribute("style") == "position: fixed; bottom: 10px; right: 10px;"
    with page.expect_download() as download:
        button.click()
    metrics = json.loads(Path(download.value.path()).read_text())
    assert metrics["turns"][0]["marks"].keys() == {"speech_start"}


FALSE_INTERRUPTION = """async ([traceparent, next]) => {
  const tracker = window.perfTracker, pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const noise = async () => {
    const start = performance.now();
    tracker.trackBargeIn("playback_stop", start);
    tracker.markSpeechStart();
    await pause(20);
    tracker.markSpeechEnd();
  };
  tracker.markSpeechStart(); tracker.markSpeechEnd(); tracker.turn(traceparent);
  tracker.trackFirstAudioDelta("reply"); tracker.trackAudioPlaybackStart();
  await pause(30);
  await noise();
  tracker.trackFirstAudioDelta("reply"); tracker.trackAudioPlaybackStart();
  await pause(30);
  const again = performance.now();
  await noise();
  tracker.turn(next); tracker.trackResponseCreated(); tracker.trackFirstAudioDelta("next");
  tracker.trackAudioPlaybackStart();
  return { again, turns: tracker.metrics().turns };
}"""


def test_a_reply_that_goes_on_is_the_same_turn(page: Page) -> None:
    """After a sound that was no utterance, the reply's sound is its own as before; the next utterance is a turn."""
    names = [f"00-{number:032x}-{number:016x}-01" for number in (1, 2)]
    seen = page.evaluate(FALSE_INTERRUPTION, names)
    first, second = seen["turns"]
    assert [first["traceparent"], second["traceparent"]] == names
    assert [each["start_ms"] >= seen["again"] for each in first["barge_in"]] == [False, True]
    assert first["marks"]["playback_end"] >= seen["again"]
    assert second["marks"]["speech_start"] >= seen["again"]
    assert second["marks"].keys() >= {"first_audio_delta", "playback_start"}


HEAR = """async ({ traceparent, delay, length }) => {
  const tracker = window.perfTracker;
  tracker.turn(traceparent, { initiator: "agent" });
  const context = new AudioContext(), out = context.createGain();
  await context.resume();
  const code = `registerProcessor("ear", class extends AudioWorkletProcessor {
    process([[samples]]) {
      if (samples) this.port.postMessage([currentTime, samples.findIndex((each) => Math.abs(each) > 0.01),
        samples.findLastIndex((each) => Math.abs(each) > 0.01)]);
      return true; } });`;
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  const ear = new AudioWorkletNode(context, "ear");
  let first, last, stamp;
  ear.port.onmessage = ({ data: [at, begin, end] }) => {
    if (begin < 0) return;
    first ??= at + begin / context.sampleRate;
    stamp ??= context.getOutputTimestamp();
    last = at + (end + 1) / context.sampleRate;
  };
  out.connect(ear); ear.connect(context.destination); out.connect(context.destination);
  await tracker.watchAudio(out);
  tracker.trackAudioPlaybackStart();  // the arrival of a message: not what is heard
  const tone = new OscillatorNode(context, { frequency: 440 });
  tone.connect(out);
  tone.start(context.currentTime + delay); tone.stop(context.currentTime + delay + length);
  await new Promise((done) => setTimeout(done, (delay + length + 1.2) * 1000));
  const end = context.getOutputTimestamp();
  const outside = (at, { contextTime, performanceTime }) =>
    performance.timeOrigin + performanceTime + (at - contextTime) * 1000;
  return { first: outside(first, end), last: outside(last, end), stalled: outside(first, end) - outside(first, stamp),
    origin: performance.timeOrigin, turns: tracker.metrics().turns };
}"""


@pytest.mark.alone
@pytest.mark.covers("A-M11", "A-M07")
def test_playback_is_when_sound_leaves(page: Page, service: Service) -> None:
    """What the turn says was heard agrees with a recording of the page's output within 20 ms, at the server's clock."""
    for _ in range(3):
        with voicespan.session(transport="websocket") as session:
            turn = session.agent_turn(trigger="greeting")
            turn.audio_sent(0.8)
            heard = page.evaluate(HEAR, {"traceparent": turn.traceparent, "delay": 0.4, "length": 0.6})
            wait_for(partial(getattr, turn.record.playback, "stopped_ns"))
        if abs(heard["stalled"]) < 5:
            break  # else the page's audio stood still in between, and its recording is no measure
    finished = service.finished(turn.trace_id)
    playback = next(span for span in finished.spans if span.name == n.SPAN_PLAYBACK)
    start = next(span for span in finished.spans if span.name == n.SPAN_PLAYBACK_START)
    marks = heard["turns"][-1]["marks"]
    assert heard["origin"] + marks["playback_start"] == pytest.approx(heard["first"], abs=20)
    assert heard["origin"] + marks["playback_end"] == pytest.approx(heard["last"], abs=20)
    bound_ms = 1000 * float(start.attributes[n.VOICE_CLOCK_OFFSET_ERROR_S])  # type: ignore[arg-type]
    assert start.end_ns / 1e6 == pytest.approx(heard["first"], abs=max(20, bound_ms))
    assert n.VOICE_PLAYBACK_ESTIMATED not in playback.attributes


UNDISTURBED = """async (watched) => {
  const context = new OfflineAudioContext(2, 48_000, 48_000), tone = context.createOscillator();
  const gain = context.createGain();
  gain.gain.setValueAtTime(0.3, 0);
  gain.gain.setValueAtTime(0, 0.4);  // a pause, then speech again
  gain.gain.setValueAtTime(0.7, 0.6);
  tone.connect(gain).connect(context.destination);
  tone.start();
  if (watched) await window.perfTracker.watchAudio(gain);
  const rendered = await context.startRendering();
  const samples = Float32Array.from([0, 1].flatMap((channel) => [...rendered.getChannelData(channel)]), (x) => x + 0);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", samples));  // of which 0 and -0 are the same
  return [Array.from(hash).join(), Math.max(...rendered.getChannelData(0)) > 0.6];
}"""
BUSY = """async () => {
  const tracker = window.perfTracker, requests = [];
  const { fetch: fetched, setTimeout: timed } = window, beacon = navigator.sendBeacon.bind(navigator);
  window.fetch = (...given) => { requests.push("fetch"); return fetched(...given); };
  navigator.sendBeacon = (...given) => { requests.push("beacon"); return beacon(...given); };
  for (let frame = 0; frame < 20_000; frame++) {
    tracker.trackAudioSend(640);
    tracker.trackFirstAudioDelta("item-1");
    tracker.trackAudioReceived(640);
  }
  const during = requests.length;
  await new Promise((done) => timed(done, 1_000));
  window.fetch = fetched;
  return [during, requests.length];
}"""


@pytest.mark.covers("A-O02", "F-PF07")
def test_the_audio_is_not_disturbed(page: Page) -> None:
    """What is heard is the same to the bit with the tracker listening, and the marks of 20,000 frames send nothing."""
    alone, watched = page.evaluate(UNDISTURBED, False), page.evaluate(UNDISTURBED, True)
    assert alone == watched
    assert alone[1] is True, "there is sound to compare"
    during, afterwards = page.evaluate(BUSY)
    assert during == 0
    assert afterwards <= 3


def test_media_element(page: Page, service: Service) -> None:
    """A media element says by its own position when it began to play."""
    began = page.evaluate("""async () => {
      const rate = 8000, count = rate / 2, bytes = new DataView(new ArrayBuffer(44 + count * 2));
      const text = (at, word) => [...word].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
      text(0, "RIFF"); bytes.setUint32(4, 36 + count * 2, true); text(8, "WAVEfmt "); bytes.setUint32(16, 16, true);
      bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true); bytes.setUint32(24, rate, true);
      bytes.setUint32(28, rate * 2, true); bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true);
      text(36, "data"); bytes.setUint32(40, count * 2, true);
      for (let i = 0; i < count; i++) bytes.setInt16(44 + i * 2, 8000 * Math.sin(i / 3), true);
      const audio = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/wav" })));
      await window.perfTracker.watchAudio(audio);
      const asked = performance.now();
      await audio.play();
      await new Promise((done) => audio.addEventListener("ended", done));
      await new Promise((done) => setTimeout(done, 50));
      return { asked, ended: performance.now(), marks: window.perfTracker.metrics().turns.at(-1).marks };
    }""")
    marks = began["marks"]
    assert began["asked"] <= marks["playback_start"] <= marks["playback_end"] <= began["ended"]
    assert marks["playback_end"] - marks["playback_start"] == pytest.approx(500, abs=250)


def test_traceparent_on_fetch_and_sockets(page: Page, service: Service) -> None:
    """The turn that the server names on the socket is on the next fetch and on the next message."""
    with voicespan.session() as session:
        turn = begun(session)
        page.evaluate(
            """async (echo) => {
          const socket = window.perfTracker.watch(new WebSocket(location.origin.replace("http", "ws") + "/talk"));
          await new Promise((done) => socket.addEventListener("open", done));
          window.perfTracker.markSpeechStart();
          const told = new Promise((done) => socket.addEventListener("message", done));
          window.perfTracker.send(socket, { echo });
          await told;
          window.perfTracker.send(socket, { type: "cancel" });
          await window.perfTracker.fetch("/work", { headers: { "x-own": "kept" } });
        }""",
            {"type": "turn", "traceparent": turn.traceparent},
        )
        wait_for(lambda: len(service.messages) == 2)
    assert "traceparent" not in service.messages[0]
    assert service.messages[1] == {"type": "cancel", "traceparent": turn.traceparent}
    assert service.headers == [turn.traceparent]


REALTIME = """async (name) => {
  const tracker = window.perfTracker;
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/talk");
  tracker.watch(socket, { realtime: true });
  await new Promise((done) => socket.addEventListener("open", done));
  const told = async (message) => {
    const came = new Promise((done) => socket.addEventListener("message", done, { once: true }));
    socket.send(JSON.stringify({ echo: message }));
    await came;
  };
  tracker.markSpeechStart();
  await told({ type: "conversation.item.input_audio_transcription.delta", delta: "what", traceparent: name });
  tracker.markSpeechEnd();
  await told({ type: "conversation.item.input_audio_transcription.completed", transcript: "what" });
  await told({ type: "response.created" });
  await told({ type: "response.audio.delta", item_id: "one", delta: "AAAA" });
  const heard = performance.now();
  await told({ type: "response.audio.delta", item_id: "one", delta: "AAA=" });
  await told({ type: "response.done" });
  await told({ type: "another" });
  const { turns, counters } = tracker.metrics();
  return { turns, counters, heard };
}"""


@pytest.mark.covers("A-E04", "A-V09", "A-V10")
def test_messages_of_the_realtime_protocol(page: Page) -> None:
    """The tracker reacts to these exact types by itself: transcripts, the response, its audio and its end."""
    seen = page.evaluate(REALTIME, f"00-{5:032x}-{5:016x}-01")
    (turn,) = seen["turns"]
    assert turn["marks"].keys() == {
        "speech_start", "first_transcript", "speech_end", "final_transcript", "response_created", "first_audio_delta",
        "response_complete",
    }  # fmt: skip
    assert turn["marks"]["first_audio_delta"] <= seen["heard"]
    assert turn["traceparent"] == f"00-{5:032x}-{5:016x}-01"
    assert (seen["counters"]["audio_received_chunks"], seen["counters"]["audio_received_bytes"]) == (2, 5)


@pytest.mark.covers("A-Q03")
@pytest.mark.parametrize("first", ["trackResponseCreated", "trackFirstAudioDelta"])
def test_first_output_is_what_comes_first(page: Page, first: str) -> None:
    """The time to the first token ends with the response or its audio, whichever is first."""
    seen = page.evaluate(
        """async (first) => {
          const tracker = window.perfTracker, pause = (ms) => new Promise((done) => setTimeout(done, ms));
          const both = ["trackResponseCreated", "trackFirstAudioDelta"];
          tracker.markSpeechStart(); tracker.markSpeechEnd();
          await pause(10);
          tracker.trackFinalTranscript();
          for (const name of [first, both.find((each) => each !== first)]) { await pause(20); tracker[name](); }
          const { latencies, turns } = tracker.metrics();
          return { latencies, marks: turns[0].marks }; }""",
        first,
    )
    marks = seen["marks"]
    earliest = min(marks["response_created"], marks["first_audio_delta"])
    assert seen["latencies"]["ttft"]["max_ms"] == pytest.approx(earliest - marks["speech_end"])
    assert seen["latencies"]["asr"]["max_ms"] == pytest.approx(marks["final_transcript"] - marks["speech_end"])


def test_machines_are_remembered_in_number(page: Page, service: Service) -> None:
    """However many machines answer, a report has the exchanges of four of them at most, and is taken."""
    answers = iter(range(100))
    page.route(
        "**/api/metrics",
        lambda route: route.fulfill(status=204, headers={"Voicespan-Clock": f"machine{next(answers)} 5 6"}),
    )
    page.evaluate("""async () => { for (let i = 0; i < 6; i++) {
      const tracker = window.perfTracker;
      tracker.markSpeechStart(); tracker.markSpeechEnd(); tracker.trackFinalTranscript();
      await new Promise((done) => setTimeout(done, 350)); } }""")
    page.unroute("**/api/metrics")
    before = len(service.taken)
    page.evaluate("() => window.perfTracker.stop()")
    while len(service.taken) <= before:
        page.wait_for_timeout(20)
    assert 2 < len(service.taken[-1].report.clocks) <= 4


def test_data_channel_and_its_statistics(page: Page, service: Service) -> None:
    """On a data channel the traceparent goes both ways, and the connection's statistics come with the reports."""
    with voicespan.session(transport="webrtc") as session:
        turn = begun(session)
        turn.audio_sent(30.0)
        said = page.evaluate(
            """async (traceparent) => {
          const here = new RTCPeerConnection(), there = new RTCPeerConnection(), tracker = window.perfTracker;
          here.onicecandidate = ({ candidate }) => there.addIceCandidate(candidate);
          there.onicecandidate = ({ candidate }) => here.addIceCandidate(candidate);
          const context = new AudioContext(), sound = context.createMediaStreamDestination();
          new OscillatorNode(context).connect(sound);
          there.addTrack(sound.stream.getTracks()[0]);
          const far = there.createDataChannel("events");
          const near = new Promise((done) => { here.ondatachannel = ({ channel }) => done(channel); });
          await there.setLocalDescription(); await here.setRemoteDescription(there.localDescription);
          await here.setLocalDescription(); await there.setRemoteDescription(here.localDescription);
          const channel = tracker.watch(await near);
          if (far.readyState !== "open") await new Promise((done) => { far.onopen = done; });
          tracker.markSpeechStart();
          const told = new Promise((done) => channel.addEventListener("message", done));
          far.send(JSON.stringify({ traceparent }));
          await told;
          const heard = new Promise((done) => { far.onmessage = ({ data }) => done(JSON.parse(data)); });
          tracker.send(channel, { type: "cancel" });
          tracker.watchConnection(here);
          await new Promise((done) => setTimeout(done, 1500));
          tracker.trackAudioPlaybackStart();
          return await heard;
        }""",
            turn.traceparent,
        )
        assert said == {"type": "cancel", "traceparent": turn.traceparent}
        wait_for(lambda: turn.record.playback.network)
        session.hung_up()
    playback = next(span for span in service.finished(turn.trace_id).spans if span.name == n.SPAN_PLAYBACK)
    assert playback.attributes[n.VOICE_AUDIO_LOSS] == 0
    assert 0 <= float(playback.attributes[n.VOICE_AUDIO_JITTER_S]) < 1  # type: ignore[arg-type]
    assert n.VOICE_AUDIO_DELAY_S in playback.attributes
    assert 1 < float(playback.attributes[n.VOICE_AUDIO_MOS]) < 4.5  # type: ignore[arg-type]


def test_offline_for_ten_seconds(page: Page, service: Service) -> None:
    """What is measured while the network is gone for ten seconds arrives afterwards, once, in its turn."""
    with voicespan.session(transport="websocket") as session:
        turn = begun(session)
        turn.audio_sent(20.0)
        page.evaluate("(name) => { window.perfTracker.markSpeechStart(); window.perfTracker.turn(name); }",
                      turn.traceparent)  # fmt: skip
        wait_for(lambda: "speech_start" in service.marks())
        page.context.set_offline(True)
        page.evaluate("""async () => {
          const tracker = window.perfTracker;
          for (const mark of ["trackFirstTranscript", "markSpeechEnd", "trackFinalTranscript", "trackResponseCreated",
            "trackFirstAudioDelta", "trackAudioPlaybackStart", "trackError", "trackReconnection"]) {
            tracker[mark](...(mark === "trackError" ? ["websocket"] : []));
            await new Promise((done) => setTimeout(done, 1250)); } }""")
        before = set(service.marks())
        page.context.set_offline(False)
        wait_for(lambda: "playback_start" in service.marks())
        page.evaluate("() => window.perfTracker.stop()")
        wait_for(lambda: sum(each.news.reconnections for each in service.taken) == 1)
        session.hung_up()
    assert before == {"speech_start"}
    finished = service.finished(turn.trace_id)
    marked = [event.attributes[n.VOICE_CLIENT_MARK] for event in finished.spans[0].events
              if event.name == n.EVENT_CLIENT_MARK]  # fmt: skip
    assert sorted(marked) == sorted({*service.marks()})
    assert len(marked) == 7
    assert sum(sum(each.news.errors.values()) for each in service.taken) == 1


def reconnections(service: Service) -> int:
    return sum(each.news.reconnections for each in service.taken)


def test_lost_answers_count_once(page: Page, service: Service) -> None:
    """A report whose answer is lost is sent again with its number, and taken once."""
    lost: list[str] = []

    def swallow(route: Any) -> None:
        if lost:
            route.continue_()
            return
        route.fetch()
        lost.append(route.request.post_data)
        route.abort()

    page.route("**/api/metrics", swallow)
    page.evaluate("() => { const t = window.perfTracker; t.trackReconnection(); t.markSpeechStart(); }")
    while not lost:
        page.wait_for_timeout(20)
    number = json.loads(lost[0])["number"]
    page.wait_for_timeout(1500)  # it is sent again
    page.evaluate("() => window.perfTracker.stop()")
    # The counts come with the first report after the lost one that has them, which need not be the next one.
    while max(each.report.number for each in service.taken) <= number or not reconnections(service):
        page.wait_for_timeout(20)
    page.wait_for_timeout(200)
    numbers = [each.report.number for each in service.taken]
    assert len(numbers) == len(set(numbers))
    assert reconnections(service) == 1


def test_leaving_the_page(page: Page, service: Service) -> None:
    """What was not sent when the page goes is sent by a beacon."""
    page.evaluate("() => { window.perfTracker.trackError('socket'); window.perfTracker.markSpeechStart(); }")
    page.goto("about:blank")
    wait_for(lambda: any(each.news.errors == {"socket": 1} for each in service.taken))
    assert "speech_start" in service.marks()


def test_module_and_size(page: Page, service: Service) -> None:
    """The ES module exports the same class, and the script is under 10 kB compressed."""
    assert page.evaluate("""async () => {
      const module = await import("/api/performance-tracker.mjs");
      return [module.PerformanceTracker, module.default].every((each) => each === window.PerformanceTracker); }""")
    assert len(gzip.compress((BROWSER / "performance-tracker.js").read_bytes())) < 10_000


def test_types_name_what_there_is(page: Page) -> None:
    """Every method of the type declarations exists, and every public method is declared."""
    text = (BROWSER / "performance-tracker.d.ts").read_text()
    members = text.split("export declare class")[1].split("\n}")[0]
    declared = set(re.findall(r"^  (?:readonly )?(\w+)(?:<[^>]*>)?[(:?]", members, re.MULTILINE))
    there = set(
        page.evaluate("""() => [...Object.getOwnPropertyNames(PerformanceTracker.prototype),
      ...Object.getOwnPropertyNames(window.perfTracker)]""")
    )
    assert there - {"constructor"} == declared - {"constructor", "silence"}
