// One turn: why the user waited, in a sentence, a strip, against the median turn, and as a waterfall.
import { ask, cancel, Refused } from "./api.js";
import { content } from "./content.js";
import { $, announce, copy, h, keep } from "./dom.js";
import { length, moment } from "./format.js";
import { link } from "./link.js";
import { log } from "./log.js";
import { peaksOf } from "./peaks.js";
import { change, state } from "./state.js";
import { comparison, strip } from "./strip.js";
import { openElsewhere } from "./status.js";
import { exportLink } from "./transfer.js";
import { attributes, ROWS, waterfall } from "./waterfall.js";

const MORE_ROWS = 500;

let trace = null;
let silence = null;
let peaks = {};
let rows = ROWS;

/** Load the turn of the state, or close it. */
export async function loadTurn() {
  const wanted = state().turn;
  document.body.classList.toggle("has-turn", Boolean(wanted));
  if (!wanted) {
    cancel("turn");
    trace = null;
    $("turn").replaceChildren();
    return;
  }
  try {
    const found = await ask("turn", `turns/${encodeURIComponent(wanted)}`);
    if (found === null) return;
    const other = trace?.trace_id !== found.trace_id;
    trace = found;
    if (other) [peaks, rows] = [{}, ROWS];
    if (wanted !== "last" && wanted !== found.trace_id) change({ turn: found.trace_id, span: state().span }, { replace: true });
    draw();
    if (other) show();
    await loadPeaks(found);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    trace = null;
    $("turn").replaceChildren(h("div", { class: "head" }, h("h2", {}, "No such turn"), close()), h("p", {}, error.message));
  }
}

async function loadPeaks(of) {
  const found = await peaksOf(of.trace_id, of.content);
  if (trace !== of || found === peaks) return;
  peaks = found;
  draw();
}

/** The median turn to compare with. */
export function compareWith(found) {
  silence = found;
  redrawTurn();
}

/** Draw it again where something beside it is known that was not before. */
export function redrawTurn() {
  if (trace) draw();
}

export const shownTurn = () => trace;

/** Where the turn stands above its list, on a narrow screen, go there; who does not see it is told. */
function show() {
  const place = $("turn");
  place.scrollTop = 0;
  const { top } = place.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.6) place.scrollIntoView({ block: "start" });
  const { turn } = trace;
  announce(turn ? `${titleOf(turn)}: ${turn.cause}` : nameOf(trace));
}

/** Only what shows something else than before is made anew: an audio plays on, what was unfolded stays so. */
function draw() {
  keep($("turn"), trace.turn ? turnParts() : traceParts());
}

const select = (id) => change({ span: id ?? "" }, { replace: true });

function more() {
  rows += MORE_ROWS;
  draw();
}

const titleOf = (turn) => (turn.turn_index === null ? "Turn" : `Turn ${turn.turn_index}`);
const nameOf = ({ spans, logs }) => spans.find((span) => !span.parent_id)?.name ?? spans[0]?.name ?? (logs?.length ? "Log lines" : "Trace");

/** When each side was heard first, in Unix seconds; missing where nobody knows. */
function starts() {
  const own = (name) => trace.spans.find((span) => span.name === name && span.scope === "voicespan");
  const [vad, heard, playback] = [own("vad"), own("playback.start"), own("playback")];
  return { user: vad?.start_s ?? trace.turn?.start_s, agent: heard ? heard.start_s + heard.duration_s : playback?.start_s };
}

function waterfallPart() {
  const { spans, trace_id: id, spans_beyond: beyond = 0 } = trace;
  const since = starts();
  const sides = Object.entries(peaks).filter(([role, side]) => side?.peaks?.length && since[role] !== undefined).map(([role, side]) => [role, { starts: since[role], ...side }]);
  const { span: selected } = state();
  return spans.length > 0 && ["waterfall", [spans, beyond, selected, rows, sides], () => waterfall(id, spans, { selected, select, rows, more, beyond, sides })];
}

function close() {
  return link({ turn: "" }, { class: "button quiet", title: "Back to all turns (Esc)", "aria-label": "Close the turn" }, "✕");
}

