// Moves: those under way as they go, and those that were.
import { html } from "../html.js";
import { bytes, span } from "../format.js";
import { live } from "../live.js";
import { Ago, Badge, Bar, Empty, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { Pages, useNumbered } from "./pages.js";

export const isUnderWay = (move) => move.state === "running";

/** How far a copy is, and when it is done. */
export function progress(move) {
  const { bytes_copied: done, bytes_total: total, bytes_per_second: rate } = move;
  const left = total && rate ? (Math.max(0, total - done) / rate) * 1000 : null;
  return { done, total, rate, left };
}

/** Where a move stands, in a line. */
export function standing(move) {
  if (move.paused) return `paused at ${move.step}`;
  if (move.waiting_for) return `at ${move.step}, waits for ${move.waiting_for}`;
  const { done, total, rate, left } = progress(move);
  if (move.step === "copy") return ["copy", total && `${bytes(done)} of ${bytes(total)}`, rate && `${bytes(rate)}/s`, left && `about ${span(left)} left`].filter(Boolean).join(", ");
  if (move.lag_bytes !== null && move.lag_bytes !== undefined && ["catch_up", "compare"].includes(move.step)) return `${move.step.replace("_", " ")}, ${bytes(move.lag_bytes)} behind`;
  return move.step.replace("_", " ");
}

/** Steps of a move in their order, for a bar of all of it. */
const ORDER = ["begin", "arm", "turn_round", "schema", "copy", "build", "compare", "catch_up", "cutover", "release", "verify", "switched"];

export function whole(move) {
  if (move.state !== "running") return 1;
  const { done, total } = progress(move);
  const at = Math.max(0, ORDER.indexOf(move.step));
  const within = move.step === "copy" && total ? Math.min(1, done / total) : 0;
  return (at + within) / (ORDER.length - 1);
}

export const MoveLine = ({ move }) => html`<li><a href=${to(["moves", String(move.id)])}>${move.tenant}</a>
  <span class="way">${move.from} → ${move.to}</span><${Bar} part=${whole(move)} whole=${1} label=${`Move of ${move.tenant}`} tone=${move.paused || move.warning ? "warn" : "accent"} />
  <span class="stand">${standing(move)}</span></li>`;

export function Moves({ query }) {
  const after = query.get("after");
  const news = [...useStore(live, (state) => state.moves).values()];
  const { rows, read, next, error } = useNumbered("moves", after, 15_000, news);
  const underWay = [...new Map([...rows, ...news].map((move) => [move.id, move])).values()].filter(isUnderWay).sort((a, b) => b.id - a.id);
  const others = rows.filter((move) => !isUnderWay(move));
  return html`<${Title}>Moves</${Title}><${Problem} error=${error} />
    <${Section} title="Under way" id="under-way">${underWay.length > 0 ? html`<ul class="lines">${underWay.map((move) => html`<${MoveLine} key=${move.id} move=${move} />`)}</ul>`
      : html`<${Empty}>None. One is started from its tenant's page.</${Empty}>`}</${Section}>
    <${Section} title="Before" id="before">${!read && !error ? html`<${Loading} />` : others.length === 0 ? html`<${Empty}>None is on record.</${Empty}>` : html`<${Table} label="Moves" rows=${others} keyOf=${(move) => move.id} columns=${[
      ["Move", (move) => html`<a href=${to(["moves", String(move.id)])}>${move.id}</a>`], ["Tenant", (move) => html`<a href=${to(["tenants", move.tenant])}>${move.tenant}</a>`],
      ["Way", (move) => `${move.from} → ${move.to}`], ["State", (move) => html`<${Badge} word=${move.state} />`],
      ["Held", (move) => (move.hold_ms === null ? "–" : span(move.hold_ms)), "number"], ["Copied", (move) => bytes(move.bytes_copied), "number"],
      ["Compared", (move) => (move.verified === true ? "alike" : move.verified === false ? "differs" : "–")], ["Ended", (move) => html`<${Ago} at=${move.updated_at} />`]]} />`}
      <${Pages} place="moves" after=${after} older=${next} /></${Section}>`;
}
