// What is typed into fields: how it is written, and what the API takes for it.

const form = (pattern, title) => ({ pattern, title });

export const ID = form("[a-z0-9][a-z0-9_\\-]{0,39}", "up to 40 of a-z, 0-9, _ and -");
export const LABELS = form("\\s*[^=,\\s]+=[^=,\\s]*(\\s*,\\s*[^=,\\s]+=[^=,\\s]*)*\\s*", "such as plan=gold, region=eu");
export const NUMBER = form("[0-9]+", "a number");
export const SIZE = form("[0-9]+(B|kB|MB|GB|TB)", "such as 512MB or 10GB");
export const TIME = form("[0-9]+(ms|s|m|h|d)", "such as 500ms, 30s, 5m, 24h or 7d");
export const WAVES = form("[0-9]+%?(\\s*,\\s*[0-9]+%?)*", "such as 1%,10%,100%");

const UNITS_MS = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** Milliseconds of `2s`, `24h` or `7d`; of nothing, nothing. */
export function ms(text) {
  if (!text) return undefined;
  const [, number, unit] = /^(\d+)([a-z]+)$/.exec(text);
  return Number(number) * UNITS_MS[unit];
}

/** The same time, in the largest unit that divides it. */
export function time(text) {
  if (!text) return "";
  const [unit, length] = Object.entries(UNITS_MS).find(([, one]) => ms(text) % one === 0);
  return `${ms(text) / length}${unit}`;
}

/** The labels of `plan=gold, region=eu`, one by one. */
export const labels = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);

/** Labels as an object; fails if one is there twice. */
export function distinct(pairs) {
  const object = asObject(pairs);
  if (Object.keys(object).length < pairs.length) throw new Error("a label is given twice");
  return object;
}

/** Pieces `key=value` as an object. */
export const asObject = (pairs) => Object.fromEntries(pairs.map((pair) => {
  const at = pair.indexOf("=");
  return [pair.slice(0, at), pair.slice(at + 1)];
}));
