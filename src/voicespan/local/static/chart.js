// Every turn is a dot; lines for p50, p95 and p99 of the turns before, and one for the objective.
import uPlot from "./uplot/uPlot.esm.js";
import { $, h } from "./dom.js";
import { count, length, moment } from "./format.js";
import { LATENCIES } from "./stages.js";
import { change, state } from "./state.js";

const REACH = 24;
const MANY = 3000;
const LINES = { p50_s: "p50", p95_s: "p95", p99_s: "p99" };
const INK = { p50_s: 0.9, p95_s: 0.65, p99_s: 0.45 };

let plot = null;
let found = null;
let places = null;
let tooltip = null;

const objective = () => Number(state().objective) / 1000 || 0.6;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** A resolved colour: canvas knows neither variables nor light-dark(). */
function ink(name) {
  const probe = $("plot-words");
  probe.style.setProperty("border-top-color", `var(${name})`);
  const value = getComputedStyle(probe).borderTopColor;
  probe.style.removeProperty("border-top-color");
  return value || colour(name);
}

export function drawChart(answer) {
  found = answer ?? found;
  if (!found) return;
  plot?.destroy();
  places = null;
  const place = $("plot");
  place.replaceChildren();
  if (!found.time_s.length) {
    plot = null;
    place.append(h("p", { class: "hint" }, found.turns ? `None of these ${count(found.turns, "turn")} has ${words()}.` : "No turn matches."));
    describe();
    return;
  }
  plot = new uPlot(options(place), [found.time_s, found.value_s], place);
  tooltip = h("div", { class: "tooltip", hidden: true });
  plot.over.append(tooltip);
  plot.over.addEventListener("mousemove", (event) => hover(event));
  plot.over.addEventListener("mouseleave", () => (tooltip.hidden = true));
  plot.over.addEventListener("click", (event) => click(event));
  describe();
}

export const redrawChart = () => plot?.redraw(false);

const words = () => LATENCIES[found.of];

