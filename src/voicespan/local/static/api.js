// Questions to the receiver. A newer question of the same view makes the older one's answer worthless.

const asked = new Map();

/** Return the answer, or null when the view has asked something newer meanwhile. Throws with the server's reason. */
export async function ask(view, path, parameters = {}) {
  asked.get(view)?.abort();
  const controller = new AbortController();
  asked.set(view, controller);
  const query = new URLSearchParams(parameters).toString();
  try {
    const answer = await fetch(`/api/${path}${query ? `?${query}` : ""}`, { signal: controller.signal });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error ?? `status ${answer.status}`);
    return controller.signal.aborted ? null : content;
  } catch (error) {
    if (error.name === "AbortError") return null;
    throw error;
  } finally {
    if (asked.get(view) === controller) asked.delete(view);
  }
}
