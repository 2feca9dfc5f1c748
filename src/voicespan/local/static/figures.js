// The key figures, and where the heard silence goes.
import { $, h } from "./dom.js";
import { count, length, percent } from "./format.js";
import { MEANINGS, SHARES } from "./stages.js";
import { addressWith, change, state } from "./state.js";

export function drawFigures(found) {
  const objective = length(found.objective_s);
  const missed = found.within_objective !== null && found.within_objective < 0.95;
  $("figures").replaceChildren(
    figure("heard silence p50", length(found.p50_s), `of ${count(found.answered, "answered turn")}`),
    figure("p95", length(found.p95_s)),
    figure("p99", length(found.p99_s)),
    figure(`within ${objective}`, percent(found.within_objective), "unanswered count against it", missed),
    figure("turns", found.turns.toLocaleString("en"), `in ${count(found.sessions, "session")}`),
    choice("unanswered", found.unanswered, found.turns, "unanswered"),
    choice("interrupted", found.interrupted, found.turns, "interrupted"),
    choice("errors", found.errors, found.turns, "error"),
    ...(found.incomplete ? [choice("incomplete", found.incomplete, found.turns, "incomplete")] : []));
}

function figure(name, value, words = "", bad = false) {
  return h("div", {}, h("span", {}, name), h("strong", { class: bad ? "worse" : "" }, value), words ? h("small", {}, words) : null);
}

/** A figure that filters by what it counts. */
function choice(name, number, turns, outcome) {
  const on = state().outcome === outcome;
  const part = { outcome: on ? "" : outcome };
  const onclick = (event) => {
    event.preventDefault();
    change(part);
  };
  const share = turns && number ? percent(number / turns) : "";
  return h("a", { href: addressWith(part), onclick, class: on ? "on" : "", title: on ? "Show all again" : `Only ${name}` },
    h("span", {}, name), h("strong", { class: number && name !== "interrupted" ? "worse" : "" }, number.toLocaleString("en")),
    h("small", {}, share));
}

export function drawSilence(found) {
  const stages = SHARES.filter((stage) => found.stages[stage]);
  const most = Math.max(...stages.map((stage) => found.stages[stage].mean_s), 0);
  const rows = stages.map((stage) => {
    const { mean_s: mean, median_s: median, part } = found.stages[stage];
    const onclick = () => change({ of: stage in NO_LATENCY ? "response" : stage });
    return h("tr", { title: MEANINGS[stage] },
      h("th", { scope: "row" }, h("i", { class: `swatch on-${stage}` }),
        stage in NO_LATENCY ? stage : h("button", { type: "button", class: "text", onclick, title: `${MEANINGS[stage]} Show its dots.` }, stage)),
      h("td", { class: "bars" }, h("div", { class: `bar on-${stage}`, vars: { "--w": `${(mean / most) * 100}%` } })),
      h("td", { class: "r" }, length(mean)),
      h("td", { class: "r dim" }, percent(part)),
      h("td", { class: "r dim" }, length(median)));
  });
  $("silence").replaceChildren(
    h("h2", { id: "silence-title" }, "Where the silence goes ",
      h("small", {}, found.turns ? `mean of ${count(found.turns, "answered turn")}: ${length(found.mean_s)}` : "no answered turn yet")),
    found.turns ? h("table", { class: "compare" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "stage"), h("th", { scope: "col", colspan: 2 }, "mean"),
        h("th", { class: "r", scope: "col" }, "share"), h("th", { class: "r", scope: "col" }, "median"))),
      h("tbody", {}, rows)) : "");
}

const NO_LATENCY = { send: true, unattributed: true };
