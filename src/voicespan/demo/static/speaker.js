// The agent's voice in this page. It falls silent at once when told to, and says how much was played.

export class Speaker {
  /** Everything was played: (speech, frames). */
  onplayed = () => {};
  speech = 0;
  plays = false;
  #context = null;
  #voice = null;
  #silenced = false; // by this page: what still comes of this speech is not for anybody
  #cleared = null;

  /** Begin; `tracker` hears what leaves. */
  async open(tracker) {
    this.#context = new AudioContext({ sampleRate: 16_000, latencyHint: "interactive" });
    await this.#context.audioWorklet.addModule("/sound.js");
    this.#voice = new AudioWorkletNode(this.#context, "demo-speaker", { outputChannelCount: [1] });
    this.#voice.port.onmessage = ({ data: { why, played } }) => {
      this.plays = false;
      if (why === "played") this.onplayed(this.speech, played);
      else this.#cleared?.(played);
    };
    const out = new GainNode(this.#context);
    this.#voice.connect(out).connect(this.#context.destination);
    await tracker.watchAudio(out);
    await this.#context.resume();
  }

  close() {
    this.#context?.close();
  }

  begin(speech) {
    this.speech = speech;
    this.#silenced = false;
    this.#clearing = null;
    this.#voice.port.postMessage("begin");
  }

  take(frame) {
    if (this.#silenced) return;
    this.plays = true;
    this.#voice.port.postMessage(frame, [frame]);
  }

  whole() {
    if (!this.#silenced) this.#voice.port.postMessage("whole");
  }

  #clearing = null;

  /** Fall silent; the frames that were played, all of them. */
  clear() {
    this.#clearing ??= new Promise((done) => {
      this.#cleared = done;
      this.#voice.port.postMessage("clear");
    });
    return this.#clearing;
  }

  /** Fall silent before the agent knows of it. */
  silence() {
    this.#silenced = true;
    this.plays = false;
    this.clear();
  }

  /** The agent has stopped, too: what comes now is meant to be heard. */
  async stopped() {
    this.#silenced = false;
    const played = await this.clear();
    this.#clearing = null;
    return played;
  }
}
