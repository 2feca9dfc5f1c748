// Runs before the page: both ends of the call are recorded, whatever the page itself makes of them.
window.recorded = { said: [], heard: [] };
{
  // Of each piece of sound: where its first and last loud samples are.
  const PROCESSOR = `registerProcessor("test-recorder", class extends AudioWorkletProcessor {
    process([[samples]]) {
      if (!samples) return true;
      const loud = (sample) => Math.abs(sample) >= 200 / 32768;
      const first = samples.findIndex(loud);
      const last = first < 0 ? -1 : samples.findLastIndex(loud);
      this.port.postMessage([currentFrame, first, last, samples.length, Date.now()]);
      return true;
    }
  });`;
  const record = async (node, into, stamp) => {
    const { context } = node;
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([PROCESSOR], { type: "text/javascript" })));
    const recorder = new AudioWorkletNode(context, "test-recorder", { numberOfOutputs: 1 });
    const silent = new GainNode(context, { gain: 0 });
    connect.call(node, recorder);
    connect.call(recorder, silent);
    connect.call(silent, context.destination);
    recorder.port.onmessage = ({ data: [frame, first, last, length, taken] }) => {
      // By the audio thread: the page's own may be busy when the message comes.
      const arrived = taken - performance.timeOrigin - ((frame + length) / context.sampleRate) * 1000;
      const { contextTime, performanceTime } = context.getOutputTimestamp();
      const left = performanceTime - contextTime * 1000;
      into.push({ first: first < 0 ? null : (frame + first) / context.sampleRate * 1000,
        last: first < 0 ? null : (frame + last + 1) / context.sampleRate * 1000, arrived, left });
    };
  };
  const { connect } = AudioNode.prototype;
  AudioNode.prototype.connect = function (to, ...rest) {
    if (to instanceof AudioDestinationNode && this instanceof GainNode && this.context.sampleRate === 16000) record(this, recorded.heard);
    return connect.call(this, to, ...rest);
  };
  const { createMediaStreamSource } = AudioContext.prototype;
  AudioContext.prototype.createMediaStreamSource = function (stream) {
    const node = createMediaStreamSource.call(this, stream);
    recorded.latency = (stream.getAudioTracks()[0].getSettings().latency ?? 0) * 1000;
    record(node, recorded.said);
    return node;
  };
}
