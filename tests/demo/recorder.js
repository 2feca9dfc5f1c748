// Served to the page by the test: says of each piece of sound where its first and last loud samples are.
registerProcessor("test-recorder", class extends AudioWorkletProcessor {
  process([[samples]]) {
    if (!samples) return true;
    const loud = (sample) => Math.abs(sample) >= 200 / 32768;
    const first = samples.findIndex(loud);
    this.port.postMessage([currentFrame, first, first < 0 ? -1 : samples.findLastIndex(loud), samples.length]);
    return true;
  }
});
