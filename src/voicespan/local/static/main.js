// The page: which view asks for what, and when it asks again.
import { ask, Refused, Unreachable } from "./api.js";
import { drawChart, redrawChart } from "./chart.js";
import { buildColours } from "./colours.js";
import { drawCompare } from "./compare.js";
import { drawConversation, shownConversation } from "./conversation.js";
import { $, say } from "./dom.js";
import { drawEmpty, drawOthers, drawSend } from "./empty.js";
import { compareFigures, drawFigures } from "./figures.js";
import { buildFilters, offer, showFilters, showHidden } from "./filters.js";
import { buildHelp } from "./help.js";
import { listenToKeys } from "./keys.js";
import { markSelected } from "./lines.js";
import { drawList } from "./list.js";
import { drawLive, listen } from "./live.js";
import { drawIncomplete, drawOpen } from "./open.js";
import { drawRuns, know, knownRuns, pair } from "./runs.js";
import { drawSessions } from "./sessions.js";
import { compareSilence, drawSilence } from "./silence.js";
import { against, change, defaults, filtered, FILTERS, OPENED, query, state, subscribe } from "./state.js";
import { drawStatus, known as knownStatus } from "./status.js";
import { drawTraces } from "./traces.js";
import { acceptFiles } from "./transfer.js";
import { compareWith, loadTurn, redrawTurn } from "./turn.js";
import { buildViews, currentView, showOpen, showView, VIEWS } from "./views.js";

const POLL_MS = { open: 1000, traces: 3000 };
const MOST = "200";
const LISTED = ["turns", "sessions", "runs"];

const onPage = new Set();

/** What each part of the page asks for: in which views, and again when one of these keys of the state changes. */
const parts = {
  turn: { views: VIEWS, keys: ["turn"], load: loadTurn },
  status: { views: VIEWS, keys: [], load: () => get("status", "status", {}, showStatus) },
  choices: { views: LISTED, keys: [], load: () => get("choices", "choices", {}, offer) },
  runs: { views: LISTED, keys: ["now", "before"], load: () => get("runs", "runs", {}, showRuns) },
  figures: { views: ["turns"], keys: [...FILTERS, "objective", "of"], load: () => get("figures", "figures", { ...query(), objective_ms: state().objective }, showFigures) },
  dots: { views: ["turns"], keys: [...FILTERS, "of"], load: () => get("dots", "dots", { ...query(), of: state().of }, showDots) },
  list: { views: ["turns"], keys: [...FILTERS, "sort", "order", "limit"], load: () => get("list", "turns", { ...query(), sort: state().sort, order: state().order, limit: state().limit }, showList) },
  silence: { views: ["turns"], keys: FILTERS, load: () => get("silence", "silence", query(), showSilence) },
  median: { views: ["sessions", "open"], keys: [...FILTERS, "turn"], load: loadMedian },
  against: { views: ["turns"], keys: [...FILTERS, "objective", "against"], load: loadAgainst },
  sessions: { views: ["sessions"], keys: [...FILTERS, "call"], load: loadSessions },
  conversation: { views: ["sessions"], keys: ["call", "zoom", "first"], load: loadConversation },
  compare: { views: ["runs"], keys: [...FILTERS, "objective", "now", "before", "rank"], load: loadCompare, after: "runs" },
  open: { views: ["open"], keys: [], load: () => get("open", "open", {}, showTurnsInProgress) },
  incomplete: { views: ["open"], keys: [], load: () => get("incomplete", "turns", { outcome: "incomplete", sort: "start", limit: MOST }, drawIncomplete) },
  traces: { views: ["traces"], keys: [], load: () => get("traces", "traces", { limit: MOST }, drawTraces) },
};

/** Ask, and show the answer unless something newer was asked meanwhile. */
async function get(part, path, parameters, show) {
  const found = await ask(part, path, parameters);
  if (!found) return;
  show(found);
  markSelected();
}

let figures = null;

function showFigures(found) {
  figures = found;
  drawFigures(found);
  const empty = found.turns === 0 && !filtered();
  drawEmpty(empty);
  if (empty) get("others", "traces", { limit: "1" }, ({ matching }) => drawOthers(matching));
  countHidden();
}

