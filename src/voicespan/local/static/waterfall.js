// The waterfall: the tree of a trace's spans on one time axis, the heard silence marked across it.
import { h } from "./dom.js";
import { EVENT_WORDS } from "./events.js";
import { count, length, number } from "./format.js";
import { wave } from "./peaks.js";
import { axisOf, playFrom } from "./playhead.js";

export const ROWS = 200;
const DEEPEST = 14; // what lies deeper is not indented further: its name would leave its column
const MARKED_BY_SPANS = new Set(["speech_start", "speech_end", "first_transcript", "response_created", "vad.speech_end", "exception"]);

/** Spans with their depth, parents before children; what has no parent here is at depth 0. */
function tree(spans) {
  const known = new Set(spans.map((span) => span.span_id));
  const children = new Map();
  for (const span of spans) {
    const parent = known.has(span.parent_id) && span.parent_id !== span.span_id ? span.parent_id : null;
    if (children.has(parent)) children.get(parent).push(span);
    else children.set(parent, [span]);
  }
  for (const [parent, below] of children) if (parent !== null) below.sort((a, b) => a.start_s - b.start_s || a.duration_s - b.duration_s);
  const rows = [];
  const placed = new Set();
  const place = (first) => {
    const stack = [{ span: first, depth: 0 }];
    while (stack.length) {
      const row = stack.pop();
      if (placed.has(row.span.span_id)) continue;
      placed.add(row.span.span_id);
      rows.push(row);
      const below = children.get(row.span.span_id) ?? [];
      for (let i = below.length - 1; i >= 0; i -= 1) stack.push({ span: below[i], depth: row.depth + 1 });
    }
  };
  for (const span of children.get(null) ?? []) place(span);
  for (const span of spans) place(span); // a ring of parents
  return rows;
}

/** The interval that is drawn: a machine whose clock is far off must not squeeze all others. */
function axis(root, spans) {
  const size = Math.max(root.duration_s, 0.001);
  const earliest = root.start_s - size;
  const latest = root.start_s + 2 * size;
  const near = spans.filter((span) => span.start_s + span.duration_s >= earliest && span.start_s <= latest);
  const start = near.reduce((least, span) => Math.min(least, Math.max(span.start_s, earliest)), Infinity);
  const end = near.reduce((most, span) => Math.max(most, Math.min(span.start_s + span.duration_s, latest)), -Infinity);
  return { start, size: Math.max(end - start, 0.001) };
}

function step(size) {
  for (let unit = 0.001; ; unit *= 10) {
    for (const factor of [1, 2, 5]) if (size / (unit * factor) <= 7) return unit * factor;
  }
}

/**
 * `selected` is the span that is unfolded, `select(id)` unfolds another, null none; `rows` are drawn at most, `more()`
 * draws more; `beyond` spans are not here; `sides` has [role, {starts, duration_s, peaks}] of what is to be heard.
 */
export function waterfall(traceId, spans, { selected, select, rows: most, more, beyond = 0, sides = [] }) {
  const rows = tree(spans);
  const shown = rows.slice(0, most);
  const late = rows.find(({ span }, i) => i >= most && span.span_id === selected);
  if (late) shown.push(late);
  const root = spans.find((span) => span.name === "voice.turn") ?? spans[0];
  const { start, size } = axis(root, spans);
  const at = (seconds) => Math.min(Math.max((seconds - start) / size, 0), 1) * 100;
  const silence = spans.find((span) => span.name === "voice.response" || span.name === "voice.unanswered");
  const tick = step(size);
  const ticks = [];
  for (let offset = 0; offset <= size * 0.97; offset += tick) {
    ticks.push(h("span", { vars: { "--at": `${(offset / size) * 100}%` } }, offset === 0 ? "0" : `${+offset.toPrecision(6)} s`));
  }
  const heard = silence && {
    "--heard-at": `${at(silence.start_s)}%`,
    "--heard-width": `${at(silence.start_s + silence.duration_s) - at(silence.start_s)}%`,
  };
  const left = rows.length - shown.length;
  const words = [left || beyond ? `${number(shown.length)} of ${count(rows.length + beyond, "span")}` : "", beyond ? `${number(beyond)} of them are not read: too many` : ""];
  return h("div", { class: `waterfall${silence ? " heard" : ""}`, vars: heard ?? {}, role: "group", "aria-label": "Spans of the turn", dataset: axisOf(start, size) },
    h("div", { class: "ticks", "aria-hidden": "true" }, h("span"), h("div", { class: "axis" }, ticks), h("span")),
    sides.map(([role, side]) => heardRow(traceId, role, side, at)),
    shown.map(({ span, depth }) => row(span, depth, { at, root, selected, select })),
    sides.length ? h("i", { class: "playhead", "aria-hidden": "true" }) : null,
    left || beyond ? h("p", { class: "dim more-spans" }, words.filter(Boolean).join(" · "), left ? [" ", h("button", { type: "button", onclick: more, dataset: { key: "more-spans" } }, "show more")] : null) : null);
}

