// Small parts of views.
import { html, useEffect, useRef } from "./html.js";
import { useNow } from "./data.js";
import { percent, share, span } from "./format.js";

const TONES = {
  good: ["open", "active", "served", "done", "completed", "ok"],
  busy: ["running", "creating", "switched", "moving", "behind", "held", "leads"],
  warn: ["draining", "paused", "limited", "warning", "aborted", "silent"],
  bad: ["failed", "down", "error", "unreachable"],
};

const toneOf = (word) => Object.keys(TONES).find((tone) => TONES[tone].includes(word)) ?? "plain";

/** A state in a word; the colour only repeats what the word says. */
export const Badge = ({ word, tone = toneOf(word) }) => html`<span class="badge ${tone}">${word}</span>`;

/** Names with what they are; those without a value are left out. */
export const Facts = ({ facts }) => html`<dl class="facts">${facts
  .filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** How much of something is there or done. */
export function Bar({ part, whole, label, tone }) {
  const done = share(part, whole);
  const shade = tone ?? (done > 0.95 ? "bad" : done > 0.8 ? "warn" : "plain");
  return html`<div class="bar ${shade}" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(done * 100)} aria-valuetext=${percent(done)}><span style=${{ width: `${done * 100}%` }}></span></div>`;
}

/** How long ago a time was. */
export function Ago({ at }) {
  const now = useNow();
  if (!at) return "–";
  const date = new Date(at);
  const ms = now - date;
  const text = ms < 5000 && ms > -5000 ? "just now" : ms < 0 ? `in ${span(-ms)}` : `${span(ms)} ago`;
  return html`<time datetime=${date.toISOString()} title=${date.toLocaleString()}>${text}</time>`;
}

/** Something went wrong: what, and what to do. */
export const Problem = ({ error }) => error && html`<div class="note bad" role="alert"><strong>${error.message}</strong>
  ${error.hint && html`<span>${error.hint}</span>`}</div>`;

export const Note = ({ tone = "plain", children }) => html`<div class="note ${tone}">${children}</div>`;

export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

export const Loading = () => html`<p class="empty" aria-busy="true">Loading …</p>`;

/** A view's title, which gets the focus when one comes to it, and what can be done there. */
export function Title({ children, badge, actions }) {
  const heading = useRef(null);
  useEffect(() => { if (document.activeElement === document.body) heading.current.focus({ preventScroll: true }); }, []);
  useEffect(() => { document.title = `${heading.current.textContent} – tenantry`; });
  return html`<header class="title"><h1 tabindex="-1" ref=${heading}>${children}</h1>${badge}
    ${actions && html`<div class="actions">${actions}</div>`}</header>`;
}

/**
 * Rows as a table, which on a phone is drawn as a list; roles say that it is a table all the same. `columns`: name, cell,
 * and whether it is a number.
 */
export const Table = ({ label, columns, rows, keyOf }) => html`<table class="table" role="table" aria-label=${label}>
  <thead role="rowgroup"><tr role="row">${columns.map(([name, , kind]) => html`<th role="columnheader" scope="col" class=${kind ?? ""}>${name}</th>`)}</tr></thead>
  <tbody role="rowgroup">${rows.map((row) => html`<tr role="row" key=${keyOf(row)}>${columns.map(([name, cell, kind]) => html`<td role="cell"
    class=${kind ?? ""} data-name=${name}>${cell(row)}</td>`)}</tr>`)}</tbody></table>`;

/** A part of a view with a heading. */
export const Section = ({ title, aside, children, id }) => html`<section aria-labelledby=${id}>
  <header class="section"><h2 id=${id}>${title}</h2>${aside && html`<span class="aside">${aside}</span>`}</header>${children}</section>`;
