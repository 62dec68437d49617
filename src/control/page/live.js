// What goes on, as the control plane tells it: one stream of events for the whole page, opened again when it breaks.
import { openEvents } from "./api.js";
import { session, signOut } from "./session.js";
import { store } from "./store.js";

/** The control plane sends something every ten seconds: after so long it is gone. */
const SILENCE_MS = 25_000;
const PAUSES_MS = [500, 1000, 2000, 3000, 5000];

/**
 * `connected`; `lost`: since when it is not (ms), and `why`; `trouble`: of the catalog; `turn` grows with each connection:
 * what was read before may be old.
 */
const BEGINNING = { connected: false, lost: null, why: null, trouble: null, turn: 0, fleet: null, moves: new Map(), migration: null };

export const live = store(BEGINNING);

/** Follows the events for as long as this token is signed in. */
export function follow() {
  let stop = null;
  let token = null;
  session.follow(start);
  start(session.get());
  function start(state) {
    if (state.token === token) return;
    stop?.abort();
    token = state.token;
    live.set(BEGINNING);
    if (token) {
      stop = new AbortController();
      keep(token, stop.signal);
    }
  }
}

async function keep(token, stop) {
  for (let tries = 0; !stop.aborted; tries++) {
    const why = await listen(token, stop, () => { tries = 0; });
    if (stop.aborted) return;
    live.set((state) => ({ ...state, connected: false, lost: state.lost ?? Date.now(), why }));
    await pause(PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)], stop);
  }
}

/** Until the stream ends; why it did. */
async function listen(token, stop, onOpen) {
  const cut = new AbortController();
  const end = () => cut.abort();
  stop.addEventListener("abort", end);
  let silence = setTimeout(end, SILENCE_MS);
  try {
    const response = await openEvents(token, cut.signal);
    if (response.status === 401) {
      signOut("The token is not valid any more. Sign in again.");
      return null;
    }
    if (!response.ok) {
      const told = await response.json().catch(() => ({}));
      return told.error ?? told.detail ?? `the answer was ${response.status}`;
    }
    onOpen();
    live.set((state) => ({ ...state, connected: true, lost: null, why: null, turn: state.turn + 1, moves: new Map() }));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return null;
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE_MS);
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      parts.forEach(take);
    }
  } catch {
    return null;
  } finally {
    clearTimeout(silence);
    stop.removeEventListener("abort", end);
    cut.abort();
  }
}

function take(event) {
  let topic = "";
  let data = "";
  for (const line of event.split("\n")) {
    if (line.startsWith("event:")) topic = line.slice(6).trim();
    if (line.startsWith("data:")) data += line.slice(5);
  }
  if (!topic || !data) return;
  const told = JSON.parse(data);
  live.set((state) => {
    switch (topic) {
      case "fleet": return { ...state, fleet: told };
      case "move": return { ...state, moves: new Map(state.moves).set(told.id, told) };
      case "migration": return { ...state, migration: told };
      case "trouble": return told.catalog === state.trouble ? state : { ...state, trouble: told.catalog };
      default: return state;
    }
  });
}

function pause(ms, stop) {
  return new Promise((done) => {
    const over = new AbortController();
    const end = () => { clearTimeout(timer); over.abort(); done(); };
    const timer = setTimeout(end, ms);
    stop.addEventListener("abort", end, { signal: over.signal });
    addEventListener("online", end, { signal: over.signal });
  });
}
