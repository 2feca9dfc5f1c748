// Where the heard silence goes: the stages' mean, now and, when something is compared, before.
import { $, h, replace } from "./dom.js";
import { count, length, percent } from "./format.js";
import { MEANINGS, SHARES } from "./stages.js";
import { change } from "./state.js";
import { changeOf, reach, whisker, words } from "./whisker.js";

const NO_LATENCY = new Set(["send", "unattributed"]);

let silence = null;
let compared = null;

export function drawSilence(found) {
  silence = found;
  draw();
}

/** The answer of the comparison; null when nothing is compared. */
export function compareSilence(found) {
  compared = found;
  if (silence) draw();
}

function draw() {
  const now = silence.stages;
  const before = compared?.shares ?? {};
  const stages = SHARES.filter((stage) => now[stage] || before[stage]?.before_s > 0);
  const most = Math.max(...stages.flatMap((stage) => [now[stage]?.mean_s ?? 0, before[stage]?.before_s ?? 0]), 1e-9);
  const widest = reach(stages.map((stage) => changeOf(before[stage])));
  const heads = compared ? [["now over before", "bars"], ["now", "r"], ["before", "r"], ["change, 95 % interval", "changes"], ["", "r verdict"]]
    : [["mean", ""], ["", "r"], ["share", "r"], ["median", "r"]];
  replace($("silence"),
    h("h2", { id: "silence-title" }, "Where the silence goes ",
      h("small", {}, silence.turns ? `mean of ${count(silence.turns, "answered turn")}: ${length(silence.mean_s)}` : "no answered turn yet")),
    stages.length ? h("table", { class: `compare${compared ? " against" : ""}` },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "stage"),
        heads.map(([words, kind]) => h(words ? "th" : "td", { class: kind, scope: words ? "col" : undefined }, words)))),
      h("tbody", {}, stages.map((stage) => h("tr", { title: MEANINGS[stage] }, h("th", { scope: "row" }, name(stage)),
        compared ? both(stage, now[stage], before[stage], most, widest) : alone(stage, now[stage], most))))) : null);
}

function name(stage) {
  const swatch = h("i", { class: `swatch on-${stage}` });
  if (NO_LATENCY.has(stage)) return [swatch, stage];
  return [swatch, h("button", { type: "button", class: "text", dataset: { key: stage }, onclick: () => change({ of: stage }), title: `${MEANINGS[stage]} Show its dots.` }, stage)];
}

const bar = (kind, value, most) => h("div", { class: `bar ${kind}`, vars: { "--w": `${(value / most) * 100}%` } });

function alone(stage, { mean_s: mean, median_s: median, part }, most) {
  return [
    h("td", { class: "bars" }, bar(`on-${stage}`, mean, most)),
    h("td", { class: "r" }, length(mean)), h("td", { class: "r dim" }, percent(part)), h("td", { class: "r dim" }, length(median)),
  ];
}

function both(stage, now, before, most, widest) {
  const mean = now?.mean_s ?? 0;
  const given = changeOf(before);
  return [
    h("td", { class: "bars" }, bar(`on-${stage}`, mean, most), bar("pale", before?.before_s ?? 0, most)),
    h("td", { class: "r" }, length(mean)), h("td", { class: "r dim" }, length(before?.before_s)),
    h("td", { class: "changes" }, whisker(given, widest)), h("td", { class: "r verdict" }, words(given)),
  ];
}
