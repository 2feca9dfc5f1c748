// One session as a conversation: its lanes, and its turns in order, with what was said where that is kept.
import { howTo, said } from "./content.js";
import { $, h, keep, replace } from "./dom.js";
import { clock, count, length, moment, number, span } from "./format.js";
import { lanes } from "./lanes.js";
import { opens } from "./lines.js";
import { link } from "./link.js";
import { change, state } from "./state.js";
import { miniStrip } from "./strip.js";
import { exportLink } from "./transfer.js";
import { outcome } from "./turn.js";

const ZOOMS = [1, 2, 4, 8, 16];

export function drawConversation(found, problem) {
  const place = $("conversation");
  if (!found) {
    replace(place, h("div", { class: "head" }, h("h2", { id: "conversation-title" }, "No such session"), back()), h("p", {}, problem));
    return;
  }
  const { turns, session_id: id } = found;
  const zoom = Number(state().zoom) || 1;
  const last = turns.at(-1);
  const lasted = turns.length ? last.start_s + last.duration_s - turns[0].start_s : 0;
  const nothingKept = !turns.some((turn) => Object.keys(turn.content ?? {}).length);
  const scrolled = place.querySelector(".lanes-scroll")?.scrollLeft ?? 0;
  const order = place.querySelector(".spoken") ?? h("ol", { class: "spoken" });
  keep(order, turns.map((turn) => [turn.trace_id, turn, () => item(turn, turns)]));
  replace(place,
    h("div", { class: "head" }, h("h2", { id: "conversation-title" }, `Session ${id}`),
      h("p", { class: "dim" }, [found.service, turns.length ? moment(turns[0].start_s) : "", span(lasted), count(turns.length + found.beyond, "turn")].filter(Boolean).join(" · ")),
      h("nav", { "aria-label": "Session" },
        zoomButton("−", "Show more of the time", ZOOMS[ZOOMS.indexOf(zoom) - 1]), zoomButton("+", "Show it larger", ZOOMS[ZOOMS.indexOf(zoom) + 1]),
        link({ view: "turns", session: id, turn: "", call: "" }, { class: "button quiet" }, "as turns"), exportLink({ session: id }, "export"), back())),
    turns.length ? lanes(turns, zoom) : null,
    h("p", { class: "legend lane-legend" },
      h("span", {}, h("i", { class: "key bar-user" }), "user is heard"), h("span", {}, h("i", { class: "key bar-agent" }), "agent is heard"),
      h("span", {}, h("i", { class: "key bar-both" }), "both at once"), h("span", {}, h("i", { class: "key bar-gap" }), "gap in the audio"),
      h("span", {}, "silences in the colour of the stage that took most")),
    nothingKept ? h("div", { class: "content" }, howTo(found.content_kept)) : null,
    order,
    found.beyond ? h("p", { class: "dim" }, `${number(found.beyond)} more turns not shown`) : null);
  const scroll = place.querySelector(".lanes-scroll");
  if (scroll) scroll.scrollLeft = scrolled;
}

const back = () => link({ call: "", turn: "" }, { class: "button quiet", title: "All sessions (Esc)", "aria-label": "All sessions" }, "✕");

function zoomButton(sign, words, to) {
  return h("button", { type: "button", class: "quiet", disabled: to === undefined, title: words, "aria-label": words, dataset: { key: `zoom${sign}` }, onclick: () => change({ zoom: String(to) }, { replace: true }) }, sign);
}

function item(turn, turns) {
  const most = Math.max(...turns.map((each) => each.response_s ?? 0), 0.001);
  const bad = turn.unanswered || ["error", "timeout"].includes(turn.outcome) || !turn.complete;
  const other = turns.find((each) => each.trace_id === turn.interrupts);
  const texts = [said(turn.trace_id, "user", turn.content?.user), said(turn.trace_id, "agent", turn.content?.agent)].filter(Boolean);
  return h("li", { ...opens(turn.trace_id) },
    h("div", { class: "spoken-head" },
      link({ turn: turn.trace_id }, { class: "plain strong" }, `Turn ${turn.turn_index ?? ""}`),
      h("time", { class: "dim" }, clock(turn.start_s)),
      h("span", { class: `tag ${bad ? "bad" : turn.outcome ?? ""}` }, outcome(turn)),
      turn.interrupts ? link({ turn: turn.interrupts }, { class: "tag" }, `interrupts turn ${other?.turn_index ?? ""}`) : null,
      turn.response_s ? h("b", { class: "took" }, length(turn.response_s)) : null),
    miniStrip(turn, most),
    h("p", { class: "sentence" }, turn.cause),
    texts.length ? h("div", { class: "sides" }, texts) : null);
}
