// The keyboard, and the help that lists it.
import { stepDot } from "./chart.js";
import { $, copy, h } from "./dom.js";
import { stepLine } from "./list.js";
import { change, state } from "./state.js";
import { shownTurn } from "./turn.js";

const KEYS = [
  ["j or ↓", "next turn of the list"],
  ["k or ↑", "previous turn of the list"],
  ["← →", "on the chart: the dot before, the dot after"],
  ["[ ]", "previous, next turn of the session"],
  ["c", "copy the trace id"],
  ["/", "search for a session or a trace id"],
  ["p", "pause, or show new turns again"],
  ["Esc", "back to all turns"],
  ["?", "this help"],
];

const WORDS = [
  ["heard silence", "From the moment the user stops speaking to the first sound of the reply at the user's ear. Each dot is one turn."],
  ["share", "Which part of that silence a stage took; the parts add up to the whole. What no stage explains is unattributed."],
  ["objective", "The heard silence that a turn should stay within. Turns that nobody answered count against it."],
  ["zoom", "Drag across the chart to see a part of the time. The whole view is in the address: a link shows it again."],
];

export function listenToKeys() {
  $("help").append(
    h("h2", { id: "help-title" }, "Help"),
    h("dl", { class: "keys" }, KEYS.flatMap(([key, words]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, words)])),
    h("dl", { class: "words" }, WORDS.flatMap(([word, words]) => [h("dt", {}, word), h("dd", {}, words)])),
    h("form", { method: "dialog" }, h("button", {}, "close")));
  $("help-open").addEventListener("click", () => $("help").showModal());
  document.addEventListener("keydown", press);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const { target, key } = event;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape") target.blur();
    return;
  }
  const inChart = target.id === "plot";
  const neighbours = shownTurn()?.neighbours ?? {};
  const actions = {
    j: () => stepLine(1),
    k: () => stepLine(-1),
    ArrowDown: () => stepLine(1),
    ArrowUp: () => stepLine(-1),
    ArrowLeft: inChart && (() => stepDot(-1)),
    ArrowRight: inChart && (() => stepDot(1)),
    "[": neighbours.previous && (() => change({ turn: neighbours.previous })),
    "]": neighbours.next && (() => change({ turn: neighbours.next })),
    c: state().turn && (() => copy(shownTurn()?.trace_id ?? state().turn, "Trace id")),
    "/": () => $("search").focus(),
    p: () => $("live").click(),
    Escape: () => change({ turn: "" }),
    "?": () => $("help").showModal(),
  };
  if (!actions[key]) return;
  event.preventDefault();
  actions[key]();
}
