// The page: a button, what is said, and beside it the turns.
import { buildColours } from "/colours.js";
import { Call } from "/call.js";
import { $, h, replace } from "/dom.js";
import { Microphone, reasonWhyNot } from "/microphone.js";
import { Speaker } from "/speaker.js";
import { Turns } from "/turns.js";

const AGAIN_MS = [500, 1000, 2000, 4000]; // a lost call is made anew
const NOTHING_SAID_MS = 1200; // the agent would have understood it by then
const STATES = {
  idle: "Press the button and speak; the agent greets you first. Interrupt it whenever you like.",
  asks: "Allow the microphone, please.",
  calls: "Calling the agent…",
  listening: "The agent listens.",
  speaks: "You speak.",
  thinks: "The agent thinks.",
  replies: "The agent speaks. Speak to interrupt it.",
  over: "The call is over.",
};

const tracker = new PerformanceTracker({ enableLogging: true, sendToServer: true, serverEndpoint: "/api/metrics", aggregationInterval: 10000 });
window.perfTracker = tracker;
document.querySelector(".tools").prepend(tracker.addExportButton());
buildColours(() => {});

const { viewer, questions } = await (await fetch("/viewer/about")).json();
const turns = new Turns(viewer);
let exchange = null; // what is talked about now
let running = null; // { microphone, speaker, call }

replace($("questions"), questions.map(({ question, shows }) => h("li", {}, `“${question}?”`, h("small", {}, shows))));
$("viewer").href = viewer;
$("viewer").hidden = false;
$("talk").addEventListener("click", () => (running ? hangUp() : start()));
become("idle");

function become(state) {
  $("state").className = state;
  $("state").textContent = STATES[state];
  $("talk").textContent = running ? "Hang up" : "Start talking";
  $("talk").classList.toggle("on", running !== null);
}

function complain(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

async function start() {
  complain("");
  const microphone = new Microphone();
  const speaker = new Speaker();
  running = { microphone, speaker, call: null };
  const mine = running;
  try {
    become("asks");
    microphone.replying = () => speaker.plays;
    microphone.onlost = () => {
      complain("The microphone is gone.");
      hangUp();
    };
    await microphone.open();
    await speaker.open(tracker);
    meter(mine);
  } catch (error) {
    tracker.trackError("microphone", { message: error.message });
    complain(reasonWhyNot(error));
    stop(mine, "idle");
    return;
  }
  if (running === mine) await dial(mine, 0);
}

async function dial(mine, attempt) {
  become("calls");
  mine.call = new Call(tracker, mine.microphone, mine.speaker);
  mine.call.on = (name, message) => running === mine && happened(mine, name, message, attempt);
  try {
    await mine.call.open({ again: attempt });
    if (running === mine) $("help").open = false;
  } catch (error) {
    if (running === mine) lost(mine, attempt, error.message);
  }
}

function lost(mine, attempt, why) {
  const wait = AGAIN_MS[attempt];
  if (wait === undefined) {
    complain(`The agent cannot be reached (${why}). Is the demo still running?`);
    stop(mine, "over");
    return;
  }
  tracker.trackReconnection();
  setTimeout(() => running === mine && dial(mine, attempt + 1), wait);
}

function hangUp() {
  const mine = running;
  if (!mine) return;
  mine.call?.hangUp();
  stop(mine, "over");
}

function stop(mine, state) {
  mine.microphone.close();
  mine.speaker.close();
  if (running === mine) running = null;
  $("hearing").hidden = true;
  $("level").style.setProperty("--level", "0%");
  become(state);
}

function happened(mine, name, message, attempt) {
  switch (name) {
    case "turn": return begin(message);
    case "speaks":
      $("hearing").hidden = false;
      return become("speaks");
    case "hearing": return become("speaks");
    case "quiet":
      setTimeout(() => running === mine && $("state").className === "speaks" && unheard(mine), NOTHING_SAID_MS);
      return undefined;
    case "understood":
      $("hearing").hidden = true;
      exchange.said.prepend(bubble("user", message.transcript || "(not understood)"));
      return become("thinks");
    case "saying": return say(message.delta);
    case "silenced":
      exchange?.agent?.classList.add("cut");
      return undefined;
    case "complete": return become("listening");
    case "closed": return message.hungUp ? undefined : lost(mine, attempt, "the connection is gone");
    default: return undefined;
  }
}

/** A cough, or a "right": the agent goes on, if it was speaking. */
function unheard(mine) {
  $("hearing").hidden = true;
  exchange?.agent?.classList.remove("cut");
  become(mine.speaker.plays ? "replies" : "listening");
}

function begin({ traceparent, session }) {
  $("empty").hidden = true;
  const said = h("div", { class: "said-here" });
  exchange = { said, agent: null };
  $("exchanges").append(h("li", { class: "exchange" }, said, turns.add(traceparent)));
  $("viewer").href = `${viewer}/?view=sessions&call=${encodeURIComponent(session)}`;
  $("viewer").textContent = "this call in the viewer";
  exchange.said.closest("li").scrollIntoView({ block: "nearest" });
}

function say(words) {
  if (!exchange) return;
  if (!exchange.agent) {
    exchange.agent = bubble("agent", words);
    exchange.said.append(exchange.agent);
  } else {
    exchange.agent.append(` ${words}`);
  }
  become("replies");
}

const bubble = (who, words) => h("p", { class: `bubble ${who}` }, h("b", {}, who === "user" ? "you" : "agent"), words);

function meter(mine) {
  if (running !== mine) return;
  const decibels = 20 * Math.log10(Math.max(mine.microphone.level, 1e-4));
  $("level").style.setProperty("--level", `${Math.max(0, Math.min(100, ((decibels + 60) / 50) * 100))}%`);
  $("level").classList.toggle("loud", decibels > -20);
  requestAnimationFrame(() => meter(mine));
}
