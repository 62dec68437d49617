// The fleet at a glance.
import { html } from "../html.js";
import { useData } from "../data.js";
import { bytes, count, plural, span } from "../format.js";
import { Heat, HeatChoice } from "../heat.js";
import { live } from "../live.js";
import { Badge, Bar, Empty, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { MoveLine, isUnderWay } from "./moves.js";

const CROWDS_EVERY_MS = 30_000;
const DOCTOR_EVERY_MS = 60_000;
const BUSIEST_MAX = 8;

export function Fleet() {
  const { fleet, moves, migration } = useStore(live);
  const { data: crowds, error } = useData("crowds", CROWDS_EVERY_MS);
  const { data: doctor, error: unseen } = useData("doctor", DOCTOR_EVERY_MS);
  if (!fleet) return html`<${Title}>Fleet</${Title}>${error ? html`<${Problem} error=${error} />` : html`<${Loading} />`}`;
  const underWay = [...moves.values()].filter(isUnderWay);
  const clients = fleet.routers.reduce((sum, router) => sum + (router.silent ? 0 : router.clients), 0);
  return html`<${Title}>Fleet</${Title}>
    <${Trouble} fleet=${fleet} migration=${migration} />
    <${Facts} facts=${[["servers", count(fleet.servers.length)], ["tenants", count(fleet.tenants)], ["clients", count(clients)],
      ["routers", count(fleet.routers.filter((router) => !router.silent).length)], ["moves under way", count(underWay.length)],
      ["leader", fleet.leader ? fleet.leader.split("/")[0] : "none"],
      ["health", html`<a href="#/health">${unseen ? "can't be told in full" : !doctor ? "…" : doctor.ok ? "nothing is wrong" : plural(doctor.findings.length, "finding")}</a>`]]} />
    <${Section} title="Servers" id="servers" aside=${html`a cell is a tenant, coloured <${HeatChoice} />; an outlined one is moving`}>
      ${fleet.servers.length === 0 && html`<${Empty}>There is none yet: <code>tenantry server add NAME --url postgres://…</code></${Empty}>`}
      <div class="servers">${fleet.servers.map((server) => html`<${Server} key=${server.name} server=${server}
        crowds=${crowds} moves=${underWay} />`)}</div>
    </${Section}>
    ${underWay.length > 0 && html`<${Section} title="Moves under way" id="under-way">
      <ul class="lines">${underWay.slice(0, 8).map((move) => html`<${MoveLine} key=${move.id} move=${move} />`)}</ul>
      ${underWay.length > 8 && html`<p class="under"><a href="#/moves">and ${count(underWay.length - 8)} more</a></p>`}</${Section}>`}
    ${fleet.busiest.length > 0 && html`<${Section} title="Busiest tenants" id="busiest" aside="by the sessions that their transactions keep at once"><${Busiest} busiest=${fleet.busiest.slice(0, BUSIEST_MAX)} /></${Section}>`}
    <${Section} title="Routers" id="routers"><${Routers} routers=${fleet.routers} /></${Section}>`;
}

/** What an operator should look at first. */
function Trouble({ fleet, migration }) {
  const told = [];
  for (const server of fleet.servers) {
    if (server.seen?.error) told.push(["bad", to(["servers", server.name]), `${server.name}: ${server.seen.error}`]);
    else if (server.down_for_routers > 0) told.push(["bad", to(["servers", server.name]), `${server.name} takes no logins from ${plural(server.down_for_routers, "router")}`]);
  }
  for (const router of fleet.routers) {
    if (router.silent) told.push(["warn", "#/health", `router ${router.name} does not report`]);
    else if (router.behind_ms > 10_000) told.push(["warn", "#/health", `router ${router.name} is ${span(router.behind_ms)} behind the map`]);
  }
  if (!fleet.leader) told.push(["bad", "#/health", "no control-plane instance leads: nothing is changed until one does"]);
  if (fleet.routers.length === 0) told.push(["bad", "#/health", "no router reports: no tenant can be reached"]);
  if (migration?.state === "failed") told.push(["warn", to(["migrations", String(migration.id)]), `migration run ${migration.id} halted: ${plural(migration.failed, "tenant")} failed`]);
  return told.length > 0 && html`<ul class="trouble" aria-label="Look at this first">${told.map(([tone, href, text]) => html`<li class=${tone}><a href=${href}>${text}</a></li>`)}</ul>`;
}

/** How a server is, in a word. */
export function stateOf(server) {
  if (server.seen?.error) return "unreachable";
  if (server.down_for_routers > 0) return "down";
  return server.state;
}

function Server({ server, crowds, moves }) {
  const { name, seen, use } = server;
  const moving = new Set(moves.filter((move) => move.from === name || move.to === name).map((move) => move.tenant));
  return html`<article class="card" aria-label=${`Server ${name}`}>
    <header><h3><a href=${to(["servers", name])}>${name}</a></h3><${Badge} word=${stateOf(server)} />
      <span class="aside">${server.class}${seen?.version ? `, Postgres ${seen.version.split(" ")[0]}` : ""}</span></header>
    <div class="load"><${Bar} part=${seen?.sessions ?? 0} whole=${server.max_connections} label=${`Sessions of ${name}`} />
      <span>${count(seen?.sessions)} of ${count(server.max_connections)} sessions${seen?.busy ? `, ${count(seen.busy)} busy` : ""}</span></div>
    <p class="figures"><span>${bytes(use?.bytes)}</span><span title="Sessions at work at once, on average">load ${work(use)}</span>
      ${moving.size > 0 && html`<span>${plural(moving.size, "move")}</span>`}</p>
    ${crowds?.some((crowd) => crowd.server === name) && html`<${Heat} server=${name} crowds=${crowds} moving=${moving} />`}
  </article>`;
}

export const work = (use) => (use?.active_sessions_milli === null || use?.active_sessions_milli === undefined ? "–" : load(use.active_sessions_milli / 1000));

/** Sessions at once, on average. */
export const load = (sessions) => sessions.toFixed(sessions < 10 ? 2 : 0);

const Busiest = ({ busiest }) => html`<${Table} label="Busiest tenants" rows=${busiest} keyOf=${(row) => row.tenant} columns=${[
  ["Tenant", (row) => html`<a href=${to(["tenants", row.tenant])}>${row.tenant}</a>`], ["Load", (row) => load(row.busy), "number"],
  ["Transactions/s", (row) => load(row.transactions_per_second), "number"], ["Clients", (row) => count(row.clients), "number"],
  ["Waiting", (row) => count(row.waiting), "number"], ["Connections", (row) => count(row.connections), "number"]]} />`;

const Routers = ({ routers }) => (routers.length === 0 ? html`<${Empty}>None reports.</${Empty}>` : html`<${Table} label="Routers" rows=${routers} keyOf=${(router) => router.name + router.address}
  columns=${[["Router", (router) => router.name], ["State", (router) => html`<${Badge} word=${router.silent ? "silent" : router.servers_down.length ? "limited" : "ok"} />`],
    ["Clients", (router) => count(router.clients), "number"],
    ["Map", (router) => (router.behind_ms === null || router.behind_ms === undefined ? "up to date" : `${span(router.behind_ms)} behind`)],
    ["Servers down", (router) => router.servers_down.join(", ") || "none"]]} />`);
