// No turn yet: what to do, with commands to copy.
import { $, command, h } from "./dom.js";

export function drawEmpty(empty) {
  document.body.classList.toggle("is-empty", empty);
  const place = $("empty");
  if (!empty || place.childElementCount) return;
  place.append(
    h("h2", {}, "No turn yet"),
    h("p", {}, "This page shows each turn of a conversation as soon as it ends, and why its user waited."),
    way("See it with the reference agent", "voicespan demo"),
    way("Start your own agent", `OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin} voicespan run -- python bot.py`),
    way("Next time, both at once: this page and your agent", "voicespan run --ui -- python bot.py"),
    way("Or set the address where it runs already", `export OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin}`),
    way("Nothing comes? Ask what would be sent, and where to", "voicespan doctor"),
    h("p", { class: "dim" }, "The page waits: the first turn appears by itself. Or drop an exported OTLP JSON file here."));
}

const way = (words, text) => h("div", { class: "way" }, h("p", {}, words), command(text));
