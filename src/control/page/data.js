// Reading a resource for a view: again at intervals while the page is looked at, and when the control plane is back.
import { useEffect, useRef, useState } from "./html.js";
import { callFully } from "./api.js";
import { live } from "./live.js";
import { useStore } from "./store.js";

/**
 * The resource at `path` (none: nothing is read). What was read last stays while it can't be read, with `error` beside it.
 */
export function useData(path, everyMs = 0) {
  const [state, setState] = useState({ path: null, data: null, next: null, error: null });
  const turn = useStore(live, (now) => now.turn);
  const reader = useRef(() => {});
  useEffect(() => {
    if (!path) return undefined;
    let over = false;
    let [last, underWay] = [0, 0];
    const read = async () => {
      const mine = ++last;
      // A newer one was begun: what it is told counts.
      const isOld = () => over || mine !== last;
      underWay++;
      try {
        const { data, response } = await callFully("GET", path);
        if (!isOld()) setState({ path, data, next: nextOf(response), error: null });
      } catch (error) {
        if (!isOld()) setState((before) => ({ ...(before.path === path ? before : { path, data: null, next: null }), error }));
      } finally {
        underWay--;
      }
    };
    reader.current = read;
    read();
    const timer = everyMs && setInterval(() => document.hidden || underWay || read(), everyMs);
    return () => { over = true; clearInterval(timer); };
  }, [path, everyMs, turn]);
  const current = state.path === path ? state : { data: null, next: null, error: null };
  return { ...current, reload: () => reader.current() };
}

/** Where a long list goes on, if it does. */
function nextOf(response) {
  const match = /<([^>]*)>;\s*rel="?next"?/.exec(response.headers.get("Link") ?? "");
  return match ? new URL(match[1], response.url).searchParams.get("after") : null;
}

/** The time, every so often, for views that tell ages. */
export function useNow(everyMs = 5000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}
