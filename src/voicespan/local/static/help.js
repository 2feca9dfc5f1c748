// The help: the keys, and the words of this page.
import { $, h } from "./dom.js";

const KEYS = [
  ["j", "next turn of the list: the next slow one, unless it is sorted otherwise; in the list also ↓"],
  ["k", "the one before; in the list also ↑"],
  ["← →", "on the chart: the dot before, the dot after"],
  ["[ ]", "previous, next turn of the session"],
  ["1 to 5", "turns, sessions, runs, in progress, other traces"],
  ["/", "search for a session or a trace id"],
  ["p", "pause, or show new turns again"],
  ["x", "clear: show turns from now on"],
  ["c", "copy the trace id"],
  ["Esc", "close the turn, then the session"],
  ["?", "this help"],
];

const WORDS = [
  ["heard silence", "From the moment the user stops speaking to the first sound of the reply at the user's ear. Each dot is one turn."],
  ["share", "Which part of that silence a stage took; the parts add up to the whole. What no stage explains is unattributed."],
  ["objective", "The heard silence that a turn should stay within. Turns that nobody answered count against it. A stage that is shown can have a limit of its own."],
  ["change", "Against another run or the time before, with a 95 % interval. It is called a change only where chance is ruled out, for all that is compared together."],
  ["zoom", "Drag across the chart to see a part of the time. The whole view is in the address: a link shows it again."],
  ["files", "Drop an OTLP JSON file on the page to import it; export gives such a file of a turn, a session, or all that is selected."],
];

const LETTERS = "voicespan.letters";

/** Whether keys without a modifier do something: who speaks to the machine, or types by accident, may not want them. */
export const lettersOn = () => localStorage.getItem(LETTERS) !== "off";

const turnLetters = (on) => localStorage.setItem(LETTERS, on ? "on" : "off");

export function buildHelp() {
  $("help").append(
    h("h2", { id: "help-title" }, "Help"),
    h("dl", { class: "keys" }, KEYS.flatMap(([key, words]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, words)])),
    h("dl", { class: "words" }, WORDS.flatMap(([word, words]) => [h("dt", {}, word), h("dd", {}, words)])),
    h("label", { class: "letters" }, h("input", { type: "checkbox", id: "letters", checked: lettersOn(), onchange: (event) => turnLetters(event.target.checked) }), " keys of a single letter, digit or sign"),
    h("form", { method: "dialog" }, h("button", {}, "close")));
  $("help-open").addEventListener("click", showHelp);
}

export const showHelp = () => $("help").showModal();
