// The strip of the heard silence: what the user waited for, each stage in proportion.
import { h } from "./dom.js";
import { length, percent } from "./format.js";
import { MEANINGS, SHARES } from "./stages.js";

const parts = (turn) => SHARES.filter((stage) => turn.shares[stage] > 0).map((stage) => [stage, turn.shares[stage]]);

export function strip(turn) {
  const total = parts(turn).reduce((sum, [, share]) => sum + share, 0);
  const segments = parts(turn).map(([stage, share]) => {
    const label = h("span", {}, share / total > 0.3 ? `${stage} ${length(share)}` : share / total > 0.12 ? stage : "");
    const title = `${stage} ${length(share)} (${percent(share / total)}): ${MEANINGS[stage]}`;
    return h("div", { class: `on-${stage}`, vars: { "flex-grow": share / total }, title }, label);
  });
  const words = parts(turn).map(([stage, share]) => `${stage} ${length(share)}`).join(", ");
  const begins = turn.response_from === "message" ? "message" : "user stops speaking";
  const ends = turn.unanswered ? "user gave up" : "user hears the reply";
  return h("figure", { class: "silence-strip" },
    h("div", { class: "strip", role: "img", "aria-label": `Shares of the silence: ${words}` }, segments),
    h("figcaption", { class: "scale" },
      h("span", {}, begins), h("b", {}, `${length(turn.response_s)} of silence`), h("span", {}, ends)));
}

/** The strip in a line of a list; `scale` is the silence that fills the whole width. */
export function miniStrip(turn, scale) {
  const shares = parts(turn);
  if (!shares.length) return h("div", { class: "mini" });
  const width = Math.max(Math.min(turn.response_s / scale, 1), 0.02);
  const segments = shares.map(([stage, share]) => h("i", { class: `on-${stage}`, vars: { "flex-grow": share } }));
  const words = shares.map(([stage, share]) => `${stage} ${length(share)}`).join(", ");
  return h("div", { class: "mini", title: words, vars: { "--w": `${width * 100}%` } }, h("div", {}, segments));
}

/** Each share beside that of the median turn. */
export function comparison(turn, silence) {
  const stages = SHARES.filter((stage) => turn.shares[stage] > 0 || silence?.stages[stage]?.median_s > 0.001);
  const median = (stage) => silence?.stages[stage]?.median_s ?? 0;
  const most = Math.max(...stages.map((stage) => Math.max(turn.shares[stage] ?? 0, median(stage))));
  const rows = stages.map((stage) => {
    const share = turn.shares[stage] ?? 0;
    const more = share - median(stage);
    const bars = h("td", { class: "bars" },
      h("div", { class: `bar on-${stage}`, vars: { "--w": `${(share / most) * 100}%` } }),
      h("div", { class: "bar pale", vars: { "--w": `${(median(stage) / most) * 100}%` } }));
    const difference = silence && Math.abs(more) >= 0.0005 ? `${more > 0 ? "+" : "−"}${length(Math.abs(more))}` : "";
    return h("tr", { title: MEANINGS[stage] },
      h("th", { scope: "row" }, h("i", { class: `swatch on-${stage}` }), stage),
      bars,
      h("td", { class: "r" }, length(share)),
      h("td", { class: "r dim" }, percent(share / turn.response_s)),
      h("td", { class: `r ${more > 0.1 ? "worse" : "dim"}` }, difference));
  });
  return h("table", { class: "compare" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "stage"),
      h("th", { scope: "col" }, "this turn · median turn"), h("th", { class: "r", scope: "col" }, "took"),
      h("th", { class: "r", scope: "col" }, "share"), h("th", { class: "r", scope: "col" }, "vs median"))),
    h("tbody", {}, rows));
}
