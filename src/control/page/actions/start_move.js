// Starting a move: what can be asked of it, and what a look before finds.
import { html } from "../html.js";
import { call } from "../api.js";
import { bytes, count, plural, span } from "../format.js";
import { Note } from "../parts.js";
import { to } from "../route.js";
import { command, flags } from "./command.js";
import { TIME, ms } from "./values.js";

const VERIFY = [["full", "all values compared (usual)"], ["count", "rows counted"], ["none", "not at all"]];
const HOLD = "2s";
/** Findings that one may take upon oneself. */
const ACCEPTABLE = ["capacity", "foreign_servers", "log_positions", "tablespaces", "unlogged_rows"];

export function startMove({ id, server }, others) {
  const field = (name, label, value, placeholder) => ({ name, label, kind: "text", value, placeholder, ...TIME, more: true });
  return {
    label: "Move", title: `Move tenant ${id} to another server?`,
    what: `It is copied from ${server} while its clients go on working. At the end, new transactions wait for a moment while it changes servers. `
      + "What stands in the way is told before anything begins, and until the cutover the move can be aborted.",
    also: { accept: [] },
    fields: [
      { name: "to", label: "To server", kind: "select", value: others[0].name, options: others.map((other) => [other.name, `${other.name} (${other.class}, ${plural(other.tenants, "tenant")})`]) },
      { name: "verify", label: "Both sides are compared", kind: "select", value: "full", options: VERIFY, more: true },
      { ...field("hold", "Transactions wait at most (50ms to 60s)", HOLD), required: true },
      field("window", "It can be turned round for", "", "as the control plane is set up"),
      field("wait", "The cutover is put off for transactions and sessions in its way, at most", "", "24h; if those are ended then, 10s"),
      { name: "kill", label: "End transactions that are open after that time, instead of giving up", kind: "checkbox", value: false, more: true },
      { name: "sessions", label: "Wait for sessions that can't be held, instead of ending them at the switch", kind: "checkbox", value: false, more: true },
    ],
    command: ({ to: name, verify, hold, window, wait, kill, sessions, accept }) => command("move", "start", id, ...flags({
      "--to": name, "--verify": verify !== "full" && verify, "--max-hold": hold !== HOLD && hold, "--reverse-window": window, "--max-wait": wait,
      "--kill-stragglers": kill, "--wait-sessions": sessions, "--accept": accept })),
    check: (values) => call("POST", "moves", { ...wish(id, values), dry_run: true }),
    found: (look) => html`<${Findings} ...${look} />`,
    run: async (values) => {
      const { id: move } = await call("POST", "moves", wish(id, values));
      return to(["moves", String(move)]);
    },
  };
}

const wish = (tenant, { to: name, verify, hold, window, wait, kill, sessions, accept }) => ({
  tenant, to: name, verify, max_hold_ms: ms(hold), reverse_window_s: window ? Math.floor(ms(window) / 1000) : undefined, max_wait_ms: ms(wait),
  kill_stragglers: kill, wait_sessions: sessions, accept,
});

/** What a dry run found; what can be taken upon oneself has a box for that. */
function Findings({ answer, values, set }) {
  const { findings = [], bytes: size, rows_estimate: rows, estimate } = answer;
  const blocks = ({ level, code }) => level === "error" && !values.accept.includes(code);
  const inTheWay = findings.some(blocks);
  const verdict = inTheWay ? "This stands in the way:" : findings.length > 0 ? "Nothing stands in the way, but:" : "Nothing stands in the way.";
  const accept = (code, taken) => set("accept", taken ? [...values.accept, code] : values.accept.filter((one) => one !== code));
  const seen = new Set();
  const first = (code) => !seen.has(code) && seen.add(code);
  return html`<${Note} tone=${inTheWay ? "bad" : findings.length > 0 ? "warn" : "good"}>
    <strong>${verdict}</strong>
    ${findings.length > 0 && html`<ul>${findings.map(({ level, code, what, remedy }) => html`<li>${what}<br /><small>${remedy}</small>
      ${ACCEPTABLE.includes(code) && (level === "error" || values.accept.includes(code)) && first(code) && html`<label class="check"><input type="checkbox" name=${`accept-${code}`}
        checked=${values.accept.includes(code)} onChange=${(event) => accept(code, event.target.checked)} /> I take it upon me (${code})</label>`}</li>`)}</ul>`}
    <span>${[bytes(size), `about ${count(rows)} rows`, estimate && `about ${span(estimate.seconds * 1000)}`,
      estimate?.hold_ms && `transactions waited ${span(estimate.hold_ms)} in moves before`].filter(Boolean).join(", ")}</span>
  </${Note}>`;
}
