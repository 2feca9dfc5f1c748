// One call: what this page and the agent say to each other (voicespan.demo.protocol), and what the tracker is told.

const ANCHOR_MS = 2000; // so often the agent is told when the microphone's samples were taken
const MOVED_MS = 10; // and at once when that has moved: samples were lost
const START_MS = 300; // the clocks are compared meanwhile
const ns = (ms) => Math.round(ms * 1e6);

export class Call {
  /** (name, message): speaks, quiet, silenced, turn, hearing, understood, saying, complete, closed. */
  on = () => {};
  #socket = null;
  #waiting = []; // the first frames, until the agent can place them
  #first = 0; // the sample with which this call begins
  #anchored = null; // what the agent was told last of when samples were taken
  #hungUp = false;

  constructor(tracker, microphone, speaker) {
    Object.assign(this, { tracker, microphone, speaker });
  }

  /** Call the agent. Throws when it takes no call. */
  async open({ again = 0 } = {}) {
    const token = await this.#token();
    const socket = (this.#socket = new WebSocket(`ws://${location.host}/call?token=${encodeURIComponent(token)}`));
    socket.binaryType = "arraybuffer";
    this.tracker.watch(socket, { realtime: true });
    this.tracker.watchClock(socket);
    socket.addEventListener("message", ({ data }) => this.#take(data));
    socket.addEventListener("error", () => this.tracker.trackError("websocket", { message: "the connection failed" }));
    await new Promise((done, fail) => {
      socket.addEventListener("open", done);
      socket.addEventListener("close", () => fail(new Error("the agent takes no call")));
    });
    socket.addEventListener("close", () => this.#close());
    this.microphone.onframe = (frame) => this.#send(frame);
    this.microphone.onspeech = (at) => this.#speaks(at);
    this.microphone.onsilence = (at) => {
      this.tracker.markSpeechEnd({ at });
      this.on("quiet", {});
    };
    this.speaker.onplayed = (speech, played) => this.#tell({ type: "stopped", speech, played });
    setTimeout(() => this.#start(again), START_MS);
  }

  hangUp() {
    if (this.#hungUp) return;
    this.#hungUp = true;
    this.#tell({ type: "hang_up", at: ns(performance.now()) });
    this.#socket.close();
  }

  async #token() {
    for (let attempt = 0; attempt < 3; attempt++) {
      const answer = await this.tracker.fetch("/token", { method: "POST" });
      if (answer.ok) return (await answer.json()).token;
      if (answer.status !== 429) break;
      await new Promise((done) => setTimeout(done, 1000));
    }
    throw new Error("the agent takes no call now");
  }

  get #open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #tell(message) {
    if (this.#open) this.#socket.send(JSON.stringify(message));
  }

  #start(again) {
    if (!this.#open) return;
    const first = this.microphone.samples - this.#waiting.length * 320; // taken before this call
    this.#tell({ type: "start", at: ns(this.microphone.takenAt(first)), again });
    this.#first = first;
    this.#anchor();
    const frames = this.#waiting;
    this.#waiting = null;
    frames.forEach((frame) => this.#send(frame));
  }

  /** From which sample on when was taken what. */
  #anchor() {
    const sample = Math.max(this.#first, this.microphone.since);
    const taken = this.microphone.takenAt(sample);
    this.#anchored = { told: performance.now(), sample, taken };
    this.#tell({ type: "microphone", sample: sample - this.#first, at: ns(taken) });
  }

  get #moved() {
    const { told, sample, taken } = this.#anchored;
    const lost = sample < this.microphone.since || Math.abs(this.microphone.takenAt(sample) - taken) > MOVED_MS;
    return lost || performance.now() - told > ANCHOR_MS;
  }

  #send(frame) {
    if (this.#waiting) {
      this.#waiting.push(frame);
    } else if (this.#open) {
      if (this.#moved) this.#anchor();
      this.tracker.trackAudioSend(frame.byteLength);
      this.#socket.send(frame);
    }
  }

  #speaks(at) {
    const detected = performance.now();
    if (this.speaker.plays) this.#bargeIn(detected);
    this.tracker.markSpeechStart({ at });
    this.on("speaks", {});
  }

  /** The user speaks over the reply: silence first, everything else afterwards. */
  #bargeIn(bargeInStart) {
    this.speaker.silence();
    this.tracker.trackBargeIn("playback_stop", bargeInStart);
    this.#tell({ type: "response.cancel", at: ns(bargeInStart) });
    this.tracker.trackBargeIn("server_cancel", bargeInStart);
    this.tracker.trackBargeIn("total", bargeInStart);
    this.on("silenced", {});
  }

  #take(data) {
    if (data instanceof ArrayBuffer) {
      this.tracker.trackFirstAudioDelta(String(this.speaker.speech));
      this.tracker.trackAudioReceived(data);
      this.speaker.take(data);
      return;
    }
    const message = JSON.parse(data);
    switch (message.type) {
      case "turn": return this.on("turn", message);
      case "conversation.item.input_audio_transcription.delta": return this.on("hearing", message);
      case "conversation.item.input_audio_transcription.completed": return this.on("understood", message);
      case "response.audio_transcript.delta": return this.on("saying", message);
      case "speech": return this.speaker.begin(message.speech);
      case "clear": return this.#clear(message.speech);
      case "response.done":
        this.speaker.whole();
        return this.on("complete", message);
      default: return undefined;
    }
  }

  async #clear(speech) {
    const played = await this.speaker.stopped();
    this.#tell({ type: "stopped", speech, played });
  }

  #close() {
    this.microphone.onframe = this.microphone.onspeech = this.microphone.onsilence = () => {};
    this.on("closed", { hungUp: this.#hungUp });
  }
}
