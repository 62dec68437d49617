// What can be done with a server.
import { plural } from "../format.js";
import { plain } from "./command.js";

export function serverActions({ name, state, tenants }, reload) {
  const path = `servers/${name}/drain`;
  const drain = (label, more) => plain(label, { words: ["server", "drain", name], path, then: reload, ...more });
  if (state !== "draining") {
    return [drain("Drain", {
      title: `Drain server ${name}?`, danger: true,
      what: `It takes no new tenants, and its ${plural(tenants, "tenant")} are moved to other servers, a few at a time, while their clients work. It can be taken back at any time.`,
    })];
  }
  return [
    plain("Stop draining", {
      title: `Let server ${name} take tenants again?`, words: ["server", "drain", name, "--undo"], path, body: { undo: true }, then: reload,
      what: "No more tenants are moved away. Moves under way go on to their end, and who has left stays where it is.",
    }),
    drain("Drain anew", { title: `Try anew to empty server ${name}?`, what: "Tenants that were set aside get another turn." }),
  ];
}
