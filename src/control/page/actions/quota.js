// What a tenant may use: with the tenant when it is made, and afterwards.
import { call } from "../api.js";
import { command, flags } from "./command.js";
import { NUMBER, SIZE, TIME, ms, time } from "./values.js";

/** Keys of the API, each with the command's word for it. */
const KEYS = { connections: "connections", statement_timeout: "statement-timeout", size: "size" };

const typed = (own = {}) => ({ connections: String(own.connections ?? ""), statement_timeout: time(own.statement_timeout), size: own.size ?? "" });

/** Fields for quotas; empty ones leave it to the server's class. */
export function quotaFields(own) {
  const { connections, statement_timeout: timeout, size } = typed(own);
  const field = (name, label, value, form) => ({ name, label, kind: "text", value, ...form, placeholder: `as its server's class; or ${form.title}` });
  return [
    field("connections", "Server connections at most", connections, NUMBER),
    field("statement_timeout", "A statement takes at most", timeout, TIME),
    field("size", "Size at most", size, SIZE),
  ];
}

/** What is another quota than before, by keys; null where the class's counts again. */
export function quotaChanges(values, own) {
  const before = typed(own);
  const changed = Object.keys(KEYS).filter((key) => values[key] !== before[key]);
  return Object.fromEntries(changed.map((key) => [key, values[key] === "" ? null : key === "connections" ? Number(values[key]) : values[key]]));
}

export const quotaFlags = (changes) => flags({ "--quota": Object.entries(changes).map(([key, value]) => `${KEYS[key]}=${value ?? ""}`) });

export const setQuota = ({ id, own_quota: own }, reload) => ({
  label: "Quota", verb: "Set", title: `What may tenant ${id} use?`,
  what: "It counts at once. Over its size a tenant is read only until it has made room; to do so, it can be let write for a while.",
  fields: [...quotaFields(own), { name: "writable", label: "Let it write although it is over its size, for (7d at most)", kind: "text", value: "", ...TIME, placeholder: "not", more: true }],
  command: (values) => command("tenant", "set", id, ...quotaFlags(quotaChanges(values, own)), ...flags({ "--writable-for": values.writable })),
  run: async (values) => {
    await call("PUT", `tenants/${id}/quota`, { quota: quotaChanges(values, own), writable_for_ms: ms(values.writable) });
    reload();
  },
});
