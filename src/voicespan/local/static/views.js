// The views, and the way between them: each is a link, and what is shown is in its address.
import { $ } from "./dom.js";
import { number } from "./format.js";
import { follow } from "./link.js";
import { addressWith, change, OPENED, state } from "./state.js";

export const VIEWS = ["turns", "sessions", "runs", "open", "traces"];

const TITLES = { turns: "", sessions: "Sessions", runs: "Runs", open: "In progress", traces: "Other traces" };

const part = (view) => ({ ...OPENED, view });

export const goTo = (view) => change(part(view));

const anchors = () => [...$("views").querySelectorAll("a")];

export function buildViews() {
  for (const anchor of anchors()) anchor.addEventListener("click", (event) => follow(event, part(anchor.dataset.to)));
  showView();
}

/** Show the view of the state. An unknown one is that of the turns. */
export function showView() {
  const view = currentView();
  document.body.dataset.view = view;
  document.body.classList.toggle("has-call", view === "sessions" && state().call !== "");
  document.title = TITLES[view] ? `${TITLES[view]} · voicespan` : "voicespan";
  for (const anchor of anchors()) {
    anchor.href = addressWith(part(anchor.dataset.to));
    if (anchor.dataset.to === view) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}

export const currentView = () => (VIEWS.includes(state().view) ? state().view : "turns");

/** How many turns are open now. */
export function showOpen(turns) {
  const badge = $("open-count");
  badge.textContent = turns ? number(turns) : "";
  badge.title = turns ? `${number(turns)} in progress` : "";
}
