// What can be done with a tenant, as it stands: each with what happens then, and the command that does the same.
import { call } from "../api.js";
import { to } from "../route.js";
import { command, finished, flags, plain } from "./command.js";
import { cloneTenant } from "./make.js";
import { setQuota } from "./quota.js";
import { startMove } from "./start_move.js";
import { ID } from "./values.js";

export function tenantActions(tenant, servers, reload) {
  const { server, state, operation } = tenant;
  const is = (...states) => states.includes(state);
  const others = servers.filter((one) => one.name !== server && one.state !== "draining");
  const idle = !operation;
  return [
    idle && is("open") && others.length > 0 && startMove(tenant, others),
    is("open", "suspended") && setQuota(tenant, reload),
    idle && is("open", "suspended") && cloneTenant(tenant, servers),
    idle && is("open", "suspended") && rename(tenant),
    idle && is("open") && suspend(tenant, reload),
    idle && is("suspended") && resume(tenant, reload),
    idle && is("deleted") && undelete(tenant, reload),
    idle && is("open", "suspended") && remove(tenant, reload),
    idle && is("deleted") && drop(tenant),
  ].filter(Boolean);
}

/** An action that is one call, of an operation whose end is waited for. */
const change = ({ id }, verb, reload, more) => plain(more.label, {
  words: ["tenant", verb, id], path: `tenants/${id}/${verb}`, then: async (answer) => { await finished(answer); reload(); }, ...more,
});

const suspend = (tenant, reload) => change(tenant, "suspend", reload, {
  label: "Suspend", title: `Suspend tenant ${tenant.id}?`, danger: true,
  what: "Its connections are closed and new ones refused until it is resumed. Its data stays as it is.",
});

const resume = (tenant, reload) => change(tenant, "resume", reload, {
  label: "Resume", title: `Resume tenant ${tenant.id}?`, what: "Its clients can connect again.",
});

const undelete = (tenant, reload) => change(tenant, "undelete", reload, {
  label: "Bring back", title: `Bring tenant ${tenant.id} back?`, what: "It is as it was when it was deleted, and its clients can connect again.",
});

const rename = ({ id }) => ({
  label: "Rename", title: `Give tenant ${id} another id?`,
  what: "Its transactions wait for a moment. From then on its clients have to ask for the new id: nobody is led there from the old one.",
  fields: [{ name: "to", label: "Its new id", kind: "text", value: "", required: true, ...ID, placeholder: ID.title }],
  command: ({ to: name }) => command("tenant", "rename", id, name || "ID"),
  run: async ({ to: name }) => {
    await finished(await call("POST", `tenants/${id}/rename`, { to: name }));
    return to(["tenants", name]);
  },
});

const DUMP = { name: "dump", label: "Keep a last dump when it is dropped", kind: "checkbox", value: false };
/** What has no way back wants the id typed. */
const typed = (id, when) => ({ name: "typed", label: `There is no way back: type ${id} to say that you mean it`, kind: "text", value: "", required: true, pattern: id, when });

async function deleted(id, { now, dump }) {
  await finished(await call("DELETE", `tenants/${id}?${new URLSearchParams({ now, dump })}`));
  return now && to(["tenants"]);
}

const remove = ({ id }, reload) => ({
  label: "Delete", title: `Delete tenant ${id}?`, danger: true,
  what: "Its connections are closed and new ones refused. Until its grace time ends it can be brought back; then its database is dropped.",
  fields: [DUMP, { name: "now", label: "Drop its database at once", kind: "checkbox", value: false }, typed(id, ({ now }) => now)],
  command: ({ now, dump }) => command("tenant", "delete", id, ...flags({ "--now": now, "--dump": dump })),
  run: async (values) => { const place = await deleted(id, values); reload(); return place; },
});

const drop = ({ id }) => ({
  label: "Drop now", title: `Drop the database of tenant ${id}?`, danger: true,
  what: "It is dropped before its grace time ends.",
  fields: [DUMP, typed(id)],
  command: ({ dump }) => command("tenant", "delete", id, ...flags({ "--now": true, "--dump": dump })),
  run: ({ dump }) => deleted(id, { now: true, dump }),
});
