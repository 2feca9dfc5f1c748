// The reader's hand: while a pointer is down, nothing that is shown may change under it.

const LONGEST_MS = 15_000; // whatever a browser forgets to say

let down = false;
let longest;
const waiting = [];

function press() {
  down = true;
  clearTimeout(longest);
  longest = setTimeout(release, LONGEST_MS);
}

function release() {
  if (!down) return;
  down = false;
  clearTimeout(longest);
  setTimeout(() => waiting.splice(0).forEach((go) => go())); // after the click that the release makes
}

/** A promise for the moment when no pointer is down. */
export const free = () => (down ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve());

const on = (name, listener) => addEventListener(name, listener, { capture: true, passive: true });

on("pointerdown", press);
on("pointerup", release);
on("pointercancel", release);
// A select that unfolds and a scroll bar swallow the release; what the pointer or the keyboard does next tells.
on("pointermove", (event) => event.buttons === 0 && release());
on("change", (event) => event.target.tagName === "SELECT" && release());
on("keydown", release);
on("blur", (event) => event.target === window && release());
