// How loud each side was over time, where its audio is kept: drawn on the axis of time that it belongs to.
import { ask, Refused, Unreachable } from "./api.js";
import { s } from "./dom.js";

const MOST = 200;
const cache = new Map();

/** The peaks of a turn as {user: {duration_s, peaks}, agent: …}; {} where there are none. */
export async function peaksOf(traceId, content) {
  if (!Object.values(content ?? {}).some((side) => side.audio)) return {};
  const key = `${traceId} ${JSON.stringify(content)}`; // what is said grows while a turn goes on
  if (!cache.has(key)) {
    if (cache.size >= MOST) cache.delete(cache.keys().next().value);
    cache.set(key, fetchPeaks(traceId));
  }
  return cache.get(key);
}

async function fetchPeaks(traceId) {
  try {
    return (await ask(`peaks ${traceId}`, `turns/${traceId}/peaks`))?.sides ?? {};
  } catch (error) {
    if (error instanceof Refused || error instanceof Unreachable) return {};
    throw error;
  }
}

/** The peaks of one side as a shape that fills its element from left to right. */
export function wave(role, { peaks }) {
  const upper = peaks.map((peak, i) => `${i} ${(1 - Math.max(peak, 0.03)).toFixed(3)}`);
  const lower = peaks.map((peak, i) => `${i} ${(1 + Math.max(peak, 0.03)).toFixed(3)}`).reverse();
  return s("svg", { class: `wave ${role}`, viewBox: `0 0 ${Math.max(peaks.length - 1, 1)} 2`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { d: `M${[...upper, ...lower].join("L")}Z` }));
}
