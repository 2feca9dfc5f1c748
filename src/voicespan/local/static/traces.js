// Traces that are no turn of a conversation: whatever else was sent here.
import { $, h, replace } from "./dom.js";
import { count, length, moment, number } from "./format.js";
import { opens } from "./lines.js";
import { link } from "./link.js";

export function drawTraces(found) {
  const { traces } = found;
  const most = Math.max(...traces.map((trace) => trace.duration_s), 0.000001);
  const heads = [["time", ""], ["name", ""], ["service", ""], ["spans", "r late"], ["took", "r"], ["", "late"]];
  replace($("traces"),
    h("h2", { id: "traces-title" }, "Other traces ", h("small", {}, found.matching > traces.length ? `the newest ${number(traces.length)} of ${number(found.matching)}` : count(found.matching, "trace"))),
    traces.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Other traces" }, h("table", { class: "turns" },
      h("thead", {}, h("tr", {}, heads.map(([words, kind]) => h(words ? "th" : "td", { scope: words ? "col" : undefined, class: kind }, words)))),
      h("tbody", {}, traces.map((trace) => h("tr", { ...opens(trace.trace_id) },
        h("td", { class: "dim" }, moment(trace.start_s)),
        h("td", { class: `strong session${trace.error ? " worse" : ""}` }, trace.error ? h("span", { title: "It has a span that failed" }, "✗ ") : "", link({ turn: trace.trace_id }, { class: "plain" }, trace.name || "log lines only"), trace.complete === false ? h("span", { class: "tag incomplete", title: "Its root span has not arrived" }, "incomplete") : null),
        h("td", { class: "dim" }, trace.service), h("td", { class: "r dim late" }, number(trace.spans)), h("td", { class: "r" }, length(trace.duration_s)),
        h("td", { class: "late" }, h("div", { class: "range", vars: { "--from": "0%", "--to": `${(trace.duration_s / most) * 100}%` } }, h("i", {}))))))))
      : h("p", { class: "hint" }, "Every trace here is a turn. Requests of your web framework outside of a turn, or another service's traces, would be listed here."));
}
