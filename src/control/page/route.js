// Where one is on the page: in the address after `#`, so that it can be kept and sent to others.
import { store } from "./store.js";

function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query ?? "") };
}

/** A piece of an address that somebody may have written by hand. */
function decoded(piece) {
  try {
    return decodeURIComponent(piece);
  } catch {
    return piece;
  }
}

export const route = store(read());

addEventListener("hashchange", () => {
  const before = route.get().path.join("/");
  route.set(read());
  if (route.get().path.join("/") !== before) scrollTo(0, 0);
});

/** The address of a place; what is empty is left out of the query. */
export function to(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const text = new URLSearchParams(given).toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Goes there; without a step back when `replace`. */
export function go(address, replace = false) {
  if (!replace) {
    location.hash = address;
  } else {
    history.replaceState(null, "", address);
    route.set(read());
  }
}
