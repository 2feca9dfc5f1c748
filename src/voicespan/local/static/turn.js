// One turn: why the user waited, in a sentence, a strip, against the median turn, and as a waterfall.
import { ask } from "./api.js";
import { $, copy, h } from "./dom.js";
import { length, moment } from "./format.js";
import { addressWith, change, state } from "./state.js";
import { comparison, strip } from "./strip.js";
import { attributes, waterfall } from "./waterfall.js";

let trace = null;
let silence = null;
let selected = null;

/** Load the turn of the state, or go back to the hint. */
export async function loadTurn() {
  const wanted = state().turn;
  document.body.classList.toggle("has-turn", Boolean(wanted));
  if (!wanted) {
    trace = null;
    return draw();
  }
  if (trace?.trace_id !== wanted) selected = null;
  try {
    const found = await ask("turn", `turns/${encodeURIComponent(wanted)}`);
    if (found === null) return undefined;
    trace = found;
    draw();
  } catch (error) {
    trace = null;
    draw(error.message);
  }
  return undefined;
}

/** The median turn to compare with. */
export function compareWith(found) {
  silence = found;
  if (trace) draw();
}

export const shownTurn = () => trace;

/** A link that changes the address without loading the page. */
export function link(part, properties, ...children) {
  const onclick = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    change(part);
  };
  return h("a", { href: addressWith(part), onclick, ...properties }, ...children);
}

function draw(problem) {
  const place = $("turn");
  if (problem) {
    place.replaceChildren(h("div", { class: "head" }, h("h2", {}, "No such turn"), close()), h("p", {}, problem));
  } else if (!trace) {
    place.replaceChildren(h("p", { class: "hint" }, "Click a dot, or a line of the list, to see why the user waited."));
  } else {
    place.replaceChildren(...content());
  }
}

const close = () => link({ turn: "" }, { class: "button quiet", title: "Back to all turns (Esc)", "aria-label": "Close the turn" }, "✕");

function content() {
  const { turn, spans } = trace;
  const again = (id) => {
    selected = id;
    draw();
    document.querySelector(".row.open")?.focus();
  };
  if (!turn) {
    return [head(`Trace ${trace.trace_id.slice(0, 12)}`, ["no turn"]), waterfall(spans, selected, again)];
  }
  const title = turn.turn_index === null ? "Turn" : `Turn ${turn.turn_index}`;
  const parts = [head(title, circumstances(turn), turn), h("p", { class: `why why-${turn.unanswered || turn.error ? "bad" : turn.bottleneck ?? "none"}` }, turn.cause)];
  if (turn.response_s && Object.keys(turn.shares).length) parts.push(strip(turn), comparison(turn, silence));
  parts.push(
    waterfall(spans, selected, again),
    h("details", { class: "more" }, h("summary", {}, "Attributes of the turn"), attributes(turn.attributes)),
    footer(turn));
  return parts;
}

function head(title, words, turn) {
  const { previous, next } = trace.neighbours ?? {};
  const step = (id, label, sign) => (id ? link({ turn: id }, { class: "button quiet", title: label, "aria-label": label }, sign)
    : h("span", { class: "button quiet off", "aria-hidden": "true" }, sign));
  return h("div", { class: "head turn-head" },
    h("h2", {}, title, turn ? h("span", { class: `tag ${turn.outcome ?? "incomplete"}` }, outcome(turn)) : null),
    h("p", { class: "dim" }, words.filter(Boolean).join(" · ")),
    h("nav", { "aria-label": "Turns of this session" },
      turn ? step(previous, "Previous turn of the session", "‹") : null,
      turn ? step(next, "Next turn of the session", "›") : null,
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
  const linked = trace.spans.flatMap((span) => span.links).filter((each) => each.attributes["voice.link.type"] === "interrupted");
  return h("p", { class: "foot" },
    linked.map((each) => link({ turn: each.trace_id }, { class: "button" }, "the turn that it interrupted")),
    turn.session_id ? link({ session: turn.session_id, turn: turn.trace_id }, { class: "button" }, "only this session") : null,
    h("button", { type: "button", onclick: () => copy(trace.trace_id, "Trace id") }, "copy trace id"),
    h("code", {}, trace.trace_id));
}
