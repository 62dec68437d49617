// Who is signed in. The token stays in this tab and goes with it; no cookie is ever set.
import { store } from "./store.js";

const KEY = "tenantry.token";

function kept() {
  try { return sessionStorage.getItem(KEY); } catch { return null; }
}

/** `token`; `who` once the control plane has said; `notice`: why one has to sign in again. */
export const session = store({ token: kept(), who: null, notice: null });

export function signIn(token, who) {
  try { sessionStorage.setItem(KEY, token); } catch { /* Then it lasts until the page is left. */ }
  session.set({ token, who, notice: null });
}

export function signOut(notice = null) {
  try { sessionStorage.removeItem(KEY); } catch { /* There is none. */ }
  session.set({ token: null, who: null, notice });
}

/** Whether the role may change anything. */
export const mayAct = (state) => !!state.who && state.who.role !== "viewer";
