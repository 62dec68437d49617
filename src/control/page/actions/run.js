// Migration runs: begun from files, ended, gone on with.
import { html } from "../html.js";
import { call } from "../api.js";
import { count, plural, span } from "../format.js";
import { Note, Table } from "../parts.js";
import { to } from "../route.js";
import { command, flags, plain } from "./command.js";
import { LABELS, NUMBER, TIME, WAVES, ms } from "./values.js";

/** Before a run, all its tenants are looked at. */
const EXAMINE_MS = 1_800_000;
const FILE_BYTES_MAX = 16 * 1024 * 1024;
const SHOWN_MAX = 100;
/** What counts where nothing else is asked for, by the commands' flags. */
const USUAL = { canary: "1", waves: "1%,10%,100%", per_server: "2", max_failures: "0", lock_timeout: "2s", statement_timeout: "10m" };

export function newRun() {
  const field = (name, label, form) => ({ name, label, kind: "text", value: USUAL[name], ...form, required: true, more: true });
  return {
    label: "New run", verb: "Run", title: "Run migrations over the fleet?",
    what: "Tenants are brought to the newest version wave by wave, canaries first, a few at a time on each server. It stops when too many fail; those that are done stay at the new version.",
    fields: [
      { name: "files", label: "All files of the directory, V<number>__<name>.sql", kind: "files", value: [], accept: ".sql", required: true },
      { name: "selector", label: "Only tenants with these labels", kind: "text", value: "", ...LABELS, placeholder: `all; or ${LABELS.title}` },
      field("canary", "Tenants that go first; if one fails, the run stops", NUMBER),
      field("waves", "Shares of the fleet, growing to all of it", WAVES),
      field("per_server", "Tenants at once on one server", NUMBER),
      field("max_failures", "Failures after which it stops", NUMBER),
      field("lock_timeout", "A statement waits for a lock at most", TIME),
      field("statement_timeout", "A statement takes at most", TIME),
    ],
    command: (values) => command("migrate", "run", "--dir", "DIR", ...flags({ "--selector": selector(values), ...unusual(values) })),
    check: async (values) => call("POST", "migrations/plan", await wish(values), EXAMINE_MS),
    found: ({ answer }) => html`<${Plan} plan=${answer} />`,
    run: async (values) => {
      const { id } = await call("POST", "migrations", await wish(values), EXAMINE_MS);
      return to(["migrations", String(id)]);
    },
  };
}

const tight = (text) => text.replaceAll(/\s/g, "");
const selector = (values) => tight(values.selector);
const unusual = (values) => Object.fromEntries(Object.entries(USUAL)
  .filter(([name, usual]) => tight(values[name]) !== usual).map(([name]) => [`--${name.replaceAll("_", "-")}`, tight(values[name])]));

async function wish(values) {
  const files = values.files.filter((file) => file.name.endsWith(".sql"));
  return {
    files: await Promise.all(files.map(read)), selector: selector(values) || "*",
    canary: Number(values.canary), waves: tight(values.waves).split(",").map((wave) => Number.parseInt(wave, 10)),
    per_server: Number(values.per_server), max_failures: Number(values.max_failures),
    lock_timeout_ms: ms(values.lock_timeout), statement_timeout_ms: ms(values.statement_timeout),
  };
}

async function read(file) {
  if (file.size > FILE_BYTES_MAX) throw new Error(`${file.name} is over 16 MiB: load data apart from schema changes`);
  try {
    return { name: file.name, sql: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer()) };
  } catch {
    throw new Error(`${file.name} can't be read, or is not UTF-8`);
  }
}

/** What a run would do. */
function Plan({ plan }) {
  const { tenants, refused, trial, version, estimate_s: seconds } = plan;
  const pending = tenants.filter((tenant) => tenant.pending.length > 0);
  const odd = ({ drift, conflict, schema_differs: differs, invalid_indexes: invalid }) => [...drift, conflict, differs && "its schema differs", ...invalid.map((index) => `index ${index} is invalid`)].filter(Boolean).join("; ");
  return html`<${Note} tone=${refused ? "bad" : "good"}>
      <strong>${refused ? `It would be refused: ${refused}` : `${count(pending.length)} of ${plural(tenants.length, "tenant")} would be brought to version ${version}.`}</strong>
      <span>${trial}</span>${!refused && html`<span>It takes about ${span(seconds * 1000)}.</span>`}</${Note}>
    <${Table} label="Tenants" rows=${tenants.slice(0, SHOWN_MAX)} keyOf=${(one) => one.tenant} columns=${[
      ["Tenant", (one) => one.tenant], ["Wave", (one) => one.wave, "number"], ["At version", (one) => one.schema_version ?? "none", "number"], ["Pending", (one) => count(one.pending.length), "number"],
      ["Odd", (one) => odd(one)]]} />
    ${tenants.length > SHOWN_MAX && html`<p class="under">The first ${SHOWN_MAX} of ${count(tenants.length)}.</p>`}`;
}

/** What can be done with a run, as it stands. */
export function runActions({ id, state, pending, failed }, reload) {
  if (state === "running") {
    return [plain("Abort", {
      title: `Abort migration run ${id}?`, danger: true, words: ["migrate", "abort", id], path: `migrations/${id}/abort`, then: reload,
      what: "Tenants whose turn has begun finish it; no other one begins. Those that are done stay at the new version. The run can be resumed.",
    })];
  }
  if (state === "failed" || state === "aborted") {
    return [plain("Resume", {
      title: `Resume migration run ${id}?`, words: ["migrate", "resume", id], path: `migrations/${id}/resume`, then: reload,
      what: `It goes on with ${plural(pending, "tenant")} whose turn has not come, and tries the ${count(failed)} again that failed.`,
    })];
  }
  return [];
}
