// Who changed what, or was refused to.
import { html, useEffect, useRef } from "../html.js";
import { useData } from "../data.js";
import { Ago, Badge, Empty, Loading, Problem, Table, Title } from "../parts.js";
import { go, to } from "../route.js";
import { Pages } from "./pages.js";

const LIMIT = 100;
const TYPED_MS = 300;
/** Kinds that have a view for each of them. */
const PLACES = { tenant: "tenants", server: "servers", move: "moves", migration: "migrations" };

export function Audit({ query }) {
  const [who, about, after] = ["who", "about", "after"].map((name) => query.get(name) ?? "");
  const asked = new URLSearchParams(Object.entries({ who, about, after, limit: LIMIT }).filter(([, value]) => value));
  const { data, next, error } = useData(`audit?${asked}`, 10_000);
  return html`<${Title}>Audit</${Title}>
    <${Filter} who=${who} about=${about} />
    <${Problem} error=${error} />
    ${!data && !error && html`<${Loading} />`}
    ${data?.length === 0 && html`<${Empty}>Nothing is on record.</${Empty}>`}
    ${data?.length > 0 && html`<${Table} label="Who did what" rows=${data} keyOf=${(record) => record.id} columns=${[
      ["When", (record) => html`<${Ago} at=${record.at} />`], ["Who", (record) => html`<span>${record.who} <small>${record.role}, ${record.address}</small></span>`],
      ["What", (record) => html`<code>${record.method} ${record.path.replace(/^\/v1/, "")}</code>`], ["About", (record) => html`<${About} names=${record.about} />`],
      ["Answer", (record) => html`<${Answer} status=${record.status} />`], ["Operation", (record) => (record.operation ? `#${record.operation}` : "–"), "number"]]} />`}
    <${Pages} place="audit" query=${{ who, about }} after=${after} older=${next} />`;
}

/** What is looked for, as it is typed. */
function Filter({ who, about }) {
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (event) => {
    clearTimeout(timer.current);
    const asked = Object.fromEntries([...new FormData(event.currentTarget)].map(([name, text]) => [name, text.trim()]));
    timer.current = setTimeout(() => go(to(["audit"], asked), true), TYPED_MS);
  };
  return html`<form class="filter" role="search" aria-label="On record" onInput=${type} onSubmit=${(event) => event.preventDefault()}>
    <${Box} name="about" value=${about} label="About" placeholder="acme, or server pg-1" /><${Box} name="who" value=${who} label="By the token" placeholder="its name" /></form>`;
}

function Box({ name, value, label, placeholder }) {
  const box = useRef(null);
  useEffect(() => { if (document.activeElement !== box.current) box.current.value = value; }, [value]);
  return html`<label class="field"><span>${label}</span>
    <input ref=${box} type="search" name=${name} placeholder=${placeholder} autocomplete="off" autocapitalize="none" spellcheck=${false} /></label>`;
}

const About = ({ names }) => html`<span>${names.map((one, index) => {
  const at = one.indexOf(" ");
  const place = PLACES[one.slice(0, at)];
  return html`${index > 0 && ", "}${place ? html`<a href=${to([place, one.slice(at + 1)])}>${one}</a>` : one}`;
})}</span>`;

/** What was answered; nothing yet, or its instance ended in the middle. */
const Answer = ({ status }) => (status === null ? html`<${Badge} word="unknown" />` : html`<${Badge} word=${String(status)} tone=${status < 300 ? "good" : status < 500 ? "warn" : "bad"} />`);
