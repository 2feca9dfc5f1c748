// The stages of a turn: their order, and what their latency is called. Their colours stand in style.css.

/** Parts of the heard silence, in causal order. */
export const SHARES = ["endpoint", "asr", "llm", "tool", "sentence", "tts", "send", "network", "realtime", "unattributed"];

/** What can be plotted, sorted and filtered by: the API's name, and the words for it. */
export const LATENCIES = {
  response: "heard silence",
  answer: "time to the answer",
  endpoint: "endpoint",
  asr: "asr: final transcript",
  llm: "llm: first token",
  sentence: "llm: first sentence",
  tool: "tool",
  tts: "tts: first audio",
  realtime: "realtime: first audio",
  send: "send: ready, not sent",
  network: "network: heard after sent",
  unattributed: "unattributed",
  silenced: "silenced within",
};

/** The field of a turn in the API that holds this latency. */
const FIELD = {
  response: "response_s",
  answer: "answer_s",
  endpoint: "endpoint_s",
  asr: "asr_s",
  llm: "llm_ttft_s",
  sentence: "sentence_s",
  tool: "tool_s",
  tts: "tts_first_audio_s",
  realtime: "realtime_first_audio_s",
  network: "playback_start_s",
  silenced: "silenced_s",
  duration: "duration_s",
};

/** How long this took in a turn, in seconds, by its share of the silence where it has no span of its own; null where
 * there was none of it. */
export const sortedBy = (turn, stage) => (FIELD[stage] ? turn[FIELD[stage]] : turn.shares[stage]) ?? null;

export const MEANINGS = {
  endpoint: "The user was silent already; the detector waited to be sure.",
  asr: "The final transcript was not there yet.",
  llm: "The language model was thinking: request to first token.",
  tool: "A tool was called.",
  sentence: "The model wrote on until there was enough to speak.",
  tts: "The synthesizer had text but no audio yet.",
  send: "Audio was there and had not left the server.",
  network: "Audio was under way, or in the client's buffer.",
  realtime: "The speech-to-speech model had not answered yet.",
  unattributed: "No stage explains this part.",
};
