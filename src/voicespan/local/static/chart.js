// Every turn is a dot; lines for p50, p95 and p99 of the turns before, and one for the objective.
import uPlot from "./uplot/uPlot.esm.js";
import { $, h } from "./dom.js";
import { drawDots, ink } from "./dots.js";
import { count, length, moment } from "./format.js";
import { LATENCIES } from "./stages.js";
import { change, state } from "./state.js";

const REACH = 24;

let plot = null;
let found = null;
let places = null;
let tooltip = null;

const objective = () => Number(state().objective) / 1000 || 0.6;
const words = () => LATENCIES[found.of];

export function drawChart(answer) {
  found = answer ?? found;
  if (!found) return;
  plot?.destroy();
  places = null;
  const place = $("plot");
  place.replaceChildren();
  if (found.time_s.length) {
    plot = new uPlot(options(place), [found.time_s, found.value_s], place);
    tooltip = h("div", { class: "tooltip", hidden: true });
    plot.over.append(tooltip);
    plot.over.addEventListener("mousemove", hover);
    plot.over.addEventListener("mouseleave", () => (tooltip.hidden = true));
    plot.over.addEventListener("click", click);
  } else {
    plot = null;
    place.append(h("p", { class: "hint" }, found.turns ? `None of these ${count(found.turns, "turn")} has ${words()}.` : "No turn matches."));
  }
  describe();
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
  const grid = { stroke: ink("--grid"), width: 1 };
  const axis = { stroke: ink("--dim"), font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
  return {
    width: place.clientWidth,
    height: place.clientHeight,
    padding: [10, 34, 0, 0],
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
  places = drawDots(self, found, { selected: state().turn, objective: found.of === "response" ? objective() : null });
}

function rangeOfTime(_, low, high) {
  const pad = Math.max((high - low) * 0.02, 1);
  return [low - pad, high + pad];
}

/** At least from half to twice the objective, so that a dot has something to be compared with. */
function rangeOfLengths(_, low, high) {
  const floor = Math.max(high / 2000, 0.0005);
  const seen = found.of === "response" ? [Math.min(low, objective() * 0.7), Math.max(high, objective() * 1.4)] : [low, high];
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

function hover(event) {
  const i = nearest(event);
  plot.over.classList.toggle("pointing", i >= 0);
  tooltip.hidden = i < 0;
  if (i < 0) return;
  tooltip.replaceChildren(h("b", {}, length(found.value_s[i])), ` ${found.marks[found.mark[i]]}`, h("br"), moment(found.time_s[i]));
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
  const parts = [[swatch("fast"), found.of === "response" ? "within the objective" : "a turn"]];
  if (found.of === "response") parts.push([swatch("slow"), "slower"]);
  if (has(2)) parts.push([swatch("ring"), "nobody answered"]);
  if (has(3)) parts.push([swatch("cross"), "error"]);
  if (found.lines.window) parts.push([swatch("line"), `p50, p95, p99 of the last ${count(found.lines.window, "turn")}`]);
  if (found.without) parts.push([`${count(found.without, "turn")} without ${words()}`]);
  if (found.beyond) parts.push([`${count(found.beyond, "older turn")} not drawn`]);
  $("plot-words").replaceChildren(...parts.map((part) => h("span", {}, part)));
  $("plot").setAttribute("aria-label", `${words()} of ${count(found.time_s.length, "turn")} over time; arrow keys go from dot to dot`);
}

let width = 0;
new ResizeObserver(() => {
  const place = $("plot");
  if (plot && place.clientWidth && place.clientWidth !== width) {
    width = place.clientWidth;
    plot.setSize({ width, height: place.clientHeight });
  }
}).observe($("plot"));
