// All tenants, or those that a search finds: the control plane searches, the page shows a screenful.
import { html } from "../html.js";
import { createTenant } from "../actions/make.js";
import { useData } from "../data.js";
import { Actions } from "../dialog.js";
import { count } from "../format.js";
import { live } from "../live.js";
import { Badge, Empty, Loading, Problem, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";

const LIMIT = 100;

export function Tenants({ query }) {
  const [q, server, after] = ["q", "server", "after"].map((name) => query.get(name) ?? "");
  const asked = new URLSearchParams(Object.entries({ q, server, after, serving: true, limit: LIMIT }).filter(([, value]) => value));
  const { data, next, error } = useData(`tenants?${asked}`, 10_000);
  const fleet = useStore(live, (state) => state.fleet);
  const moves = useStore(live, (state) => state.moves);
  const moving = new Set([...moves.values()].filter((move) => move.state === "running").map((move) => move.tenant));
  const unwell = (tenant) => tenant.state === "open" && tenant.serving && tenant.serving.state !== "served";
  const stateIn = (tenant) => (unwell(tenant) ? tenant.serving.state : moving.has(tenant.id) ? "moving" : tenant.state);
  const shown = data?.slice(0, LIMIT);
  return html`<${Title} badge=${fleet && !q && !server && html`<span class="aside">${count(fleet.tenants)}</span>`}
      actions=${fleet && html`<${Actions} of=${[createTenant(fleet.servers)]} />`}>Tenants</${Title}>
    ${(q || server) && html`<p class="found" aria-live="polite">${q && html`with “${q}” in the name `}${server && html`on <a href=${to(["servers", server])}>${server}</a> `}<a href="#/tenants">Show all</a></p>`}
    <${Problem} error=${error} />
    ${!data && !error && html`<${Loading} />`}
    ${shown?.length === 0 && html`<${Empty}>${q ? `No tenant has “${q}” in its name.` : "There is none."}</${Empty}>`}
    <div id="results">${shown?.length > 0 && html`<${Table} label="Tenants" rows=${shown} keyOf=${(tenant) => tenant.id} columns=${[
      ["Tenant", (tenant) => html`<a href=${to(["tenants", tenant.id])}>${tenant.id}</a>`],
      ["State", (tenant) => html`<span title=${tenant.serving?.why}><${Badge} word=${stateIn(tenant)} /></span>`],
      ["Server", (tenant) => html`<a href=${to(["servers", tenant.server])}>${tenant.server}</a>`],
      ["Schema", (tenant) => tenant.schema_version ?? "–", "number"],
      ["Epoch", (tenant) => tenant.epoch, "number"],
      ["Labels", (tenant) => Object.entries(tenant.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(", ") || "–"],
    ]} />`}</div>
    <p class="pages">${after && html`<a href=${to(["tenants"], { q, server })}>First</a>`}
      ${next && html`<a href=${to(["tenants"], { q, server, after: next })} rel="next">Next ${LIMIT}</a>`}</p>`;
}
