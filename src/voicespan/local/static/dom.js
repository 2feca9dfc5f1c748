// Elements made one by one, never of markup: what comes from a trace is text, whatever it looks like.

export const $ = (id) => document.getElementById(id);

/** An element of SVG, with attributes only. */
export function s(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** h("a", {href, class, onclick, dataset, vars: {"--w": "10%"}}, ...children); null and false children are left out. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key === "dataset") Object.assign(element.dataset, value);
    else if (key === "vars") for (const [name, to] of Object.entries(value)) element.style.setProperty(name, to);
    else if (key.startsWith("on")) element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...given(children));
  return element;
}

const given = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/**
 * Make a place show these children. What it shows already of the same kind stays the same element and only takes over
 * what differs: an unfolded select, a marked text, the keyboard's focus, a click that has begun outlive a refresh.
 * Children are of one kind when they have the same `data-key`, or none and the same name.
 */
export function replace(place, ...children) {
  const focused = place.contains(document.activeElement) && document.activeElement !== place ? document.activeElement : null;
  reconcile(place, given(children).map((child) => (child instanceof Node ? child : document.createTextNode(child))));
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true }); // it was moved
}

/** Make a place show these items, each [key, what it shows, () => element]; what shows the same as before is not made anew. */
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
  replace(place, after);
}

const HANDLERS = ["onclick", "onchange"];
const THEIRS = new Set(["open", "--play", "--playing"]); // what was unfolded stays so, and where an audio plays

const kindOf = (node) => `${node.nodeName} ${node.dataset?.key ?? ""}`;

function reconcile(place, wanted) {
  const old = new Map();
  const staying = new Set(wanted.filter((node) => node.parentNode === place));
  for (const node of place.childNodes) {
    if (staying.has(node)) continue;
    const kind = kindOf(node);
    if (old.has(kind)) old.get(kind).push(node);
    else old.set(kind, [node]);
  }
  const after = wanted.map((node) => {
    const like = staying.has(node) ? null : old.get(kindOf(node))?.shift();
    if (!like) return node;
    become(like, node);
    return like;
  });
  const kept = new Set(after);
  for (const node of [...place.childNodes]) if (!kept.has(node)) node.remove();
  let at = place.firstChild;
  for (const node of after) {
    if (node === at) at = at.nextSibling;
    else place.insertBefore(node, at);
  }
}

/** Make an element equal to another of its kind. */
function become(old, other) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== other.data) old.data = other.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "style" && !other.hasAttribute(name) && !THEIRS.has(name)) set(old, name, null);
  for (const { name, value } of other.attributes) if (name !== "style" && old.getAttribute(name) !== value && !THEIRS.has(name)) set(old, name, value);
  for (const name of [...old.style]) if (!other.style.getPropertyValue(name) && !THEIRS.has(name)) old.style.removeProperty(name);
  for (const name of other.style) if (old.style.getPropertyValue(name) !== other.style.getPropertyValue(name)) old.style.setProperty(name, other.style.getPropertyValue(name));
  for (const handler of HANDLERS) if (old[handler] !== other[handler]) old[handler] = other[handler];
  if (other.seen !== undefined) old.seen = other.seen;
  reconcile(old, [...other.childNodes]);
}

function set(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else element.setAttribute(name, value);
  if (name === "checked" || name === "selected") element[name] = value !== null;
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

/** Copy a text; where the browser has no clipboard (a page of another machine, without TLS) as a marked text is copied. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    if (copyMarked(text)) say(`${what} copied`);
    else offerMarked(text, what);
  }
}

function copyMarked(text) {
  const focused = document.activeElement;
  const field = h("textarea", { class: "aside", readonly: true, "aria-hidden": "true" }, text);
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus({ preventScroll: true });
  return done;
}

function offerMarked(text, what) {
  say([`${what}: `, h("input", { readonly: true, value: text, "aria-label": what })], ["done", () => null]);
  $("said").querySelector("input").select();
}

/** Tell a screen reader what is on the page already for those who see it. */
export function announce(text) {
  $("announced").textContent = text;
}

/** A command with a button that copies it. */
export function command(text) {
  return h("div", { class: "command" }, h("code", { tabindex: 0 }, text),
    h("button", { type: "button", onclick: () => copy(text, "Command"), "aria-label": `copy ${text}` }, "copy"));
}
