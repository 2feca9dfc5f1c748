// The microphone: frames of 20 ms, when they were taken, and when somebody begins and stops to speak.

const FRAME_MS = 20;
const KEPT_FRAMES = 1500; // half a minute: long enough for one that came at once, too short for a clock to drift away
const RECENT_FRAMES = 25; // one of these comes at once, too, however busy the machine is
const LOST_MS = 15; // when all of them are so late, samples were lost: the microphone or its thread stood still
const ONSET_FRAMES = 4; // of the last five are loud: somebody speaks
const END_FRAMES = 12;
const QUIET = 0.006; // root mean square, of 1; below it nothing is speech
const OVER_NOISE = 3;
const OVER_REPLY = 2; // while the agent is heard, what its echo leaves must not count

/** What to tell the user when there is no microphone to be had. */
export function reasonWhyNot(error) {
  switch (error.name) {
    case "NotAllowedError": return "The browser did not let this page use the microphone. Allow it beside the address, and start again.";
    case "NotFoundError": return "There is no microphone on this machine. Plug one in, and start again.";
    case "NotReadableError": return "Another program holds the microphone. Close it, and start again.";
    case "NoMediaError": return "Here the browser has no microphone for pages: open this one at 127.0.0.1, on the machine where the demo runs.";
    default: return `The microphone could not be opened: ${error.message || error.name}.`;
  }
}

export class Microphone {
  onframe = () => {};
  onspeech = () => {}; // at
  onsilence = () => {}; // at
  /** Whether the agent is heard now. */
  replying = () => false;
  level = 0;
  since = 0; // the sample from which on nothing was lost
  #arrivals = []; // when the microphone began, by the arrival of each of the last frames: as if nothing had been lost
  #before = 0; // the same of the samples before `since`
  #frames = 0;
  #noise = 0.002;
  #loud = [];
  #speaks = false;
  #latency = 0;
  #stream = null;
  #context = null;

  /** Ask for the microphone and begin. Throws what `reasonWhyNot` explains. */
  async open() {
    if (!navigator.mediaDevices) throw new DOMException("no media devices", "NoMediaError");
    const audio = { echoCancellation: true, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this.#stream = await navigator.mediaDevices.getUserMedia({ audio });
    const [track] = this.#stream.getAudioTracks();
    const { latency } = track.getSettings();
    this.#latency = latency > 0 && latency < 0.5 ? latency * 1000 : 0;
    track.addEventListener("ended", () => this.onlost());
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule("/sound.js");
    const low = () => new BiquadFilterNode(this.#context, { type: "lowpass", frequency: 7000, Q: 0.7 });
    const frames = new AudioWorkletNode(this.#context, "demo-microphone", { numberOfOutputs: 1 });
    frames.port.onmessage = ({ data }) => this.#take(data);
    const silent = new GainNode(this.#context, { gain: 0 });
    [this.#context.createMediaStreamSource(this.#stream), low(), low(), frames, silent, this.#context.destination]
      .reduce((from, to) => from.connect(to));
  }

  onlost = () => {};

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#context?.close();
  }

  /** How many samples were taken. */
  get samples() {
    return this.#frames * 320;
  }

  /** When the sample with this number was taken: no frame can arrive before it was, so the earliest arrival counts. */
  takenAt(sample) {
    return (sample < this.since ? this.#before : Math.min(...this.#arrivals)) + sample / 16 - this.#latency;
  }

  #take({ pcm, taken }) {
    // By the audio thread's clock, which no busy page delays; it has only Date.
    const arrival = Math.min(performance.now(), taken - Date.now() + performance.now());
    this.#frames += 1;
    this.#arrivals.push(arrival - this.#frames * FRAME_MS);
    if (this.#arrivals.length > KEPT_FRAMES) this.#arrivals.shift();
    this.#lost();
    this.#hear(new Int16Array(pcm));
    this.onframe(pcm);
  }

  #lost() {
    const recent = this.#arrivals.slice(-RECENT_FRAMES);
    const began = Math.min(...this.#arrivals);
    if (Math.min(...recent) - began <= LOST_MS) return;
    this.#before = began;
    this.#arrivals = recent;
    this.since = (this.#frames - recent.length) * 320;
  }

  #hear(samples) {
    let sum = 0;
    for (const sample of samples) sum += sample * sample;
    const level = (this.level = Math.sqrt(sum / samples.length) / 32768);
    const limit = Math.max(QUIET, this.#noise * OVER_NOISE) * (this.replying() && !this.#speaks ? OVER_REPLY : 1);
    const loud = level > limit;
    if (!loud) this.#noise += (level - this.#noise) * (level < this.#noise ? 0.3 : 0.02);
    this.#loud.push(loud);
    if (this.#loud.length > END_FRAMES) this.#loud.shift();
    const recent = this.#loud.slice(-5);
    if (!this.#speaks && recent.filter(Boolean).length >= ONSET_FRAMES) {
      this.#speaks = true;
      this.onspeech(this.takenAt((this.#frames - recent.length + recent.indexOf(true)) * 320));
    } else if (this.#speaks && this.#loud.length === END_FRAMES && !this.#loud.includes(true)) {
      this.#speaks = false;
      this.onsilence(this.takenAt((this.#frames - END_FRAMES) * 320));
    }
  }
}
