// Questions to the receiver. A newer question of the same view makes the older one's answer worthless.
import { free } from "./hand.js";

const asked = new Map();

/** The receiver's own reason why not. */
export class Refused extends Error {}

/** Nobody answers; the live button says so already. */
export class Unreachable extends Error {}

/** Return the answer, or null when the view has asked something newer meanwhile. Throws Refused or Unreachable. */
export async function ask(view, path, parameters = {}) {
  asked.get(view)?.abort();
  const controller = new AbortController();
  asked.set(view, controller);
  drawBusy();
  try {
    const content = await answerOf(address(path, parameters), { signal: controller.signal });
    await free(); // nothing is redrawn under a pointer that is down
    return controller.signal.aborted ? null : content;
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  } finally {
    if (asked.get(view) === controller) asked.delete(view);
    drawBusy();
  }
}

/** Answers come one by one, and until the last is there the page is of two minds. */
const drawBusy = () => document.body.setAttribute("aria-busy", String(asked.size > 0));

/** What was asked for this view is not wanted any more. */
export const cancel = (view) => asked.get(view)?.abort();

/** Hand the receiver a JSON text. */
export async function send(path, text) {
  return answerOf(address(path), { method: "POST", headers: { "Content-Type": "application/json" }, body: text });
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  return `/api/${path}${query ? `?${query}` : ""}`;
}

async function answerOf(place, options) {
  let answer = null;
  let content = {};
  try {
    answer = await fetch(place, options);
    content = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (answer === null || answer.ok) throw new Unreachable("the receiver does not answer");
  }
  if (!answer.ok) throw new Refused(content.error ?? content.message ?? `status ${answer.status}`);
  return content;
}
