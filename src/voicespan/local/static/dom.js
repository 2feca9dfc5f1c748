// Elements without innerHTML: what comes from a trace is text, whatever it looks like.

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
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Say something for a moment, also to a screen reader. */
let silent;
export function say(text) {
  const said = $("said");
  said.textContent = text;
  said.classList.add("shown");
  clearTimeout(silent);
  silent = setTimeout(() => said.classList.remove("shown"), 2500);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    say(`could not copy: ${text}`);
  }
}
