// One tenant: where it is, whether its clients are served, and what was done to it.
import { html } from "../html.js";
import { tenantActions } from "../actions/tenant.js";
import { time } from "../actions/values.js";
import { useData } from "../data.js";
import { Actions } from "../dialog.js";
import { bytes, count, plural, sizeOf, span } from "../format.js";
import { live } from "../live.js";
import { Ago, Badge, Bar, Empty, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { load } from "./fleet.js";
import { MoveLine } from "./moves.js";

const EVERY_MS = 3000;

export function Tenant({ id }) {
  const path = `tenants/${encodeURIComponent(id)}`;
  const { data: tenant, error, reload } = useData(path, EVERY_MS);
  const { data: serving, reload: look } = useData(`${path}/serving`, EVERY_MS);
  const { data: history, reload: recall } = useData(`${path}/history`, EVERY_MS);
  const fleet = useStore(live, (state) => state.fleet);
  const moves = useStore(live, (state) => state.moves);
  if (!tenant) return html`<${Title}>${id}</${Title}>${error ? html`<${Problem} error=${error} />` : html`<${Loading} />`}`;
  const again = () => [reload, look, recall].forEach((read) => read());
  const { operation } = tenant;
  const move = operation?.kind === "move" ? moves.get(operation.id) : null;
  return html`<${Title} badge=${html`<${Badge} word=${tenant.state} />`} actions=${fleet && html`<${Actions} of=${tenantActions(tenant, fleet.servers, again)} />`}>${id}</${Title}>
    ${error && html`<${Problem} error=${error} />`}
    ${move && html`<ul class="lines"><${MoveLine} move=${move} /></ul>`}
    ${operation && !move && html`<p class="note">Operation ${operation.id} is under way: ${operation.kind}, at step ${operation.step}, since <${Ago} at=${operation.created_at} />.</p>`}
    ${tenant.last_error && html`<${Problem} error=${{ message: `The last change failed: ${tenant.last_error}` }} />`}
    <${Facts} facts=${[["server", html`<a href=${to(["servers", tenant.server])}>${tenant.server}</a>`], ["database", tenant.database], ["epoch", tenant.epoch],
      ["schema version", tenant.schema_version ?? "none"], ["key version", tenant.key_version],
      ["dropped", tenant.drop_at && html`<${Ago} at=${tenant.drop_at} />`],
      ["labels", Object.entries(tenant.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(", ")]]} />
    <${Section} title="Its clients" id="serving" aside="as routers report"><${Serving} serving=${serving} server=${tenant.server} /></${Section}>
    <${Section} title="What it uses" id="use"><${Use} tenant=${tenant} /></${Section}>
    <${Section} title="What was done to it" id="history"><${History} history=${history} /></${Section}>`;
}

function Serving({ serving, server }) {
  if (!serving) return html`<${Loading} />`;
  const { state, why, routers, held_ms: held } = serving;
  const pinned = (router) => Object.entries(router.pinned).map(([reason, sessions]) => `${sessions} by ${reason}`).join(", ");
  return html`<p class="state"><${Badge} word=${state} /> ${why}${held ? ` (for ${span(held)} at most)` : ""}</p>
    ${routers.length > 0 && html`<${Table} label="Routers" rows=${routers} keyOf=${(router) => router.name + router.address} columns=${[
      ["Router", (router) => router.name],
      ["Last change", (router) => (router.has_epoch ? "has it" : "not yet")],
      [`Server ${server}`, (router) => (router.server_down ? "takes no logins" : router.locked_out ? "refuses its password" : "reached")],
      ["Load", (router) => (router.load ? load(router.load.busy) : "–"), "number"], ["Clients", (router) => count(router.load?.clients), "number"],
      ["Waiting", (router) => count(router.load?.waiting), "number"], ["Connections", (router) => count(router.load?.connections), "number"],
      ["Pinned sessions", (router) => pinned(router) || "none"]]} />
      ${routers.every((router) => !router.load) && html`<p class="under">Routers tell what its clients do within seconds.</p>`}`}`;
}

function Use({ tenant }) {
  const { bytes: used, quota = {}, size_state: standing } = tenant;
  return html`${quota.size && html`<div class="load wide"><${Bar} part=${used ?? 0} whole=${sizeOf(quota.size)} label="Size against quota" /><span>${bytes(used)} of ${quota.size}</span></div>`}
    <${Facts} facts=${[["size", used === null ? "not measured yet" : bytes(used)], ["size allowed", quota.size ?? "no limit"], ["stands", standing],
      ["may write until", tenant.writable_until && html`<${Ago} at=${tenant.writable_until} />`],
      ["connections", quota.connections], ["a statement takes at most", time(quota.statement_timeout)]]} />`;
}

/** An operation in words. */
function words({ kind, from, to: target, step, state }) {
  const what = kind === "move" ? `moved from ${from} to ${target}` : kind === "create" && target ? `created on ${target}` : { create: "created", suspend: "suspended", resume: "resumed", delete: "deleted", undelete: "brought back", rename: `renamed${target ? ` to ${target}` : ""}`, clone: "copied into it" }[kind] ?? kind;
  return state === "running" ? `${what}: at ${step}` : what;
}

function History({ history }) {
  if (!history) return html`<${Loading} />`;
  if (history.length === 0) return html`<${Empty}>Nothing is on record.</${Empty}>`;
  return html`<ol class="history" aria-label=${plural(history.length, "operation")}>${history.map((one) => html`<li key=${one.id}>
    <span class="when"><${Ago} at=${one.created_at} /></span><${Badge} word=${one.state} />
    <span>${one.kind === "move" ? html`<a href=${to(["moves", String(one.id)])}>${words(one)}</a>` : words(one)}
      ${one.hold_ms !== null && html`<small> held ${span(one.hold_ms)}</small>`}${one.asked_by && html`<small> by ${one.asked_by}</small>`}
      ${one.error && html`<small class="why">${one.error}</small>`}</span><span class="aside">#${count(one.id)}</span></li>`)}</ol>`;
}
