// Turns in progress: what each one waits for, and since when. Lost ones are marked, incomplete ones listed below.
import { $, h, replace } from "./dom.js";
import { count, length, moment, number, span } from "./format.js";
import { opens } from "./lines.js";
import { link } from "./link.js";

const STAGES = { vad: "endpoint", asr: "asr", llm: "llm", tool: "tool", tts: "tts", realtime: "realtime" };
const MARKS = {
  speech_end: "end of speech",
  committed: "turn decision",
  transcript: "final transcript",
  first_sent: "first audio sent",
  heard: "first sound heard",
  answer: "the answer begins",
  interrupted: "the user interrupts",
  silent: "silent after the interruption",
  paused: "reply held back",
  ended: "its last stage ended",
};

export function drawOpen(found) {
  const { turns, beyond } = found;
  const lost = turns.filter((turn) => turn.lost).length;
  const open = turns.length - lost + beyond;
  const words = [open || !lost ? (open ? count(open, "turn") : "no turn is open now") : "", lost ? `${number(lost)} lost` : ""].filter(Boolean).join(", ");
  replace($("open"),
    h("h2", { id: "open-title" }, "In progress ", h("small", {}, words)),
    turns.length ? h("ol", { class: "open-turns" }, turns.map(card))
      : h("p", { class: "hint" }, "A turn that lasts longer than half a second appears here until it ends, with what it waits for. Services on this machine tell of theirs by themselves."),
    beyond ? h("p", { class: "dim" }, `${number(beyond)} more`) : null);
}

function card(turn) {
  const marks = Object.fromEntries((turn.marks ?? []).map(({ name, at_s: at }) => [name, at]));
  const axis = { start: turn.start_s, size: Math.max(turn.open_s, 0.001) };
  const now = axis.start + axis.size;
  const heard = marks.heard ?? marks.first_sent;
  return h("li", { class: turn.lost ? "lost" : "", dataset: { key: turn.trace_id } },
    h("div", { class: "spoken-head" },
      h("b", {}, `Turn ${turn.turn_index ?? ""}`),
      turn.session_id ? link({ view: "sessions", call: turn.session_id }, { class: "plain dim" }, turn.session_id) : null,
      h("span", { class: "dim" }, [turn.service, moment(turn.start_s)].filter(Boolean).join(" · ")),
      turn.lost ? h("span", { class: "tag bad" }, "lost") : null,
      h("b", { class: "took" }, span(turn.open_s))),
    h("p", { class: "sentence" }, turn.waiting),
    h("div", { class: "progress" },
      turn.initiator === "user" ? row(axis, { name: "user", kind: "bar-user", from: axis.start, to: marks.speech_end ?? now, running: marks.speech_end === undefined }) : null,
      (turn.stages ?? []).map((stage) => row(axis, {
        name: stage.component, label: stage.label, kind: `on-${STAGES[stage.component] ?? "none"}`, from: stage.start_s, to: stage.end_s ?? now,
        first: stage.first_s, running: stage.end_s === null || stage.end_s === undefined, error: stage.error,
      })),
      heard === undefined ? null : row(axis, { name: "agent", label: "is heard", kind: "bar-agent", from: heard, to: Math.min(marks.plays_until ?? now, now), running: (marks.plays_until ?? 0) > now }),
      h("div", { class: "progress-row" }, h("span", { class: "name dim" }, "marks"),
        h("div", { class: "lane" }, Object.entries(marks).filter(([name]) => name !== "plays_until").map(([name, at]) => event(axis, at, `${MARKS[name] ?? name} after ${length(at - axis.start)}`))),
        h("span", {}))));
}

const at = ({ start, size }, seconds) => Math.min(Math.max((seconds - start) / size, 0), 1) * 100;

const event = (axis, seconds, title) => h("i", { class: "event", vars: { "--at": `${at(axis, seconds)}%` }, title });

function row(axis, { name, label, kind, from, to, first, running, error }) {
  return h("div", { class: `progress-row${running ? " running" : ""}${error ? " failed" : ""}`, title: error ? `failed: ${error}` : undefined },
    h("span", { class: "name" }, name, label && label !== name ? h("small", {}, label) : null),
    h("div", { class: "lane" },
      h("i", { class: `bar ${kind}`, vars: { "--at": `${at(axis, from)}%`, "--w": `${at(axis, to) - at(axis, from)}%` } }),
      first ? event(axis, first, `first result after ${length(first - from)}`) : null),
    h("span", { class: "took" }, error ? "✗ " : "", length(Math.max(to - from, 0))));
}

/** Turns whose root span never came. */
export function drawIncomplete(found) {
  replace($("incomplete"),
    h("h2", { id: "incomplete-title" }, "Incomplete ", h("small", {}, found.matching > found.turns.length ? `the newest ${number(found.turns.length)} of ${number(found.matching)}` : count(found.matching, "turn"))),
    h("p", { class: "dim" }, "Spans came, but not the one of the whole turn: it is still open, its process was killed before it could send it, or the sender dropped it."),
    found.turns.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Incomplete turns" }, h("table", { class: "turns" },
      h("thead", {}, h("tr", {}, [["time", ""], ["session", "session"], ["service", "late"], ["what came took", "r"], ["why", ""]].map(([words, kind]) => h("th", { scope: "col", class: kind }, words)))),
      h("tbody", {}, found.turns.map((turn) => h("tr", { ...opens(turn.trace_id) },
        h("td", { class: "dim" }, link({ turn: turn.trace_id }, { class: "plain" }, moment(turn.start_s))),
        h("td", { class: "session" }, turn.session_id ?? "–"), h("td", { class: "dim late" }, turn.service), h("td", { class: "r" }, length(turn.duration_s)), h("td", { class: "wraps" }, turn.cause))))))
      : h("p", { class: "hint" }, "None: every turn here is whole."));
}
