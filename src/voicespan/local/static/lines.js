// The lines of a view that are turns: the one that is selected, and stepping through them. A line has data-turn.
import { change, state } from "./state.js";

/** The lines in order; a turn that two of them show counts once, with the last. */
function lines() {
  const shown = [...document.querySelectorAll("main [data-turn]")].filter((line) => line.checkVisibility());
  return [...new Map(shown.map((line) => [line.dataset.turn, line])).values()];
}

/** Mark the selected turn's line, without asking for the list again. */
export function markSelected() {
  const { turn } = state();
  for (const line of document.querySelectorAll("main [data-turn]")) {
    const on = turn !== "" && line.dataset.turn === turn;
    line.classList.toggle("on", on);
    if (on) line.setAttribute("aria-current", "true");
    else line.removeAttribute("aria-current");
  }
}

/** Select the next line, or the previous one; `focus` moves the keyboard's focus there. */
export function stepLine(direction, { focus = false } = {}) {
  const found = lines();
  if (!found.length) return;
  const at = found.findIndex((line) => line.classList.contains("on"));
  const next = found[Math.min(Math.max(at < 0 ? 0 : at + direction, 0), found.length - 1)];
  change({ turn: next.dataset.turn }, { replace: at >= 0 });
  next.scrollIntoView({ block: "nearest" });
  if (focus) (next.querySelector("a") ?? next).focus({ preventScroll: true });
}

/** Properties of a line that opens its turn wherever it is clicked; the link inside is for the keyboard. */
export function opens(turn) {
  const onclick = (event) => {
    if (!event.target.closest("a, button, summary, audio")) change({ turn });
  };
  return { dataset: { turn, key: turn }, onclick };
}
