// Lengths and times as a reader wants them; the same words as in the terminal.

export function length(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds >= 0.9995) return `${seconds.toFixed(2)} s`;
  const ms = seconds * 1000;
  if (ms === 0) return "0 ms";
  return ms >= 10 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1).replace(/\.0$/, "")} ms`;
}

/** A time that people count: 8 s, 3 min 20 s, 2 h 5 min, 3 days. */
export function span(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  if (whole < 60) return seconds < 10 ? `${Math.max(seconds, 0).toFixed(1)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.round(whole / 86_400)} days`;
}

export function percent(part) {
  if (part === null || part === undefined) return "–";
  if (part > 0 && part < 0.01) return "< 1 %";
  if (part > 0.99 && part < 1) return `${(Math.floor(part * 1000) / 10).toFixed(1)} %`;
  return `${(part * 100).toFixed(0)} %`;
}

const sign = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±");

/** A difference of two lengths. */
export const signed = (seconds) => `${sign(seconds)}${length(Math.abs(seconds))}`;

/** A difference of two percentages. */
export const points = (part) => `${sign(part)}${(Math.abs(part) * 100).toFixed(1)} points`;

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const step = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  const value = bytes / 1024 ** step;
  return `${value >= 100 || step === 0 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, "")} ${units[step]}`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat("sv-SE", { year: "numeric", month: "2-digit", day: "2-digit" });

export function clock(seconds) {
  return CLOCK.format(new Date(seconds * 1000));
}

/** The time, with the date where it is not today, and the year where it is not this one. */
export function moment(seconds) {
  const [day, today] = [DATE.format(new Date(seconds * 1000)), DATE.format(new Date())];
  if (day === today) return clock(seconds);
  return `${day.slice(0, 4) === today.slice(0, 4) ? day.slice(5) : day} ${clock(seconds)}`;
}

export const number = (value) => value.toLocaleString("en");

export const count = (value, word) => `${number(value)} ${word}${value === 1 ? "" : "s"}`;
