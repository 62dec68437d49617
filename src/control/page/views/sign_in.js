// Signing in: by a token of the API.
import { html, useEffect, useRef, useState } from "../html.js";
import { whoami } from "../api.js";
import { Problem } from "../parts.js";
import { session, signIn } from "../session.js";
import { useStore } from "../store.js";

export function SignIn() {
  const notice = useStore(session, (state) => state.notice);
  const [state, setState] = useState({ busy: false, error: null });
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    const token = box.current.value.trim();
    if (!token) return;
    setState({ busy: true, error: null });
    try {
      signIn(token, await whoami(token));
    } catch (error) {
      const wrong = { message: "This token is not valid.", hint: "Take care that it is whole, and that it has not expired." };
      setState({ busy: false, error: error.status === 401 ? wrong : error });
      box.current.select();
    }
  };
  return html`<main class="sign-in"><form onSubmit=${submit}>
    <h1>tenantry</h1>
    ${notice && html`<p class="note warn">${notice}</p>`}
    <label class="field"><span>Token</span>
      <input ref=${box} type="password" name="token" autocomplete="off" required spellcheck=${false} /></label>
    <${Problem} error=${state.error} />
    <button type="submit" class="primary" disabled=${state.busy}>${state.busy ? "…" : "Sign in"}</button>
    <p class="hint">The token that the command line has in <code>TENANTRY_TOKEN</code>. It stays in this tab until it is closed.</p>
  </form></main>`;
}
