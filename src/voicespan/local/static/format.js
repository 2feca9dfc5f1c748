// Lengths and times as a reader wants them; the same words as in the terminal.

export function length(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 0.9995) return `${seconds.toFixed(2)} s`;
  const ms = seconds * 1000;
  if (ms === 0) return "0 ms";
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1).replace(/\.0$/, "")} ms`;
}

export function percent(part) {
  if (part === null || part === undefined) return "–";
  if (part > 0 && part < 0.01) return "< 1 %";
  if (part > 0.99 && part < 1) return `${(Math.floor(part * 1000) / 10).toFixed(1)} %`;
  return `${(part * 100).toFixed(0)} %`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat("sv-SE", { year: "numeric", month: "2-digit", day: "2-digit" });

export function clock(seconds) {
  return CLOCK.format(new Date(seconds * 1000));
}

/** The time, with the date where it is not today. */
export function moment(seconds) {
  const day = DATE.format(new Date(seconds * 1000));
  return day === DATE.format(new Date()) ? clock(seconds) : `${day} ${clock(seconds)}`;
}

export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
