// The turns of this conversation as the viewer tells of them: in progress, then whole.
import { h, replace } from "/dom.js";
import { length } from "/format.js";
import { strip } from "/strip.js";

const POINTS = { client: "heard in this page", gateway: "heard at the gateway", server: "as the agent sent it" };
const RESPONSES = ["voice.response", "voice.unanswered"];

export class Turns {
  #cards = new Map(); // by trace id: { place, whole }
  #viewer;

  constructor(viewer) {
    this.#viewer = viewer;
    const events = new EventSource("/viewer/events");
    events.addEventListener("ready", () => this.#refresh());
    events.addEventListener("turns", ({ data }) => {
      const { trace_ids: changed, more } = JSON.parse(data);
      for (const id of more ? this.#cards.keys() : changed) this.#ask(id);
    });
    events.addEventListener("open", () => this.#askOpen());
  }

  /** Where the turn of this trace is shown from now on. */
  add(traceparent) {
    const id = traceparent.split("-")[1];
    const place = h("div", { class: "turn open", dataset: { trace: id } });
    this.#cards.set(id, { place, whole: false });
    this.#show(id, null, "The turn is under way.");
    this.#askOpen();
    return place;
  }

  #refresh() {
    for (const [id, { whole }] of this.#cards) if (!whole) this.#ask(id);
  }

  async #ask(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    const answer = await fetch(`/viewer/turns/${id}`).catch(() => null);
    if (!answer?.ok) return;
    const { turn, spans } = await answer.json();
    if (!turn?.complete) return;
    card.whole = true;
    card.place.classList.remove("open");
    this.#show(id, turn, turn.cause, spans);
  }

  async #askOpen() {
    const answer = await fetch("/viewer/open").catch(() => null);
    if (!answer?.ok) return;
    for (const turn of (await answer.json()).turns) {
      const card = this.#cards.get(turn.trace_id);
      if (card && !card.whole) this.#show(turn.trace_id, null, turn.waiting);
    }
  }

  #show(id, turn, sentence, spans = []) {
    const { place } = this.#cards.get(id);
    const response = spans.find(({ name }) => RESPONSES.includes(name));
    const phases = spans.filter(({ name }) => name === "barge_in");
    replace(place,
      h("div", { class: "head" },
        h("h3", {}, turn ? `Turn ${turn.turn_index ?? ""}` : "In progress"),
        turn?.outcome ? h("span", { class: `tag ${turn.outcome}` }, turn.outcome.replace("_", " ")) : null,
        h("a", { class: "button", href: `${this.#viewer}/?turn=${id}`, target: "_blank", rel: "noopener" }, "open in the viewer")),
      h("p", { class: "sentence" }, sentence),
      turn?.response_s ? strip(turn) : null,
      response ? h("p", { class: "facts" }, measured(response)) : null,
      phases.length ? h("p", { class: "facts barge-in" }, h("span", {}, "interrupted:"), phases.map(phase)) : null);
  }
}

function measured({ attributes }) {
  const error = attributes["voice.clock.offset_error_s"];
  const within = error === undefined ? "" : `, clocks within ${length(error)}`;
  return h("span", {}, (POINTS[attributes["voice.measurement.point"]] ?? "") + within);
}

const phase = ({ attributes, duration_s: took }) =>
  h("span", { dataset: { phase: attributes["voice.barge_in.phase"] } }, `${attributes["voice.barge_in.phase"]} `, h("b", {}, length(took)));
