// The one dialog: before anything is changed it says what happens, and which command does the same.
import { html, useEffect, useRef, useState } from "./html.js";
import { Fields, beginnings } from "./fields.js";
import { Problem } from "./parts.js";
import { go, route } from "./route.js";
import { mayAct, session } from "./session.js";
import { store, useStore } from "./store.js";

const asked = store(null);
let questions = 0;

// A question is of the view that it was asked in, and of who may act.
route.follow(() => asked.set(null));
session.follow((now) => { if (!mayAct(now)) asked.set(null); });

/**
 * A button for each action; none for who may not act.
 *
 * An action has a `label` (and `verb`, if it is confirmed by another word), a `title`, `what` happens, and whether that is a
 * `danger`; `fields` for what is to be said about it, and `also`, values that none of them asks for; the `command` for these
 * values, and how to `run` it, which may return the address of what was begun. Some can be looked at before by a `check`,
 * whose answer is drawn by `found`.
 */
export function Actions({ of }) {
  const may = useStore(session, mayAct);
  return may && of.map((action) => html`<button type="button" class=${action.danger ? "danger" : ""}
    onClick=${() => asked.set({ action, number: ++questions })}>${action.label} …</button>`);
}

export function Dialog() {
  const question = useStore(asked);
  // One that is asked again while its dialog is closing has a dialog of its own.
  return question && html`<${Question} key=${question.number} question=${question} />`;
}

const IDLE = { busy: false, running: false, error: null, answer: null };

function Question({ question }) {
  const { action } = question;
  const box = useRef(null);
  const [values, setValues] = useState(() => ({ ...action.also, ...beginnings(action.fields) }));
  const [state, setState] = useState(IDLE);
  const focused = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    box.current.showModal();
    box.current.querySelector("select:not(details *), input:not(details *), button[value=cancel]").focus();
    return () => before?.focus?.();
  }, []);
  useEffect(() => { if (state.answer || state.error) box.current.querySelector(".outcome").scrollIntoView({ block: "nearest" }); }, [state]);
  // Fields can't have it while something goes on.
  useEffect(() => { if (!state.busy) focused.current?.focus(); }, [state.busy]);
  const close = () => asked.set((now) => (now === question ? null : now));
  const set = (name, value) => setValues((all) => ({ ...all, [name]: value }));
  // What was found, and what was said to that, is of other values then.
  const change = (name, value) => { setValues((all) => ({ ...all, ...action.also, [name]: value })); setState(IDLE); };
  const attempt = async (running, what) => {
    if (state.busy) return;
    focused.current = document.activeElement;
    setState({ ...IDLE, busy: true, running });
    try {
      await what();
    } catch (error) {
      setState({ ...IDLE, error });
    }
  };
  const submit = (event) => {
    event.preventDefault();
    attempt(true, async () => {
      const begun = await action.run(values);
      // Who has gone on to something else stays there.
      if (asked.get() !== question) return;
      close();
      if (begun) go(begun);
    });
  };
  const check = (event) => event.target.form.reportValidity() && attempt(false, async () => setState({ ...IDLE, answer: await action.check(values) }));
  return html`<dialog ref=${box} aria-labelledby="dialog-title" onClose=${close}>
    <form onSubmit=${submit}>
      <h2 id="dialog-title">${action.title}</h2>
      <p>${action.what}</p>
      ${action.fields && html`<fieldset disabled=${state.busy}><${Fields} fields=${action.fields} values=${values} set=${change} /></fieldset>`}
      <p class="command"><span>The same from a shell:</span><code>${action.command(values)}</code></p>
      <div class="outcome" aria-live="polite">${state.answer && action.found({ answer: state.answer, values, set })}<${Problem} error=${state.error} /></div>
      <div class="buttons">
        ${action.check && html`<button type="button" aria-disabled=${state.busy} onClick=${check}>Only look</button>`}
        <button type="button" value="cancel" onClick=${close}>${state.running ? "Close, it goes on" : "Cancel"}</button>
        <button type="submit" class=${action.danger ? "danger primary" : "primary"} aria-disabled=${state.busy}>
          ${state.busy ? "…" : action.verb ?? action.label}</button>
      </div>
    </form>
  </dialog>`;
}
