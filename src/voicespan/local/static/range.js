// What part of times and lengths is drawn: some that are far off must not squeeze all others.

const FAR_S = 30 * 86_400;
const FAR_FACTOR = 20;
const FEW = 0.05;
const LONG_FACTOR = 50;

/**
 * The bounds of times in order, without the few at either end that lie months, and many times the rest's extent, away;
 * `before` and `after` are those.
 */
export function mostTimes(times) {
  const few = Math.max(Math.floor(times.length * FEW), 1);
  let from = 0;
  let to = times.length - 1;
  const far = (gap, extent) => gap > Math.max(FAR_S, FAR_FACTOR * extent);
  for (let i = 0; i < few && i + 1 <= to; i += 1) if (far(times[i + 1] - times[i], times[to] - times[i + 1])) from = i + 1;
  for (let i = 0; i < few && to - i - 1 >= from; i += 1) {
    const last = times.length - 1 - i;
    if (far(times[last] - times[last - 1], times[last - 1] - times[from])) to = last - 1;
  }
  return { low: times[from], high: times[to], before: times.slice(0, from), after: times.slice(to + 1) };
}

/** The bounds of lengths; the longest ones count no further than many times the 99th percentile. */
export function mostLengths(values) {
  const ordered = Float64Array.from(values).sort();
  const usual = ordered[Math.max(Math.ceil(ordered.length * 0.99) - 2, 0)];
  return { low: ordered[0], high: Math.min(ordered.at(-1), Math.max(usual, 0.001) * LONG_FACTOR) };
}
