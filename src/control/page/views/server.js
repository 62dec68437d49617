// One server.
import { html } from "../html.js";
import { serverActions } from "../actions.js";
import { Chart, useTrail } from "../chart.js";
import { useData } from "../data.js";
import { ActionButton } from "../dialog.js";
import { bytes, count, plural, span } from "../format.js";
import { Heat, HeatChoice } from "../heat.js";
import { live } from "../live.js";
import { Badge, Bar, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { mayAct, session } from "../session.js";
import { useStore } from "../store.js";
import { stateOf, work } from "./fleet.js";
import { MoveLine, isUnderWay } from "./moves.js";

const CROWDS_EVERY_MS = 30_000;

export function Server({ name }) {
  const { fleet, moves } = useStore(live);
  const may = useStore(session, mayAct);
  const server = fleet?.servers.find((one) => one.name === name);
  const trail = useTrail([server?.seen?.sessions, server?.seen?.busy]);
  const draining = server?.state === "draining";
  const { data: crowds } = useData("crowds", CROWDS_EVERY_MS);
  const { data: drain, error } = useData(draining ? `servers/${encodeURIComponent(name)}` : null, 3000);
  if (!fleet) return html`<${Title}>${name}</${Title}><${Loading} />`;
  if (!server) return html`<${Title}>${name}</${Title}><${Problem} error=${{ message: `There is no server ${name}.` }} />`;
  const { seen, use } = server;
  const crowd = crowds?.find((one) => one.server === name);
  const here = [...moves.values()].filter((move) => isUnderWay(move) && (move.from === name || move.to === name));
  return html`<${Title} badge=${html`<${Badge} word=${stateOf(server)} />`}
      actions=${may && serverActions(server).map((action) => html`<${ActionButton} action=${action} />`)}>Server ${name}</${Title}>
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
    ${draining && html`<${Section} title="Draining" id="draining"><${Problem} error=${error} />${drain?.drain && html`<${Drain} drain=${drain.drain} />`}</${Section}>`}
    ${here.length > 0 && html`<${Section} title="Moves from and to it" id="moves"><ul class="lines">${here.map((move) => html`<${MoveLine} key=${move.id} move=${move} />`)}</ul></${Section}>`}`;
}

function Drain({ drain }) {
  const kept = [...drain.set_aside.listed, ...drain.not_movable.listed];
  return html`<${Facts} facts=${[["tenants left", count(drain.tenants_left)], ["bytes left", bytes(drain.bytes_left)], ["moving", count(drain.moving.count)], ["waiting for their turn", count(drain.pending)],
      ["set aside", count(drain.set_aside.count + drain.not_movable.count)], ["done in about", drain.eta_s ? span(drain.eta_s * 1000) : null]]} />
    ${drain.tenants_left === 0 && html`<p class="note good">Nobody lives here any more.${drain.sealed_copies.count > 0 ? ` ${plural(drain.sealed_copies.count, "old copy", "old copies")} of moved tenants are kept until their time is over.` : ""}</p>`}
    ${kept.length > 0 && html`<${Table} label="Tenants that stay for now" rows=${kept} keyOf=${(one) => one.tenant}
      columns=${[["Tenant", (one) => html`<a href=${to(["tenants", one.tenant])}>${one.tenant}</a>`], ["Why it stays", (one) => one.why], ["What to do", (one) => one.remedy]]} />`}`;
}
