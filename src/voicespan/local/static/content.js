// What was said, where it is kept: transcript and audio of both sides; else how to keep it.
import { address } from "./api.js";
import { command, h } from "./dom.js";
import { heardFrom } from "./playhead.js";

const NAMES = { user: "What the user said", agent: "What the agent said" };

/** One side of a turn, heard from `starts` on; null when nothing of it is kept. */
export function said(traceId, role, given, starts) {
  if (!given || (!given.text && !given.audio)) return null;
  return h("div", { class: `said-by ${role}`, dataset: { key: role } },
    h("b", {}, role),
    given.text ? h("p", {}, given.text) : h("p", { class: "dim" }, "no transcript"),
    given.audio ? h("audio", { controls: true, preload: "none", src: address(`turns/${traceId}/audio/${role}`), "aria-label": NAMES[role], dataset: heardFrom(traceId, role, starts) }) : null);
}

/** The pane of a turn; `starts` has when each side was heard first. */
export function content(trace, starts) {
  const sides = Object.keys(NAMES).map((role) => said(trace.trace_id, role, trace.content?.[role], starts[role])).filter(Boolean);
  return h("div", { class: "content" }, h("h3", {}, "What was said"), sides.length ? sides : howTo(trace));
}

/** Why there is nothing to read or to hear, and what to do about it. */
export function howTo({ content_kept: kept, content_withheld: withheld }) {
  if (withheld) return h("p", { class: "dim" }, withheld);
  if (kept) {
    return h("p", { class: "dim" }, "Kept, but nothing was handed over. The service says it with ", h("code", {}, "turn.user_said(text, audio=…)"), " and ", h("code", {}, "turn.agent_said(…)"), ".");
  }
  return [
    h("p", { class: "dim" }, "Not kept: transcripts and audio are personal, so they stay out unless you ask for them, and never leave this machine."),
    command("voicespan run --ui --content -- python bot.py"),
  ];
}
