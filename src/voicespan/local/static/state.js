// What is shown, all of it in the address: reload, back and a shared link give the same view.

const DEFAULTS = {
  view: "turns", turn: "", span: "", of: "response", objective: "600", limits: "", against: "",
  service: "", session: "", outcome: "", model: "", voice: "", worker: "", run: "", search: "", stage: "", over: "",
  last: "", from: "", to: "",
  sort: "response", order: "desc", limit: "50",
  call: "", zoom: "1", first: "",
  now: "", before: "", rank: "p50",
};

/** Those that choose turns; all views answer to them. */
export const FILTERS = ["service", "session", "outcome", "model", "voice", "worker", "run", "search", "stage", "over", "last", "from", "to"];

/** What is left behind on the way to another view. */
export const OPENED = { turn: "", call: "", first: "" };

const listeners = [];
let current = read();

function read() {
  const parameters = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(DEFAULTS).map(([key, value]) => [key, parameters.get(key) ?? value]));
}

export const state = () => current;

/** Call with the state and the set of keys that changed. */
export function subscribe(listener) {
  listeners.push(listener);
}

/** Change some of the state; `replace` where stepping back through it would be a nuisance. */
export function change(part, { replace = false } = {}) {
  const next = merged(part);
  if (!differences(current, next).size) return;
  history[replace ? "replaceState" : "pushState"](null, "", address(next));
  become(next);
}

export function address(values) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) if (value !== DEFAULTS[key]) parameters.set(key, value);
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

export const addressWith = (part) => address(merged(part));

/** The state with this part changed; another turn has other spans, another session another first turn. */
function merged(part) {
  const left = {};
  if ("turn" in part && part.turn !== current.turn) left.span = "";
  if ("call" in part && part.call !== current.call) left.first = "";
  return { ...current, ...left, ...part };
}

export const defaults = (keys) => Object.fromEntries(keys.map((key) => [key, DEFAULTS[key]]));

export const clearFilters = () => change(defaults(FILTERS));

export const filtered = () => FILTERS.some((key) => current[key] !== DEFAULTS[key]);

/** The time that is shown, in Unix seconds; null where it has no bound. */
export function period() {
  const { last, from, to } = current;
  const since = from ? Number(from) : last ? Math.floor(Date.now() / 1000) - 60 * Number(last) : null;
  return { since, until: to ? Number(to) : null };
}

/** The length, in seconds, that the dots of this latency should stay within; null where nobody set one. */
export function limitOf(stage) {
  const ms = Number(stage === "response" ? current.objective : limits().get(stage));
  return ms > 0 ? ms / 1000 : stage === "response" ? Number(DEFAULTS.objective) / 1000 : null;
}

/** Set that limit in milliseconds; without one for a stage its line is gone. */
export function setLimit(stage, ms) {
  const value = ms > 0 ? String(ms) : "";
  if (stage === "response") return change({ objective: value || DEFAULTS.objective });
  const all = limits();
  if (value) all.set(stage, value);
  else all.delete(stage);
  return change({ limits: [...all].map((pair) => pair.join(".")).join("-") });
}

const limits = () => new Map(current.limits.split("-").filter(Boolean).map((pair) => pair.split(".")));

/** The filters as the API's parameters. */
export function query() {
  const { service, session, outcome, model, voice, worker, run, search, stage, over } = current;
  const { since, until } = period();
  const limit = over && stage ? { stage, over_ms: over } : over ? { over_ms: over } : {};
  const all = { service, session, outcome, model, voice, worker, run, search, since_s: since ?? "", until_s: until ?? "", ...limit };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ""));
}

/** What the turns are compared with, as the API's parameter; null for nothing. */
export function against() {
  if (current.against !== "before") return current.against || null;
  const { since, until } = period();
  if (since === null) return null;
  const length = (until ?? Date.now() / 1000) - since;
  return `${(since - length).toFixed(3)}..${since}`;
}

function differences(a, b) {
  return new Set(Object.keys(DEFAULTS).filter((key) => a[key] !== b[key]));
}

function become(next) {
  const changed = differences(current, next);
  current = next;
  for (const listener of listeners) listener(current, changed);
}

addEventListener("popstate", () => become(read()));
