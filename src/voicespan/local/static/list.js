// The list of turns: the slow ones first, unless another order is asked for.
import { $, h, replace } from "./dom.js";
import { said } from "./log.js";
import { count, length, moment, number } from "./format.js";
import { opens } from "./lines.js";
import { link } from "./link.js";
import { LATENCIES, sortedBy } from "./stages.js";
import { change, clearFilters, filtered, query, state } from "./state.js";
import { miniStrip } from "./strip.js";
import { exportLink } from "./transfer.js";
import { outcome } from "./turn.js";

const STAGES = ["endpoint", "asr", "llm", "sentence", "tool", "tts", "network"];
const ORDERS = { start: "time", duration: "whole turn", ...LATENCIES };

export function drawList(found) {
  const { turns } = found;
  const { sort, order, limit } = state();
  const extra = STAGES.includes(sort) || sort === "response" || sort === "start" ? [] : [sort];
  const scale = Math.max(...turns.map((turn) => turn.response_s ?? 0), 0.001);
  const numbers = [...STAGES, ...extra];
  const logs = turns.some((turn) => turn.log_lines);
  const top = h("tr", {},
    heading("start", "time"), plain("session", "session"), plain("turn", "r turn"), heading("response", "heard silence", "r"),
    plain("where it went"), plain("mostly", "mostly"), plain("outcome"),
    logs ? plain("log says", "logged") : null,
    numbers.map((stage) => heading(stage, stage, `r${stage === sort ? "" : " stage"}`)),
    plain("model", "late"), plain("voice", "late"));
  const rows = turns.map((turn) => line(turn, { scale, numbers, sort, logs }));
  const more = found.matching > turns.length
    ? h("button", { type: "button", dataset: { key: "more" }, onclick: () => change({ limit: String(Math.min(Number(limit) + 150, 2000)) }, { replace: true }) },
      `show more (${number(turns.length)} of ${number(found.matching)})`) : null;
  const nothing = h("p", { class: "hint" }, "No turn matches. ",
    filtered() ? h("button", { type: "button", onclick: clearFilters }, "show all turns") : null);
  replace($("list"),
    h("div", { class: "head" }, h("h2", { id: "list-title" }, title(sort, order), " ", h("small", {}, count(found.matching, "turn"))),
      h("label", {}, "by ", sorter(sort)),
      found.matching ? exportLink(query(), filtered() ? `export ${found.matching === 1 ? "this turn" : `these ${number(found.matching)} turns`}` : "export everything") : null),
    turns.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Turns" }, h("table", { class: "turns" }, h("thead", {}, top), h("tbody", {}, rows))) : nothing,
    more);
}

function title(sort, order) {
  if (sort === "start") return order === "desc" ? "Turns, newest first" : "Turns, oldest first";
  return order === "desc" ? "Slow turns" : "Fast turns";
}

function sorter(sort) {
  const onchange = (event) => change({ sort: event.target.value, order: "desc" });
  return h("select", { id: "sort", dataset: { key: "sort" }, onchange, "aria-label": "Sort the turns by" },
    Object.entries(ORDERS).map(([value, words]) => h("option", { value, selected: value === sort }, words)));
}

function heading(key, words, classes = "") {
  const { sort, order } = state();
  const on = sort === key;
  const onclick = () => change({ sort: key, order: on && order === "desc" ? "asc" : "desc" });
  return h("th", { scope: "col", class: classes, "aria-sort": on ? (order === "desc" ? "descending" : "ascending") : undefined },
    h("button", { type: "button", class: "text", onclick, dataset: { key: `by-${key}` }, title: `Sort by ${ORDERS[key] ?? words}` }, words, on ? (order === "desc" ? " ↓" : " ↑") : ""));
}

const plain = (words, classes = "") => h("th", { scope: "col", class: classes }, words);

function line(turn, { scale, numbers, sort, logs }) {
  const bad = turn.unanswered || ["error", "timeout"].includes(turn.outcome) || !turn.complete;
  const share = turn.shares[turn.bottleneck];
  const session = turn.session_id
    ? link({ view: "sessions", call: turn.session_id, turn: turn.trace_id }, { class: "plain", title: "See it in its session" }, turn.session_id) : turn.service;
  return h("tr", { title: turn.cause, ...opens(turn.trace_id) },
    h("td", { class: "dim" }, link({ turn: turn.trace_id }, { class: "plain" }, moment(turn.start_s))),
    h("td", { class: "session" }, session),
    h("td", { class: "r turn" }, turn.turn_index ?? ""),
    h("td", { class: `r strong${turn.unanswered ? " worse" : ""}` }, length(turn.response_s)),
    h("td", {}, miniStrip(turn, scale)),
    h("td", { class: "mostly" }, share ? [h("i", { class: `swatch on-${turn.bottleneck}` }), `${turn.bottleneck} ${Math.round((share / turn.response_s) * 100)} %`] : ""),
    h("td", {}, h("span", { class: `tag ${bad ? "bad" : turn.outcome ?? ""}` }, outcome(turn))),
    logs ? h("td", { class: "logged" }, said(turn.log_lines, turn.log_warnings)) : null,
    numbers.map((stage) => h("td", { class: `r dim${stage === sort ? "" : " stage"}` }, sortedBy(turn, stage) === null ? "" : length(sortedBy(turn, stage)))),
    h("td", { class: "dim late" }, turn.model ?? ""),
    h("td", { class: "dim late" }, turn.voice ?? ""));
}
