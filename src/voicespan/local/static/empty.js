// No turn yet: what to do, with commands to copy.
import { $, command, h, replace } from "./dom.js";
import { count } from "./format.js";
import { link } from "./link.js";

let send = { OTEL_EXPORTER_OTLP_ENDPOINT: location.origin };
let others = 0;

/** The variables that a service needs to send here. */
export function drawSend(variables) {
  send = variables ?? send;
  draw();
}

/** How many traces there are that are no turns. */
export function drawOthers(traces) {
  others = traces;
  draw();
}

export function drawEmpty(empty) {
  document.body.classList.toggle("is-empty", empty);
  draw();
}

function draw() {
  if (!document.body.classList.contains("is-empty")) return;
  const set = Object.entries(send).map(([name, value]) => `${name}=${quoted(value)}`);
  replace($("empty"),
    h("h2", {}, others ? `${count(others, "trace")} came, none is a turn` : "No turn yet"),
    others ? h("p", {}, "Something sends here, but no span of it is a turn of a conversation: ", link({ view: "traces" }, {}, "see what came"),
      ". An agent's framework is instrumented when it is started with ", h("code", {}, "voicespan run"), ".") : null,
    h("p", {}, "This page shows each turn of a conversation as soon as it ends, and why its user waited."),
    way("See it with the reference agent", "voicespan demo"),
    way("Start your own agent", `${set.join(" ")} voicespan run -- python bot.py`),
    way("Next time, both at once: this page and your agent", "voicespan run --ui -- python bot.py"),
    way("Or set the address where it runs already", `export ${set.join(" ")}`),
    way("Nothing comes? Ask what would be sent, and where to", "voicespan doctor"),
    h("p", { class: "dim" }, "The page waits: the first turn appears by itself. Or drop an exported OTLP JSON file here."));
}

const way = (words, text) => h("div", { class: "way", dataset: { key: words } }, h("p", {}, words), command(text));

/** A value as a shell takes it. */
const quoted = (value) => (/^[\w@%+=:,./-]+$/.test(value) ? value : `'${value.replaceAll("'", "'\\''")}'`);
