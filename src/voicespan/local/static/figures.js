// The key figures, each with its change against the turns that are compared.
import { $, h, replace } from "./dom.js";
import { count, length, number, percent } from "./format.js";
import { follow } from "./link.js";
import { addressWith, state } from "./state.js";
import { changeOf, words } from "./whisker.js";

let figures = null;
let compared = null;

export function drawFigures(found) {
  figures = found;
  draw();
}

/** The answer of the comparison; null when nothing is compared. */
export function compareFigures(found) {
  compared = found;
  if (figures) draw();
}

function draw() {
  const { objective_s: objective, within_objective: within, turns } = figures;
  const silence = compared?.latencies.response;
  const rate = (name, worse = 1) => compared && was(percent(compared.rates[name]?.before), changeOf(compared.rates[name]), worse);
  replace($("figures"),
    figure("heard silence p50", length(figures.p50_s), `of ${number(figures.answered)} answered`, {
      change: compared && was(length(silence?.before?.p50_s), changeOf(silence?.p50)) }),
    figure("p95", length(figures.p95_s), "", { change: compared && was(length(silence?.before?.p95_s), changeOf(silence?.p95)) }),
    figure("p99", length(figures.p99_s), "", { change: compared && was(length(silence?.before?.p99_s), changeOf(silence?.p99)) }),
    figure(`within ${length(objective)}`, percent(within), "incl. unanswered", {
      bad: within !== null && within < 0.95, change: rate("within_objective", -1) }),
    figure("turns", number(turns), `in ${count(figures.sessions, "session")}`, {
      change: compared && h("div", { class: "was" }, h("small", {}, "compared with"), h("small", {}, number(compared.before.turns))) }),
    choice("unanswered", figures.unanswered, turns, "unanswered", rate("unanswered")),
    choice("interrupted", figures.interrupted, turns, "interrupted", rate("interrupted", 0)),
    choice("errors", figures.errors, turns, "failed", rate("errors")),
    figures.stages.silenced ? silenced(figures.stages.silenced, compared?.latencies.silenced) : null,
    figures.incomplete ? choice("incomplete", figures.incomplete, turns, "incomplete") : null);
}

/** How soon the agent was silent once a user had spoken over it. */
function silenced({ p50_s: p50, p95_s: p95, turns }, change) {
  const part = { of: "silenced" };
  return h("a", { href: addressWith(part), onclick: (event) => follow(event, part), class: state().of === "silenced" ? "on" : "", dataset: { key: "silenced" },
    title: `Of ${count(turns, "interruption")}, from the user's onset until the agent was silent. Show its dots.` },
  h("span", {}, "silenced within"), h("strong", {}, length(p50)), h("small", {}, `p95 ${length(p95)}`), compared && was(length(change?.before?.p50_s), changeOf(change?.p50)));
}

/** What it was, and how it changed. */
function was(before, change, worse = 1) {
  return h("div", { class: "was" }, h("small", {}, words(change, worse)), h("small", {}, `was ${before}`));
}

function figure(name, value, hint = "", { bad = false, change = null } = {}) {
  return h("div", {}, h("span", {}, name), h("strong", { class: bad ? "worse" : "" }, value), h("small", {}, hint), change);
}

/** A figure that filters by what it counts. */
function choice(name, value, turns, outcome, change = null) {
  const on = state().outcome === outcome;
  const part = { outcome: on ? "" : outcome };
  return h("a", { href: addressWith(part), onclick: (event) => follow(event, part), class: on ? "on" : "", "aria-current": on ? "true" : undefined,
    dataset: { key: outcome }, title: on ? "Show all again" : `Only ${name}` },
    h("span", {}, name), h("strong", { class: value && name !== "interrupted" ? "worse" : "" }, number(value)),
    h("small", {}, turns && value ? percent(value / turns) : ""), change);
}