/** The parts as `keep` takes them. */
function turnParts() {
  const { turn, spans, trace_id: id, logs } = trace;
  const tone = turn.unanswered || turn.error ? "bad" : turn.bottleneck ?? "none";
  const shared = turn.response_s && Object.keys(turn.shares).length;
  return [
    ["head", [turn, trace.neighbours], () => head(titleOf(turn), circumstances(turn), turn)],
    ["why", turn.cause, () => h("p", { class: `why why-${tone}` }, turn.cause)],
    trace.scores?.length && ["scores", trace.scores, () => h("p", { class: "scores" }, "Scored: ", trace.scores.map(({ words, explanation }) => h("span", { class: "tag", title: explanation ?? "" }, words)))],
    shared && ["strip", [id, turn.shares], () => strip(turn)],
    shared && ["comparison", [id, turn.shares, silence?.stages], () => comparison(turn, silence)],
    waterfallPart(),
    logs?.length && ["log", [id, logs, trace.logs_beyond], () => log(logs, trace.logs_beyond, { start: turn.start_s, spans })],
    ["content", [id, trace.content, trace.content_kept, trace.content_withheld, starts()], () => content(trace, starts())],
    ["attributes", turn.attributes, () => h("details", { class: "more" }, h("summary", {}, "Attributes of the turn"), attributes(turn.attributes))],
    ["foot", [id, trace.interrupted_by, links(), openElsewhere(id)?.href], () => footer(turn)],
  ].filter(Boolean);
}

function traceParts() {
  const { spans, logs, trace_id: id, spans_beyond: beyond = 0 } = trace;
  const services = [...new Set([...spans, ...(logs ?? [])].map((each) => each.service))].filter(Boolean);
  const start = spans[0]?.start_s ?? logs?.[0]?.time_s;
  const whole = !spans.length || beyond > 0 || spans.some((span) => !span.parent_id);
  const words = [start && moment(start), ...services, spans.length ? "no turn of a conversation" : "no span of it came, only what was logged"];
  return [
    ["head", [id, nameOf(trace), words, whole], () => head(nameOf(trace), words, null, whole)],
    waterfallPart(),
    logs?.length && ["log", [id, logs, trace.logs_beyond], () => log(logs, trace.logs_beyond, { start, spans })],
    ["foot", [id, links(), openElsewhere(id)?.href], () => footer(null)],
  ].filter(Boolean);
}

function head(title, words, turn, whole = true) {
  const { previous, next } = trace.neighbours ?? {};
  const step = (id, label, sign) => (id ? link({ turn: id }, { class: "button quiet", title: label, "aria-label": label }, sign)
    : h("span", { class: "button quiet off", "aria-hidden": "true" }, sign));
  return h("div", { class: "head turn-head" },
    h("h2", {}, title, turn ? h("span", { class: `tag ${turn.complete ? turn.outcome ?? "" : "incomplete"}` }, outcome(turn)) : whole ? null : h("span", { class: "tag incomplete", title: "Its root span has not arrived" }, "incomplete")),
    h("p", { class: "dim" }, words.filter(Boolean).join(" · ")),
    h("nav", { "aria-label": "Turns of this session" },
      turn ? step(previous, "Previous turn of the session ([)", "‹") : null,
      turn ? step(next, "Next turn of the session (])", "›") : null,
      close()));
}

export function outcome(turn) {
  if (!turn.complete) return "incomplete";
  if (turn.outcome === "no_reply") return turn.no_reply_reason ? `no reply: ${turn.no_reply_reason.replaceAll("_", " ")}` : "no reply";
  return turn.outcome ?? "unknown";
}

function circumstances(turn) {
  const margin = turn.clock_error_s === null ? "" : ` ± ${length(turn.clock_error_s)}`;
  return [
    turn.session_id, moment(turn.start_s), turn.measurement_point && `measured at the ${turn.measurement_point}${margin}`,
    turn.model, turn.voice, turn.worker,
  ];
}

const LINKED = { interrupted: "the turn that it interrupted" };

/** What its spans are linked with, each trace once: [trace id, words]. */
function links() {
  const found = new Map();
  for (const span of trace.spans) {
    for (const { trace_id: id, attributes: given } of span.links) {
      const type = given["voice.link.type"];
      if (id !== trace.trace_id && !found.has(id)) found.set(id, LINKED[type] ?? `linked by ${span.name}${type ? `: ${String(type).replaceAll("_", " ")}` : ""}`);
    }
  }
  return [...found];
}

function footer(turn) {
  const id = trace.trace_id;
  return h("p", { class: "foot" },
    links().map(([other, words]) => link({ turn: other }, { class: "button", dataset: { key: other } }, words)),
    trace.interrupted_by ? link({ turn: trace.interrupted_by }, { class: "button" }, "the turn that interrupted it") : null,
    turn?.session_id ? link({ view: "sessions", call: turn.session_id, turn: id }, { class: "button" }, "its session") : null,
    openElsewhere(id),
    exportLink({ trace: id }, "export"),
    h("button", { type: "button", class: "quiet", onclick: () => copy(id, "Trace id"), dataset: { key: "copy" } }, "copy trace id"),
    h("code", {}, id));
}
