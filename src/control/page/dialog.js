// The one dialog: before anything is changed it says what happens, and which command does the same.
import { html, useEffect, useRef, useState } from "./html.js";
import { Problem } from "./parts.js";
import { store, useStore } from "./store.js";

const asked = store(null);

/** Asks whether `action` is to be done. */
export const ask = (action) => asked.set(action);

/** A button for an action; none for who may not do it. */
export const ActionButton = ({ action }) => html`<button type="button" class=${action.danger ? "danger" : ""}
  onClick=${() => ask(action)}>${action.label} …</button>`;

export function Dialog() {
  const action = useStore(asked);
  return action && html`<${Question} key=${action.title} action=${action} />`;
}

function Question({ action }) {
  const box = useRef(null);
  const [values, setValues] = useState(() => Object.fromEntries((action.fields ?? []).map((field) => [field.name, field.value])));
  const [state, setState] = useState({ busy: false, error: null, found: null });
  useEffect(() => {
    const before = document.activeElement;
    box.current.showModal();
    box.current.querySelector("select, input, button[value=cancel]")?.focus();
    return () => before?.focus?.();
  }, []);
  const close = () => asked.set(null);
  const attempt = async (what) => {
    setState({ busy: true, error: null, found: null });
    try {
      await what();
    } catch (error) {
      setState({ busy: false, error, found: null });
    }
  };
  const submit = (event) => {
    event.preventDefault();
    attempt(async () => { await action.run(values); close(); });
  };
  const check = () => attempt(async () => setState({ busy: false, error: null, found: await action.check(values) }));
  return html`<dialog ref=${box} aria-labelledby="dialog-title" onClose=${close}>
    <form onSubmit=${submit}>
      <h2 id="dialog-title">${action.title}</h2>
      <p>${action.what}</p>
      ${action.fields?.map((field) => html`<${Field} field=${field} value=${values[field.name]}
        onChange=${(value) => setValues((all) => ({ ...all, [field.name]: value }))} />`)}
      <p class="command"><span>The same from a shell:</span><code>${action.command(values)}</code></p>
      ${state.found}
      <${Problem} error=${state.error} />
      <div class="buttons">
        ${action.check && html`<button type="button" disabled=${state.busy} onClick=${check}>Only look</button>`}
        <button type="button" value="cancel" onClick=${close}>Cancel</button>
        <button type="submit" class=${action.danger ? "danger primary" : "primary"} disabled=${state.busy}>
          ${state.busy ? "…" : action.label}</button>
      </div>
    </form>
  </dialog>`;
}

const Field = ({ field, value, onChange }) => html`<label class="field"><span>${field.label}</span>
  <select name=${field.name} required value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${field.options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
  </select></label>`;
