// Links that change the address without loading the page.
import { h } from "./dom.js";
import { addressWith, change } from "./state.js";

/** A link to the state with this part changed; the browser's own ways to open a link stay. */
export function link(part, properties, ...children) {
  const { replace = false, ...rest } = properties;
  return h("a", { href: addressWith(part), onclick: (event) => follow(event, part, replace), ...rest }, ...children);
}

/** Change the state as a click on a link asks. */
export function follow(event, part, replace = false) {
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.button > 0) return;
  event.preventDefault();
  change(part, { replace });
}
