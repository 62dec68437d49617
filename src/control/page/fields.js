// What is asked in a dialog before something is done: fields of a few kinds. Those that are seldom needed are kept under "More".
import { html } from "./html.js";

/**
 * `fields`: each with `name`, `label`, `kind` and its first `value`; of some kinds `options`, or what the browser is to
 * insist on; `more` for those that are seldom needed, and `when`: whether it is asked, by the values of the others.
 */
export function Fields({ fields, values, set }) {
  const asked = fields.filter((field) => !field.when || field.when(values));
  const draw = (field) => html`<${Field} key=${field.name} field=${field} value=${values[field.name]} onChange=${(value) => set(field.name, value)} />`;
  const more = asked.filter((field) => field.more);
  // What is wrong in there has to be seen.
  const unfold = (event) => { event.currentTarget.open = true; };
  return html`${asked.filter((field) => !field.more).map(draw)}
    ${more.length > 0 && html`<details class="more" onInvalidCapture=${unfold}><summary>More</summary>${more.map(draw)}</details>`}`;
}

/** The values that fields begin with. */
export const beginnings = (fields = []) => Object.fromEntries(fields.map(({ name, value }) => [name, value]));

const KINDS = { select: Select, text: Text, checkbox: Checkbox, files: Files };

const Field = ({ field, ...rest }) => html`<${KINDS[field.kind]} field=${field} ...${rest} />`;

function Select({ field, value, onChange }) {
  return html`<label class="field"><span>${field.label}</span>
    <select name=${field.name} value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${field.options.map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select></label>`;
}

function Text({ field, value, onChange }) {
  const { name, label, pattern, title, placeholder, required } = field;
  return html`<label class="field"><span>${label}</span>
    <input type="text" name=${name} value=${value} pattern=${pattern} title=${title} placeholder=${placeholder} required=${required}
      autocomplete="off" autocapitalize="none" spellcheck=${false} onInput=${(event) => onChange(event.target.value)} /></label>`;
}

function Checkbox({ field, value, onChange }) {
  return html`<label class="check"><input type="checkbox" name=${field.name} checked=${value} onChange=${(event) => onChange(event.target.checked)} />
    <span>${field.label}</span></label>`;
}

function Files({ field, onChange }) {
  return html`<label class="field"><span>${field.label}</span>
    <input type="file" name=${field.name} multiple accept=${field.accept} required=${field.required} onChange=${(event) => onChange([...event.target.files])} /></label>`;
}
