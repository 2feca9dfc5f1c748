// New turns as they come, by server-sent events; paused, what is hidden is counted; cleared, only what comes is shown.
import { $, say } from "./dom.js";
import { count } from "./format.js";
import { change, state } from "./state.js";

const REST_MS = 1000;
const REST_FACTOR = 3; // however long a refresh takes: the page is idle three quarters of the time
const READY_MS = 500;

let paused = false;
let connected = false;
let due = false;
let waiting = false;
let uncounted = 0;
let missed = false;
let isKnown = () => false;
const hidden = new Set();

/**
 * `refresh()` shows what is new; `known(trace_id)` says whether a turn is on the page already; `opened(turns)`
 * is called when the turns in progress change. Return a promise for the moment from which no turn is missed.
 */
export async function listen({ refresh, known, opened }) {
  isKnown = known;
  let source = null;
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
  const news = () => {
    due = true;
    drawLive();
    show();
  };
  const connect = () => new Promise((resolve) => {
    source = new EventSource("/api/events");
    source.addEventListener("open", (event) => {
      if (event.data) { // the receiver's own event of this name; that of the stream carries nothing
        opened(JSON.parse(event.data).turns);
        return;
      }
      if (connected === null) due = true; // it was gone for a while: what came meanwhile was not said
      connected = true;
      drawLive();
      show();
    });
    source.addEventListener("error", () => {
      connected = null;
      drawLive();
    });
    source.addEventListener("turns", (event) => {
      const { trace_ids: ids, more } = JSON.parse(event.data);
      for (const id of ids) if (paused) hidden.add(id);
      if (paused) uncounted += more;
      if (ids.length) news();
    });
    source.addEventListener("forgotten", news);
    source.addEventListener("ready", resolve);
    setTimeout(resolve, READY_MS);
  });
  const disconnect = () => {
    source?.close();
    source = null;
  };
  // A browser opens six connections to a server, all its tabs together: one that nobody looks at holds none.
  const look = async () => {
    if (document.hidden) return disconnect();
    if (source) return null;
    await connect();
    missed = paused;
    return news();
  };
  document.addEventListener("visibilitychange", look);
  $("live").addEventListener("click", () => {
    paused = !paused;
    hidden.clear();
    uncounted = 0;
    missed = false;
    drawLive();
    show();
  });
  $("clear-live").addEventListener("click", clear);
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && look());
  drawLive();
  if (!document.hidden) await connect();
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
  const held = turns ? `${missed ? "at least " : ""}${count(turns, "new turn")} hidden` : missed ? "new turns may be hidden" : "nothing hidden";
  button.textContent = paused ? `paused · ${held} · resume` : words;
}
