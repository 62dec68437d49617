// Figures over the time that the page has watched them.
import UPlot from "./vendor/uplot.js";
import { html, useEffect, useRef } from "./html.js";
import { useDark } from "./heat.js";

const POINTS_MAX = 600;
const HEIGHT = 150;

/** The values of a figure since the view was opened, one a second at most: times in seconds, and a list for each line. */
export function useTrail(values) {
  const trail = useRef(null);
  trail.current ??= [[], ...values.map(() => [])];
  const now = Date.now() / 1000;
  const [times] = trail.current;
  if (values.some((value) => value !== null && value !== undefined) && (times.length === 0 || now - times.at(-1) >= 0.9)) {
    times.push(now);
    values.forEach((value, index) => trail.current[index + 1].push(value ?? null));
    if (times.length > POINTS_MAX) trail.current.forEach((list) => list.shift());
  }
  return trail.current;
}

/** `lines`: what each is called, and the colour's name; `unit` makes a text of a value. */
export function Chart({ trail, lines, unit, label }) {
  const place = useRef(null);
  const chart = useRef(null);
  const dark = useDark();
  useEffect(() => {
    const box = place.current;
    const colour = (name) => getComputedStyle(box).getPropertyValue(name).trim();
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const clock = (_, times) => times.map((at) => new Date(at * 1000).toLocaleTimeString());
    const width = () => box.clientWidth;
    chart.current = new UPlot({
      width: width(), height: HEIGHT, cursor: { y: false },
      axes: [{ ...axis, space: 110, incrs: [1, 5, 10, 30, 60, 120, 300], values: clock }, { ...axis, size: 64, values: (_, all) => all.map(unit) }],
      scales: { y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.1] } },
      series: [{ value: (_, at) => (at ? new Date(at * 1000).toLocaleTimeString() : "–") }, ...lines.map(([name, tone]) => ({
        label: name, stroke: colour(tone), width: 1.5, points: { show: false }, value: (_, value) => (value === null ? "–" : unit(value)) }))],
    }, trail, box);
    const look = new ResizeObserver(() => chart.current.setSize({ width: width(), height: HEIGHT }));
    look.observe(box);
    return () => { look.disconnect(); chart.current.destroy(); };
  }, [dark]);
  useEffect(() => {
    const drawn = chart.current;
    drawn.setData(trail.map((list) => [...list]));
    // Where nobody points, what is now; after what it does itself with new data.
    queueMicrotask(() => {
      if (drawn === chart.current && drawn.cursor.left < 0) drawn.setLegend({ idx: trail[0].length - 1 });
    });
  });
  return html`<div class="chart" ref=${place} role="img" aria-label=${label}></div>`;
}
