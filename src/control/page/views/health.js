// What doctor finds, and the map's last check.
import { html, useState } from "../html.js";
import { call } from "../api.js";
import { useData } from "../data.js";
import { count, span } from "../format.js";
import { Ago, Badge, Empty, Loading, Problem, Section, Table, Title } from "../parts.js";

const EVERY_MS = 30_000;
const SHOWN_MAX = 50;

export function Health() {
  const { data: seen, error, reload } = useData("doctor", EVERY_MS);
  // What it found without the catalog comes with the refusal.
  const data = error ? (error.told?.checks ? error.told : null) : seen;
  const verdict = data && html`<${Badge} word=${data.ok ? "ok" : data.findings.some((finding) => finding.severity === "error") ? "error" : "warning"} />`;
  return html`<${Title} badge=${verdict} actions=${html`<button type="button" onClick=${reload}>Look again</button>`}>Health</${Title}>
    <${Problem} error=${error} />${!data && !error && html`<${Loading} />`}
    ${data && html`<${Section} title="Findings" id="findings">${data.findings.length === 0 ? html`<${Empty}>Nothing is wrong.</${Empty}>` : html`<ul class="findings">${data.findings.map((finding) => html`<li class=${finding.severity === "error" ? "bad" : "warn"}>
        <p><${Badge} word=${finding.severity} /> <b>${finding.part}${finding.name === finding.part ? "" : ` ${finding.name}`}</b> ${finding.what}</p><p class="remedy">${finding.remedy}</p></li>`)}</ul>`}</${Section}>
      <${Section} title="What was looked at" id="checks"><${Table} label="Checks" rows=${data.checks} keyOf=${(check) => check.part + check.name} columns=${[
        ["Part", (check) => `${check.part}${check.name === check.part ? "" : ` ${check.name}`}`], ["State", (check) => html`<${Badge} word=${check.ok ? "ok" : "warning"} />`], ["Seen", (check) => check.detail]]} /></${Section}>`}
    <${MapCheck} />`;
}

function MapCheck() {
  const { data, error, reload } = useData("map/check", EVERY_MS);
  const [state, setState] = useState({ busy: false, error: null });
  const verify = async () => {
    setState({ busy: true, error: null });
    try {
      await call("POST", "map/verify", {});
      reload();
      setState({ busy: false, error: null });
    } catch (failed) {
      setState({ busy: false, error: failed });
    }
  };
  return html`<${Section} title="The map against the servers" id="map" aside=${data && html`looked at <${Ago} at=${data.checked_at} />, took ${span(data.duration_ms)}`}>
    <${Problem} error=${state.error ?? error} />
    ${data && (data.findings.length === 0 ? html`<${Empty}>Catalog, registries and databases say the same.</${Empty}>` : html`<p class="found">${Object.entries(data.counts).map(([kind, number]) => `${count(number)} ${kind.replaceAll("_", " ")}`).join(", ")}</p>
      <${Table} label="Differences" rows=${data.findings.slice(0, SHOWN_MAX)} keyOf=${(finding) => JSON.stringify(finding)} columns=${[
        ["Kind", (finding) => finding.kind.replaceAll("_", " ")], ["Server", (finding) => finding.server ?? "–"], ["Tenant", (finding) => finding.tenant ?? "–"], ["What", (finding) => finding.detail]]} />
      ${data.findings.length > SHOWN_MAX && html`<p class="under">The first ${SHOWN_MAX}; all are told by <code>tenantry map verify</code></p>`}`)}
    ${!data && !error && html`<${Loading} />`}
    <button type="button" disabled=${state.busy} onClick=${verify}>${state.busy ? "Looking …" : "Look at the servers now"}</button></${Section}>`;
}
