// A change against other turns: in words, and as a line with its 95 % interval. What may be chance is no news: it is grey.
import { h } from "./dom.js";
import { points, signed } from "./format.js";

/** A change as the API gives it, of lengths or of rates, in one form; null when there are too few turns for one. */
export function changeOf(given) {
  if (!given) return null;
  const ofLengths = "change_s" in given;
  const [change, low, high] = ofLengths ? [given.change_s, given.low_s, given.high_s] : [given.change, given.low, given.high];
  if (change === null || low === null || high === null) return null;
  return { change, low, high, clear: given.clear, write: ofLengths ? signed : points };
}

export const interval = ({ low, high, write }) => `95 % interval ${write(low)} to ${write(high)}`;

/** `worse` says which direction is: 1, -1, or 0 for neither. */
export function tone(given, worse = 1) {
  if (!given?.clear) return "unclear";
  return worse === 0 ? "other" : Math.sign(given.change) === worse ? "worse" : "better";
}

/** The words: a number only where the change is clear. */
export function words(given, worse = 1) {
  if (!given) return h("span", { class: "change unclear" }, "too few turns");
  return h("span", { class: `change ${tone(given, worse)}`, title: interval(given) }, given.clear ? given.write(given.change) : "no clear change");
}

/** The line: zero in the middle, `most` at both ends. */
export function whisker(given, most, worse = 1) {
  if (!given) return h("div", { class: "whisker" });
  const at = (value) => `${50 + Math.max(Math.min(value / most, 1), -1) * 50}%`;
  const text = `${given.write(given.change)}, ${interval(given)}`;
  return h("div", { class: `whisker ${tone(given, worse)}`, role: "img", "aria-label": text, title: text,
    vars: { "--low": at(given.low), "--high": at(given.high), "--at": at(given.change) } }, h("i", {}), h("b", {}));
}

/** The end of an axis that holds all these changes. */
export const reach = (all) => Math.max(...all.filter(Boolean).flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)]), 1e-9) * 1.05;
