// Calls of the control plane's API.
import { session, signOut } from "./session.js";

const BASE = new URL("../v1/", location.href);
const TIMEOUT_MS = 60_000;
/** A change that takes longer goes on, but nobody is told how it ended. */
const CHANGE_TIMEOUT_MS = 600_000;

/** What the control plane answered instead, or that it did not answer (status 0). */
export class Refusal extends Error {
  constructor(status, message, told = {}) {
    super(message);
    this.status = status;
    this.hint = told.hint;
    this.told = told;
  }
}

export const apiUrl = (path) => new URL(path.replace(/^\//, ""), BASE);

function headers(token, more = {}) {
  return { Authorization: `Bearer ${token}`, "X-Tenantry-Asked-By": "page", ...more };
}

async function refusal(response) {
  let told = {};
  try { told = await response.json(); } catch { /* Not from the control plane itself. */ }
  const message = told.error ?? told.detail ?? told.title ?? `the answer was ${response.status}`;
  return new Refusal(response.status, String(message), told);
}

async function send(method, path, body, token, timeoutMs = method === "GET" ? TIMEOUT_MS : CHANGE_TIMEOUT_MS) {
  const given = { method, headers: headers(token), cache: "no-store", signal: AbortSignal.timeout(timeoutMs) };
  if (method !== "GET") given.headers["Idempotency-Key"] = randomKey();
  if (body !== undefined) {
    given.headers["Content-Type"] = "application/json";
    given.body = JSON.stringify(body);
  }
  try {
    return await fetch(apiUrl(path), given);
  } catch {
    throw new Refusal(0, "the control plane does not answer");
  }
}

const randomKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** One call; the answer with its headers. */
export async function callFully(method, path, body, timeoutMs) {
  const { token } = session.get();
  const response = await send(method, path, body, token, timeoutMs);
  if (response.status === 401 && session.get().token === token) {
    signOut("The token is not valid any more. Sign in again.");
  }
  if (!response.ok) throw await refusal(response);
  try {
    return { data: await response.json(), response };
  } catch {
    throw new Refusal(0, "the answer of the control plane was cut off");
  }
}

/** One call; the answer. */
export const call = async (...asked) => (await callFully(...asked)).data;

/** Who a token is. */
export async function whoami(token) {
  const response = await send("GET", "whoami", undefined, token);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The stream of events. */
export function openEvents(token, signal) {
  return fetch(apiUrl("events"), { headers: headers(token, { Accept: "text/event-stream" }), cache: "no-store", signal });
}
