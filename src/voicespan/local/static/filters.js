// Which turns: the form in the head of the page.
import { $, h } from "./dom.js";
import { LATENCIES } from "./stages.js";
import { change, clearFilters, filtered, state } from "./state.js";

const TIMES = { "": "all time", 15: "last 15 minutes", 60: "last hour", 360: "last 6 hours", 1440: "last day", 10080: "last week" };
const OUTCOMES = ["completed", "interrupted", "unanswered", "no_reply", "error", "timeout", "incomplete"];
const CHOICES = { service: "every service", outcome: "every outcome", model: "every model", voice: "every voice" };

let known = {};

export function buildFilters() {
  const form = $("filters");
  const select = (name, label) => h("select", { name, "aria-label": label, id: `filter-${name}` });
  form.append(
    h("input", { type: "search", name: "search", id: "search", placeholder: "session or trace id", "aria-label": "Search for a session or a trace id", size: 18 }),
    select("last", "Time"), select("service", "Service"), select("outcome", "Outcome"), select("model", "Model"), select("voice", "Voice"),
    h("span", { class: "pair" }, select("stage", "Latency"), h("label", {}, "over ", h("input", { type: "number", name: "over", min: 0, step: 50, "aria-label": "Over this many milliseconds", inputmode: "numeric" }), " ms")),
    h("span", { id: "chips" }),
    h("button", { type: "button", id: "clear", class: "quiet", onclick: clearFilters }, "clear"));
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
  $("objective").addEventListener("change", () => change({ objective: String(Math.max(Number($("objective").value) || 600, 1)) }));
  $("unzoom").addEventListener("click", () => change({ from: "", to: "", last: "" }));
  showFilters();
}

function take({ name, value }) {
  if (!name) return;
  const part = { [name]: value.trim() };
  if (name === "last") Object.assign(part, { from: "", to: "" });
  change(part, { replace: name === "search" || name === "over" });
}

function fill(select, entries) {
  select.replaceChildren(...entries.map(([value, words]) => h("option", { value }, words)));
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
    const found = (known[name] ?? []).map(({ value, turns }) => [value, `${value} (${turns.toLocaleString("en")})`]);
    const names = new Set(found.map(([value]) => value));
    if (name === "outcome") for (const each of OUTCOMES) if (!names.has(each) && (each === chosen || each === "unanswered" || each === "incomplete")) found.push([each, each]);
    if (chosen && name !== "outcome" && !names.has(chosen)) found.push([chosen, chosen]);
    fill(form.elements[name], [["", all], ...found]);
    form.elements[name].hidden = name !== "outcome" && found.length < 2 && !chosen;
  }
  for (const name of ["search", "last", "service", "outcome", "model", "voice", "stage", "over"]) {
    const element = form.elements[name];
    if (document.activeElement !== element || element.tagName === "SELECT") element.value = state()[name];
    element.classList.toggle("set", state()[name] !== "");
  }
  $("of").value = state().of;
  if (document.activeElement !== $("objective")) $("objective").value = state().objective;
  $("unzoom").hidden = !state().from && !state().to;
  $("chips").replaceChildren(...chips());
  $("clear").hidden = !filtered();
}

function chips() {
  const chip = (words, part) => h("button", { type: "button", class: "chip", title: "Take this filter away", onclick: () => change(part) }, words, " ✕");
  const found = [];
  if (state().session) found.push(chip(`session ${state().session}`, { session: "" }));
  if (state().from || state().to) found.push(chip("part of the time", { from: "", to: "" }));
  return found;
}