function options(place) {
  const dim = ink("--dim");
  const grid = { stroke: ink("--grid"), width: 1 };
  const axis = { stroke: dim, font: "11px system-ui, sans-serif", grid, ticks: { show: false } };
  return {
    width: place.clientWidth,
    height: place.clientHeight,
    padding: [10, 34, 0, 0],
    legend: { show: false },
    cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
    scales: { x: { time: true, range: rangeOfTime }, y: { distr: 3, log: 10, range: rangeOfLengths } },
    axes: [
      { ...axis, size: 34, values: [[86400, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1], [3600, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1], [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1], [0.001, "{HH}:{mm}:{ss}.{fff}", null, null, null, null, null, null, 1]] },
      { ...axis, size: 54, splits: steps, filter: (_, splits) => splits, values: (_, splits) => splits.map((value) => (value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${+value.toPrecision(3)} s`)) },
    ],
    series: [{}, { paths: () => null, points: { show: false } }],
    hooks: { draw: [drawAll], setSelect: [zoom] },
  };
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

function drawAll(self) {
  const { ctx } = self;
  ctx.save();
  const { left, top, width, height } = self.bbox;
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  drawDots(self, ctx);
  drawLines(self, ctx);
  ctx.restore();
  if (found.of === "response") drawObjective(self, ctx);
  labelLines(self, ctx);
}

function drawDots(self, ctx) {
  const scale = devicePixelRatio;
  const total = found.time_s.length;
  const floor = self.scales.y.min;
  places = { x: new Float32Array(total), y: new Float32Array(total) };
  const groups = { fast: [], slow: [], 1: [], 2: [], 3: [] };
  const limit = found.of === "response" ? objective() : Infinity;
  for (let i = 0; i < total; i += 1) {
    places.x[i] = self.valToPos(found.time_s[i], "x", true);
    places.y[i] = self.valToPos(Math.max(found.value_s[i], floor), "y", true);
    (found.mark[i] >= 2 ? groups[found.mark[i]] : found.value_s[i] > limit ? groups.slow : groups.fast).push(i);
  }
  const size = (total > MANY ? 1.6 : total > 500 ? 2.4 : 3.6) * scale;
  dots(ctx, groups.fast, size, ink("--accent"), total > MANY ? 0.4 : 0.65);
  dots(ctx, groups.slow, size * 1.2, ink("--slow"), total > MANY ? 0.5 : 0.9);
  rings(ctx, groups[2], size * 1.35, ink("--bad"), scale);
  crosses(ctx, groups[3], size * 1.35, ink("--bad"), scale);
  const chosen = found.trace_id.indexOf(state().turn);
  if (chosen >= 0) {
    ctx.beginPath();
    ctx.arc(places.x[chosen], places.y[chosen], 8 * scale, 0, 2 * Math.PI);
    ctx.strokeStyle = ink("--ink");
    ctx.lineWidth = 2 * scale;
    ctx.stroke();
  }
}

function dots(ctx, group, size, fill, alpha) {
  ctx.fillStyle = fill;
  ctx.globalAlpha = alpha;
  if (found.time_s.length > MANY) {
    for (const i of group) ctx.fillRect(places.x[i] - size, places.y[i] - size, 2 * size, 2 * size);
  } else {
    for (const i of group) {
      ctx.beginPath();
      ctx.arc(places.x[i], places.y[i], size, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.globalAlpha = 1;
}

function rings(ctx, group, size, stroke, scale) {
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 1.8 * scale;
  for (const i of group) {
    ctx.beginPath();
    ctx.arc(places.x[i], places.y[i], size, 0, 2 * Math.PI);
    ctx.stroke();
  }
}

function crosses(ctx, group, size, stroke, scale) {
  ctx.strokeStyle = stroke;
  ctx.lineWidth = 2.2 * scale;
  ctx.beginPath();
  for (const i of group) {
    const [x, y] = [places.x[i], places.y[i]];
    ctx.moveTo(x - size, y - size);
    ctx.lineTo(x + size, y + size);
    ctx.moveTo(x - size, y + size);
    ctx.lineTo(x + size, y - size);
  }
  ctx.stroke();
}

function drawLines(self, ctx) {
  const { lines } = found;
  const { left, width } = self.bbox;
  ctx.strokeStyle = ink("--ink");
  ctx.lineWidth = 1.4 * devicePixelRatio;
  for (const name of Object.keys(LINES)) {
    if (!lines.time_s.length) continue;
    ctx.globalAlpha = INK[name];
    ctx.beginPath();
    const y = (i) => self.valToPos(Math.max(lines[name][i], self.scales.y.min), "y", true);
    ctx.moveTo(left, y(0)); // before the first window is full, its figure is the best there is
    lines.time_s.forEach((time, i) => ctx.lineTo(self.valToPos(time, "x", true), y(i)));
    ctx.lineTo(left + width, y(lines.time_s.length - 1));
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
}

function drawObjective(self, ctx) {
  const { left, width } = self.bbox;
  const y = self.valToPos(objective(), "y", true);
  ctx.save();
  ctx.strokeStyle = ink("--slow");
  ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
  write(ctx, `objective ${length(objective())}`, left + 4 * devicePixelRatio, y - 5 * devicePixelRatio, ink("--slow"), "left");
}

function labelLines(self, ctx) {
  const last = found.lines.time_s.length - 1;
  if (last < 0) return;
  const right = self.bbox.left + self.bbox.width + 4 * devicePixelRatio;
  let above = Infinity;
  for (const name of Object.keys(LINES)) {
    const wanted = self.valToPos(Math.max(found.lines[name][last], self.scales.y.min), "y", true) + 4 * devicePixelRatio;
    const y = Math.min(wanted, above - 12 * devicePixelRatio);
    above = y;
    write(ctx, LINES[name], right, y, ink("--dim"), "left");
  }
}

function write(ctx, text, x, y, fill, align) {
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = align;
  ctx.strokeStyle = ink("--card"); // a halo, so that it can be read over dots
  ctx.lineWidth = 4 * devicePixelRatio;
  ctx.lineJoin = "round";
  ctx.strokeText(text, x, y);
  ctx.fillStyle = fill;
  ctx.fillText(text, x, y);
  ctx.restore();
}

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
  const mark = found.marks[found.mark[i]];
  tooltip.replaceChildren(h("b", {}, length(found.value_s[i])), ` ${mark}`, h("br"), moment(found.time_s[i]));
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
