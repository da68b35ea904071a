// Numbers, durations and times as text. Knows nothing of the page.

const unknown = "–";

/** A count or a rate, short: three figures and a unit of size. */
export function number(value) {
  if (value === undefined || value === null) return unknown;
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (value >= size) return figures(value / (size === 1e4 ? 1e3 : size)) + "\u202f" + unit;
  return Number.isInteger(value) ? whole(value) : figures(value);
}

/** A count, in full, with its thousands set apart. */
export function whole(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function figures(value) {
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  if (value >= 100) return whole(value);
  return value.toFixed(value < 10 ? 2 : 1).replace(/\.?0+$/, "");
}

/** A rate, with one decimal, so that a column of them lines up. */
export function rate(value) {
  if (value === undefined) return unknown;
  if (value === 0) return "0";
  if (value < 0.05) return "<0.1";
  return value < 100 ? value.toFixed(1) : number(Math.round(value));
}

export function bytes(value) {
  if (value === undefined) return unknown;
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (value >= size) return figures(value / size) + "\u202f" + unit;
  return value + "\u202fB";
}

/** Seconds, written as milliseconds. */
export function milliseconds(seconds) {
  if (seconds === undefined || seconds === null) return unknown;
  const value = seconds * 1000;
  if (value >= 10000) return figures(value / 1000) + "\u202fs";
  return (value >= 100 ? whole(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)) + "\u202fms";
}

/** How long, in the two largest units. */
export function duration(seconds) {
  const parts = [];
  let rest = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count || (unit === "s" && !parts.length)) parts.push(count + "\u202f" + unit);
    else if (parts.length) break;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** The time of day of a moment in seconds since 1970, in this browser's zone; with its date unless it is today's. */
export function time(at) {
  if (at === undefined) return unknown;
  const when = new Date(at * 1000);
  const two = (part) => String(part).padStart(2, "0");
  const clock = [when.getHours(), when.getMinutes(), when.getSeconds()].map(two).join(":");
  if (new Date().toDateString() === when.toDateString()) return clock;
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${clock}`;
}
