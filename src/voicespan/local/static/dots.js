// What is drawn on the chart: the dots, the lines of the percentiles, the objective.
import { $ } from "./dom.js";
import { length } from "./format.js";

const MANY = 3000;
const LINES = { p50_s: "p50", p95_s: "p95", p99_s: "p99" };
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
export function drawDots(plot, found, { selected, objective }) {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  const places = dots(plot, found, { selected, objective });
  lines(plot, found.lines);
  ctx.restore();
  if (objective) objectiveLine(plot, objective);
  names(plot, found.lines);
  return places;
}

function dots(plot, found, { selected, objective }) {
  const { ctx } = plot;
  const scale = devicePixelRatio;
  const total = found.time_s.length;
  const floor = plot.scales.y.min;
  const places = { x: new Float32Array(total), y: new Float32Array(total) };
  const groups = { fast: [], slow: [], 1: [], 2: [], 3: [] };
  for (let i = 0; i < total; i += 1) {
    places.x[i] = plot.valToPos(found.time_s[i], "x", true);
    places.y[i] = plot.valToPos(Math.max(found.value_s[i], floor), "y", true);
    (found.mark[i] >= 2 ? groups[found.mark[i]] : found.value_s[i] > (objective || Infinity) ? groups.slow : groups.fast).push(i);
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

function lines(plot, found) {
  if (!found.time_s.length) return;
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  ctx.strokeStyle = ink("--ink");
  ctx.lineWidth = 1.4 * devicePixelRatio;
  for (const name of Object.keys(LINES)) {
    ctx.globalAlpha = STRENGTH[name];
    ctx.beginPath();
    const y = (i) => plot.valToPos(Math.max(found[name][i], plot.scales.y.min), "y", true);
    ctx.moveTo(left, y(0)); // before the first window is full, its figure is the best there is
    found.time_s.forEach((time, i) => ctx.lineTo(plot.valToPos(time, "x", true), y(i)));
    ctx.lineTo(left + width, y(found.time_s.length - 1));
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
}

function objectiveLine(plot, objective) {
  const { ctx } = plot;
  const { left, width } = plot.bbox;
  const y = plot.valToPos(objective, "y", true);
  ctx.save();
  ctx.strokeStyle = ink("--slow");
  ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
  write(ctx, `objective ${length(objective)}`, left + 4 * devicePixelRatio, y - 5 * devicePixelRatio, ink("--slow"));
}

function names(plot, found) {
  const last = found.time_s.length - 1;
  if (last < 0) return;
  const right = plot.bbox.left + plot.bbox.width + 4 * devicePixelRatio;
  let above = Infinity;
  for (const [name, words] of Object.entries(LINES)) {
    const wanted = plot.valToPos(Math.max(found[name][last], plot.scales.y.min), "y", true) + 4 * devicePixelRatio;
    above = Math.min(wanted, above - 12 * devicePixelRatio);
    write(plot.ctx, words, right, above, ink("--dim"));
  }
}

function write(ctx, text, x, y, fill) {
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.strokeStyle = ink("--card"); // a halo, so that it can be read over dots
  ctx.lineWidth = 4 * devicePixelRatio;
  ctx.lineJoin = "round";
  ctx.strokeText(text, x, y);
  ctx.fillStyle = fill;
  ctx.fillText(text, x, y);
  ctx.restore();
}
