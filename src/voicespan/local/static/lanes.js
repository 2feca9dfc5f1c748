// A conversation on one axis of time: who was heard when, and between them the silences, each in the colour of its cause.
import { h } from "./dom.js";
import { EVENT_WORDS } from "./events.js";
import { length } from "./format.js";
import { link } from "./link.js";
import { wave } from "./peaks.js";
import { axisOf, playFrom } from "./playhead.js";
import { change } from "./state.js";

const LEAST_PX_PER_S = 5;

/** Where the user waited for this turn, as [start, end]; null where nobody did. */
function silenceOf(turn) {
  if (!turn.response_s) return null;
  const said = turn.user.at(-1)?.[1];
  const heard = turn.agent[0]?.[0];
  if (turn.unanswered || heard === undefined) return said === undefined ? null : [said, said + turn.response_s];
  return [heard - turn.response_s, heard];
}

/** When a turn is over, as far as anybody heard. */
const endOf = (turn) => Math.max(turn.start_s, ...[...turn.user, ...turn.agent].map(([, end]) => end), silenceOf(turn)?.[1] ?? 0);

/** Stretches in which both are heard. */
function overlaps(users, agents) {
  return users.flatMap(([from, to]) => agents.map(([start, end]) => [Math.max(from, start), Math.min(to, end)]).filter(([start, end]) => end - start > 0.02));
}

function step(size, wanted) {
  for (const unit of [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]) if (size / unit <= wanted) return unit;
  return 7200;
}

const ticked = (offset) => (offset < 60 ? `${+offset.toFixed(1)} s` : `${Math.floor(offset / 60)}:${String(Math.round(offset % 60)).padStart(2, "0")}`);

/** When each side of a turn was heard first; missing where it was not. */
export const startsOf = (turn) => ({ user: turn.user[0]?.[0], agent: turn.agent[0]?.[0] });

/** What a turn's colours and marks on the lanes say, in words; `users` is when the user was heard in any turn. */
export function remarks(turn, users) {
  const both = overlaps(users, turn.agent).reduce((sum, [from, to]) => sum + to - from, 0);
  const gaps = turn.gaps.reduce((sum, [from, to]) => sum + to - from, 0);
  const after = (seconds) => length(Math.max(seconds - turn.start_s, 0));
  return [
    ...turn.events.filter(({ name }) => EVENT_WORDS[name]).map((event) => `${EVENT_WORDS[event.name]} after ${after(event.time_s)}`),
    both > 0 && `both are heard at once for ${length(both)}`,
    gaps > 0 && `${length(gaps)} of gaps in the audio`,
  ].filter(Boolean);
}

/** `peaks` has what is known of how loud a turn's sides were, by its trace id. */
export function lanes(turns, zoom, peaks) {
  const start = turns.reduce((least, turn) => Math.min(least, turn.start_s, ...turn.user.map(([from]) => from)), Infinity);
  const end = turns.reduce((most, turn) => Math.max(most, endOf(turn)), start + 1);
  const size = (end - start) * 1.01;
  const at = (seconds) => `${((seconds - start) / size) * 100}%`;
  const wide = ([from, to]) => ({ "--at": at(from), "--w": `${(Math.max(to - from, 0) / size) * 100}%` });
  const bars = (kind, words, turn) => (interval) => h("i", { class: kind, vars: wide(interval), title: `${words} ${length(interval[1] - interval[0])}`, onclick: turn && (() => change({ turn: turn.trace_id })) });
  const users = turns.flatMap((turn) => turn.user);
  const sound = (turn, role) => {
    const [side, starts] = [peaks.get(turn.trace_id)?.[role], startsOf(turn)[role]];
    if (!side?.peaks?.length || starts === undefined) return null;
    const onclick = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      playFrom(turn.trace_id, role, ((event.clientX - box.left) / box.width) * side.duration_s);
    };
    return h("i", { class: "sound", vars: wide([starts, starts + side.duration_s]), title: `what the ${role} said; click to hear it from there`, onclick }, wave(role, side));
  };
  const tick = step(size, 12 * zoom);
  const ticks = [];
  for (let offset = 0; offset < size * 0.985; offset += tick) ticks.push(h("span", { vars: { "--at": at(start + offset) } }, ticked(offset)));
  const width = { "--zoom": zoom, "--least": `${Math.round(size * LEAST_PX_PER_S * zoom)}px` };
  const cut = (turn) => turn.outcome === "interrupted";
  const scroll = h("div", { class: "lanes-scroll", tabindex: 0, role: "group", "aria-label": "The conversation over time" },
    h("div", { class: "lanes", vars: width, dataset: axisOf(start, size) },
      h("div", { class: "axis", "aria-hidden": "true" }, ticks),
      h("div", { class: "turn-areas" }, turns.map((turn, i) => {
        const next = turns[i + 1]?.start_s ?? end;
        return link({ turn: turn.trace_id }, { class: "turn-area", vars: wide([turn.start_s, Math.max(next, turn.start_s)]), title: turn.cause, "aria-label": `Turn ${turn.turn_index ?? ""}: ${turn.cause}`, dataset: { turn: turn.trace_id, key: turn.trace_id } },
          h("span", { "aria-hidden": "true" }, turn.turn_index ?? "·"));
      })),
      h("div", { class: "overlaps", "aria-hidden": "true" }, turns.map((turn) => overlaps(users, turn.agent).map(bars("overlap", "both are heard for", turn)))),
      h("div", { class: "talk user", "aria-hidden": "true" }, turns.map((turn) => [turn.user.map(bars("voice", "user speaks", turn)), sound(turn, "user")])),
      h("div", { class: "talk wait", "aria-hidden": "true" }, turns.map((turn) => silence(turn, wide))),
      h("div", { class: "talk agent", "aria-hidden": "true" }, turns.map((turn) => [
        turn.agent.map(bars(`voice${cut(turn) ? " cut" : ""}`, cut(turn) ? "agent speaks, cut off after" : "agent speaks", turn)),
        sound(turn, "agent"),
        turn.gaps.map(bars("gap", "a gap in the audio:", turn)),
        turn.events.filter(({ name }) => EVENT_WORDS[name]).map((event) => h("i", { class: "event", vars: { "--at": at(event.time_s) }, title: EVENT_WORDS[event.name], onclick: () => change({ turn: turn.trace_id }) })),
      ])),
      h("i", { class: "playhead", "aria-hidden": "true" })));
  const names = h("div", { class: "lane-names", "aria-hidden": "true" }, ["user", "silence", "agent"].map((name) => h("span", {}, name)));
  return h("div", { class: "lanes-frame" }, names, scroll);
}

function silence(turn, wide) {
  const interval = silenceOf(turn);
  if (!interval) return null;
  const stage = turn.unanswered ? "bad" : turn.bottleneck ?? "none";
  const words = turn.unanswered ? "nobody answered" : turn.bottleneck ? `mostly ${turn.bottleneck}` : "";
  return h("i", { class: `quiet-time on-${stage}`, vars: wide(interval), title: `${length(turn.response_s)} of silence, ${words}`, onclick: () => change({ turn: turn.trace_id }) }, h("span", {}, length(turn.response_s)));
}
