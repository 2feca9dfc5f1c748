// Which turns: the form below the head of the page.
import { $, h, replace } from "./dom.js";
import { clock, count, number } from "./format.js";
import { knownRuns, runLabel, runName } from "./runs.js";
import { LATENCIES } from "./stages.js";
import { change, clearFilters, filtered, FILTERS, limitOf, period, setLimit, state } from "./state.js";

const TIMES = { "": "all time", 15: "last 15 minutes", 60: "last hour", 360: "last 6 hours", 1440: "last day", 10080: "last week" };
const OUTCOMES = ["completed", "interrupted", "unanswered", "no_reply", "error", "timeout", "failed", "incomplete"];
const ALWAYS = ["unanswered", "failed", "incomplete"]; // no outcomes of the turn model: what several have in common
const CHOICES = { service: "every service", outcome: "every outcome", model: "every model", voice: "every voice", worker: "every worker" };
const INPUTS = ["search", "last", "run", ...Object.keys(CHOICES), "stage", "over", "against"];

let known = {};

export function buildFilters() {
  const form = $("filters");
  const select = (name, label) => h("select", { name, "aria-label": label, id: `filter-${name}` });
  form.append(
    h("input", { type: "search", name: "search", id: "search", placeholder: "session or trace id", "aria-label": "Search for a session or a trace id", size: 18 }),
    h("button", { type: "button", id: "more-filters", class: "quiet", "aria-expanded": "false", "aria-controls": "some-filters", onclick: unfold }, "filters"),
    h("span", { id: "some-filters" },
      select("last", "Time"), select("run", "Run"), select("service", "Service"), select("outcome", "Outcome"), select("model", "Model"), select("voice", "Voice"), select("worker", "Worker"),
      h("span", { class: "pair" }, select("stage", "Latency"), h("label", {}, "over ", h("input", { type: "number", name: "over", min: 0, step: 50, "aria-label": "Over this many milliseconds", inputmode: "numeric" }), " ms"))),
    h("span", { id: "chips" }),
    h("button", { type: "button", id: "clear", class: "quiet", onclick: clearFilters }, "show all"),
    h("span", { id: "hidden-count", class: "dim" }),
    h("span", { class: "pair", id: "against" }, h("label", {}, "compare with ", select("against", "Compare with"))));
  fill(form.elements.last, Object.entries(TIMES));
  fill(form.elements.stage, [["", "heard silence"], ...Object.entries(LATENCIES).filter(([key]) => key !== "response")]);
  fill($("of"), Object.entries(LATENCIES));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => take(event.target));
  let typed;
  form.addEventListener("input", (event) => {
    if (event.target.tagName !== "INPUT") return;
    clearTimeout(typed);
    typed = setTimeout(() => take(event.target), 250);
  });
  $("of").addEventListener("change", () => change({ of: $("of").value }));
  $("objective").addEventListener("change", () => setLimit(state().of, Number($("objective").value)));
  $("unzoom").addEventListener("click", () => change({ from: "", to: "", last: "" }));
  showFilters();
}

function unfold() {
  const open = document.body.classList.toggle("filters-open");
  $("more-filters").setAttribute("aria-expanded", String(open));
}

function take({ name, value }) {
  if (!name) return;
  const part = { [name]: value.trim() };
  if (name === "last") Object.assign(part, { from: "", to: "" });
  change(part, { replace: name === "search" || name === "over" });
}

/** Give a select its options; one that has them already is left alone: it may be unfolded. */
function fill(select, entries) {
  const shown = JSON.stringify(entries);
  if (select.shown === shown) return;
  select.shown = shown;
  select.replaceChildren(...entries.map(([value, words, disabled]) => h("option", { value, disabled }, words)));
}

/** The values that occur, with how many turns have them. */
export function offer(choices) {
  known = choices;
  showFilters();
}

export function showFilters() {
  const form = $("filters");
  for (const [name, all] of Object.entries(CHOICES)) {
    const chosen = state()[name];
    const found = (known[name] ?? []).map(({ value, turns }) => [value, `${value} (${number(turns)})`]);
    const names = new Set(found.map(([value]) => value));
    if (name === "outcome") for (const each of OUTCOMES) if (!names.has(each) && (each === chosen || ALWAYS.includes(each))) found.push([each, each]);
    if (chosen && name !== "outcome" && !names.has(chosen)) found.push([chosen, chosen]);
    fill(form.elements[name], [["", all], ...found]);
    form.elements[name].hidden = name !== "outcome" && found.length < 2 && !chosen;
  }
  showRuns(form);
  for (const name of INPUTS) {
    const element = form.elements[name];
    if (document.activeElement !== element || element.tagName === "SELECT") element.value = state()[name];
    element.classList.toggle("set", state()[name] !== "");
  }
  $("of").value = state().of;
  const limit = limitOf(state().of);
  $("objective-name").textContent = state().of === "response" ? "objective" : "limit";
  if (document.activeElement !== $("objective") || state().of !== $("objective").dataset.of) $("objective").value = limit === null ? "" : String(Math.round(limit * 1e6) / 1000);
  $("objective").dataset.of = state().of;
  $("unzoom").hidden = !state().from && !state().to;
  replace($("chips"), chips());
  $("clear").hidden = !filtered();
  const set = FILTERS.filter((name) => state()[name] !== "" && name !== "search").length;
  $("more-filters").textContent = set ? `filters (${set})` : "filters";
}

function showRuns(form) {
  const { run, against } = state();
  const runs = knownRuns().map((each) => [String(each.id), runLabel(each)]);
  const chosen = against.startsWith("run:") ? against.slice(4) : "";
  const with_ = (id) => (id && !runs.some(([value]) => value === id) ? [[id, runName(id)]] : []);
  fill(form.elements.run, [["", "every run"], ...runs, ...with_(run)]);
  form.elements.run.hidden = runs.length < 2 && !run;
  const bounded = period().since !== null;
  fill(form.elements.against, [["", "nothing"], ["before", bounded ? "the time before" : "the time before (choose a time)", !bounded && against !== "before"],
    ...[...runs, ...with_(chosen)].map(([id, words]) => [`run:${id}`, words])]);
}

function chips() {
  const { session, from, to } = state();
  const chip = (words, part) => h("button", { type: "button", class: "chip", title: "Take this filter away", onclick: () => change(part) }, words, " ✕");
  const found = [];
  if (session) found.push(chip(`session ${session}`, { session: "" }));
  if (from && to) found.push(chip(`${clock(Number(from))} to ${clock(Number(to))}`, { from: "", to: "" }));
  else if (from) found.push(chip(`since ${clock(Number(from))}`, { from: "" }));
  else if (to) found.push(chip(`until ${clock(Number(to))}`, { to: "" }));
  return found;
}

/** How many turns the filters keep from view. */
export function showHidden(turns) {
  $("hidden-count").textContent = turns > 0 ? `${count(turns, "turn")} hidden by filters` : "";
}
