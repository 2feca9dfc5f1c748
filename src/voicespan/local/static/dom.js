// Elements made one by one, never of markup: what comes from a trace is text, whatever it looks like.

export const $ = (id) => document.getElementById(id);

/** h("a", {href, class, onclick, dataset, vars: {"--w": "10%"}}, ...children); null and false children are left out. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key === "dataset") Object.assign(element.dataset, value);
    else if (key === "vars") for (const [name, to] of Object.entries(value)) element.style.setProperty(name, to);
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...given(children));
  return element;
}

const given = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex]";

/** Put new children into a place. What had the keyboard's focus has it afterwards: it is found by its `data-key`. */
export function replace(place, ...children) {
  const focused = place.contains(document.activeElement) && document.activeElement !== place ? document.activeElement : null;
  const holder = focused?.closest("[data-key]");
  const key = holder?.dataset.key;
  const index = holder ? [holder, ...holder.querySelectorAll(FOCUSABLE)].indexOf(focused) : -1;
  place.replaceChildren(...given(children));
  if (index < 0) return;
  const again = place.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (again) [again, ...again.querySelectorAll(FOCUSABLE)][index]?.focus({ preventScroll: true });
}

/**
 * Make a place show these items, each [key, what it shows, () => element], and keep the elements of those that show the
 * same as before: an audio that plays goes on, what was unfolded stays so.
 */
export function keep(place, items) {
  const before = new Map([...place.children].map((child) => [child.dataset.key, child]));
  const after = items.map(([key, shown, make]) => {
    const seen = JSON.stringify(shown);
    const old = before.get(key);
    if (old?.seen === seen) return old;
    const made = make();
    made.dataset.key = key;
    made.seen = seen;
    return made;
  });
  const kept = new Set(after);
  for (const child of [...place.children]) if (!kept.has(child)) child.remove();
  let at = place.firstElementChild;
  for (const child of after) {
    if (child === at) at = at.nextElementSibling;
    else place.insertBefore(child, at);
  }
}

/** Say something for a moment, also to a screen reader; `action` is [words, what to do]. */
let silent;
export function say(text, action = null) {
  const said = $("said");
  const button = action && h("button", { type: "button", onclick: () => {
    action[1]();
    said.classList.remove("shown");
  } }, action[0]);
  said.replaceChildren(...given([h("span", {}, text), button]));
  said.classList.add("shown");
  clearTimeout(silent);
  silent = setTimeout(() => {
    said.classList.remove("shown");
    button?.remove();
  }, action ? 8000 : 3000);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    say(`could not copy: ${text}`);
  }
}

/** A command with a button that copies it. */
export function command(text) {
  return h("div", { class: "command" }, h("code", { tabindex: 0 }, text),
    h("button", { type: "button", onclick: () => copy(text, "Command"), "aria-label": `copy ${text}` }, "copy"));
}
