// The foot of the page: which database, how much is in it, how long it stays, and what came and is not shown.
import { $, h, replace } from "./dom.js";
import { count, number, size, span } from "./format.js";

let status = null;

export const known = () => status;

export function drawStatus(found) {
  status = found;
  const { retention, received, not_shown: unshown, grpc } = found;
  const kept = [retention?.max_age_s && span(retention.max_age_s), retention?.max_bytes && size(retention.max_bytes)].filter(Boolean);
  const hidden = [unshown?.metrics && count(unshown.metrics, "metric"), unshown?.logs_without_trace && `${count(unshown.logs_without_trace, "log line")} without a trace`, unshown?.content && `${count(unshown.content, "value")} with what was said`].filter(Boolean);
  const facts = [
    ["database", h("code", {}, found.database), `${count(found.turns, "turn")}, ${size(found.bytes)}`],
    ["kept for", kept.length ? kept.join(" or ") : "ever"],
    ["transcripts and audio", found.content ? "kept" : "not kept"],
    ["received", received ? `${number(received.spans)} spans, ${number(received.logs)} log lines` : "–"],
    hidden.length && ["received, not shown", hidden.join(", ")],
    found.rejected && ["rejected", h("b", { class: "worse" }, number(found.rejected))],
    ["OTLP/gRPC", grpc?.endpoint ?? grpc?.say ?? "off"],
    found.others?.length && ["also writes to it", h("b", { class: "slow" }, found.others.map((pid) => `process ${pid}`).join(", "))],
    ["voicespan", found.version],
  ];
  replace($("facts"), facts.filter(Boolean).map(([name, ...values]) => h("div", {}, h("dt", {}, name), h("dd", {}, values.flatMap((value, i) => (i ? [" · ", value] : [value]))))));
}

/** A link to this trace in the tracing backend that the viewer was told of. */
export function openElsewhere(traceId) {
  const address = status?.trace_link?.replaceAll("{trace_id}", traceId) ?? "";
  if (!URL.canParse(address) || !/^https?:/.test(address)) return null;
  return h("a", { class: "button", href: address, target: "_blank", rel: "noopener noreferrer" }, `open in ${new URL(address).host} ↗`);
}
