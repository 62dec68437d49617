//! Dashboards and alerts ask for what router and control plane really tell.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::harness::prometheus::{Prometheus, SETTINGS, promtool};
use crate::harness::tls::{Authority, Files};
use crate::harness::{Fleet, Router, Sql as _, connect, connect_url, trials, until};
use crate::migrations;
use crate::moves_reverse::with_config;

trials! {
    plain rules_are_silent_and_fire_when_they_should,
    own every_dashboard_and_every_alert_has_data,
}

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// Bytes a second that a move may copy, and rows of 200 bytes that take some seconds at that.
const SLOW_COPY: &str = "copy_bytes_per_second_max = 1048576";
const ROWS: &str = "INSERT INTO bulk SELECT n, repeat('x', 200) FROM generate_series(1, 15000) n";

async fn rules_are_silent_and_fire_when_they_should() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
}

async fn every_dashboard_and_every_alert_has_data(fleet: &mut Fleet) {
    let fleet = &*fleet;
    let (files, authority) = (Files::of(fleet, "dashboards"), Authority::new());
    let shown = files.shown(&authority.issue("the-fleet", &["127.0.0.1"]));
    let as_keys = shown.iter().filter_map(|setting| setting.split_once('='));
    let as_keys = as_keys.map(|(key, file)| format!("server_{key} = \"{file}\"\n"));
    // Servers here do no TLS, and are spoken to without.
    with_config(
        fleet,
        &format!("{SLOW_COPY}\nserver_tls_mode = \"prefer\"\n{}", as_keys.collect::<String>()),
    )
    .await;
    let router = fleet.router(&["clients_per_tenant_max=1", "tls_mode=prefer", &shown[0], &shown[1]]).await;
    let prometheus = Prometheus::start(fleet, &router);
    nothing_alarms_in_a_fleet_that_is_well(&prometheus).await;
    clients_come(fleet, &router).await;
    a_migration_runs(fleet, &prometheus).await;
    a_move_is_made(fleet, &prometheus).await;
    a_server_drains(fleet, &prometheus).await;
    every_dashboard_shows_something(&prometheus).await;
    every_alert_looks_at_something(&prometheus).await;
}

/// Evaluated at least once, every alert is quiet, and says what to do.
async fn nothing_alarms_in_a_fleet_that_is_well(prometheus: &Prometheus) {
    let alerts = until("all alerts to be quiet", async || {
        let alerts = prometheus.alerts().await;
        alerts.iter().all(|a| a["health"] == "ok" && a["state"] == "inactive").then_some(alerts)
    })
    .await;
    let tests = std::fs::read_to_string(Path::new(SETTINGS).join("rules_test.yml")).unwrap();
    for alert in &alerts {
        let name = alert["name"].as_str().unwrap();
        let page = alert["annotations"]["runbook"].as_str().unwrap();
        assert!(Path::new(PROJECT).join(page).is_file(), "{name}: there is no {page}");
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(tests.matches(&format!("alertname: {name}\n")).count() >= 2, "{name}: silent, and fires");
    }
    assert!(alerts.len() >= 15, "{alerts:?}");
}

/// Clients work, make mistakes, and meet limits.
async fn clients_come(fleet: &Fleet, router: &Router) {
    fleet.create("seen", &["--server", "pg-1"]).await;
    fleet.create("still", &["--server", "pg-2"]).await;
    let client = fleet.connect("seen").await;
    client.run("CREATE TABLE bulk (n bigint PRIMARY KEY, note text)").await;
    client.run(ROWS).await;
    client.run("LISTEN news").await;
    assert_eq!(client.fails("SELECT 1/0").await, "22012");
    let mut wrong = fleet.config("seen");
    assert!(connect(wrong.password("wrong")).await.is_err());
    let there = router.through(&fleet.config("seen"));
    let _first = connect(&there).await.unwrap();
    assert!(connect(&there).await.is_err(), "one client at this router");
    fleet.cli(&["tenant", "suspend", "still"]).await.ok();
}

/// A migration that waits for a client's lock.
async fn a_migration_runs(fleet: &Fleet, prometheus: &Prometheus) {
    let mut client = fleet.connect("seen").await;
    let reading = client.transaction().await.unwrap();
    reading.batch_execute("SELECT FROM bulk LIMIT 1").await.unwrap();
    let files = migrations::Files::new(&[("V1__mark.sql", "ALTER TABLE IF EXISTS bulk ADD mark int")]);
    let run = async { fleet.cli(&["migrate", "run", "--dir", files.path()]).await.ok() };
    let seen = async {
        prometheus.sees("tenantry_migration_slots").await;
        prometheus.sees("tenantry_operations{kind=\"migrate\",state=\"running\"}").await;
        reading.commit().await.unwrap();
    };
    tokio::join!(run, seen);
}

