// The lines over the dots: running percentiles where enough turns are behind them, else one level of all turns.

const NAMES = { p50_s: 0.5, p95_s: 0.95, p99_s: 0.99 };
const BEYOND = 5; // so many of a window lie beyond a percentile that says more than which turn was the longest
const UNANSWERED = 2;

/** `running`: name of a line to its values at `time_s`; `level`: name to one value; `words` for the legend. */
export function linesOver({ lines, value_s: values, mark, of }) {
  const names = Object.keys(NAMES);
  const enough = (name) => lines.window * (1 - NAMES[name]) >= BEYOND;
  const running = Object.fromEntries(names.filter(enough).map((name) => [name, lines[name]]));
  const counted = of === "response" ? values.filter((_, i) => mark[i] !== UNANSWERED) : values;
  const ordered = Float64Array.from(counted).sort();
  const rank = (part) => ordered[Math.max(Math.ceil(part * ordered.length) - 1, 0)];
  const levels = names.filter((name) => !enough(name) && ordered.length);
  const said = (some) => some.map((name) => name.slice(0, -2)).join(", ");
  return {
    time_s: lines.time_s,
    running,
    level: Object.fromEntries(levels.map((name) => [name, rank(NAMES[name])])),
    words: [
      Object.keys(running).length && `${said(Object.keys(running))} of the last ${lines.window} turns`,
      levels.length && `${said(levels)} of all`,
    ].filter(Boolean),
  };
}
