// One turn: why the user waited, in a sentence, a strip, against the median turn, and as a waterfall.
import { ask, Refused } from "./api.js";
import { content } from "./content.js";
import { $, copy, h, keep } from "./dom.js";
import { length, moment } from "./format.js";
import { link } from "./link.js";
import { log } from "./log.js";
import { state } from "./state.js";
import { comparison, strip } from "./strip.js";
import { openElsewhere } from "./status.js";
import { exportLink } from "./transfer.js";
import { attributes, waterfall } from "./waterfall.js";

let trace = null;
let silence = null;
let selected = null;

/** Load the turn of the state, or close it. */
export async function loadTurn() {
  const wanted = state().turn;
  document.body.classList.toggle("has-turn", Boolean(wanted));
  if (!wanted) {
    trace = null;
    $("turn").replaceChildren();
    return;
  }
  if (trace?.trace_id !== wanted) selected = null;
  try {
    const found = await ask("turn", `turns/${encodeURIComponent(wanted)}`);
    if (found === null) return;
    const other = trace?.trace_id !== found.trace_id;
    trace = found;
    draw();
    if (other) show();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    trace = null;
    $("turn").replaceChildren(h("div", { class: "head" }, h("h2", {}, "No such turn"), close()), h("p", {}, error.message));
  }
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

/** Where the turn stands above its list, on a narrow screen, go there. */
function show() {
  const place = $("turn");
  place.scrollTop = 0;
  const { top } = place.getBoundingClientRect();
  if (top < 0 || top > innerHeight * 0.6) place.scrollIntoView({ block: "start" });
}

/** Only what shows something else than before is made anew: an audio plays on, what was unfolded stays so. */
function draw() {
  const place = $("turn");
  const again = (id) => {
    selected = id;
    draw();
    place.querySelector(".row.open")?.focus({ preventScroll: true });
  };
  keep(place, trace.turn ? turnParts(again) : traceParts(again));
}

function close() {
  return link({ turn: "" }, { class: "button quiet", title: "Back to all turns (Esc)", "aria-label": "Close the turn" }, "✕");
}

/** The parts as `keep` takes them. */
function turnParts(again) {
  const { turn, spans, trace_id: id, logs } = trace;
  const title = turn.turn_index === null ? "Turn" : `Turn ${turn.turn_index}`;
  const tone = turn.unanswered || turn.error ? "bad" : turn.bottleneck ?? "none";
  const shared = turn.response_s && Object.keys(turn.shares).length;
  return [
    ["head", [turn, trace.neighbours], () => head(title, circumstances(turn), turn)],
    ["why", turn.cause, () => h("p", { class: `why why-${tone}` }, turn.cause)],
    shared && ["strip", [id, turn.shares], () => strip(turn)],
    shared && ["comparison", [id, turn.shares, silence?.stages], () => comparison(turn, silence)],
    ["waterfall", [spans, selected], () => waterfall(spans, selected, again)],
    logs?.length && ["log", [id, logs, trace.logs_beyond], () => log(logs, trace.logs_beyond, { start: turn.start_s, spans })],
    ["content", [id, trace.content, trace.content_kept], () => content(trace)],
    ["attributes", turn.attributes, () => h("details", { class: "more" }, h("summary", {}, "Attributes of the turn"), attributes(turn.attributes))],
    ["foot", [id, trace.interrupted_by, spans.length, openElsewhere(id)?.href], () => footer(turn)],
  ].filter(Boolean);
}

function traceParts(again) {
  const { spans, logs, trace_id: id } = trace;
  const services = [...new Set(spans.map((span) => span.service))].filter(Boolean);
  const name = spans.find((span) => !span.parent_id)?.name ?? "Trace";
  return [
    ["head", [id, name, services], () => head(name, [moment(spans[0].start_s), ...services, "no turn of a conversation"], null)],
    ["waterfall", [spans, selected], () => waterfall(spans, selected, again)],
    logs?.length && ["log", [id, logs, trace.logs_beyond], () => log(logs, trace.logs_beyond, { start: spans[0].start_s, spans })],
    ["foot", [id, openElsewhere(id)?.href], () => footer(null)],
  ].filter(Boolean);
}

function head(title, words, turn) {
  const { previous, next } = trace.neighbours ?? {};
  const step = (id, label, sign) => (id ? link({ turn: id }, { class: "button quiet", title: label, "aria-label": label }, sign)
    : h("span", { class: "button quiet off", "aria-hidden": "true" }, sign));
  return h("div", { class: "head turn-head" },
    h("h2", {}, title, turn ? h("span", { class: `tag ${turn.complete ? turn.outcome ?? "" : "incomplete"}` }, outcome(turn)) : null),
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

function footer(turn) {
  const id = trace.trace_id;
  const interrupts = trace.spans.flatMap((span) => span.links).filter((each) => each.attributes["voice.link.type"] === "interrupted");
  return h("p", { class: "foot" },
    interrupts.map((each) => link({ turn: each.trace_id }, { class: "button" }, "the turn that it interrupted")),
    trace.interrupted_by ? link({ turn: trace.interrupted_by }, { class: "button" }, "the turn that interrupted it") : null,
    turn?.session_id ? link({ view: "sessions", call: turn.session_id }, { class: "button" }, "its session") : null,
    openElsewhere(id),
    exportLink({ trace: id }, "export"),
    h("button", { type: "button", class: "quiet", onclick: () => copy(id, "Trace id") }, "copy trace id"),
    h("code", {}, id));
}
