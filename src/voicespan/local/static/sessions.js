// The sessions: one line for each call, how long it was and how its turns went.
import { $, h, replace } from "./dom.js";
import { count, length, moment, number, span } from "./format.js";
import { link } from "./link.js";
import { change, clearFilters, filtered } from "./state.js";

export function drawSessions(found) {
  const { sessions } = found;
  const heads = [["began", ""], ["session", ""], ["service", "late"], ["lasted", "r mid"], ["turns", "r"], ["p50", "r mid"], ["longest silence", "r"], ["unanswered", "r"], ["interrupted", "r late"], ["errors", "r mid"], ["incomplete", "r late"]];
  replace($("sessions"),
    h("h2", { id: "sessions-title" }, "Sessions ", h("small", {}, found.matching > sessions.length ? `the newest ${number(sessions.length)} of ${number(found.matching)}` : count(found.matching, "session"))),
    sessions.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Sessions" }, h("table", { class: "turns" },
      h("thead", {}, h("tr", {}, heads.map(([words, kind]) => h("th", { scope: "col", class: kind }, words)))), h("tbody", {}, sessions.map(line))))
      : h("p", { class: "hint" }, filtered() ? ["No session matches. ", h("button", { type: "button", onclick: clearFilters }, "show all sessions")] : "No session yet."));
}

function line(session) {
  const bad = (value, late = "") => h("td", { class: `r ${late} ${value ? "worse" : "dim"}` }, number(value));
  const open = (event) => {
    if (!event.target.closest("a")) change({ call: session.session_id });
  };
  return h("tr", { dataset: { key: session.session_id, call: session.session_id }, onclick: open, title: "See it as a conversation" },
    h("td", { class: "dim" }, moment(session.start_s)),
    h("td", { class: "strong session" }, link({ call: session.session_id }, { class: "plain" }, session.session_id)),
    h("td", { class: "dim late" }, session.service), h("td", { class: "r mid" }, span(session.end_s - session.start_s)),
    h("td", { class: "r" }, number(session.turns)), h("td", { class: "r mid" }, length(session.p50_s)),
    h("td", { class: "r strong" }, session.worst_trace_id
      ? link({ call: session.session_id, turn: session.worst_trace_id }, { class: "plain", title: "Open this turn" }, length(session.worst_s)) : length(session.worst_s)),
    bad(session.unanswered), h("td", { class: "r late dim" }, number(session.interrupted)), bad(session.errors, "mid"), bad(session.incomplete, "late"));
}
