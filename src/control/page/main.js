// The page: signed in or not, and which view.
import { html, render, useEffect } from "./html.js";
import { Dialog } from "./dialog.js";
import { whoami } from "./api.js";
import { follow } from "./live.js";
import { route } from "./route.js";
import { session, signOut } from "./session.js";
import { Shell } from "./shell.js";
import { useStore } from "./store.js";
import { Audit } from "./views/audit.js";
import { Fleet } from "./views/fleet.js";
import { Health } from "./views/health.js";
import { Migration, Migrations } from "./views/migrations.js";
import { Move } from "./views/move.js";
import { Moves } from "./views/moves.js";
import { Server } from "./views/server.js";
import { SignIn } from "./views/sign_in.js";
import { Tenant } from "./views/tenant.js";
import { Tenants } from "./views/tenants.js";

function View({ path, query }) {
  const [place = "", name] = path;
  switch (place) {
    case "": return html`<${Fleet} />`;
    case "servers": return name ? html`<${Server} key=${name} name=${name} />` : html`<${Fleet} />`;
    case "tenants": return name ? html`<${Tenant} key=${name} id=${name} />` : html`<${Tenants} query=${query} />`;
    case "moves": return name ? html`<${Move} key=${name} id=${Number(name)} />` : html`<${Moves} query=${query} />`;
    case "migrations": return name ? html`<${Migration} key=${name} id=${Number(name)} />` : html`<${Migrations} query=${query} />`;
    case "health": return html`<${Health} />`;
    case "audit": return html`<${Audit} query=${query} />`;
    default: return html`<p class="empty">There is nothing here. <a href="#/">The fleet</a></p>`;
  }
}

function Page() {
  const { token, who } = useStore(session);
  const at = useStore(route);
  useEffect(() => { if (token && !who) learn(token); }, [token, who]);
  if (!token) return html`<${SignIn} />`;
  return html`<${Shell} at=${at}><${View} path=${at.path} query=${at.query} /></${Shell}><${Dialog} />`;
}

/** Asks who the token is that this tab has kept; until the control plane answers. */
async function learn(token) {
  try {
    const who = await whoami(token);
    if (session.get().token === token) session.set((state) => ({ ...state, who }));
  } catch (error) {
    if (error.status === 401) signOut("The token is not valid any more. Sign in again.");
    else setTimeout(() => session.get().token === token && !session.get().who && learn(token), 2000);
  }
}

const place = document.getElementById("page");
place.replaceChildren();
render(html`<${Page} />`, place);
follow();
