// Where an audio plays, marked on every axis of time that is shown: those of the waterfall and of the conversation.

/** Properties of an element that is an axis of time, from `start` on, `size` seconds long. */
export const axisOf = (start, size) => ({ axisStart: start, axisSize: size });

/** Properties of an audio that was heard from this moment on; null where nobody knows when. */
export const heardFrom = (traceId, role, starts) => ({ audioOf: `${traceId} ${role}`, ...(starts ? { starts } : {}) });

/** Play what one side said from a moment of its own time on; where the audio is shown. */
export function playFrom(traceId, role, seconds) {
  const named = `audio[data-audio-of="${CSS.escape(`${traceId} ${role}`)}"]`;
  const audio = document.querySelector(`#turn ${named}`) ?? document.querySelector(named);
  if (!audio) return;
  audio.currentTime = seconds;
  audio.play();
}

let playing = null;

function mark() {
  if (!playing) return;
  const now = Number(playing.dataset.starts) + playing.currentTime;
  for (const axis of document.querySelectorAll("[data-axis-start]")) {
    const at = (now - Number(axis.dataset.axisStart)) / Number(axis.dataset.axisSize);
    const shown = playing.isConnected && at >= 0 && at <= 1;
    axis.style.setProperty("--play", String(shown ? at : 0));
    axis.style.setProperty("--playing", shown ? "1" : "0");
  }
  if (!playing.isConnected) playing = null;
  else if (!playing.paused) requestAnimationFrame(mark);
}

function began(event) {
  const { target } = event;
  if (!(target instanceof HTMLAudioElement) || target.dataset.starts === undefined) return;
  if (event.type === "play") for (const other of document.querySelectorAll("audio")) if (other !== target) other.pause();
  playing = target;
  mark();
}

for (const name of ["play", "seeking", "timeupdate"]) document.addEventListener(name, began, { capture: true });
