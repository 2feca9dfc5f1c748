// Every turn is a dot; lines for p50, p95 and p99 of the turns before, and one for the objective.
import uPlot from "./uplot/uPlot.esm.js";
import { $, h, replace } from "./dom.js";
import { drawDots, ink } from "./dots.js";
import { count, length, moment } from "./format.js";
import { linesOver } from "./percentiles.js";
import { mostLengths, mostTimes } from "./range.js";
import { LATENCIES } from "./stages.js";
import { change, limitOf, state } from "./state.js";

const REACH = 24;
const GUTTER = 62; // where the lines have their names

/** Where each dot is, in pixels of the canvas. */
export let places = null;

let plot = null;
let found = null;
let lines = null;
let tooltip = null;
let pointed = null;
let outside = null;

const words = () => LATENCIES[found.of];

/** Draw an answer of the receiver's, else the last one again. */
export function drawChart(answer) {
  if (answer) {
    found = answer;
    lines = linesOver(found);
  }
  if (!found) return;
  const place = $("plot");
  if (!found.time_s.length) {
    plot?.destroy();
    plot = null;
    place.replaceChildren(h("p", { class: "hint" }, found.turns ? `None of these ${count(found.turns, "turn")} has ${words()}.` : "No turn matches."));
  } else if (plot) {
    plot.setData([found.time_s, found.value_s]); // what is drawn changes; a drag and the tooltip stay
  } else {
    build(place);
  }
  if (!plot) describe();
}

function build(place) {
  place.replaceChildren();
  plot = new uPlot(options(place), [found.time_s, found.value_s], place);
  tooltip = h("div", { class: "tooltip", hidden: true });
  plot.over.append(tooltip);
  plot.over.addEventListener("mousemove", (event) => {
    pointed = event;
    point();
  });
  plot.over.addEventListener("mouseleave", () => {
    pointed = null;
    point();
  });
  plot.over.addEventListener("click", click);
}

export const redrawChart = () => plot?.redraw(false);

// For each unit of time: how a tick is written, and what is added where the day changes.
const WHEN = [
  [86_400, "{YYYY}-{MM}-{DD}", null],
  [3600, "{HH}:{mm}", "\n{MM}-{DD}"],
  [60, "{HH}:{mm}", "\n{MM}-{DD}"],
  [1, "{HH}:{mm}:{ss}", null],
  [0.001, "{HH}:{mm}:{ss}.{fff}", null],
].map(([unit, text, day]) => [unit, text, day, null, day, null, null, null, 1]);

