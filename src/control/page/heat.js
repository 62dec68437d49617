// A server's tenants as cells, the largest first; drawn on a canvas, so that a thousand cost no more than ten.
import { html, useEffect, useRef, useState } from "./html.js";
import { bytes, count } from "./format.js";
import { go, to } from "./route.js";

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

/** 0 for the smallest size that matters, 1 for the largest of the fleet; by its order of magnitude. */
function heat(size, largest) {
  if (!size) return 0;
  const from = Math.log(1e6);
  return Math.min(1, Math.max(0, (Math.log(size) - from) / Math.max(1, Math.log(Math.max(largest, 1e8)) - from)));
}

/** `tenants`: id, bytes, state; `moving`: ids; `largest`: bytes of the fleet's largest. */
export function Heat({ server, all, tenants, moving, largest }) {
  const canvas = useRef(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState(null);
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
  useEffect(() => {
    if (width) paint(canvas.current, { shown, moving, largest, cell, columns, width, height });
  }, [tenants, moving, largest, width, dark]);
  const find = (event) => {
    const box = canvas.current.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / (cell + GAP));
    const index = Math.floor((event.clientY - box.top) / (cell + GAP)) * columns + column;
    return column < columns ? shown[index] : undefined;
  };
  const more = all - shown.length;
  return html`<div class="heat">
    <canvas ref=${canvas} role="img" aria-label=${`${count(all)} tenants of ${server}${tenants[0] ? `, the largest is ${tenants[0][0]} with ${bytes(tenants[0][1])}` : ""}`}
      onPointerMove=${(event) => setAt(find(event))} onPointerLeave=${() => setAt(null)}
      onClick=${(event) => { const tenant = find(event); if (tenant) go(to(["tenants", tenant[0]])); }}></canvas>
    <p class="under">${at ? html`<b>${at[0]}</b> ${bytes(at[1])}${at[2] === "open" ? "" : `, ${at[2]}`}${moving.has(at[0]) ? ", moving" : ""}`
      : html`<a href=${to(["tenants"], { server })}>${count(all)} tenants</a>${more > 0 ? `, the ${count(shown.length)} largest shown` : ""}`}</p>
  </div>`;
}

function paint(canvas, { shown, moving, largest, cell, columns, width, height }) {
  const scale = devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const colours = getComputedStyle(canvas);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const [cool, hot, off, edge] = ["--heat-cool", "--heat-hot", "--heat-off", "--accent"].map(colour);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  shown.forEach(([id, size, state], index) => {
    const x = (index % columns) * (cell + GAP);
    const y = Math.floor(index / columns) * (cell + GAP);
    pen.fillStyle = state === "open" ? mix(cool, hot, heat(size, largest)) : off;
    pen.fillRect(x, y, cell, cell);
    if (moving.has(id)) {
      pen.strokeStyle = edge;
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
