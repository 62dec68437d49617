// Making a tenant: a new one, or a copy.
import { html } from "../html.js";
import { call } from "../api.js";
import { count, plural } from "../format.js";
import { Note, Table } from "../parts.js";
import { to } from "../route.js";
import { command, flags } from "./command.js";
import { quotaChanges, quotaFields, quotaFlags } from "./quota.js";
import { ID, LABELS, asObject, distinct, labels } from "./values.js";

const CLASSES = ["shared", "dedicated"];

/** Where it is to go: anywhere, to a class, or to a server. */
const places = (servers) => [["", "the one with the most room"], ...CLASSES.map((name) => [`class=${name}`, `the ${name} one with the most room`]),
  ...servers.filter((server) => server.state !== "draining").map((server) => [`server=${server.name}`, `${server.name} (${server.class}, ${plural(server.tenants, "tenant")})`])];

const make = ({ label, verb, title, what, words, path, servers, labelled }) => {
  const body = ({ id, place, labelled: given, ...quota }) => ({ id, ...asObject(place ? [place] : []), labels: distinct(labels(given)), quota: quotaChanges(quota) });
  return {
    label, verb, title, what,
    fields: [
      { name: "id", label: "Its id", kind: "text", value: "", required: true, ...ID, placeholder: ID.title },
      { name: "place", label: "On server", kind: "select", value: "", options: places(servers) },
      { name: "labelled", label: "Labels", kind: "text", value: "", ...LABELS, placeholder: labelled, more: true },
      ...quotaFields().map((field) => ({ ...field, more: true })),
    ],
    command: ({ id, place, labelled: given, ...quota }) => command(...words, id || "ID", ...flags({ ...asObject(place ? [`--${place}`] : []), "--label": labels(given) }), ...quotaFlags(quotaChanges(quota))),
    check: (values) => call("POST", path, { ...body(values), dry_run: true }),
    found: ({ answer }) => html`<${Decision} decision=${answer} />`,
    run: async (values) => {
      await call("POST", path, body(values));
      return to(["tenants", values.id]);
    },
  };
};

/** Where a tenant would go, and what was found about each server. */
const Decision = ({ decision }) => html`<${Note} tone="good"><strong>It would go to ${decision.server}: ${decision.why}</strong></${Note}>
  <${Table} label="Servers" rows=${decision.servers} keyOf=${(one) => one.server} columns=${[
    ["Server", (one) => one.server], ["Fits", (one) => (one.fits ? "yes" : "no")], ["Tenants", (one) => count(one.tenants), "number"], ["Reason", (one) => one.reason]]} />`;

export const createTenant = (servers) => make({
  label: "New tenant", verb: "Make it", title: "Make a tenant?", words: ["tenant", "create"], path: "tenants", servers, labelled: LABELS.title,
  what: "It gets a database of its own, with the schema that migrations have come to, and its clients can connect as soon as it is open.",
});

export const cloneTenant = ({ id }, servers) => make({
  label: "Clone", title: `Copy tenant ${id} into a new one?`, words: ["tenant", "clone", id], path: `tenants/${id}/clone`, servers, labelled: "as the tenant that is copied",
  what: `The new one has all that ${id} has at one moment, which goes on serving meanwhile.`,
});
