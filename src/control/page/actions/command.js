// What actions have in common: the command that does the same, and how one is carried out.
import { call } from "../api.js";
import { shell } from "../format.js";

const POLL_MS = 300;
/** So long an operation is waited for; then it is seen to be under way where one comes to. */
const WAIT_MAX_MS = 60_000;

/** A command of the program, as a shell takes it. */
export const command = (...words) => ["tenantry", ...words.map((word) => shell(String(word)))].join(" ");

/** Flags by their names: what is true stands alone, each of a list has the flag, and what is empty is left out. */
export const flags = (given) => Object.entries(given).flatMap(([flag, value]) => {
  if (Array.isArray(value)) return value.flatMap((one) => [flag, one]);
  if (value === true) return [flag];
  return value ? [flag, value] : [];
});

/** An action that is the same whatever else there is: one call, and the words of the command. */
export const plain = (label, { title, what, words, path, body = {}, danger, then }) => ({
  label, title, what, danger,
  command: () => command(...words),
  run: async () => then?.(await call("POST", path, body)),
});

/** An operation; one that can't be looked at just now goes on. */
async function look(operation) {
  try {
    return await call("GET", `operations/${operation}`);
  } catch (error) {
    if (error.status > 0 && error.status < 500) throw error;
    return { state: "running" };
  }
}

/** Waits for the end of an operation; fails as it did. */
export async function finished({ operation }) {
  for (const begun = Date.now(); Date.now() - begun < WAIT_MAX_MS;) {
    const { state, error } = await look(operation);
    if (state === "failed") throw new Error(error ?? "it failed");
    if (state !== "running") return;
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}
