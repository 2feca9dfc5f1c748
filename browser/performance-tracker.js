/*
 * Measures a voice conversation where the user hears it, and reports it to the service.
 *
 * A plain script (it makes `PerformanceTracker` global); the ES module beside it exports the same. It is also the
 * module of its own AudioWorklet. Times are milliseconds of performance.now().
 */
(() => {
  "use strict";

  // In the audio thread: when is there sound?
  if (typeof registerProcessor === "function") {
    registerProcessor("voicespan-sound", class extends AudioWorkletProcessor {
      constructor({ processorOptions }) {
        super();
        this.floor = processorOptions.floor;
        this.silence = processorOptions.silence * sampleRate;
        this.sounds = false;
        this.last = 0;
        this.hurries = false; // it is being stopped: the next short silence is the end
        this.port.onmessage = () => { this.hurries = this.sounds; };
      }

      process([channels]) {
        for (const samples of channels) {
          for (let i = 0; i < samples.length; i++) {
            if (samples[i] <= this.floor && samples[i] >= -this.floor) continue;
            if (!this.sounds) {
              this.sounds = true;
              this.port.postMessage({ sounds: true, at: (currentFrame + i) / sampleRate });
            }
            this.last = Math.max(this.last, currentFrame + i + 1);
          }
        }
        if (this.sounds && currentFrame - this.last >= (this.hurries ? 0.1 * sampleRate : this.silence)) {
          this.sounds = this.hurries = false;
          this.port.postMessage({ sounds: false, at: this.last / sampleRate });
        }
        return true;
      }
    });
    return;
  }

  const TRACEPARENT = /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;
  const MAX_TURNS = 50; // remembered; so many wait while the page is offline
  const TURNS_PER_REPORT = 15; // keeps a report below 10 kB
  const MAX_AGE_MS = 14 * 60_000; // older marks are not taken
  const MAX_SAMPLES = 500;
  const SOON_MS = 200; // what belongs together is sent together
  const GREETINGS = 4; // reports at the start, for the clock
  const SILENCE_S = 0.8; // speech pauses for less
  const CLOCK = "voicespan.clock";
  const CLOCK_EVERY_MS = 10_000;
  const WORD = /^[A-Za-z0-9_.-]{1,40}$/;

  const now = () => performance.now();
  const word = (text) => (WORD.test(text) ? text : "other");

  /** When what a context renders at `at` (seconds of its clock) leaves the loudspeaker. */
  function heardAt(context, at) {
    const stamp = context.getOutputTimestamp?.();
    if (stamp?.contextTime > 0 && stamp.performanceTime > 0) {
      return stamp.performanceTime + (at - stamp.contextTime) * 1000;
    }
    return now() + (at - context.currentTime + (context.outputLatency || context.baseLatency || 0)) * 1000;
  }

  class Turn {
    constructor(number, traceparent = null) {
      Object.assign(this, { number, traceparent, marks: {}, durations: {}, bargeIns: [], items: new Set() });
      this.unsent = { marks: {}, durations: {}, bargeIns: [] };
    }

    /** What was said of it before its name was known is said again: only now it can join the server's turn. */
    named(traceparent) {
      this.traceparent = traceparent;
      Object.assign(this.unsent, { marks: { ...this.marks }, bargeIns: [...this.bargeIns] });
    }

    get playing() {
      return this.marks.playback_start !== undefined && this.marks.playback_end === undefined;
    }

    get over() {
      return this.marks.playback_end !== undefined;
    }

    get waits() {
      return Object.keys(this.unsent.marks).length > 0 || this.unsent.bargeIns.length > 0;
    }
  }

  class PerformanceTracker {
    /** Address of this script: the AudioWorklet loads it. */
    static url = typeof document === "object" ? document.currentScript?.src : undefined;

    #options;
    #client;
    #number = 0;
    #unanswered = null; // the report that is on its way, or will be sent again
    #sending = false;
    #failures = 0;
    #timer = null;
    #turns = [];
    #count = 0;
    #user = null; // the turn in which the user speaks, or spoke last
    #reply = null; // the turn that is answered
    #samples = {};
    #clocks = new Map(); // name of a server's clock: exchanges with it
    #dropped = 0;
    #taps = [];
    #connection = null;
    #packets = null;
    #arrival = null;
    #stability = null;
    #counted;
    #errors = {};
    #lastError = null;
    #refused = null;
    #interval;

    constructor(options = {}) {
      this.#options = {
        enableLogging: false, sendToServer: true, serverEndpoint: "/api/metrics", aggregationInterval: 10000,
        token: null, ...options,
      };
      this.#client = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"))
        .join("");
      this.#counted = {
        audio_sent_chunks: 0, audio_sent_bytes: 0, audio_received_chunks: 0, audio_received_bytes: 0, reconnections: 0,
      };
      this.quality = { userIntents: {} };
      this.#interval = setInterval(() => this.#periodic(), this.#options.aggregationInterval);
      addEventListener("pagehide", () => this.#leave());
      addEventListener("visibilitychange", () => document.visibilityState === "hidden" && this.#soon(0));
      addEventListener("online", () => { this.#failures = 0; this.#soon(0); });
      this.#soon(0, true);
    }

    // The user

    /** `at`: when the page's detector is sure only afterwards. */
    markSpeechStart({ at = now() } = {}) {
      const turn = this.#user;
      if (turn && turn.marks.response_created === undefined && !turn.over && !turn.marks.first_audio_delta
        && !turn.playing) {
        if (turn.marks.speech_start !== undefined && turn.marks.speech_end === undefined) return; // said twice
        if (turn.marks.speech_start !== undefined && !turn.marks.final_transcript) {
          delete turn.marks.speech_end; // it goes on: the same turn
          delete turn.unsent.marks.speech_end;
          this.#log("Speech started");
          return;
        }
      }
      if (this.#reply?.marks.response_complete !== undefined && !this.#reply.playing) this.#reply = null;
      this.#user = this.#begin();
      this.#mark(this.#user, "speech_start", at);
      this.#log("Speech started");
    }

    markSpeechEnd({ at = now() } = {}) {
      if (this.#user) this.#mark(this.#user, "speech_end", at);
    }

    trackAudioSend(bytes) {
      this.#counted.audio_sent_chunks += 1;
      this.#counted.audio_sent_bytes += bytes;
      return now();
    }

    trackFirstTranscript() {
      if (this.#user) this.#mark(this.#user, "first_transcript", now(), "speech_start");
    }

    trackFinalTranscript() {
      const turn = this.#user;
      if (turn) this.#say("ASR latency", "asr", this.#mark(turn, "final_transcript", now(), "speech_end"));
    }

    // The reply

    trackResponseCreated() {
      const named = this.#reply?.agent && this.#reply.marks.response_created === undefined;
      if (this.#user && this.#user.marks.response_created === undefined && !this.#user.over && !named) {
        this.#reply = this.#user;
      }
      const turn = this.#answered();
      this.#output(turn, this.#mark(turn, "response_created", now(), "speech_end"));
    }

    trackFirstAudioDelta(item = "") {
      if (item && this.#turns.some((each) => each.items.has(item))) return;
      const turn = this.#answered();
      if (turn.items.has(item) || turn.items.size >= 64) return;
      turn.items.add(item);
      this.#output(turn, this.#mark(turn, "first_audio_delta", now(), "speech_end"));
    }

    /** `audio`: length of base64 text, that text, or the bytes themselves. */
    trackAudioReceived(audio) {
      const at = now();
      this.#counted.audio_received_chunks += 1;
      this.#counted.audio_received_bytes += typeof audio === "number" ? Math.floor((audio * 3) / 4)
        : typeof audio === "string" ? Math.floor((audio.replace(/=+$/, "").length * 3) / 4) : audio.byteLength;
      const { at: before, gap: gapBefore } = this.#arrival ?? {};
      const gap = before === undefined ? undefined : at - before;
      this.#arrival = { at, gap };
      if (gap === undefined) return;
      this.#stability ??= { jitter_ms: 0, longest_gap_ms: 0 };
      this.#stability.longest_gap_ms = Math.max(this.#stability.longest_gap_ms, gap);
      if (gapBefore !== undefined) {
        this.#stability.jitter_ms += (Math.abs(gap - gapBefore) - this.#stability.jitter_ms) / 16;
      }
    }

    /** Without `watchAudio` this is when sound begins: say it when it does, or say `at`. */
    trackAudioPlaybackStart({ at = now() } = {}) {
      if (this.#taps.length === 0) this.#heard(at);
    }

    trackAudioPlaybackEnd({ at = now() } = {}) {
      if (this.#taps.length === 0) this.#silent(at);
    }

    trackResponseComplete() {
      const turn = this.#reply ?? this.#user;
      if (turn) this.#mark(turn, "response_complete", now(), "response_created");
      this.#arrival = null; // the pause until the next reply is no gap
    }

    trackBargeIn(phase, start) {
      if (!["playback_stop", "server_cancel", "total"].includes(phase)) return;
      const end = now();
      const turn = this.#turns.findLast((each) => each.playing) ?? this.#turns.findLast((each) => each.bargeIns.length)
        ?? this.#reply;
      this.#sample(phase, end - start);
      if (!turn || turn.bargeIns.length >= 16) return;
      const bargeIn = { phase, start_ms: start, end_ms: end };
      turn.bargeIns.push(bargeIn);
      turn.unsent.bargeIns.push(bargeIn);
      if (phase === "playback_stop") {
        if (this.#taps.length === 0) this.#silent(end);
        for (const tap of this.#taps) tap.hurry();
      }
      this.#soon();
    }

    // What goes wrong

    trackError(type, detail = {}) {
      const kind = word(type);
      if (kind in this.#errors || Object.keys(this.#errors).length < 20) this.#errors[kind] = (this.#errors[kind] ?? 0) + 1;
      this.#lastError = { type: kind, detail, at: now() };
    }

    trackReconnection() {
      this.#counted.reconnections += 1;
    }

    // Whose turn it is

    /** W3C traceparent of the turn, or null where the server has not said it. */
    get traceparent() {
      const named = [this.#user, this.#reply].filter((each) => each?.traceparent);
      return named.sort((a, b) => b.number - a.number)[0]?.traceparent ?? null;
    }

    /** The server's name for what the user says now, or, with `initiator: "agent"`, for what the agent says next. */
    turn(traceparent, { initiator = "user" } = {}) {
      if (!TRACEPARENT.test(traceparent)) return;
      const known = this.#turns.findLast((each) => each.traceparent === traceparent);
      if (known) {
        this.#reply = known;
      } else if (initiator !== "agent" && this.#user && !this.#user.traceparent) {
        this.#user.named(traceparent);
        if (!this.#reply?.playing) this.#reply = this.#user;
        this.#soon();
      } else {
        this.#reply = this.#begin(traceparent);
        this.#reply.agent = initiator === "agent";
      }
    }

    /**
     * Take the traceparent from every JSON message of a WebSocket or data channel; with `realtime` also mark what the
     * messages of the realtime protocol say (transcripts, responses, audio): then call nothing of this yourself.
     */
    watch(channel, { realtime = false } = {}) {
      channel.addEventListener("message", ({ data }) => {
        if (typeof data !== "string" || !(realtime || data.includes('"traceparent"'))) return;
        let message;
        try {
          message = JSON.parse(data);
        } catch {
          return; // not ours
        }
        if (typeof message?.traceparent === "string") this.turn(message.traceparent, message);
        if (realtime) this.#realtime(message ?? {});
      });
      return channel;
    }

    #realtime({ type, item_id: item, delta }) {
      switch (type) {
        case "conversation.item.input_audio_transcription.delta": return this.trackFirstTranscript();
        case "conversation.item.input_audio_transcription.completed": return this.trackFinalTranscript();
        case "response.created": return this.trackResponseCreated();
        case "response.audio.delta":
        case "response.output_audio.delta":
          this.trackFirstAudioDelta(item);
          return typeof delta === "string" ? this.trackAudioReceived(delta) : undefined;
        case "response.done": return this.trackResponseComplete();
        default: return undefined;
      }
    }

    /** Exchange time stamps over a WebSocket or data channel whose service answers them (`session.clock_exchange`). */
    watchClock(channel) {
      let last = null;
      let count = 0;
      const ask = () => {
        if (channel.readyState > 1 || channel.readyState === "closed") return;
        channel.send(JSON.stringify({ type: CLOCK, sent: now(), ...(last && { last }) }));
        count += 1;
        setTimeout(ask, count <= GREETINGS ? SOON_MS / 4 : CLOCK_EVERY_MS);
      };
      channel.addEventListener("message", ({ data }) => {
        const back = now();
        if (typeof data !== "string" || !data.includes(CLOCK)) return;
        try {
          const { type, sent, server, received, answered } = JSON.parse(data);
          if (type === CLOCK) this.#exchanged(server, (last = [sent, received, answered, back]));
        } catch { /* not ours */ }
      });
      if (channel.readyState === 1 || channel.readyState === "open") ask();
      else channel.addEventListener("open", ask);
      return channel;
    }

    /** Note an exchange of four time stamps with this clock; of the last ones the best is believed. */
    #exchanged(server, stamps) {
      if (!WORD.test(server) || !stamps.every(Number.isFinite)) return;
      const exchanges = this.#clocks.get(server) ?? [];
      exchanges.push(stamps);
      if (exchanges.length > 16) exchanges.shift();
      this.#clocks.delete(server); // the one that was heard last stands last
      this.#clocks.set(server, exchanges);
      if (this.#clocks.size > 4) this.#clocks.delete(this.#clocks.keys().next().value);
    }

    /** Send an object as JSON, with the traceparent of the turn. */
    send(channel, message) {
      const { traceparent } = this;
      channel.send(JSON.stringify(traceparent ? { ...message, traceparent } : message));
    }

    /** `fetch` with the traceparent of the turn. */
    fetch(input, init = {}) {
      const headers = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
      if (this.traceparent) headers.set("traceparent", this.traceparent);
      return fetch(input, { ...init, headers });
    }

    // Where sound leaves

    /**
     * Listen to the last node before the destination, a MediaStream, or a media element; from then on playback is
     * what is heard there. Rejects where the browser can't.
     */
    async watchAudio(source, { floor = 0.001, silence = SILENCE_S } = {}) {
      if (source instanceof HTMLMediaElement && !(source.srcObject instanceof MediaStream)) {
        this.#watchElement(source);
        return;
      }
      const stream = source instanceof HTMLMediaElement ? source.srcObject : source;
      const context = stream instanceof MediaStream ? new AudioContext() : source.context;
      const node = stream instanceof MediaStream ? context.createMediaStreamSource(stream) : source;
      await context.audioWorklet.addModule(PerformanceTracker.url);
      const worklet = new AudioWorkletNode(context, "voicespan-sound", { processorOptions: { floor, silence } });
      worklet.port.onmessage = ({ data }) => {
        const at = heardAt(context, data.at);
        if (data.sounds) this.#heard(at);
        else this.#silent(at);
      };
      node.connect(worklet).connect(context.destination); // it adds silence; unconnected it would not run
      this.#taps.push({ hurry: () => worklet.port.postMessage("hurry") });
    }

    #watchElement(element) {
      const begins = () => {
        const from = element.currentTime;
        const look = () => {
          if (element.paused || element.ended) return;
          if (element.currentTime > from) {
            this.#heard(now() - ((element.currentTime - from) * 1000) / element.playbackRate);
          } else {
            setTimeout(look, 5);
          }
        };
        look();
      };
      element.addEventListener("playing", begins);
      for (const end of ["pause", "ended", "emptied"]) element.addEventListener(end, () => this.#silent(now()));
      if (!element.paused && element.readyState > 2) begins();
      this.#taps.push({ hurry() {} });
    }

    /** Take jitter, loss and round trip of this RTCPeerConnection into the reports. */
    watchConnection(connection) {
      this.#connection = connection;
    }

    async #network() {
      if (!this.#connection) return null;
      let received = 0;
      let lost = 0;
      const found = { jitter_ms: null, loss: null, round_trip_ms: null };
      for (const each of (await this.#connection.getStats()).values()) {
        if (each.type === "inbound-rtp" && each.kind === "audio") {
          received += each.packetsReceived;
          lost += each.packetsLost;
          found.jitter_ms = Math.max(found.jitter_ms ?? 0, each.jitter * 1000);
        } else if (each.type === "candidate-pair" && each.nominated && each.currentRoundTripTime !== undefined) {
          found.round_trip_ms = each.currentRoundTripTime * 1000;
        }
      }
      const before = this.#packets ?? { received: 0, lost: 0 };
      const all = received - before.received + lost - before.lost;
      this.#packets = { received, lost };
      if (all > 0) found.loss = Math.min(1, Math.max(0, (lost - before.lost) / all));
      return found;
    }

    // Marks

    #begin(traceparent = null) {
      const turn = new Turn((this.#count += 1), traceparent);
      this.#turns.push(turn);
      if (this.#turns.length > MAX_TURNS && this.#turns.shift().waits) this.#dropped += 1;
      return turn;
    }

    #answered() {
      if (!this.#reply || (this.#reply.over && this.#user && !this.#user.over)) this.#reply = this.#user ?? this.#begin();
      return this.#reply;
    }

    /** Note a mark, the first time; returns how long after `since` it came, where that is known. */
    #mark(turn, name, at, since) {
      if (turn.marks[name] !== undefined || !Number.isFinite(at)) return undefined;
      turn.marks[name] = turn.unsent.marks[name] = at;
      this.#soon(Math.max(SOON_MS, at - now()));
      const from = since === undefined ? undefined : turn.marks[since];
      if (from === undefined || at < from) return undefined;
      return (turn.durations[name] = turn.unsent.durations[name] = at - from);
    }

    #output(turn, duration) {
      if (turn.answered) return;
      turn.answered = true;
      this.#say("Time to First Token", "ttft", duration);
    }

    /** The reply that a barge-in has stopped, where it goes on: what the user said meanwhile was no utterance. */
    #resumed() {
      const reply = this.#reply;
      const user = this.#user;
      if (!reply?.over || reply.bargeIns.length === 0) return null;
      if (user && user.number > reply.number) {
        const { response_created: created, first_audio_delta: delta } = user.marks;
        if (user.traceparent || created !== undefined || delta !== undefined) return null; // it is answered
        this.#turns = this.#turns.filter((each) => each !== user);
        this.#user = reply.agent ? null : reply;
      }
      return reply;
    }

    #heard(at) {
      const turn = this.#resumed() ?? this.#answered();
      const began = turn.marks.playback_start !== undefined;
      delete turn.marks.playback_end; // after a long pause it goes on
      const duration = this.#mark(turn, "playback_start", at, "speech_end");
      if (!began) this.#say("End-to-End Latency", "e2e", duration);
    }

    #silent(at) {
      const turn = this.#turns.findLast((each) => each.playing);
      if (turn) this.#mark(turn, "playback_end", Math.max(at, turn.marks.playback_start));
    }

    #say(words, name, duration) {
      if (duration === undefined) return;
      this.#sample(name, duration);
      this.#log(`${words}: ${duration.toFixed(2)}ms`);
    }

    #sample(name, duration) {
      const samples = (this.#samples[name] ??= []);
      if (samples.length < MAX_SAMPLES) samples.push(duration);
    }

    #log(text) {
      if (this.#options.enableLogging) console.log(`[Metrics] ${text}`);
    }

    // Reports

    #latencies() {
      const found = {};
      for (const [name, samples] of Object.entries(this.#samples)) {
        const sorted = samples.filter((each) => each >= 0).sort((a, b) => a - b);
        if (sorted.length === 0) continue;
        found[name] = {
          count: sorted.length, min_ms: sorted[0], mean_ms: sorted.reduce((a, b) => a + b) / sorted.length,
          p95_ms: sorted[Math.ceil(sorted.length * 0.95) - 1], max_ms: sorted.at(-1),
        };
      }
      return found;
    }

    #counters() {
      const intents = {};
      for (const [name, count] of Object.entries(this.quality.userIntents ?? {}).slice(0, 20)) {
        if (Number.isSafeInteger(count) && count >= 0) intents[word(name)] = count;
      }
      const counts = Object.entries(this.#counted).map(([name, count]) => [name, Math.trunc(count) || 0]);
      return { ...Object.fromEntries(counts), errors: { ...this.#errors }, intents };
    }

    #periodic() {
      const report = { ...this.#counters(), quality: this.quality, latencies: this.#latencies() };
      this.#log(`Periodic Report: ${JSON.stringify(report)}`);
      this.#due = true;
      this.#soon(0);
    }

    /** Turns with something to say, once there is a clock to place it by. */
    get #placed() {
      return this.#clocks.size > 0 ? this.#turns.filter((each) => each.waits) : [];
    }

    #due = true; // counts and latencies belong into the next report

    #compose(network) {
      const report = { version: 1, client: this.#client, number: (this.#number += 1), sent_ms: now() };
      const turns = this.#placed.slice(0, TURNS_PER_REPORT);
      if (turns.length > 0) {
        report.turns = [];
        for (const turn of turns) {
          const { marks, durations, bargeIns } = turn.unsent;
          turn.unsent = { marks: {}, durations: {}, bargeIns: [] };
          const recent = Object.entries(marks).filter(([, at]) => at > now() - MAX_AGE_MS);
          report.turns.push({
            turn: turn.number, traceparent: turn.traceparent, marks: Object.fromEntries(recent),
            durations_ms: durations, barge_in: bargeIns.filter((each) => each.start_ms > now() - MAX_AGE_MS),
          });
        }
      }
      if (this.#due) {
        Object.assign(report, { counters: this.#counters(), latencies: this.#latencies(), stability: this.#stability });
        this.#samples = {};
        this.#stability = null;
        this.#due = false;
      }
      return Object.assign(report, { network, dropped: this.#dropped });
    }

    #soon(delay = SOON_MS, greet = false) {
      if (!this.#options.sendToServer || (this.#timer !== null && delay > 0)) return;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => { this.#timer = null; this.#send(greet); }, delay);
    }

    async #send(greet) {
      if (this.#sending) return;
      this.#sending = true;
      try {
        let greetings = greet ? GREETINGS : 0;
        for (;;) {
          const wants = this.#due || greetings > 0 || this.#placed.length > 0;
          if (!this.#unanswered && !wants) return;
          if (!this.#unanswered) {
            const network = await this.#network().catch(() => null);
            this.#unanswered ??= this.#compose(network);
          }
          if (!(await this.#post(this.#unanswered))) {
            this.#failures += 1;
            this.#again();
            return;
          }
          this.#failures = 0;
          greetings -= 1;
        }
      } finally {
        this.#sending = false;
      }
    }

    #again() {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => { this.#timer = null; this.#send(this.#clocks.size === 0); },
        Math.min(10_000, 500 * 2 ** Math.min(this.#failures, 5)));
    }

    #body(report) {
      const clocks = Array.from(this.#clocks, ([server, exchanges]) => ({ server, exchanges }));
      return JSON.stringify({ ...report, clocks });
    }

    #headers() {
      const { token } = this.#options;
      return { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    }

    /** Send a report; whether it needs no further try. */
    async #post(report) {
      const sent = now();
      let answer;
      try {
        const body = this.#body({ ...report, sent_ms: sent });
        const signal = AbortSignal.timeout(10_000);
        answer = await fetch(this.#options.serverEndpoint, { method: "POST", headers: this.#headers(), body, signal });
      } catch {
        return false; // offline
      }
      const back = now();
      if (answer.status === 408 || answer.status === 429 || answer.status >= 500) return false;
      if (!answer.ok) {
        if (!this.#refused) console.warn(`[Metrics] ${this.#options.serverEndpoint} refused a report: ${answer.status}`);
        this.#refused = answer.status;
      }
      if (this.#unanswered === report) this.#unanswered = null;
      const [server, received, answered] = (answer.headers.get("Voicespan-Clock") ?? "").split(" ");
      if (answered) this.#exchanged(server, [sent, Number(received), Number(answered), back]);
      return true;
    }

    /** The page goes: what was not sent goes along, without waiting for an answer. */
    #leave() {
      if (!this.#options.sendToServer) return;
      this.#due = true;
      for (const report of [this.#unanswered, this.#compose(null)]) {
        if (!report) continue;
        const body = this.#body({ ...report, sent_ms: now() });
        if (this.#options.token) {
          const sent = fetch(this.#options.serverEndpoint, { method: "POST", headers: this.#headers(), body, keepalive: true });
          sent.catch(() => {});
        } else {
          navigator.sendBeacon(this.#options.serverEndpoint, body); // as text: JSON would need a preflight
        }
      }
      this.#unanswered = null;
    }

    // Looking at it

    /** Everything that is known, as plain data. */
    metrics() {
      return {
        client: this.#client, exported: new Date().toISOString(), now_ms: now(), counters: this.#counters(),
        quality: this.quality, latencies: this.#latencies(), last_error: this.#lastError, dropped: this.#dropped,
        turns: this.#turns.map(({ number, traceparent, marks, durations, bargeIns }) =>
          ({ turn: number, traceparent, marks, durations_ms: durations, barge_in: bargeIns })),
      };
    }

    /** Download the metrics. */
    exportMetrics() {
      const metrics = this.metrics();
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(metrics, null, 2)], { type: "application/json" }));
      link.download = `performance-metrics-${metrics.exported.replaceAll(":", "-")}.json`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      return metrics;
    }

    /** Add the button that downloads them. */
    addExportButton() {
      const button = document.createElement("button");
      button.id = "export-metrics";
      button.textContent = "📊 Export Metrics";
      button.style.cssText = "position: fixed; bottom: 10px; right: 10px;";
      button.addEventListener("click", () => this.exportMetrics());
      document.body.append(button);
      return button;
    }

    /** Send what is left and stop. */
    stop() {
      clearInterval(this.#interval);
      this.#leave();
      clearTimeout(this.#timer);
      this.#options.sendToServer = false;
    }
  }

  globalThis.PerformanceTracker = PerformanceTracker;
})();
