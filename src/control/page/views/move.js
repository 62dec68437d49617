// One move, as it goes.
import { html } from "../html.js";
import { moveActions } from "../actions/move.js";
import { Chart, useTrail } from "../chart.js";
import { useData } from "../data.js";
import { Actions } from "../dialog.js";
import { bytes, count, span } from "../format.js";
import { live } from "../live.js";
import { Ago, Badge, Bar, Facts, Loading, Problem, Section, Table, Title } from "../parts.js";
import { to } from "../route.js";
import { useStore } from "../store.js";
import { progress, standing, whole } from "./moves.js";

const STEPS = {
  begin: "about to begin", arm: "the source is made ready: stream of changes, snapshot, guard against schema changes",
  turn_round: "the sealed copy becomes the target; nothing is copied", schema: "roles, database and tables on the target", copy: "rows",
  build: "indexes, constraints and statistics on the target; then it follows the source", compare: "both sides are compared while clients work",
  catch_up: "the target catches up, and a quiet moment is waited for", cutover: "new transactions wait while the tenant changes servers",
  release: "routers go on at the target", verify: "both sides are compared as they were at the switch",
  switched: "the tenant is served by the target; the old copy is kept", complete: "the old copy is removed", completed: "nothing of the move is left but this record",
  restart: "the copy is thrown away, to be begun anew", undo: "what the move made is removed; the tenant stays where it is", undone: "the tenant is where it was",
};
const STATES = ["switched", "completed", "undone"];
const RESULTS = { done: "well", takenback: "taken back", snapshotlost: "its snapshot was lost", stop: "given up" };

export function Move({ id }) {
  const { data, error, reload } = useData(`moves/${id}`, 5000);
  const news = useStore(live, (state) => state.moves.get(id));
  // Whichever is newer; only the one that was asked for has a receipt.
  const move = news && (!data || news.updated_at >= data.updated_at) ? { ...data, ...news } : data;
  const trail = useTrail([move?.state === "running" ? move.bytes_per_second : null, move?.state === "running" ? move.lag_bytes : null]);
  if (!move) return html`<${Title}>Move ${id}</${Title}>${error ? html`<${Problem} error=${error} />` : html`<${Loading} />`}`;
  const running = move.state === "running";
  return html`<${Title} badge=${html`<${Badge} word=${move.paused && running ? "paused" : move.state} />`}
      actions=${html`<${Actions} of=${moveActions(move, reload)} />`}>Move ${id}</${Title}>
    <p class="lead"><a href=${to(["tenants", move.tenant])}>${move.tenant}</a> from <a href=${to(["servers", move.from])}>${move.from}</a> to <a href=${to(["servers", move.to])}>${move.to}</a></p>
    ${running && html`<div class="load wide"><${Bar} part=${whole(move)} whole=${1} label="The whole move" tone=${move.paused || move.warning ? "warn" : "accent"} /><span>${standing(move)}</span></div>`}
    <${Told} move=${move} />
    <${Figures} move=${move} />
    ${trail[0].length > 1 && html`<${Section} title="Rate and lag" id="rate" aside="since this page was opened"><${Chart} trail=${trail} unit=${bytes} label="Rate of the copy and lag of the target"
      lines=${[["copied a second", "--accent"], ["target behind", "--warn"]]} /></${Section}>`}
    <${Section} title="Steps" id="steps"><${Steps} steps=${move.steps ?? []} /></${Section}>
    ${data?.receipt && html`<details><summary>Receipt</summary><pre>${JSON.stringify(data.receipt, null, 2)}</pre></details>`}`;
}

/** What an operator should know. */
function Told({ move }) {
  const running = move.state === "running";
  const told = [
    move.error && ["bad", typeof move.error === "string" ? move.error : move.error.error ?? JSON.stringify(move.error)],
    move.warning && ["warn", move.warning], running && move.waiting_for && ["warn", `It waits for ${move.waiting_for}.`],
    move.trying && ["bad", `It failed ${move.trying.tries} times in a row, and is tried again: ${move.trying.error}`],
    running && move.slowed_by && ["plain", `It does not go faster because of ${move.slowed_by}.`],
    running && move.abort_requested && ["warn", "It is to be given up, as an operator asked."],
    move.paused && running && ["warn", html`Paused by ${move.paused.by} <${Ago} at=${move.paused.since} />.`],
    move.reversible_until && ["good", html`It can be turned round until ${new Date(move.reversible_until).toLocaleString()}.`],
    move.window_closed && ["plain", `It can't be turned round: ${move.window_closed.why}.`],
    move.reverse_of && ["plain", html`It turns <a href=${to(["moves", String(move.reverse_of)])}>move ${move.reverse_of}</a> round.`],
    ...(move.differences ?? []).map((what) => ["bad", `Differs: ${what}`]), ...(move.not_compared ?? []).map((what) => ["plain", `Not compared after the switch: ${what}`]),
  ].filter(Boolean);
  return told.map(([tone, what]) => html`<p class="note ${tone}">${what}</p>`);
}

function Figures({ move }) {
  const { done, total, rate, left } = progress(move);
  const copying = move.state === "running" && move.step === "copy";
  const parts = Object.entries(move.hold_parts_ms ?? {}).map(([part, ms]) => `${part.replaceAll("_", " ")} ${span(ms)}`).join(", ");
  return html`<${Facts} facts=${[
    ["rows copied", move.rows_total ? `${count(move.rows_copied)} of ${count(move.rows_total)}` : count(move.rows_copied)],
    ["bytes copied", total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)],
    ["rate", copying && rate ? `${bytes(rate)}/s` : null], ["left", copying && left ? `about ${span(left)}` : null],
    ["lag", move.state === "running" && move.lag_bytes !== null ? bytes(move.lag_bytes) : null],
    ["log kept for it", move.wal_retained?.map((kept) => `${bytes(kept.bytes)} at ${kept.server}`).join(", ")],
    ["transactions held", move.hold_ms === null || move.hold_ms === undefined ? null : html`<span title=${parts}>${span(move.hold_ms)}</span>`],
    ["cutovers taken back", move.taken_back || null], ["compared", move.verified === true ? `alike, ${count(move.rows_checked)} rows` : move.verified === false ? "differs" : null],
    ["asked for by", move.asked_by], ["asked for", html`<${Ago} at=${move.created_at} />`]]} />`;
}

const Steps = ({ steps }) => html`<${Table} label="Steps" rows=${steps} keyOf=${(step) => step.number} columns=${[
  ["Step", (step) => step.step.replace("_", " ")], ["What", (step) => STEPS[step.step] ?? ""], ["Begun", (step) => new Date(step.started_at).toLocaleTimeString()],
  ["Took", (step) => (STATES.includes(step.step) ? "" : span(step.took_ms)), "number"],
  ["Ended", (step) => (step.result ? RESULTS[step.result] ?? step.result : STATES.includes(step.step) ? "" : html`<${Badge} word="running" />`)]]} />`;