/** What one side said, as loud as it was; a click plays it from there. */
function heardRow(traceId, role, side, at) {
  const left = at(side.starts);
  const onclick = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    playFrom(traceId, role, Math.max(((event.clientX - box.left) / box.width) * side.duration_s, 0));
  };
  return h("div", { class: "row audio-row", dataset: { key: `audio-${role}` }, title: `What the ${role} said; click to hear it from there` },
    h("span", { class: "name" }, `${role}'s voice`),
    h("span", { class: "lane" }, h("span", { class: "sound", vars: { "--at": `${left}%`, "--w": `${at(side.starts + side.duration_s) - left}%` }, onclick }, wave(role, side))),
    h("span", { class: "took" }, length(side.duration_s)));
}

function row(span, depth, { at, root, selected, select }) {
  const left = at(span.start_s);
  const width = at(span.start_s + span.duration_s) - left;
  const open = span.span_id === selected;
  const failed = span.error !== null;
  const kind = span === root ? "root" : span.stage ? `on-${span.stage}` : "on-none";
  const classes = ["row", span.milestone && "milestone", failed && "failed", open && "open"].filter(Boolean).join(" ");
  const name = span.attributes["voice.barge_in.phase"] ? `${span.name} ${span.attributes["voice.barge_in.phase"]}` : span.name;
  const events = span.events.filter((event) => !MARKED_BY_SPANS.has(event.name));
  const line = h("button", {
    type: "button", class: classes, "aria-expanded": String(open), dataset: { key: span.span_id },
    onclick: () => select(open ? null : span.span_id),
    title: `${name} · ${length(span.duration_s)} · begins at ${length(span.start_s - root.start_s)}`,
  },
    h("span", { class: "name", vars: { "--depth": Math.min(depth, DEEPEST) } }, name, remarks(span, root).map((word) => h("small", {}, word))),
    h("span", { class: "lane" },
      h("i", { class: `bar ${kind}`, vars: { "--at": `${left}%`, "--w": `${width}%` } }),
      events.map((event) => h("i", { class: "event", vars: { "--at": `${at(event.time_s)}%` }, title: EVENT_WORDS[event.name] ?? event.name }))),
    h("span", { class: "took" }, failed ? "✗ " : "", length(span.duration_s)));
  return open ? [line, details(span, root)] : line;
}

function remarks(span, root) {
  const words = [];
  if (span.service && span.service !== root.service) words.push(span.service);
  if (span.attributes["voice.stage.cancelled"]) words.push("cancelled");
  if (span.attributes["voice.generation.discarded"]) words.push("discarded");
  if (span.attributes["voice.tts.filler"]) words.push("filler");
  if (span.attributes["voice.playback.estimated"]) words.push("estimated");
  return words;
}

const shown = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

export function attributes(values) {
  const entries = Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1));
  return h("dl", { class: "attributes" }, entries.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, shown(value))]));
}

function details(span, root) {
  const facts = [`begins ${length(span.start_s - root.start_s)} after the turn`, `took ${length(span.duration_s)}`, span.service, span.kind, `span ${span.span_id}`];
  return h("div", { class: "details" },
    h("p", { class: "dim" }, facts.filter(Boolean).join(" · ")),
    span.error !== null ? h("p", { class: "worse" }, `Failed${span.error ? `: ${span.error}` : ""}`) : null,
    Object.keys(span.attributes).length ? attributes(span.attributes) : h("p", { class: "dim" }, "No attributes."),
    span.events.map((event) => h("div", { class: "event-line" },
      h("p", {}, h("b", {}, EVENT_WORDS[event.name] ?? event.name), ` +${length(event.time_s - root.start_s)}`),
      Object.keys(event.attributes).length ? attributes(event.attributes) : null)));
}
