// The log lines of a turn. Errors stand out; what a line carries besides its text unfolds.
import { h } from "./dom.js";
import { count, length } from "./format.js";
import { attributes } from "./waterfall.js";

const ERROR = 17; // SeverityNumber of OpenTelemetry
const WARN = 13;

const kindOf = (severity) => (severity >= ERROR ? "error" : severity >= WARN ? "warn" : "plain");

/** How many lines a turn logged, and how many of them are warnings or worse. */
export function said(lines, warnings) {
  if (!lines) return null;
  return [count(lines, "line"), warnings ? [" · ", h("b", { class: "slow" }, count(warnings, "warning"))] : null];
}

/** `spans` name where a line was written; `beyond` lines are not here. */
export function log(lines, beyond, { start, spans }) {
  const errors = lines.filter((line) => line.severity >= ERROR).length;
  const warnings = lines.filter((line) => line.severity >= WARN && line.severity < ERROR).length;
  const names = new Map(spans.map((span) => [span.span_id, span.name]));
  const words = [errors && count(errors, "error"), warnings && count(warnings, "warning")].filter(Boolean).join(", ");
  return h("details", { class: "log", open: true },
    h("summary", {}, h("h3", {}, "Log"), ` ${count(lines.length + beyond, "line")}`, words ? [" · ", h("b", { class: errors ? "worse" : "slow" }, words)] : null),
    h("ol", {}, lines.map((line) => entry(line, start, names))),
    beyond ? h("p", { class: "dim" }, `${count(beyond, "more line")} not shown`) : null);
}

function entry(line, start, names) {
  const more = Object.keys(line.attributes).length > 0;
  const after = line.time_s - start;
  const text = [
    h("time", { title: "After the start of the turn" }, `${after < 0 ? "−" : "+"}${length(Math.abs(after))}`),
    h("span", { class: "level" }, (line.level || "log").toLowerCase()),
    h("span", { class: "body" }, line.body || (line.attributes["event.name"] ?? "")),
    h("small", {}, [names.get(line.span_id), line.service].filter(Boolean).join(" · ")),
  ];
  return h("li", { class: kindOf(line.severity) }, more ? h("details", {}, h("summary", {}, text), attributes(line.attributes)) : h("p", {}, text));
}