function showStatus(found) {
  drawStatus(found);
  drawSend(found.send);
  redrawTurn();
  countHidden();
}

function countHidden() {
  const all = knownStatus()?.turns;
  showHidden(filtered() && figures && all ? all - figures.turns : 0);
}

function showDots(found) {
  for (const id of found.trace_id) onPage.add(id);
  drawChart(found);
}

function showList(found) {
  for (const turn of found.turns) onPage.add(turn.trace_id);
  drawList(found);
}

function showSilence(found) {
  drawSilence(found);
  compareWith(found);
}

/** The median turn that an opened one is compared with; the view of all turns has it already. */
async function loadMedian() {
  if (state().turn) await get("silence", "silence", query(), compareWith);
}

async function loadAgainst() {
  const other = against();
  const found = other && (await ask("against", "compare", { ...query(), against: other, objective_ms: state().objective }));
  if (other && !found) return;
  compareFigures(found);
  compareSilence(found);
}

function showRuns({ runs }) {
  know(runs);
  showFilters();
  drawRuns();
}

async function loadCompare() {
  const { now, before } = pair();
  if (!before || now === before || !knownRuns().length) return drawCompare(null);
  return get("compare", "compare", { ...query(), run: now, against: `run:${before}`, objective_ms: state().objective }, drawCompare);
}

async function loadSessions() {
  if (!state().call) await get("sessions", "sessions", { ...query(), limit: MOST }, drawSessions);
}

async function loadConversation() {
  const id = state().call;
  if (!id) return;
  try {
    await get("conversation", "session", { id, ...placeInSession() }, drawConversation);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    await get("conversation", "session", { id }, drawConversation).catch(() => drawConversation(null, error.message)); // the turn is of another session
  }
}

/** Which part of a long session: the one that was asked for, else around the turn, else the newest. */
function placeInSession() {
  const { first, turn } = state();
  if (first) return { first };
  const shown = shownConversation();
  if (!turn || turn === "last") return {};
  if (shown?.session_id !== state().call) return { around: turn };
  if (shown.turns.some(({ trace_id: id }) => id === turn)) return shown.later ? { first: String(shown.first) } : {};
  return shown.beyond ? { around: turn } : {};
}

function showTurnsInProgress(found) {
  drawOpen(found);
  showOpen(found.turns.length + found.beyond);
}

async function load(names) {
  const first = names.filter((name) => !names.includes(parts[name].after));
  const failures = [];
  for (const group of [first, names.filter((name) => !first.includes(name))]) {
    const answers = await Promise.allSettled(group.map((name) => parts[name].load()));
    failures.push(...answers.filter((answer) => answer.status === "rejected"));
  }
  for (const { reason } of failures) {
    if (reason instanceof Refused) say(reason.message);
    else if (!(reason instanceof Unreachable)) reportError(reason);
  }
  markSelected();
  drawLive();
}

const inView = (view) => Object.keys(parts).filter((name) => parts[name].views.includes(view));

const everything = () => load(inView(currentView()));

async function updated(_, changed) {
  const names = inView(currentView()).filter((name) => changed.has("view") || parts[name].keys.some((key) => changed.has(key)));
  showView();
  showFilters();
  if (changed.has("turn")) {
    markSelected();
    redrawChart();
  }
  if (changed.has("span")) redrawTurn();
  if (changed.has("objective") || changed.has("limits")) drawChart();
  await load(names);
}

/** What the receiver's word is not enough for, while it is looked at: how long turns wait, and traces that are no turn. */
async function poll() {
  const part = currentView();
  if (part in POLL_MS && !document.hidden) await load([part]);
  setTimeout(poll, POLL_MS[part] ?? POLL_MS.open);
}

$("home").addEventListener("click", (event) => {
  event.preventDefault();
  change({ view: "turns", ...OPENED, ...defaults(FILTERS) });
});
buildViews();
buildFilters();
buildHelp();
buildColours(() => drawChart());
listenToKeys();
acceptFiles(everything);
subscribe(updated);
await listen({ refresh: everything, known: (id) => onPage.has(id), opened: showOpen });
await everything();
document.body.classList.add("loaded");
poll();
if (currentView() !== "open") get("open", "open", {}, ({ turns, beyond }) => showOpen(turns.length + beyond)).catch(() => null);
