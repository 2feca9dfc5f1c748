// What is drawn on the chart: the dots, the lines of the percentiles, the objective.
import { $ } from "./dom.js";
import { length } from "./format.js";

const MANY = 3000;
const STRENGTH = { p50_s: 0.9, p95_s: 0.65, p99_s: 0.45 };

/** A resolved colour: canvas knows neither variables nor light-dark(). */
export function ink(name) {
  const probe = $("plot-words");
  probe.style.setProperty("border-top-color", `var(${name})`);
  const value = getComputedStyle(probe).borderTopColor;
  probe.style.removeProperty("border-top-color");
  return value;
}

/** Draw what was found and return where the dots are, in pixels of the canvas. */
export function drawDots(plot, found, { selected, limit }) {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  const places = dots(plot, found, { selected, limit });
  const ends = lines(plot, found.lines);
  if (limit) ends.push(limitLine(plot, limit, found.of === "response" ? "objective" : "limit"));
  ctx.restore();
  names(plot, ends);
  return places;
}

function dots(plot, found, { selected, limit }) {
  const { ctx } = plot;
  const scale = devicePixelRatio;
  const total = found.time_s.length;
  const { min: floor, max: top } = plot.scales.y;
  const { min: first, max: last } = plot.scales.x;
  const places = { x: new Float32Array(total), y: new Float32Array(total), above: 0, inside: 0 };
  const groups = { fast: [], slow: [], 1: [], 2: [], 3: [] };
  for (let i = 0; i < total; i += 1) {
    places.x[i] = plot.valToPos(found.time_s[i], "x", true);
    places.y[i] = plot.valToPos(Math.min(Math.max(found.value_s[i], floor), top), "y", true);
    if (found.value_s[i] > top) places.above += 1;
    if (found.time_s[i] >= first && found.time_s[i] <= last) places.inside += 1;
    (found.mark[i] >= 2 ? groups[found.mark[i]] : found.value_s[i] > (limit ?? Infinity) ? groups.slow : groups.fast).push(i);
  }
  const many = total > MANY;
  const size = (many ? 1.6 : total > 500 ? 2.4 : 3.6) * scale;
  discs(ctx, places, groups.fast, { size, fill: ink("--accent"), alpha: many ? 0.4 : 0.65, many });
  discs(ctx, places, groups.slow, { size: size * 1.2, fill: ink("--slow"), alpha: many ? 0.5 : 0.9, many });
  rings(ctx, places, groups[2], size * 1.35);
  crosses(ctx, places, groups[3], size * 1.35);
  const chosen = selected ? found.trace_id.indexOf(selected) : -1;
  if (chosen >= 0) {
    ctx.beginPath();
    ctx.arc(places.x[chosen], places.y[chosen], 8 * scale, 0, 2 * Math.PI);
    ctx.strokeStyle = ink("--ink");
    ctx.lineWidth = 2 * scale;
    ctx.stroke();
  }
  return places;
}

function discs(ctx, places, group, { size, fill, alpha, many }) {
  ctx.fillStyle = fill;
  ctx.globalAlpha = alpha;
  for (const i of group) {
    if (many) {
      ctx.fillRect(places.x[i] - size, places.y[i] - size, 2 * size, 2 * size);
    } else {
      ctx.beginPath();
      ctx.arc(places.x[i], places.y[i], size, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.globalAlpha = 1;
}

function rings(ctx, places, group, size) {
  ctx.strokeStyle = ink("--bad");
  ctx.lineWidth = 1.8 * devicePixelRatio;
  for (const i of group) {
    ctx.beginPath();
    ctx.arc(places.x[i], places.y[i], size, 0, 2 * Math.PI);
    ctx.stroke();
  }
}

function crosses(ctx, places, group, size) {
  ctx.strokeStyle = ink("--bad");
  ctx.lineWidth = 2.2 * devicePixelRatio;
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

/** Draw the percentiles and return where each line ends, as [words, y, colour]. */
function lines(plot, { time_s: times, running, level }) {
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  const { min, max } = plot.scales.y;
  const at = (value) => plot.valToPos(Math.min(Math.max(value, min), max), "y", true);
  const ends = [];
  ctx.strokeStyle = ink("--ink");
  ctx.lineWidth = 1.4 * devicePixelRatio;
  for (const [name, strength] of Object.entries(STRENGTH)) {
    const values = running[name] ?? (name in level ? [level[name]] : []);
    if (!values.length) continue;
    ctx.globalAlpha = strength;
    ctx.beginPath();
    ctx.moveTo(left, at(values[0])); // before the first window is full, its figure is the best there is
    if (running[name]) times.forEach((time, i) => ctx.lineTo(plot.valToPos(time, "x", true), at(values[i])));
    ctx.lineTo(left + width, at(values.at(-1)));
    ctx.stroke();
    ends.push([name.slice(0, -2), at(values.at(-1)), ink("--dim")]);
  }
  ctx.globalAlpha = 1;
  return ends;
}

function limitLine(plot, limit, words) {
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  const y = plot.valToPos(limit, "y", true);
  ctx.save();
  ctx.strokeStyle = ink("--slow");
  ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
  return [words, y, ink("--slow")];
}

/** The names of the lines, right of them, from top to bottom and none over another. */
function names(plot, ends) {
  const right = plot.bbox.left + plot.bbox.width + 5 * devicePixelRatio;
  const line = 12 * devicePixelRatio;
  const bottom = plot.bbox.top + plot.bbox.height;
  const placed = ends.sort((a, b) => a[1] - b[1]).map(([words, y, colour]) => ({ words, y: y + 4 * devicePixelRatio, colour }));
  for (let i = 1; i < placed.length; i += 1) placed[i].y = Math.max(placed[i].y, placed[i - 1].y + line);
  for (let i = placed.length - 1, below = bottom; i >= 0; i -= 1) below = (placed[i].y = Math.min(placed[i].y, below)) - line;
  for (const { words, y, colour } of placed) write(plot.ctx, words, right, y, colour);
}

function write(ctx, text, x, y, fill) {
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.fillStyle = fill;
  ctx.fillText(text, x, y);
  ctx.restore();
}
