// What is around each view: where one can go, the search, whether the control plane is there, and who is signed in.
import { html, useEffect, useRef } from "./html.js";
import { useNow } from "./data.js";
import { span } from "./format.js";
import { live } from "./live.js";
import { go, route, to } from "./route.js";
import { session, signOut } from "./session.js";
import { useStore } from "./store.js";

const PLACES = [["", "Fleet"], ["tenants", "Tenants"], ["moves", "Moves"], ["migrations", "Migrations"], ["health", "Health"], ["audit", "Audit"]];

export function Shell({ at, children }) {
  const place = at.path[0] ?? "";
  const here = place === "servers" ? "" : place;
  useKeys();
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <a class="brand" href="#/" aria-label="tenantry, the fleet">tenantry</a>
      <nav aria-label="Places">${PLACES.map(([name, text]) => html`<a href=${to(name ? [name] : [])}
        aria-current=${here === name ? "page" : null}>${text}</a>`)}</nav>
      <${Search} at=${at} />
      <${Who} />
    </header>
    <${Connection} />
    <main id="main" tabindex="-1">${children}</main>
    <${Footer} />`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

/** `/` goes to the search; Escape leaves it. */
function useKeys() {
  useEffect(() => {
    const press = (event) => {
      const typing = event.target.closest?.("input, select, textarea, dialog");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        const box = document.getElementById("search");
        box.focus();
        box.select();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

function Search({ at }) {
  const timer = useRef(0);
  const box = useRef(null);
  // Who has gone on is not pulled back.
  useEffect(() => () => clearTimeout(timer.current), [at]);
  const asked = at.path[0] === "tenants" && at.path.length === 1 ? at.query.get("q") ?? "" : "";
  useEffect(() => { if (document.activeElement !== box.current) box.current.value = asked; }, [asked]);
  const search = (q) => {
    const now = route.get();
    const there = now.path[0] === "tenants" && now.path.length === 1;
    go(to(["tenants"], { q, server: there ? now.query.get("server") : null }), there);
  };
  const type = (event) => {
    clearTimeout(timer.current);
    const q = event.target.value.trim();
    timer.current = setTimeout(() => search(q), 200);
  };
  const submit = (event) => {
    event.preventDefault();
    clearTimeout(timer.current);
    search(box.current.value.trim());
  };
  const press = (event) => {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "ArrowDown") {
      event.preventDefault();
      document.querySelector("#results a")?.focus();
    }
  };
  return html`<form class="search" role="search" onSubmit=${submit}>
    <input id="search" ref=${box} type="search" placeholder="Find a tenant" aria-label="Find a tenant" aria-keyshortcuts="/"
      autocomplete="off" autocapitalize="none" spellcheck=${false} onInput=${type} onKeyDown=${press} /><kbd aria-hidden="true">/</kbd></form>`;
}

function Who() {
  const { who } = useStore(session);
  return html`<div class="who">${who && html`<span title=${who.expires_at ? `until ${new Date(who.expires_at).toLocaleString()}` : ""}>
      <b>${who.role}</b></span>`}
    <button type="button" class="quiet" onClick=${() => signOut()}>Sign out</button></div>`;
}

/** Whether what is seen is true now. */
function Connection() {
  const { connected, lost, why, trouble } = useStore(live);
  const now = useNow(1000);
  let text = null;
  if (!connected && lost && now - lost > 1500) {
    text = `${why ? `The control plane tells no news: ${why}.` : "The control plane does not answer."} What is shown is ${span(now - lost)} old. Trying again …`;
  } else if (connected && trouble) {
    text = `The catalog can't be read: ${trouble}. Clients go on working; nothing can be changed until it is back.`;
  }
  return html`<div role="status" aria-live="polite">${text && html`<p class="banner">${text}</p>`}</div>`;
}

function Footer() {
  const fleet = useStore(live, (state) => state.fleet);
  return html`<footer>${fleet && html`<span>tenantry ${fleet.program}</span><span>this instance: ${fleet.instance}${fleet.leads ? ", leads" : ", does not lead"}</span>
    <span>map version ${fleet.map_version}</span>`}<a href="vendor/README.md">Libraries</a></footer>`;
}
