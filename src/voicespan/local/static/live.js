// New turns as they come, by server-sent events; paused, what is hidden is counted; cleared, only what comes is shown.
import { $, say } from "./dom.js";
import { count } from "./format.js";
import { change, state } from "./state.js";

const REST_MS = 1000;
const REST_FACTOR = 3; // however long a refresh takes: the page is idle three quarters of the time

let paused = false;
let connected = false;
let due = false;
let waiting = false;
let uncounted = 0;
let isKnown = () => false;
const hidden = new Set();

/**
 * `refresh()` shows what is new; `known(trace_id)` says whether a turn is on the page already; `opened(turns)`
 * is called when the turns in progress change. Return a promise for the moment from which no turn is missed.
 */
export function listen({ refresh, known, opened }) {
  isKnown = known;
  const show = async () => {
    if (waiting || document.hidden || paused || !due) return;
    waiting = true;
    due = false;
    const began = performance.now();
    await refresh();
    setTimeout(() => {
      waiting = false;
      show();
    }, Math.max(REST_MS, REST_FACTOR * (performance.now() - began)));
  };
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => {
    if (connected === null) due = true; // it was gone for a while: what came meanwhile was not said
    connected = true;
    drawLive();
    show();
  });
  source.addEventListener("error", () => {
    connected = null;
    drawLive();
  });
  const ready = new Promise((resolve) => {
    source.addEventListener("ready", resolve);
    setTimeout(resolve, 500);
  });
  source.addEventListener("turns", (event) => {
    const { trace_ids: ids, more } = JSON.parse(event.data);
    for (const id of ids) if (paused) hidden.add(id);
    if (paused) uncounted += more;
    due = due || ids.length > 0;
    drawLive();
    show();
  });
  // The stream's own "open" carries no data; the receiver's says how many turns are in progress.
  source.addEventListener("open", (event) => event.data && opened(JSON.parse(event.data).turns));
  document.addEventListener("visibilitychange", show);
  $("live").addEventListener("click", () => {
    paused = !paused;
    hidden.clear();
    uncounted = 0;
    drawLive();
    show();
  });
  $("clear-live").addEventListener("click", clear);
  addEventListener("pagehide", () => source.close());
  drawLive();
  return ready;
}

/** Show only what begins from now on. */
export function clear() {
  const { from, to, last, turn } = state();
  change({ from: (Date.now() / 1000).toFixed(3), to: "", last: "", turn: "" });
  say("showing turns from now on", ["undo", () => change({ from, to, last, turn })]);
}

/** Say how many turns are hidden: a filter that changes, or an import, shows some of them meanwhile. */
export function drawLive() {
  const button = $("live");
  for (const id of hidden) if (isKnown(id)) hidden.delete(id);
  const turns = hidden.size + uncounted;
  button.classList.toggle("paused", paused);
  button.classList.toggle("lost", connected === null);
  button.setAttribute("aria-pressed", String(paused));
  button.title = paused ? "Show new turns again (p)" : "Stop showing new turns (p)";
  const words = connected === null ? "receiver not reachable" : connected ? "live · pause" : "connecting";
  button.textContent = paused ? `paused · ${turns ? `${count(turns, "new turn")} hidden` : "nothing hidden"} · resume` : words;
}
