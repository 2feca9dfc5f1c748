// What happened in a turn besides its stages, in the words of the terminal.

export const EVENT_WORDS = {
  "voice.speech_resumed": "user spoke on",
  "voice.user_overlap": "user spoke over it",
  "voice.false_interruption": "false interruption",
  "voice.handoff": "hand-over",
};
