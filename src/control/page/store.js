// A value that views follow.
import { useEffect, useState } from "./html.js";

export function store(value) {
  const followers = new Set();
  return {
    get: () => value,
    set(next) {
      value = typeof next === "function" ? next(value) : next;
      for (const follower of [...followers]) follower(value);
    },
    follow(follower) {
      followers.add(follower);
      return () => followers.delete(follower);
    },
  };
}

/** What `select` makes of a store's value; the view is drawn anew when that is another one. */
export function useStore(of, select = (value) => value) {
  const [, redraw] = useState(0);
  const now = select(of.get());
  useEffect(() => {
    let before = now;
    const look = (value) => {
      const next = select(value);
      if (!Object.is(next, before)) redraw((n) => n + 1);
      before = next;
    };
    look(of.get());
    return of.follow(look);
  });
  return now;
}