/// A move that is slow to copy, and then waits for a client's transaction.
async fn a_move_is_made(fleet: &Fleet, prometheus: &Prometheus) {
    let mut client = fleet.connect("seen").await;
    let reading = client.transaction().await.unwrap();
    reading.batch_execute("SELECT FROM bulk LIMIT 1").await.unwrap();
    let moved = async {
        let to = ["--to", "pg-3", "--verify", "none", "--wait"];
        fleet.cli(&[&["move", "start", "seen"], &to[..]].concat()).await.ok()
    };
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let failed = "INSERT INTO operation (kind, tenant, state, step, input) VALUES ('move', 'still', 'failed', 'failed', '{}')";
    catalog.run(failed).await;
    let seen = async {
        prometheus.sees("tenantry_copy_bytes_per_second_max").await;
        prometheus.sees("tenantry_move_wal_retained_bytes").await;
        reading.commit().await.unwrap();
    };
    tokio::join!(moved, seen);
    prometheus.sees("tenantry_move_cutovers_total{outcome=\"decided\"} > 0").await;
    prometheus.sees("tenantry_operations{kind=\"move\",state=\"switched\"}").await;
    fleet.connect("seen").await.run("SELECT 1").await;
}

/// A server drains whose only tenant is suspended, and so stays.
async fn a_server_drains(fleet: &Fleet, prometheus: &Prometheus) {
    fleet.cli(&["server", "drain", "pg-2"]).await.ok();
    prometheus.sees("tenantry_draining_tenants{standing=\"not_movable\"} > 0").await;
}

async fn every_dashboard_shows_something(prometheus: &Prometheus) {
    let mut empty = Vec::new();
    for file in std::fs::read_dir(Path::new(PROJECT).join("ops/grafana")).unwrap() {
        let path = file.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (title, query) in queries(&dashboard) {
            // A panel that shows 0 where there is nothing would do so for a name that nobody has, too.
            let (asked, shows_none) =
                query.split_once(" or vector(0)").map_or((&*query, false), |(asked, _)| (asked, true));
            let asked = if shows_none { asked.replace(" == 0)", ")") } else { asked.to_owned() };
            if !prometheus.had(&asked).await {
                empty.push(format!("{}: {title}: {query}", path.display()));
            }
        }
    }
    assert!(empty.is_empty(), "no data: {empty:#?}");
}

/// What a dashboard asks, as Grafana would, each with the title of its panel.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = text(&panel["title"]);
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has a unit");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            found.push((title.clone(), text(&target["expr"])));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = text(&variable["query"]);
        if let Some(asked) = query.strip_prefix("label_values(") {
            let (metric, label) = asked.trim_end_matches(')').split_once(", ").unwrap();
            found.push((text(&variable["name"]), format!("{metric}{{{label}!=\"\"}}")));
        }
    }
    for (_, query) in &mut found {
        for (name, value) in [("$__rate_interval", "5s"), ("$server", ".+"), ("$tenant", ".+")] {
            *query = query.replace(name, value);
        }
    }
    found
}

/// Each series that an alert selects is there, or can be by what the documentation says.
async fn every_alert_looks_at_something(prometheus: &Prometheus) {
    let documented = std::fs::read_to_string(Path::new(PROJECT).join("docs/metrics.md")).unwrap();
    let mut unknown = BTreeSet::new();
    for alert in prometheus.alerts().await {
        assert_eq!(alert["health"], "ok", "{alert}");
        let name = alert["name"].as_str().unwrap();
        for selector in selectors(alert["query"].as_str().unwrap()) {
            let (metric, labels) = selector.split_once('{').unwrap_or((&selector, ""));
            let mut values = labels.split('"').skip(1).step_by(2);
            let mut may_be = || values.all(|value| documented.contains(&format!("`{value}`")));
            if !prometheus.had(metric).await || !(prometheus.had(&selector).await || may_be()) {
                unknown.insert(format!("{name}: {selector}"));
            }
        }
    }
    assert!(unknown.is_empty(), "nothing to look at: {unknown:#?}");
}

/// The selectors of series in an expression: names, with what stands in braces after them.
fn selectors(expression: &str) -> BTreeSet<String> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find("tenantry_") {
        let (name, after) =
            rest[start..].split_at(rest[start..].find(|c| !in_name(c)).unwrap_or(rest.len() - start));
        let labels =
            if after.starts_with('{') { after.find('}').map_or("", |end| &after[..=end]) } else { "" };
        found.insert(format!("{name}{labels}"));
        rest = after;
    }
    found
}
