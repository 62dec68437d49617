// What an operator can do on the page: each with what happens then, and the command that does the same.
import { html } from "./html.js";
import { call } from "./api.js";
import { bytes, count, shell, span } from "./format.js";
import { go, to } from "./route.js";
import { Note } from "./parts.js";

const command = (...words) => ["tenantry", ...words.map((word) => shell(String(word)))].join(" ");

const plain = (label, { title, what, words, path, body = {}, danger, then }) => ({
  label, title, what, danger,
  command: () => command(...words),
  run: async () => { const answer = await call("POST", path, body); then?.(answer); },
});

/** Actions on a tenant, as it stands. */
export function tenantActions(tenant, servers, reload) {
  const { id, state, operation } = tenant;
  if (operation) return [];
  const actions = [];
  const others = servers.filter((server) => server.name !== tenant.server && server.state !== "draining");
  if (state === "open" && others.length > 0) actions.push(startMove(tenant, others));
  if (state === "open") {
    actions.push(plain("Suspend", {
      title: `Suspend tenant ${id}?`, danger: true, words: ["tenant", "suspend", id], path: `tenants/${id}/suspend`, then: reload,
      what: "Its connections are closed and new ones refused until it is resumed. Its data stays as it is.",
    }));
  }
  if (state === "suspended") {
    actions.push(plain("Resume", {
      title: `Resume tenant ${id}?`, words: ["tenant", "resume", id], path: `tenants/${id}/resume`, then: reload,
      what: "Its clients can connect again.",
    }));
  }
  return actions;
}

const VERIFY = [["count", "rows counted (usual)"], ["full", "all values compared"], ["none", "not at all"]];
const HOLDS = [["500ms", "0.5 s"], ["1s", "1 s"], ["2s", "2 s (usual)"], ["5s", "5 s"]];
const ms = (text) => (text.endsWith("ms") ? Number.parseInt(text, 10) : Number.parseInt(text, 10) * 1000);

function startMove({ id, server }, others) {
  const body = ({ to: name, verify, hold }, more = {}) => ({ tenant: id, to: name, verify, max_hold_ms: ms(hold), ...more });
  return {
    label: "Move", title: `Move tenant ${id} to another server?`,
    what: `It is copied from ${server} while its clients go on working. At the end, new transactions wait for a moment while it changes servers. `
      + "What stands in the way is told before anything begins, and until the cutover the move can be aborted.",
    fields: [
      { name: "to", label: "To server", value: others[0].name, options: others.map((other) => [other.name, `${other.name} (${other.class}, ${count(other.tenants)} tenants)`]) },
      { name: "verify", label: "Both sides are compared", value: "count", options: VERIFY },
      { name: "hold", label: "Transactions wait at most", value: "2s", options: HOLDS },
    ],
    command: ({ to: name, verify, hold }) => command("move", "start", id, "--to", name,
      ...(verify === "count" ? [] : ["--verify", verify]), ...(hold === "2s" ? [] : ["--max-hold", hold])),
    check: async (values) => found(await call("POST", "moves", body(values, { dry_run: true }))),
    run: async (values) => {
      const { id: move } = await call("POST", "moves", body(values));
      go(to(["moves", String(move)]));
    },
  };
}

/** What a dry run found. */
function found({ findings = [], bytes: size, rows_estimate: rows, estimate }) {
  const inTheWay = findings.some((finding) => finding.level === "error");
  const verdict = inTheWay ? "This stands in the way:" : findings.length > 0 ? "Nothing stands in the way, but:" : "Nothing stands in the way.";
  const takes = estimate && `about ${span(estimate.seconds * 1000)}`;
  const holds = estimate?.hold_ms && `transactions waited ${span(estimate.hold_ms)} in moves before`;
  return html`<${Note} tone=${inTheWay ? "bad" : findings.length > 0 ? "warn" : "good"}>
    <strong>${verdict}</strong>
    ${findings.length > 0 && html`<ul>${findings.map((finding) => html`<li>${finding.what}<br /><small>${finding.remedy}</small></li>`)}</ul>`}
    <span>${[bytes(size), `about ${count(rows)} rows`, takes, holds].filter(Boolean).join(", ")}</span>
  </${Note}>`;
}

/** Phases before the decision, in which a move can be paused and aborted. */
const UNDECIDED = ["begin", "arm", "turn_round", "schema", "copy", "build", "compare", "catch_up", "restart"];

/** Actions on a move, as it stands. */
export function moveActions(move, reload) {
  const { id, tenant, from, to: target, state, step } = move;
  const act = (verb, more) => plain(more.label, { words: ["move", verb, id], path: `moves/${id}/${verb}`, then: reload, ...more });
  const actions = [];
  const undecided = state === "running" && UNDECIDED.includes(step) && !move.abort_requested;
  if (undecided && !move.paused) {
    actions.push(act("pause", {
      label: "Pause", title: `Pause move ${id}?`, body: { by: "page" },
      what: "It stands still, as far as it has come, until it is resumed. The source keeps its log for it meanwhile, which takes disk.",
    }));
  }
  if (state === "running" && move.paused) {
    actions.push(act("resume", { label: "Resume", title: `Resume move ${id}?`, what: "It goes on where it stands." }));
  }
  if (undecided) {
    actions.push(act("abort", {
      label: "Abort", danger: true, title: `Abort move ${id}?`,
      what: `What it copied is removed from ${target}; tenant ${tenant} stays on ${from}, and its clients notice nothing.`,
    }));
  }
  if (state === "switched" && move.reversible_until) {
    actions.push(act("reverse", {
      label: "Reverse", title: `Turn move ${id} round?`,
      what: `Tenant ${tenant} goes back to ${from} by a short cutover, with all that was written on ${target} since. Nothing is copied anew.`,
      then: (back) => go(to(["moves", String(back.id)])),
    }));
  }
  if (state === "switched") {
    actions.push(act("complete", {
      label: "Complete", danger: true, title: `Complete move ${id} now?`,
      what: `The old copy on ${from} is dropped before its time, and the move can't be turned round any more.`,
    }));
  }
  return actions;
}

/** Actions on a server. */
export function serverActions({ name, state, tenants }, reload) {
  if (state === "draining") {
    return [plain("Stop draining", {
      title: `Let server ${name} take tenants again?`, words: ["server", "drain", name, "--undo"], path: `servers/${name}/drain`, body: { undo: true }, then: reload,
      what: "No more tenants are moved away. Moves under way go on to their end, and who has left stays where it is.",
    })];
  }
  return [plain("Drain", {
    title: `Drain server ${name}?`, danger: true, words: ["server", "drain", name], path: `servers/${name}/drain`, then: reload,
    what: `It takes no new tenants, and its ${count(tenants)} tenants are moved to other servers, a few at a time, while their clients work. It can be taken back at any time.`,
  })];
}

/** Actions on a migration run. */
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
      what: `It goes on with ${count(pending)} tenants whose turn has not come, and tries the ${count(failed)} again that failed.`,
    })];
  }
  return [];
}