function options(place) {
  const grid = { stroke: () => ink("--grid"), width: 1 };
  const axis = { stroke: () => ink("--dim"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
  return {
    width: place.clientWidth,
    height: place.clientHeight,
    padding: [10, GUTTER, 0, 0],
    legend: { show: false },
    cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
    scales: { x: { time: true, range: rangeOfTime }, y: { distr: 3, log: 10, range: rangeOfLengths } },
    axes: [
      { ...axis, size: 34, values: WHEN },
      { ...axis, size: 54, splits: steps, filter: (_, splits) => splits, values: (_, splits) => splits.map(label) },
    ],
    series: [{}, { paths: () => null, points: { show: false } }],
    hooks: { draw: [draw], setSelect: [zoom] },
  };
}

function draw(self) {
  places = drawDots(self, { ...found, lines }, { selected: state().turn, limit: limitOf(found.of) });
  point();
  describe();
}

/** All of the time, but for the turns of a clock that is years off: they would squeeze all others into one column. */
function rangeOfTime() {
  outside = mostTimes(found.time_s);
  const { low, high } = outside;
  const pad = Math.max((high - low) * 0.02, 1);
  return [low - pad, high + pad];
}

/** At least from half to twice the limit, so that a dot has something to be compared with. */
function rangeOfLengths() {
  const limit = limitOf(found.of);
  const { low, high } = mostLengths(found.value_s);
  const seen = limit ? [Math.min(low, limit * 0.7), Math.max(high, limit * 1.4)] : [low, high];
  const floor = Math.max(seen[1] / 2000, 0.0001);
  return [Math.max(seen[0] * 0.8, floor), Math.max(seen[1] * 1.25, floor * 4)];
}

function steps(self, _, low, high) {
  const all = [];
  for (let unit = 10 ** Math.floor(Math.log10(low)); unit <= high; unit *= 10) all.push(unit, 2 * unit, 5 * unit);
  const shown = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  const few = shown.length > 9 ? shown.filter((value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9) : shown;
  return few.map((value) => +value.toPrecision(3));
}

const label = (value) => (value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`);

/** The index of the dot next to the pointer, or -1. */
function nearest(event) {
  if (!places) return -1;
  const box = plot.over.getBoundingClientRect();
  const x = (event.clientX - box.left) * devicePixelRatio + plot.bbox.left;
  const y = (event.clientY - box.top) * devicePixelRatio + plot.bbox.top;
  let best = -1;
  let least = (REACH * devicePixelRatio) ** 2;
  for (let i = 0; i < places.x.length; i += 1) {
    const distance = (places.x[i] - x) ** 2 + (places.y[i] - y) ** 2;
    if (distance <= least) [best, least] = [i, distance];
  }
  return best;
}

function point() {
  const i = pointed ? nearest(pointed) : -1;
  plot.over.classList.toggle("pointing", i >= 0);
  tooltip.hidden = i < 0;
  if (i < 0) return;
  replace(tooltip, h("b", {}, length(found.value_s[i])), ` ${found.marks[found.mark[i]]}`, h("br"), moment(found.time_s[i]));
  const x = (places.x[i] - plot.bbox.left) / devicePixelRatio;
  tooltip.style.setProperty("left", `${Math.min(x + 10, plot.over.clientWidth - 110)}px`);
  tooltip.style.setProperty("top", `${Math.max((places.y[i] - plot.bbox.top) / devicePixelRatio - 46, 0)}px`);
}

function click(event) {
  if (plot.select.width > 3) return;
  const i = nearest(event);
  if (i >= 0) change({ turn: found.trace_id[i] });
}

function zoom(self) {
  if (self.select.width <= 3) return;
  const from = self.posToVal(self.select.left, "x");
  const to = self.posToVal(self.select.left + self.select.width, "x");
  self.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  change({ from: from.toFixed(3), to: to.toFixed(3), last: "" });
}

/** Select the dot before or after the one that is selected. */
export function stepDot(direction) {
  if (!found?.trace_id.length) return;
  const at = found.trace_id.indexOf(state().turn);
  const next = at < 0 ? (direction > 0 ? 0 : found.trace_id.length - 1) : at + direction;
  if (found.trace_id[next]) change({ turn: found.trace_id[next] }, { replace: at >= 0 });
}

function describe() {
  const swatch = (name) => h("i", { class: `key ${name}` });
  const has = (mark) => found.mark.includes(mark);
  const limit = limitOf(found.of);
  const parts = [[swatch("fast"), limit ? `within ${length(limit)}` : "a turn"]];
  if (limit) parts.push([swatch("slow"), "slower"]);
  if (has(2)) parts.push([swatch("ring"), "nobody answered"]);
  if (has(3)) parts.push([swatch("cross"), "error"]);
  for (const text of lines.words) parts.push([swatch("line"), text]);
  if (found.without) parts.push([`${count(found.without, "turn")} without ${words()}`]);
  if (found.thinned) parts.push([`${count(found.thinned, "fast turn")} not drawn, all slow ones are`]);
  if (found.beyond) parts.push([`${count(found.beyond, "older turn")} not drawn`]);
  if (plot && outside?.before.length) parts.push(elsewhere(outside.before, "far earlier"));
  if (plot && outside?.after.length) parts.push(elsewhere(outside.after, "far later"));
  if (plot && places?.above) parts.push([`${count(places.above, "turn")} longer than ${length(plot.scales.y.max)}, at the edge`]);
  replace($("plot-words"), parts.map((part) => h("span", {}, part)));
  $("plot").setAttribute("aria-label", `${words()} of ${count(found.time_s.length, "turn")} over time; arrow keys go from dot to dot`);
}

/** Turns that are not drawn because their time is far from all others: [first, last] shows them alone. */
function elsewhere(times, where) {
  const [first, last] = [times[0], times.at(-1)];
  const onclick = () => change({ from: (first - 1).toFixed(3), to: (last + 1).toFixed(3), last: "" });
  return [h("button", { type: "button", class: "text marked", onclick, dataset: { key: where } }, `${count(times.length, "turn")} ${where}, ${moment(first)}`)];
}

let width = 0;
new ResizeObserver(() => {
  const place = $("plot");
  if (plot && place.clientWidth && place.clientWidth !== width) {
    width = place.clientWidth;
    plot.setSize({ width, height: place.clientHeight });
  }
}).observe($("plot"));
