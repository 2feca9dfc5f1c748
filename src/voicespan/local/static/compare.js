// Two runs, stage by stage: one sentence, then a line for each change with its 95 % interval.
import { $, command, h, replace } from "./dom.js";
import { count, length, percent } from "./format.js";
import { link } from "./link.js";
import { knownRuns, pair, runName } from "./runs.js";
import { LATENCIES, MEANINGS, SHARES } from "./stages.js";
import { change, state } from "./state.js";
import { changeOf, interval, reach, whisker, words } from "./whisker.js";

const RATES = {
  within_objective: ["within the objective", -1],
  unanswered: ["unanswered", 1],
  interrupted: ["interrupted", 0],
  errors: ["errors", 1],
};
const RANKS = { p50: "median (p50)", p95: "slow ones (p95)" };

/** What to do where there is nothing to compare; else null. */
function missing() {
  if (knownRuns().length < 2) {
    return h("div", { class: "way" }, h("p", {}, "It takes two runs: start the service again after a change, or give the next run a name."), command("VOICESPAN_RUN=new-prompt voicespan run -- python bot.py"));
  }
  const { now, before } = pair();
  return now === before ? h("p", { class: "hint" }, "Pick two different runs.") : null;
}

export function drawCompare(found) {
  const place = $("compare");
  const why = missing();
  if (why || !found) return replace(place, h("h2", { id: "compare-title" }, "What changed"), why);
  const { now, before } = pair();
  const { rank } = state();
  return replace(place,
    h("div", { class: "head" }, h("h2", { id: "compare-title" }, "What changed"),
      h("p", { class: "dim" }, `${runName(now)} (${count(found.now.turns, "turn")}) against ${runName(before)} (${count(found.before.turns, "turn")})`),
      link({ view: "turns", run: now, against: `run:${before}` }, { class: "button" }, "see the turns")),
    h("p", { class: `why ${toneOfSentence(found)}` }, sentence(found)),
    group("Where the silence goes", "mean of each stage", length, SHARES.map((stage) => {
      const share = found.shares[stage];
      return share && { name: [h("i", { class: `swatch on-${stage}` }), stage], hint: MEANINGS[stage], now: share.now_s, before: share.before_s, given: changeOf(share) };
    })),
    group("Latencies", ranks(rank), length, Object.entries(LATENCIES).map(([stage, words]) => {
      const latency = found.latencies[stage];
      return latency && { name: words, now: latency.now?.[`${rank}_s`], before: latency.before?.[`${rank}_s`], given: changeOf(latency[rank]) };
    })),
    group("Turns", "share of all", percent, Object.entries(RATES).map(([rate, [words, worse]]) => {
      const found_ = found.rates[rate];
      return found_ && { name: words, now: found_.now, before: found_.before, given: changeOf(found_), worse };
    })),
    h("p", { class: "dim small" }, "Dot: the change. Line: its 95 % interval. Grey: such a change may be chance, the more so as many are looked at together."));
}

/** Which percentile of the latencies is compared. */
function ranks(rank) {
  return h("span", { class: "segments", role: "group", "aria-label": "Which latency" }, Object.entries(RANKS).map(([value, words]) =>
    h("button", { type: "button", "aria-pressed": String(rank === value), dataset: { key: value }, onclick: () => change({ rank: value }, { replace: true }) }, words)));
}

function group(title, hint, write, all) {
  const rows = all.filter(Boolean);
  if (!rows.length) return null;
  const changes = rows.map(({ given }) => given).filter(Boolean);
  const most = reach(changes);
  const ends = changes.length ? [changes[0].write(-most), "0", changes[0].write(most)] : [];
  return h("table", { class: "compare against whole" },
    h("caption", {}, h("b", {}, title), " ", h("small", {}, hint)),
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col", class: "r" }, "now"), h("th", { scope: "col", class: "r" }, "before"),
      h("th", { scope: "col", class: "changes" }, h("span", { class: "ends" }, ends.map((end) => h("span", {}, end)))),
      h("th", { scope: "col", class: "r verdict" }, "change"))),
    h("tbody", {}, rows.map(({ name, hint: meaning, now, before, given, worse = 1 }) => h("tr", { title: meaning },
      h("th", { scope: "row" }, name), h("td", { class: "r" }, write(now)), h("td", { class: "r dim" }, write(before)),
      h("td", { class: "changes" }, whisker(given, most, worse)), h("td", { class: "r verdict" }, words(given, worse))))));
}

/** What the comparison says, in words. */
export function sentence(found) {
  const silence = found.latencies.response;
  const given = changeOf(silence?.p50);
  if (!given) return `Too few answered turns to compare: ${found.now.answered} now, ${found.before.answered} before.`;
  const stages = SHARES.map((stage) => ({ stage, given: changeOf(found.shares[stage]) })).filter((each) => each.given?.clear);
  const named = ({ stage, given: share }) => `${stage} (${share.write(share.change)} on average)`;
  if (!given.clear) {
    const but = stages.length ? ` Yet clearly different: ${stages.map(named).join(", ")}.` : "";
    return `No clear change of the heard silence: p50 ${given.write(given.change)}, ${interval(given)}.${but}`;
  }
  const direction = given.change > 0 ? "longer" : "shorter";
  const same = stages.filter((each) => Math.sign(each.given.change) === Math.sign(given.change));
  same.sort((a, b) => Math.abs(b.given.change) - Math.abs(a.given.change));
  const why = same.length ? `; the largest part is ${named(same[0])}` : "; no single stage explains it";
  return `Users wait ${length(Math.abs(given.change))} ${direction} (p50, ${interval(given)})${why}.`;
}

function toneOfSentence(found) {
  const given = changeOf(found.latencies.response?.p50);
  return !given?.clear ? "why-none" : given.change > 0 ? "why-bad" : "why-good";
}
