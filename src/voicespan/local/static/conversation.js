// One session as a conversation: its lanes, and its turns in order, with what was said where that is kept.
import { howTo, said } from "./content.js";
import { $, h, keep, replace } from "./dom.js";
import { clock, count, length, moment, number, span } from "./format.js";
import { lanes, remarks, startsOf } from "./lanes.js";
import { markSelected, opens } from "./lines.js";
import { link } from "./link.js";
import { peaksOf } from "./peaks.js";
import { change, state } from "./state.js";
import { miniStrip } from "./strip.js";
import { exportLink } from "./transfer.js";
import { outcome } from "./turn.js";

const ZOOMS = [1, 2, 4, 8, 16];

let shown = null;
let peaks = new Map();

export const shownConversation = () => shown;

export function drawConversation(found, problem) {
  if (found?.session_id !== shown?.session_id) peaks = new Map();
  shown = found;
  draw(problem);
  if (found) loadPeaks(found);
}

/** What is heard is asked for turn by turn, and drawn as it comes. */
async function loadPeaks(found) {
  for (const turn of found.turns) {
    if (shown !== found) return;
    const given = await peaksOf(turn.trace_id, turn.content);
    if (!Object.keys(given).length || peaks.get(turn.trace_id) === given) continue;
    peaks.set(turn.trace_id, given);
    if (shown === found) draw();
  }
}

function draw(problem) {
  const place = $("conversation");
  if (!shown) {
    replace(place, h("div", { class: "head" }, h("h2", { id: "conversation-title" }, "No such session"), back()), h("p", {}, problem));
    return;
  }
  const { turns, session_id: id } = shown;
  const zoom = Number(state().zoom) || 1;
  const last = turns.at(-1);
  const lasted = turns.length ? last.start_s + last.duration_s - turns[0].start_s : 0;
  const nothingKept = !turns.some((turn) => Object.keys(turn.content ?? {}).length);
  const users = turns.flatMap((turn) => turn.user);
  const most = Math.max(...turns.map((each) => each.response_s ?? 0), 0.001);
  const order = place.querySelector(".spoken") ?? h("ol", { class: "spoken" });
  keep(order, turns.map((turn) => [turn.trace_id, [turn, most, remarks(turn, users)], () => item(turn, { turns, most, said: remarks(turn, users) })]));
  replace(place,
    h("div", { class: "head" }, h("h2", { id: "conversation-title" }, `Session ${id}`),
      h("p", { class: "dim" }, [shown.service, turns.length ? moment(turns[0].start_s) : "", span(lasted), count(turns.length + shown.beyond, "turn")].filter(Boolean).join(" · ")),
      h("nav", { "aria-label": "Session" },
        zoomButton("−", "Show more of the time", ZOOMS[ZOOMS.indexOf(zoom) - 1]), zoomButton("+", "Show it larger", ZOOMS[ZOOMS.indexOf(zoom) + 1]),
        link({ view: "turns", session: id, turn: "", call: "" }, { class: "button quiet" }, "as turns"), exportLink({ session: id }, "export"), back())),
    pages(),
    turns.length ? lanes(turns, zoom, peaks) : null,
    h("p", { class: "legend lane-legend" },
      h("span", {}, h("i", { class: "key bar-user" }), "user is heard"), h("span", {}, h("i", { class: "key bar-agent" }), "agent is heard"),
      h("span", {}, h("i", { class: "key bar-both" }), "both at once"), h("span", {}, h("i", { class: "key bar-gap" }), "gap in the audio"),
      h("span", {}, "silences in the colour of the stage that took most")),
    nothingKept ? h("div", { class: "content" }, howTo(shown)) : null,
    order);
  markSelected();
}

/** The way to the turns before and after these, where a session has more than are shown at once. */
function pages() {
  const { turns, first = 0, earlier = 0, later = shown.beyond ?? 0 } = shown;
  if (!earlier && !later) return null;
  const page = (to, words, there) => (there ? link({ first: to, turn: "" }, { class: "button", dataset: { key: words } }, words) : h("span", { class: "button off", "aria-hidden": "true" }, words));
  return h("nav", { class: "pages", "aria-label": "Parts of the session" },
    page("0", "first", earlier), page(String(Math.max(first - turns.length, 0)), "earlier", earlier),
    h("span", { class: "dim" }, `turns ${number(first + 1)} to ${number(first + turns.length)} of ${number(first + turns.length + later)}`),
    page(String(first + turns.length), "later", later), page("", "newest", later));
}

const back = () => link({ call: "", turn: "" }, { class: "button quiet", title: "All sessions (Esc)", "aria-label": "All sessions" }, "✕");

function zoomButton(sign, words, to) {
  return h("button", { type: "button", class: "quiet", disabled: to === undefined, title: words, "aria-label": words, dataset: { key: `zoom${sign}` }, onclick: () => change({ zoom: String(to) }, { replace: true }) }, sign);
}

function item(turn, { turns, most, said: words }) {
  const bad = turn.unanswered || ["error", "timeout"].includes(turn.outcome) || !turn.complete;
  const other = turns.find((each) => each.trace_id === turn.interrupts);
  const starts = startsOf(turn);
  const texts = ["user", "agent"].map((role) => said(turn.trace_id, role, turn.content?.[role], starts[role])).filter(Boolean);
  return h("li", { ...opens(turn.trace_id) },
    h("div", { class: "spoken-head" },
      link({ turn: turn.trace_id }, { class: "plain strong" }, `Turn ${turn.turn_index ?? ""}`),
      h("time", { class: "dim" }, clock(turn.start_s)),
      h("span", { class: `tag ${bad ? "bad" : turn.outcome ?? ""}` }, outcome(turn)),
      turn.interrupts ? link({ turn: turn.interrupts }, { class: "tag" }, `interrupts turn ${other?.turn_index ?? ""}`) : null,
      turn.response_s ? h("b", { class: "took" }, length(turn.response_s)) : null),
    miniStrip(turn, most),
    h("p", { class: "sentence" }, turn.cause),
    words.length ? h("p", { class: "remarks dim" }, words.join("; ")) : null,
    texts.length ? h("div", { class: "sides" }, texts) : null);
}
