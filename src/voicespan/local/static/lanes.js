// A conversation on one axis of time: who was heard when, and between them the silences, each in the colour of its cause.
import { h } from "./dom.js";
import { length } from "./format.js";
import { link } from "./link.js";

const LEAST_PX_PER_S = 5;
const EVENT_WORDS = {
  "voice.speech_resumed": "user spoke on",
  "voice.user_overlap": "user spoke over it",
  "voice.false_interruption": "false interruption",
  "voice.handoff": "hand-over",
};

/** Where the user waited for this turn, as [start, end]; null where nobody did. */
export function silenceOf(turn) {
  if (!turn.response_s) return null;
  const said = turn.user.at(-1)?.[1];
  const heard = turn.agent[0]?.[0];
  if (turn.unanswered || heard === undefined) return said === undefined ? null : [said, said + turn.response_s];
  return [heard - turn.response_s, heard];
}

/** When a turn is over, as far as anybody heard. */
const endOf = (turn) => Math.max(turn.start_s, ...[...turn.user, ...turn.agent].map(([, end]) => end), silenceOf(turn)?.[1] ?? 0);

/** Stretches in which both are heard. */
export function overlaps(users, agents) {
  return users.flatMap(([from, to]) => agents.map(([start, end]) => [Math.max(from, start), Math.min(to, end)]).filter(([start, end]) => end - start > 0.02));
}

function step(size, wanted) {
  for (const unit of [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]) if (size / unit <= wanted) return unit;
  return 7200;
}

const ticked = (offset) => (offset < 60 ? `${+offset.toFixed(1)} s` : `${Math.floor(offset / 60)}:${String(Math.round(offset % 60)).padStart(2, "0")}`);

export function lanes(turns, zoom) {
  const start = Math.min(...turns.map((turn) => Math.min(turn.start_s, ...turn.user.map(([from]) => from))));
  const end = Math.max(...turns.map(endOf), start + 1);
  const size = (end - start) * 1.01;
  const at = (seconds) => `${((seconds - start) / size) * 100}%`;
  const wide = ([from, to]) => ({ "--at": at(from), "--w": `${(Math.max(to - from, 0) / size) * 100}%` });
  const bars = (kind, words) => (interval) => h("i", { class: kind, vars: wide(interval), title: `${words} ${length(interval[1] - interval[0])}` });
  const users = turns.flatMap((turn) => turn.user);
  const agents = turns.flatMap((turn) => turn.agent);
  const tick = step(size, 12 * zoom);
  const ticks = [];
  for (let offset = 0; offset < size * 0.985; offset += tick) ticks.push(h("span", { vars: { "--at": at(start + offset) } }, ticked(offset)));
  const width = { "--zoom": zoom, "--least": `${Math.round(size * LEAST_PX_PER_S * zoom)}px` };
  const scroll = h("div", { class: "lanes-scroll", tabindex: 0, role: "group", "aria-label": "The conversation over time" },
    h("div", { class: "lanes", vars: width },
      h("div", { class: "axis", "aria-hidden": "true" }, ticks),
      h("div", { class: "overlaps", "aria-hidden": "true" }, overlaps(users, agents).map(bars("overlap", "both are heard for"))),
      h("div", { class: "talk user", "aria-hidden": "true" }, users.map(bars("voice", "user speaks"))),
      h("div", { class: "talk wait", "aria-hidden": "true" }, turns.map((turn) => silence(turn, wide))),
      h("div", { class: "talk agent", "aria-hidden": "true" }, turns.map((turn) => [
        turn.agent.map(bars(`voice${turn.outcome === "interrupted" ? " cut" : ""}`, turn.outcome === "interrupted" ? "agent speaks, cut off after" : "agent speaks")),
        turn.gaps.map(bars("gap", "a gap in the audio:")),
        turn.events.filter(({ name }) => EVENT_WORDS[name]).map((event) => h("i", { class: "event", vars: { "--at": at(event.time_s) }, title: EVENT_WORDS[event.name] })),
      ])),
      h("div", { class: "turn-areas" }, turns.map((turn, i) => {
        const next = turns[i + 1]?.start_s ?? end;
        return link({ turn: turn.trace_id }, { class: "turn-area", vars: wide([turn.start_s, Math.max(next, turn.start_s)]), title: turn.cause, "aria-label": `Turn ${turn.turn_index ?? ""}: ${turn.cause}`, dataset: { turn: turn.trace_id, key: turn.trace_id } },
          h("span", { "aria-hidden": "true" }, turn.turn_index ?? "·"));
      }))));
  const names = h("div", { class: "lane-names", "aria-hidden": "true" }, ["user", "silence", "agent"].map((name) => h("span", {}, name)));
  return h("div", { class: "lanes-frame" }, names, scroll);
}

function silence(turn, wide) {
  const interval = silenceOf(turn);
  if (!interval) return null;
  const stage = turn.unanswered ? "bad" : turn.bottleneck ?? "none";
  const words = turn.unanswered ? "nobody answered" : turn.bottleneck ? `mostly ${turn.bottleneck}` : "";
  return h("i", { class: `quiet-time on-${stage}`, vars: wide(interval), title: `${length(turn.response_s)} of silence, ${words}` }, h("span", {}, length(turn.response_s)));
}
