// The runs: starts of a service, or names that somebody gave. Two of them are picked to be compared.
import { $, h, replace } from "./dom.js";
import { clock, length, moment, number } from "./format.js";
import { link } from "./link.js";
import { change, defaults, FILTERS, state } from "./state.js";

let known = [];

/** Remember the runs, newest first; the filters and the comparison name them too. */
export function know(runs) {
  known = runs;
}

export const knownRuns = () => known;

export function runLabel(run) {
  if (run.label) return run.label;
  const same = known.filter((each) => each.service === run.service && clock(each.started_s) === clock(run.started_s));
  return `${run.service} · ${moment(run.started_s)}${same.length > 1 ? ` · ${run.id}` : ""}`;
}

export function runName(id) {
  const run = known.find((each) => String(each.id) === String(id));
  return run ? runLabel(run) : `run ${id}`;
}

/** The two that are compared: those of the address, else the newest and the one of the same service before it. */
export function pair() {
  const { now, before } = state();
  const newest = now || String(known[0]?.id ?? "");
  const at = known.findIndex((run) => String(run.id) === newest);
  const older = known.slice(at + 1);
  const previous = older.find((run) => run.service === known[at]?.service) ?? older[0];
  return { now: newest, before: before || String(previous?.id ?? "") };
}

export function drawRuns() {
  const { now, before } = pair();
  const most = Math.max(...known.map((run) => run.p95_s ?? 0), 0.001);
  const pick = (name, run) => h("td", { class: "pick" }, h("input", { type: "radio", name: `run-${name}`, value: run.id,
    checked: String(run.id) === (name === "now" ? now : before), dataset: { key: `${name}-${run.id}` },
    "aria-label": `${runLabel(run)} is ${name}`, onchange: () => change({ ...pair(), [name]: String(run.id) }) }));
  const heads = [["now", ""], ["before", ""], ["run", ""], ["service", "late"], ["version", "late"], ["started", ""], ["turns", "r"], ["unanswered", "r late"], ["p50", "r"], ["p95", "r"], ["p50 to p95", ""]];
  const rows = known.map((run) => h("tr", { class: String(run.id) === now ? "on" : String(run.id) === before ? "off-before" : "" },
    pick("now", run), pick("before", run),
    h("td", { class: "strong run-name" }, link({ view: "turns", ...defaults(FILTERS), run: String(run.id), against: "" }, { class: "plain", title: "Its turns", dataset: { key: `run-${run.id}` } }, runLabel(run))),
    h("td", { class: "dim late" }, run.service), h("td", { class: "dim late" }, [run.version, run.environment].filter(Boolean).join(" · ")),
    h("td", { class: "dim" }, moment(run.started_s)), h("td", { class: "r" }, number(run.turns)),
    h("td", { class: `r late${run.unanswered ? " worse" : " dim"}` }, number(run.unanswered)),
    h("td", { class: "r strong" }, length(run.p50_s)), h("td", { class: "r" }, length(run.p95_s)),
    h("td", { class: "ranges" }, run.p95_s === null ? "" : h("div", { class: "range", vars: { "--from": `${(run.p50_s / most) * 100}%`, "--to": `${(run.p95_s / most) * 100}%` } }, h("i", {})))));
  replace($("runs"),
    h("h2", { id: "runs-title" }, "Runs ", h("small", {}, "a start of a service, or a name set with VOICESPAN_RUN; pick two")),
    known.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs" }, h("table", { class: "turns" },
      h("thead", {}, h("tr", {}, heads.map(([words, kind]) => h("th", { scope: "col", class: kind }, words)))), h("tbody", {}, rows)))
      : h("p", { class: "hint" }, "No run yet: the first turn begins one."));
}
