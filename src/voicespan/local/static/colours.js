// Light, dark, or as the system says.
import { $ } from "./dom.js";

const THEMES = ["", "light", "dark"];

/** `redraw` is called when the colours changed: a canvas does not follow by itself. */
export function buildColours(redraw) {
  const button = $("theme");
  const root = document.documentElement;
  const draw = () => (button.textContent = root.dataset.theme || "auto");
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
    root.dataset.theme = next;
    localStorage.setItem("voicespan.theme", next);
    draw();
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  draw();
}
