// In the audio threads: the microphone as 16 kHz frames of 20 ms, and the agent's frames as sound.
const RATE = 16_000;
const FRAME = 320;
const JITTER_FRAMES = 2; // so many wait before a speech begins, against the network's jitter
const FADE = 80; // samples; a cut does not click

registerProcessor("demo-microphone", class extends AudioWorkletProcessor {
  #step = sampleRate / RATE;
  #at = 0; // of the next sample, in samples of the context, from the last one of the block before
  #last = 0;
  #frame = new Int16Array(FRAME);
  #filled = 0;

  process([[samples]]) {
    if (!samples) return true;
    while (this.#at < samples.length) {
      const left = Math.floor(this.#at);
      const before = left === 0 ? this.#last : samples[left - 1];
      const value = before + (samples[left] - before) * (this.#at - left);
      this.#frame[this.#filled++] = Math.max(-1, Math.min(1, value)) * 32767;
      this.#at += this.#step;
      if (this.#filled === FRAME) {
        this.port.postMessage({ pcm: this.#frame.buffer, taken: Date.now() }, [this.#frame.buffer]);
        this.#frame = new Int16Array(FRAME);
        this.#filled = 0;
      }
    }
    this.#at -= samples.length;
    this.#last = samples[samples.length - 1];
    return true;
  }
});

// The context has 16 kHz. Says how many frames of the speech were played, whenever it falls silent.
registerProcessor("demo-speaker", class extends AudioWorkletProcessor {
  #frames = [];
  #at = 0; // in the first frame
  #played = 0;
  #plays = false;
  #whole = false; // no more frames come
  #fades = 0; // samples left of the last ones before a clear

  constructor() {
    super();
    this.port.onmessage = ({ data }) => this.#take(data);
  }

  #take(data) {
    if (data instanceof ArrayBuffer) {
      this.#frames.push(new Int16Array(data));
    } else if (data === "begin") {
      this.#forget();
      this.#played = 0;
      this.#whole = false;
    } else if (data === "whole") {
      this.#whole = true;
    } else if (data === "clear") {
      this.#whole = false;
      if (this.#plays && this.#frames.length > 0) this.#fades = FADE;
      else this.#silent("cleared");
    }
  }

  #forget() {
    this.#frames = [];
    this.#at = 0;
    this.#plays = false;
    this.#fades = 0;
  }

  #silent(why) {
    this.#forget();
    this.port.postMessage({ why, played: this.#played });
  }

  process(_, [[output]]) {
    this.#plays ||= this.#frames.length >= (this.#whole ? 1 : JITTER_FRAMES);
    for (let i = 0; i < output.length && this.#plays && this.#frames.length > 0; i++) {
      output[i] = this.#frames[0][this.#at++] / 32768;
      if (this.#fades > 0) output[i] *= this.#fades / FADE;
      if (this.#at >= this.#frames[0].length) {
        this.#frames.shift();
        this.#at = 0;
        this.#played += 1;
      }
      if (this.#fades > 0 && (--this.#fades === 0 || this.#frames.length === 0)) {
        this.#silent("cleared");
        return true;
      }
    }
    if (this.#frames.length === 0) {
      if (this.#whole) {
        this.#whole = false;
        this.#silent("played");
      }
      this.#plays = false;
    }
    return true;
  }
});
