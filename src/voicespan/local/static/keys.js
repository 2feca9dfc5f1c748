// The keyboard; help.js lists the keys.
import { stepDot } from "./chart.js";
import { $, copy } from "./dom.js";
import { lettersOn, showHelp } from "./help.js";
import { stepLine } from "./lines.js";
import { clear } from "./live.js";
import { change, state } from "./state.js";
import { shownTurn } from "./turn.js";
import { goTo, VIEWS } from "./views.js";

const LISTS = "main [data-turn], main .scroll, .turn-areas";

export function listenToKeys() {
  document.addEventListener("keydown", press);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const { target, key } = event;
  if (target.matches("input:not([type=radio], [type=checkbox]), select, textarea, audio")) {
    if (key === "Escape") target.blur();
    return;
  }
  if (key.length === 1 && !lettersOn()) return;
  const inList = target.closest(LISTS) !== null; // elsewhere the arrow keys scroll, as they do everywhere
  const inChart = target.id === "plot";
  const neighbours = shownTurn()?.neighbours ?? {};
  const actions = {
    j: () => stepLine(1),
    k: () => stepLine(-1),
    ArrowDown: inList && (() => stepLine(1, { focus: true })),
    ArrowUp: inList && (() => stepLine(-1, { focus: true })),
    ArrowLeft: inChart && (() => stepDot(-1)),
    ArrowRight: inChart && (() => stepDot(1)),
    "[": neighbours.previous && (() => change({ turn: neighbours.previous })),
    "]": neighbours.next && (() => change({ turn: neighbours.next })),
    c: state().turn && (() => copy(shownTurn()?.trace_id ?? state().turn, "Trace id")),
    "/": () => $("search").focus(),
    p: () => $("live").click(),
    x: clear,
    Escape: () => change(state().turn ? { turn: "" } : { call: "" }),
    "?": showHelp,
  };
  const view = VIEWS[Number(key) - 1];
  const action = view ? () => goTo(view) : actions[key];
  if (!action) return;
  event.preventDefault();
  action();
}
