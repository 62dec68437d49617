// Figures for people.

const UNITS = ["kB", "MB", "GB", "TB", "PB"];

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1000) return `${value} B`;
  let unit = -1;
  do { value /= 1000; unit++; } while (value >= 999.5 && unit + 1 < UNITS.length);
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

const SIZES = ["B", "kB", "MB", "GB", "TB"];

/** The bytes of a size as Postgres writes it: `512MB`, `10GB`. */
export function sizeOf(text) {
  const [, number, unit] = /^(\d+)(\w+)$/.exec(text);
  return Number(number) * 1024 ** SIZES.indexOf(unit);
}

export const count = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en"));

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

/** A length of time, by its two largest units. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

/** What someone types into a shell. */
export const shell = (word) => (/^[\w./:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

export const share = (part, whole) => (whole > 0 ? Math.min(1, part / whole) : 0);

export const percent = (part) => `${Math.floor(part * 100)} %`;
