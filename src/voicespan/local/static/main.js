// The page: which view asks for what, and when it asks again.
import { ask } from "./api.js";
import { drawChart, redrawChart } from "./chart.js";
import { $, say } from "./dom.js";
import { drawEmpty } from "./empty.js";
import { drawFigures, drawSilence } from "./figures.js";
import { buildFilters, offer, showFilters } from "./filters.js";
import { listenToKeys } from "./keys.js";
import { drawList, markSelected } from "./list.js";
import { listen } from "./live.js";
import { change, filtered, FILTERS, query, state, subscribe } from "./state.js";
import { compareWith, loadTurn, shownTurn } from "./turn.js";

const known = new Set();

const views = {
  async figures() {
    const found = await ask("figures", "figures", { ...query(), objective_ms: state().objective });
    if (!found) return;
    drawFigures(found);
    drawEmpty(found.turns === 0 && !filtered());
  },
  async dots() {
    const found = await ask("dots", "dots", { ...query(), of: state().of });
    if (!found) return;
    for (const id of found.trace_id) known.add(id);
    drawChart(found);
  },
  async list() {
    const { sort, order, limit } = state();
    const found = await ask("list", "turns", { ...query(), sort, order, limit });
    if (!found) return;
    for (const turn of found.turns) known.add(turn.trace_id);
    drawList(found);
  },
  async silence() {
    const found = await ask("silence", "silence", query());
    if (!found) return;
    drawSilence(found);
    compareWith(found);
  },
  async choices() {
    const found = await ask("choices", "choices");
    if (found) offer(found);
  },
};

async function load(...names) {
  const answers = await Promise.allSettled(names.map((name) => views[name]()));
  const failed = answers.find((answer) => answer.status === "rejected");
  if (failed) say(failed.reason.message);
}

const everything = () => load("figures", "list", "dots", "silence", "choices");

function updated(_, changed) {
  const some = (keys) => keys.some((key) => changed.has(key));
  const names = new Set();
  if (some(FILTERS)) for (const name of ["figures", "list", "dots", "silence"]) names.add(name);
  if (some(["of"])) names.add("dots");
  if (some(["objective"])) {
    names.add("figures");
    drawChart();
  }
  if (some(["sort", "order", "limit"])) names.add("list");
  if (some(["turn"])) {
    loadTurn();
    markSelected();
    redrawChart();
  }
  showFilters();
  load(...names);
}

async function refresh(ids) {
  const turn = shownTurn();
  await Promise.all([everything(), turn && ids.has(turn.trace_id) ? loadTurn() : null]);
}

const THEMES = ["", "light", "dark"];

function theme() {
  const button = $("theme");
  const root = document.documentElement;
  const draw = () => (button.textContent = root.dataset.theme || "auto");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
    root.dataset.theme = next;
    localStorage.setItem("voicespan.theme", next);
    draw();
    drawChart();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawChart());
  draw();
}

$("home").addEventListener("click", (event) => {
  event.preventDefault();
  change({ turn: "", ...Object.fromEntries(FILTERS.map((key) => [key, ""])) });
});
buildFilters();
theme();
listenToKeys();
subscribe(updated);
loadTurn();
await listen({ refresh, known: (id) => known.has(id) });
await everything();
document.body.classList.add("loaded");
