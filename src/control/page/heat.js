// A server's tenants as cells, the largest or the busiest first; drawn on a canvas, so that a thousand cost no more than ten.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { bytes, count, plural } from "./format.js";
import { go, to } from "./route.js";
import { store, useStore } from "./store.js";

const CELL_MAX = 22;
const CELL_MIN = 6;
const GAP = 2;
const HEIGHT_MAX = 92;

/** How large a cell may be so that as many as possible are seen. */
function layout(width, number) {
  for (let cell = CELL_MAX; cell > CELL_MIN; cell--) {
    const columns = Math.max(1, Math.floor((width + GAP) / (cell + GAP)));
    if (Math.ceil(number / columns) * (cell + GAP) <= HEIGHT_MAX) return { cell, columns, fits: number };
  }
  const columns = Math.max(1, Math.floor((width + GAP) / (CELL_MIN + GAP)));
  return { cell: CELL_MIN, columns, fits: columns * Math.floor(HEIGHT_MAX / (CELL_MIN + GAP)) };
}

/** By what tenants are compared: where it stands, from what on it matters, and what is much in any fleet. */
const MEASURES = {
  size: { at: 1, from: 1e6, much: 1e8, most: "largest", tell: bytes },
  load: { at: 3, from: 10, much: 1000, most: "busiest", tell: (milli) => `${((milli ?? 0) / 1000).toFixed(2)} sessions at work` },
};

/** Which measure cells show; for the choice to stay from view to view. */
const chosen = store("size");

export const HeatChoice = () => html`by <select aria-label="What the cells show" value=${useStore(chosen)}
  onChange=${(event) => chosen.set(event.target.value)}>${Object.keys(MEASURES).map((name) => html`<option>${name}</option>`)}</select>`;

/** 0 for what is too little to matter, 1 for the fleet's most; by its order of magnitude. */
function heat(value, most, { from, much }) {
  if (!value) return 0;
  const least = Math.log(from);
  return Math.min(1, Math.max(0, (Math.log(value) - least) / (Math.log(Math.max(most, much)) - least)));
}

/** `crowds`: of all servers, for the comparison; `moving`: ids. */
export function Heat({ server, crowds, moving }) {
  const by = useStore(chosen);
  const measure = MEASURES[by];
  const { tenants: all, listed } = crowds.find((crowd) => crowd.server === server);
  const value = (tenant) => tenant[measure.at] ?? 0;
  const [tenants, most] = useMemo(() => [
    listed.toSorted((one, other) => value(other) - value(one)),
    Math.max(0, ...crowds.flatMap((crowd) => crowd.listed.map(value))),
  ], [crowds, by]);
  const canvas = useRef(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState(null);
  // Whom keys have come to.
  const [picked, setPicked] = useState(null);
  useEffect(() => {
    const look = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    look.observe(canvas.current.parentElement);
    return () => look.disconnect();
  }, []);
  const dark = useDark();
  const { cell, columns, fits } = layout(width, tenants.length);
  const shown = tenants.slice(0, fits);
  const rows = Math.ceil(shown.length / columns);
  const height = Math.max(cell, rows * (cell + GAP) - GAP);
  const index = picked === null ? -1 : shown.findIndex(([id]) => id === picked);
  useEffect(() => {
    if (width) paint(canvas.current, { shown, index, moving, heatOf: (tenant) => heat(value(tenant), most, measure), cell, columns, width, height });
  }, [tenants, index, moving, most, width, dark]);
  const find = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (cell + GAP));
    const index = Math.floor((event.clientY - box.top) / (cell + GAP)) * columns + column;
    return column < columns ? shown[index] : undefined;
  };
  const open = (tenant) => tenant && go(to(["tenants", tenant[0]]));
  const press = (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -index, End: shown.length - 1 - index };
    if (event.key === "Enter") open(shown[index]);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = shown[index + steps[event.key]];
    if (next) setPicked(next[0]);
  };
  const told = at ?? shown[index];
  const more = all - shown.length;
  return html`<div class="heat">
    <canvas ref=${canvas} role="application" tabindex=${shown.length > 0 ? 0 : null} aria-label=${`${plural(all, "tenant")} of ${server}${tenants[0] ? `, the ${measure.most} is ${tenants[0][0]} with ${measure.tell(tenants[0][measure.at])}` : ""}; arrow keys go from one to the next, Enter opens it`}
      onFocus=${(event) => event.target.matches(":focus-visible") && setPicked(shown[0]?.[0] ?? null)} onBlur=${() => setPicked(null)} onKeyDown=${press}
      onPointerMove=${(event) => setAt(find(event))} onPointerLeave=${() => setAt(null)}
      onClick=${(event) => open(find(event))}></canvas>
    <p class="under" aria-live="polite">${told ? html`<b>${told[0]}</b> ${measure.tell(told[measure.at])}${told[2] === "open" ? "" : `, ${told[2]}`}${moving.has(told[0]) ? ", moving" : ""}`
      : html`<a href=${to(["tenants"], { server })}>${plural(all, "tenant")}</a>${more > 0 ? `, the ${count(shown.length)} ${measure.most} shown` : ""}`}</p>
  </div>`;
}

function paint(canvas, { shown, index: picked, moving, heatOf, cell, columns, width, height }) {
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const colours = getComputedStyle(canvas);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const [cool, hot, off, edge, text] = ["--heat-cool", "--heat-hot", "--heat-off", "--accent", "--text"].map(colour);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  shown.forEach((tenant, index) => {
    const [id, , state] = tenant;
    const x = (index % columns) * (cell + GAP);
    const y = Math.floor(index / columns) * (cell + GAP);
    pen.fillStyle = state === "open" ? mix(cool, hot, heatOf(tenant)) : off;
    pen.fillRect(x, y, cell, cell);
    if (moving.has(id) || index === picked) {
      pen.strokeStyle = index === picked ? text : edge;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, cell - 2, cell - 2);
    }
  });
}

/** Between two colours, `#rrggbb`. */
function mix(from, till, part) {
  const channel = (colour, index) => Number.parseInt(colour.slice(1 + index * 2, 3 + index * 2), 16);
  const mixed = [0, 1, 2].map((index) => Math.round(channel(from, index) + (channel(till, index) - channel(from, index)) * part));
  return `rgb(${mixed.join(" ")})`;
}

export function useDark() {
  const [query] = useState(() => matchMedia("(prefers-color-scheme: dark)"));
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const change = () => setDark(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return dark;
}
