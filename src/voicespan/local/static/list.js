// The list of turns: the slow ones first, unless another order is asked for.
import { $, h } from "./dom.js";
import { count, length, moment } from "./format.js";
import { FIELD, LATENCIES } from "./stages.js";
import { change, clearFilters, filtered, state } from "./state.js";
import { miniStrip } from "./strip.js";
import { link, outcome } from "./turn.js";

const STAGES = ["endpoint", "asr", "llm", "sentence", "tool", "tts", "network"];
let shown = [];

export function drawList(found) {
  shown = found.turns;
  const { sort, order, limit, turn: selected } = state();
  const extra = STAGES.includes(sort) || sort === "response" || sort === "start" ? [] : [sort];
  const scale = Math.max(...shown.map((turn) => turn.response_s ?? 0), 0.001);
  const heading = (key, words, classes = "") => {
    const on = sort === key;
    const onclick = () => change({ sort: key, order: on && order === "desc" ? "asc" : "desc" });
    return h("th", { scope: "col", class: classes, "aria-sort": on ? (order === "desc" ? "descending" : "ascending") : undefined },
      h("button", { type: "button", class: "text", onclick, title: `Sort by ${LATENCIES[key] ?? words}` }, words, on ? (order === "desc" ? " ↓" : " ↑") : ""));
  };
  const plain = (words, classes = "") => h("th", { scope: "col", class: classes }, words);
  const numbers = [...STAGES, ...extra];
  const top = h("tr", {},
    heading("start", "time"), plain("session", "session"), plain("turn", "r turn"), heading("response", "heard silence", "r"),
    plain("where it went"), plain("mostly"), plain("outcome"),
    numbers.map((stage) => heading(stage, stage, `r${STAGES.includes(stage) && stage !== sort ? " stage" : ""}`)),
    plain("model", "late"), plain("voice", "late"));
  const rows = shown.map((turn) => line(turn, { selected, scale, numbers, sort }));
  const more = found.matching > shown.length
    ? h("button", { type: "button", onclick: () => change({ limit: String(Math.min(Number(limit) + 150, 2000)) }, { replace: true }) },
      `show more (${shown.length.toLocaleString("en")} of ${found.matching.toLocaleString("en")})`) : null;
  const title = sort === "start" ? (order === "desc" ? "Turns, newest first" : "Turns, oldest first")
    : `Turns by ${LATENCIES[sort] ?? sort}${order === "desc" ? ", slow first" : ", fast first"}`;
  const nothing = h("p", { class: "hint" }, "No turn matches. ",
    filtered() ? h("button", { type: "button", onclick: clearFilters }, "show all turns") : null);
  const scrolled = $("list").querySelector(".scroll")?.scrollLeft ?? 0;
  $("list").replaceChildren(
    h("h2", { id: "list-title" }, title, " ", h("small", {}, count(found.matching, "turn"))),
    shown.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Turns" }, h("table", { class: "turns" }, h("thead", {}, top), h("tbody", {}, rows))) : nothing,
    more ?? "");
  const scroll = $("list").querySelector(".scroll");
  if (scroll) scroll.scrollLeft = scrolled;
}

function line(turn, { selected, scale, numbers, sort }) {
  const on = turn.trace_id === selected;
  const bad = turn.unanswered || ["error", "timeout"].includes(turn.outcome) || !turn.complete;
  const open = (event) => {
    if (!event.target.closest("a")) change({ turn: turn.trace_id });
  };
  const share = turn.shares[turn.bottleneck];
  return h("tr", { class: on ? "on" : "", "aria-current": on ? "true" : undefined, dataset: { turn: turn.trace_id }, onclick: open, title: turn.cause },
    h("td", { class: "dim" }, link({ turn: turn.trace_id }, { class: "plain" }, moment(turn.start_s))),
    h("td", { class: "session" }, turn.session_id ?? turn.service),
    h("td", { class: "r turn" }, turn.turn_index ?? ""),
    h("td", { class: `r strong${turn.unanswered ? " worse" : ""}` }, length(turn.response_s)),
    h("td", {}, miniStrip(turn, scale)),
    h("td", {}, share ? [h("i", { class: `swatch on-${turn.bottleneck}` }), `${turn.bottleneck} ${Math.round((share / turn.response_s) * 100)} %`] : ""),
    h("td", {}, h("span", { class: `tag ${bad ? "bad" : turn.outcome ?? ""}` }, outcome(turn))),
    numbers.map((stage) => h("td", { class: `r dim${STAGES.includes(stage) && stage !== sort ? " stage" : ""}` }, turn[FIELD[stage]] === null ? "" : length(turn[FIELD[stage]]))),
    h("td", { class: "dim late" }, turn.model ?? ""),
    h("td", { class: "dim late" }, turn.voice ?? ""));
}

/** Mark the line of the selected turn, without asking for the list again. */
export function markSelected() {
  for (const row of $("list").querySelectorAll("tbody tr")) {
    const on = row.dataset.turn === state().turn;
    row.classList.toggle("on", on);
    if (on) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

/** Select the next line, or the previous one. */
export function stepLine(direction) {
  if (!shown.length) return;
  const at = shown.findIndex((turn) => turn.trace_id === state().turn);
  const next = Math.min(Math.max(at < 0 ? 0 : at + direction, 0), shown.length - 1);
  change({ turn: shown[next].trace_id }, { replace: at >= 0 });
  $("list").querySelector(`tr[data-turn="${shown[next].trace_id}"]`)?.scrollIntoView({ block: "nearest" });
}
