export interface Options {
  /** Write `[Metrics] ...` lines to the console. */
  enableLogging?: boolean;
  sendToServer?: boolean;
  serverEndpoint?: string;
  /** Milliseconds between periodic reports. */
  aggregationInterval?: number;
  /** Bearer token, where the endpoint asks for one. */
  token?: string | null;
}

export type BargeInPhase = "playback_stop" | "server_cancel" | "total";

/** A WebSocket or an RTCDataChannel. */
export interface Channel extends EventTarget {
  send(data: string): void;
}

/** Times are milliseconds of performance.now(). */
export declare class PerformanceTracker {
  /** Address of the script, for the AudioWorklet; set it where a bundler has moved it. */
  static url: string | undefined;
  constructor(options?: Options);
  quality: { userIntents: Record<string, number>; [name: string]: unknown };
  readonly traceparent: string | null;
  markSpeechStart(moment?: { at?: number }): void;
  markSpeechEnd(moment?: { at?: number }): void;
  /** Returns when the chunk was sent. */
  trackAudioSend(bytes: number): number;
  trackFirstTranscript(): void;
  trackFinalTranscript(): void;
  trackResponseCreated(): void;
  trackFirstAudioDelta(itemId?: string): void;
  /** Length of base64 text, that text, or the bytes. */
  trackAudioReceived(audio: number | string | ArrayBuffer | ArrayBufferView): void;
  trackAudioPlaybackStart(moment?: { at?: number }): void;
  trackAudioPlaybackEnd(moment?: { at?: number }): void;
  trackResponseComplete(): void;
  trackBargeIn(phase: BargeInPhase, start: number): void;
  trackError(type: string, detail?: { message?: string; [name: string]: unknown }): void;
  trackReconnection(): void;
  turn(traceparent: string, options?: { initiator?: "user" | "agent" }): void;
  /** With `realtime`, messages of the realtime protocol are marked too. */
  watch<C extends EventTarget>(channel: C, options?: { realtime?: boolean }): C;
  /** Exchange time stamps over it; the service answers by `session.clock_exchange`. */
  watchClock<C extends Channel>(channel: C): C;
  send(channel: Channel, message: object): void;
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  watchAudio(
    source: AudioNode | MediaStream | HTMLMediaElement,
    options?: { floor?: number; silence?: number },
  ): Promise<void>;
  watchConnection(connection: RTCPeerConnection): void;
  metrics(): Record<string, unknown>;
  exportMetrics(): Record<string, unknown>;
  addExportButton(): HTMLButtonElement;
  stop(): void;
}

export default PerformanceTracker;

declare global {
  interface Window {
    PerformanceTracker: typeof PerformanceTracker;
    perfTracker?: PerformanceTracker;
  }
}
