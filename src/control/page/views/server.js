// One server.
import { html, useState } from "../html.js";
import { serverActions } from "../actions/server.js";
import { Chart, useTrail } from "../chart.js";
import { useData } from "../data.js";
import { Actions } from "../dialog.js";
import { bytes, count, plural, span } from "../format.js";
import { Heat, HeatChoice } from "../heat.js";
import { live } from "../live.js";
import { Ago, Badge, Bar, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { stateOf, work } from "./fleet.js";
import { MoveLine, isUnderWay } from "./moves.js";

const CROWDS_EVERY_MS = 30_000;
const DRAIN_EVERY_MS = 3000;
const SHOWN_EVERY_MS = 15_000;

export function Server({ name }) {
  const { fleet, moves } = useStore(live);
  const server = fleet?.servers.find((one) => one.name === name);
  const trail = useTrail([server?.seen?.sessions, server?.seen?.busy]);
  const draining = server?.state === "draining";
  const { data: crowds } = useData("crowds", CROWDS_EVERY_MS);
  const { data: shown, error, reload } = useData(`servers/${encodeURIComponent(name)}`, draining ? DRAIN_EVERY_MS : SHOWN_EVERY_MS);
  if (!fleet) return html`<${Title}>${name}</${Title}><${Loading} />`;
  if (!server) return html`<${Title}>${name}</${Title}><${Problem} error=${{ message: `There is no server ${name}.` }} />`;
  const { seen, use } = server;
  const crowd = crowds?.find((one) => one.server === name);
  const here = [...moves.values()].filter((move) => isUnderWay(move) && (move.from === name || move.to === name));
  return html`<${Title} badge=${html`<${Badge} word=${stateOf(server)} />`}
      actions=${html`<${Actions} of=${serverActions(server, reload)} />`}>Server ${name}</${Title}>
    ${seen?.error && html`<${Problem} error=${{ message: seen.error, hint: "Its tenants can't be reached while it is down; all others are served." }} />`}
    <${Facts} facts=${[["class", server.class], ["address", `${server.host}:${server.port}`], ["Postgres", seen?.version], ["tenants", html`<a href=${to(["tenants"], { server: name })}>${count(server.tenants)}</a>`],
      ["size", bytes(use?.bytes)], ["sessions at work, on average", work(use)],
      ["labels", Object.entries(server.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(", ")]]} />
    <${Section} title="Sessions" id="sessions" aside="against the budget that routers share">
      <div class="load"><${Bar} part=${seen?.sessions ?? 0} whole=${server.max_connections} label="Sessions" />
        <span>${count(seen?.sessions)} of ${count(server.max_connections)}, ${count(seen?.busy)} busy</span></div>
      ${trail[0].length > 1 && html`<${Chart} trail=${trail} unit=${(value) => (Number.isInteger(value) ? String(value) : "")} label="Sessions since this page was opened" lines=${[["sessions", "--accent"], ["busy", "--warn"]]} />`}
    </${Section}>
    ${crowd?.tenants > 0 && html`<${Section} title="Tenants" id="tenants" aside=${html`coloured <${HeatChoice} />, compared with all of the fleet`}><${Heat} server=${name} crowds=${crowds}
      moving=${new Set(here.map((move) => move.tenant))} /></${Section}>`}
    ${draining && html`<${Section} title="Draining" id="draining"><${Problem} error=${error} />${shown?.drain && html`<${Drain} drain=${shown.drain} />`}</${Section}>`}
    ${here.length > 0 && html`<${Section} title="Moves from and to it" id="moves"><ul class="lines">${here.map((move) => html`<${MoveLine} key=${move.id} move=${move} />`)}</ul></${Section}>`}
    ${shown?.addresses.length > 0 && html`<${Section} title="Where it is, and was" id="addresses"><${Addresses} addresses=${shown.addresses} /></${Section}>`}
    ${shown?.failovers.length > 0 && html`<${Section} title="Failovers" id="failovers"><${Failovers} failovers=${shown.failovers} /></${Section}>`}
    <${Upgrade} name=${name} />`;
}

/** How good it is to see such a thing at an address. */
const AT_ADDRESS = { serving: "good", standby: "good", open: "bad", rival: "bad", another: "warn" };

const Addresses = ({ addresses }) => html`<${Table} label="Addresses" rows=${addresses} keyOf=${(one) => `${one.host}:${one.port}`} columns=${[
  ["Address", (one) => `${one.host}:${one.port}`], ["State", (one) => html`<${Badge} word=${one.state} tone=${AT_ADDRESS[one.state] ?? "plain"} />`], ["Seen there", (one) => one.detail],
  ["Since", (one) => html`<${Ago} at=${one.since} />`], ["Named by an operator", (one) => (one.is_member ? "yes" : "no")]]} />`;

const Failovers = ({ failovers }) => html`<${Table} label="Failovers" rows=${failovers} keyOf=${(one) => one.operation} columns=${[
  ["Asked for", (one) => html`<${Ago} at=${one.at} />`], ["Way", (one) => `${one.from} → ${one.to}`], ["State", (one) => html`<${Badge} word=${one.state} />`],
  ["Step", (one) => one.step.replaceAll("_", " ")], ["Old server", (one) => one.old_server ?? "–"],
  ["What went wrong", (one) => one.error ?? (one.trying ? `failed ${one.trying.tries} times in a row: ${one.trying.error}` : "–")]]} />`;

/** How it would be emptied onto servers of newer versions; planned when somebody wants to know. */
function Upgrade({ name }) {
  const [wanted, setWanted] = useState(false);
  const { data: plan, error } = useData(wanted ? `servers/${encodeURIComponent(name)}/upgrade-plan` : null);
  return html`<details onToggle=${(event) => setWanted(event.currentTarget.open)}><summary>How its tenants would go to a newer Postgres</summary>
    ${wanted && !plan && !error && html`<${Loading} />`}<${Problem} error=${error} />
    ${plan && html`<p class="lead">${plural(plan.tenants, "tenant")} (${bytes(plan.bytes)}) from Postgres ${plan.version}, in ${plural(plan.waves.length, "wave")}.</p>
      ${plan.waves.map((wave) => html`<${Table} label=${`Wave ${wave.wave}`} rows=${wave.moves} keyOf=${(move) => move.tenant} columns=${[
        [`Wave ${wave.wave}`, (move) => html`<a href=${to(["tenants", move.tenant])}>${move.tenant}</a>`], ["Size", (move) => bytes(move.bytes), "number"], ["To", (move) => `${move.to}, Postgres ${move.version}`],
        ["Command", (move) => html`<code>${move.command}</code>`]]} />`)}
      <${Staying} label="No newer server can take" rows=${plan.unplaced} /><${Staying} label="Can't be moved now" rows=${plan.not_movable} />`}</details>`;
}

const Staying = ({ label, rows }) => rows.length > 0 && html`<${Table} label=${label} rows=${rows} keyOf=${(one) => one.tenant}
  columns=${[[label, (one) => html`<a href=${to(["tenants", one.tenant])}>${one.tenant}</a>`], ["Why", (one) => one.why], ["What to do", (one) => one.remedy ?? "–"]]} />`;

function Drain({ drain }) {
  const kept = [...drain.set_aside.listed, ...drain.not_movable.listed];
  return html`<${Facts} facts=${[["tenants left", count(drain.tenants_left)], ["bytes left", bytes(drain.bytes_left)], ["moving", count(drain.moving.count)], ["waiting for their turn", count(drain.pending)],
      ["set aside", count(drain.set_aside.count + drain.not_movable.count)], ["done in about", drain.eta_s ? span(drain.eta_s * 1000) : null]]} />
    ${drain.tenants_left === 0 && html`<p class="note good">Nobody lives here any more.${drain.sealed_copies.count > 0 ? ` ${plural(drain.sealed_copies.count, "old copy", "old copies")} of moved tenants are kept until their time is over.` : ""}</p>`}
    <${Staying} label="Stay for now" rows=${kept} />`;
}
