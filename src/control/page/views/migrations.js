// Migration runs over the fleet.
import { html } from "../html.js";
import { newRun, runActions } from "../actions/run.js";
import { useData } from "../data.js";
import { Actions } from "../dialog.js";
import { count, span } from "../format.js";
import { live } from "../live.js";
import { Ago, Badge, Bar, Empty, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { Pages, useNumbered } from "./pages.js";

export function Migrations({ query }) {
  const after = query.get("after");
  const news = useStore(live, (state) => state.migration);
  const { rows, read, next, error } = useNumbered("migrations", after, 10_000, news ? [news] : []);
  return html`<${Title} actions=${html`<${Actions} of=${[newRun()]} />`}>Migrations</${Title}><${Problem} error=${error} />
    ${!read && !error && html`<${Loading} />`}
    ${read && rows.length === 0 && html`<${Empty}>No run is on record.</${Empty}>`}
    ${rows.length > 0 && html`<${Table} label="Runs" rows=${rows} keyOf=${(run) => run.id} columns=${[
      ["Run", (run) => html`<a href=${to(["migrations", String(run.id)])}>${run.id}</a>`], ["State", (run) => html`<${Badge} word=${run.state} />`], ["Version", (run) => run.version ?? "–", "number"],
      ["Done", (run) => `${count(run.done)} of ${count(run.total)}`, "number"], ["Failed", (run) => count(run.failed), "number"], ["Begun", (run) => html`<${Ago} at=${run.created_at} />`]]} />`}
    <${Pages} place="migrations" after=${after} older=${next} />`;
}

export function Migration({ id }) {
  const { data, error, reload } = useData(`migrations/${id}`, 4000);
  const news = useStore(live, (state) => (state.migration?.id === id ? state.migration : null));
  if (!data) return html`<${Title}>Migration run ${id}</${Title}>${error ? html`<${Problem} error=${error} />` : html`<${Loading} />`}`;
  // The news have all but who failed and who waits.
  const run = news ? { ...data, ...news, failures: data.failures, waiting: data.waiting } : data;
  const ended = run.done + run.failed + run.gone;
  return html`<${Title} badge=${html`<${Badge} word=${run.state} />`} actions=${html`<${Actions} of=${runActions(run, reload)} />`}>Migration run ${id}</${Title}>
    <div class="load wide"><${Bar} part=${ended} whole=${run.total} label="Tenants whose turn has ended" tone=${run.failed ? "warn" : "accent"} /><span>${count(ended)} of ${count(run.total)} tenants</span></div>
    ${run.error && html`<${Problem} error=${{ message: run.error }} />`}
    <${Facts} facts=${[["version", run.version], ["step", run.step], ["wave", run.wave === null ? null : `${run.wave} of ${run.last_wave}`], ["done", count(run.done)], ["failed", count(run.failed)], ["waiting", count(run.pending)],
      ["gone", run.gone || null], ["rate", run.rate ? `${run.rate} a second` : null], ["done in about", run.eta_s ? span(run.eta_s * 1000) : null], ["begun", html`<${Ago} at=${run.created_at} />`]]} />
    <${Lanes} servers=${run.servers ?? {}} />
    <${Tenants} title="Failed" id="failed" rows=${run.failures} what="error" />
    <${Tenants} title="Their turn comes later" id="waiting" rows=${run.waiting} what="reason" />`;
}

/** How fast each server goes. */
const Lanes = ({ servers }) => Object.keys(servers).length > 0 && html`<${Section} title="Servers" id="lanes"><${Table} label="Servers" rows=${Object.entries(servers)} keyOf=${([name]) => name} columns=${[
  ["Server", ([name]) => html`<a href=${to(["servers", name])}>${name}</a>`], ["How it goes", ([, lane]) => (typeof lane === "object" ? Object.entries(lane).map(([key, value]) => `${key.replaceAll("_", " ")}: ${value}`).join(", ") : String(lane))]]} /></${Section}>`;

const Tenants = ({ title, id, rows, what }) => rows?.length > 0 && html`<${Section} title=${title} id=${id} aside=${count(rows.length)}><${Table} label=${title} rows=${rows.slice(0, 200)} keyOf=${(row) => row.tenant} columns=${[
  ["Tenant", (row) => html`<a href=${to(["tenants", row.tenant])}>${row.tenant}</a>`], ["Why", (row) => row[what]]]} /></${Section}>`;
