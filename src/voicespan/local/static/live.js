// New turns as they come, by server-sent events; paused, what is hidden is counted.
import { $ } from "./dom.js";
import { count } from "./format.js";

const REST_MS = 1000;

let paused = false;
let connected = false;
let due = false;
let waiting = false;
let uncounted = 0;
const hidden = new Set();

/**
 * `refresh(trace_ids)` shows what is new; `known(trace_id)` says whether a turn is on the page already.
 * Return a promise for the moment from which no turn is missed.
 */
export function listen({ refresh, known }) {
  const news = new Set();
  const show = async () => {
    if (waiting || document.hidden || paused || !due) return;
    waiting = true;
    due = false;
    const ids = new Set(news);
    news.clear();
    await refresh(ids);
    setTimeout(() => {
      waiting = false;
      show();
    }, REST_MS);
  };
  const source = new EventSource("/api/events");
  source.addEventListener("open", () => {
    if (connected === null) due = true; // it was gone for a while: what came meanwhile was not said
    connected = true;
    draw();
    show();
  });
  source.addEventListener("error", () => {
    connected = null;
    draw();
  });
  const ready = new Promise((resolve) => {
    source.addEventListener("ready", resolve);
    setTimeout(resolve, 500);
  });
  source.addEventListener("turns", (event) => {
    const { trace_ids: ids, more } = JSON.parse(event.data);
    for (const id of ids) {
      news.add(id);
      if (paused && !known(id)) hidden.add(id);
    }
    if (paused) uncounted += more;
    due = due || ids.length > 0;
    draw();
    show();
  });
  document.addEventListener("visibilitychange", show);
  $("live").addEventListener("click", () => {
    paused = !paused;
    hidden.clear();
    uncounted = 0;
    draw();
    show();
  });
  addEventListener("pagehide", () => source.close());
  draw();
  return ready;
}

function draw() {
  const button = $("live");
  const turns = hidden.size + uncounted;
  button.classList.toggle("paused", paused);
  button.classList.toggle("lost", connected === null);
  button.setAttribute("aria-pressed", String(paused));
  button.title = paused ? "Show new turns again (p)" : "Stop showing new turns (p)";
  const words = connected === null ? "receiver not reachable" : connected ? "live · pause" : "connecting";
  button.textContent = paused ? `paused · ${turns ? `${count(turns, "new turn")} hidden` : "nothing hidden"} · resume` : words;
}
