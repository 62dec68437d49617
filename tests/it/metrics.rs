//! What Prometheus reads: the names that dashboards and alerts rely on, and that they move.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, Fleet, Metrics, Router, Sql as _, connect, trials, until};
use crate::moves::move_to;

trials! {
    shared the_router_has_the_promised_metrics,
    shared the_control_plane_has_the_promised_metrics,
    shared all_metrics_are_documented_as_what_they_are,
    shared transactions_errors_and_clients_are_counted,
    shared clients_that_wait_for_a_connection_are_counted,
    shared moves_are_counted_with_their_holds,
    shared tenants_and_operations_are_counted,
    shared only_the_busiest_tenants_have_series_of_their_own,
    shared the_api_tells_a_tenants_figures_exactly,
    shared clients_of_the_http_server_that_say_nothing_do_not_stay,
}

async fn the_router_has_the_promised_metrics(fleet: &Fleet) {
    fleet.create("measured", &["--server", "pg-1"]).await;
    let client = fleet.connect("measured").await;
    client.run("SELECT 1").await;
    assert_eq!(client.fails("SELECT 1/0").await, "22012");
    let metrics = fleet.router_metrics().await;
    for name in [
        "tenantry_router_clients",
        "tenantry_router_clients_queued",
        "tenantry_router_logins_total",
        "tenantry_router_transactions_total",
        "tenantry_router_transaction_duration_seconds_bucket",
        "tenantry_router_queue_wait_seconds_count",
        "tenantry_router_server_up",
        "tenantry_router_budget_wait_seconds_count",
        "tenantry_router_server_connections",
        "tenantry_router_server_connects_total",
        "tenantry_router_pool_hits_total",
        "tenantry_router_pool_misses_total",
        "tenantry_router_errors_total",
        "tenantry_router_hold_duration_seconds_count",
        "tenantry_router_holds",
        "tenantry_router_map_version",
        "tenantry_router_bytes_total",
    ] {
        assert!(metrics.has(name), "{name} is missing");
    }
}

async fn the_control_plane_has_the_promised_metrics(fleet: &Fleet) {
    fleet.create("governed", &[]).await;
    until("figures to be there", async || {
        let metrics = fleet.control_metrics().await;
        let names = [
            "tenantry_tenants",
            "tenantry_operations",
            "tenantry_routers",
            "tenantry_control_leading",
            "tenantry_control_catalog_up",
            "tenantry_control_requests_total",
            "tenantry_move_rows_copied_total",
            "tenantry_move_bytes_copied_total",
            "tenantry_move_hold_duration_seconds_count",
        ];
        let all = names.iter().all(|name| metrics.has(name));
        let values = ["tenantry_control_leading", "tenantry_control_catalog_up", "tenantry_routers"];
        (all && values.iter().all(|name| metrics.get(name) >= 1.0)).then_some(())
    })
    .await;
}

/// Metrics that the code makes, whether they have samples or not.
fn in_code(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_code(&path, names);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("prometheus::") {
                let quoted = text.split('"').filter(|text| text.starts_with("tenantry_"));
                let is_name = |text: &&str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                names.extend(quoted.filter(is_name).map(str::to_owned));
            }
        }
    }
}

async fn all_metrics_are_documented_as_what_they_are(fleet: &Fleet) {
    fleet.create("documented", &["--server", "pg-1"]).await;
    fleet.connect("documented").await.run("SELECT 1").await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `tenantry_")?.split('|').map(str::trim);
        Some((format!("tenantry_{}", cells.next()?.trim_end_matches('`')), cells.next()?.to_owned()))
    };
    let documented: BTreeMap<String, String> = page.lines().filter_map(row).collect();
    let mut made = BTreeSet::new();
    in_code(&root.join("src"), &mut made);
    for metrics in [fleet.router_metrics().await, fleet.control_metrics().await] {
        for (name, kind) in metrics.kinds() {
            assert_eq!(documented.get(name), Some(kind), "{name} in docs/metrics.md");
            made.insert(name.clone());
        }
    }
    assert_eq!(documented.into_keys().collect::<BTreeSet<_>>(), made, "in docs/metrics.md, and in the code");
}

async fn transactions_errors_and_clients_are_counted(fleet: &Fleet) {
    fleet.create("counted", &["--server", "pg-2"]).await;
    let before = fleet.router_metrics().await;
    let clients = futures_util::future::join_all((0..7).map(|_| fleet.connect("counted"))).await;
    for client in &clients {
        client.run("BEGIN; SELECT 1; COMMIT").await;
        assert_eq!(client.fails("SELECT 'x'::int").await, "22P02");
    }
    // Others work at the same router: at least ours are counted, once the last of them is over at the router, too.
    let transactions = "tenantry_router_transactions_total{server=\"pg-2\"}";
    let after = until("the transactions to be counted", async || {
        let after = fleet.router_metrics().await;
        (after.get(transactions) - before.get(transactions) >= 14.0).then_some(after)
    })
    .await;
    let grown = |sample: &str| after.get(sample) - before.get(sample);
    assert!(grown("tenantry_router_errors_total{sqlstate=\"22P02\"}") >= 7.0);
    assert!(after.get("tenantry_router_clients") >= 7.0);
    assert!(after.sum("tenantry_router_server_connections", &["pg-2"]) >= 1.0);
    assert!(grown("tenantry_router_pool_hits_total") >= 1.0);
    assert!(grown("tenantry_router_bytes_total{direction=\"in\"}") > 0.0);
    assert!(grown("tenantry_router_bytes_total{direction=\"out\"}") > 0.0);
}

async fn clients_that_wait_for_a_connection_are_counted(fleet: &Fleet) {
    fleet.create("queueing", &["--server", "pg-1"]).await;
    // As many as one tenant may have connections, and one more.
    let mut holders = Vec::new();
    for _ in 0..20 {
        let client = fleet.connect("queueing").await;
        client.run("BEGIN; SELECT 1").await;
        holders.push(client);
    }
    let waiting = fleet.connect("queueing").await;
    let misses = fleet.router_metrics().await.get("tenantry_router_pool_misses_total");
    let release = async {
        until("the client to be seen waiting", async || {
            (fleet.router_metrics().await.get("tenantry_router_clients_queued") >= 1.0).then_some(())
        })
        .await;
        for client in &holders {
            client.run("COMMIT").await;
        }
    };
    tokio::join!(waiting.run("SELECT 1"), release);
    assert!(fleet.router_metrics().await.get("tenantry_router_pool_misses_total") > misses);
}

async fn moves_are_counted_with_their_holds(fleet: &Fleet) {
    fleet.create("timed", &["--server", "pg-1"]).await;
    let client = fleet.connect("timed").await;
    client.run("CREATE TABLE t AS SELECT generate_series(1, 100) AS n").await;
    let (router, control) = (fleet.router_metrics().await, fleet.control_metrics().await);
    move_to(fleet, "timed", "pg-2").await;
    client.run("SELECT 1").await;
    let after = fleet.control_metrics().await;
    let grown = |sample: &str| after.get(sample) - control.get(sample);
    assert!(grown("tenantry_move_hold_duration_seconds_count") >= 1.0);
    assert!(grown("tenantry_move_rows_copied_total") >= 100.0);
    assert!(grown("tenantry_move_bytes_copied_total") >= 100.0);
    let cutovers = "tenantry_move_cutovers_total";
    assert!(after.sum(cutovers, &[]) > control.sum(cutovers, &[]));
    let holds = "tenantry_router_hold_duration_seconds_count";
    assert!(fleet.router_metrics().await.get(holds) > router.get(holds));
}

async fn tenants_and_operations_are_counted(fleet: &Fleet) {
    let sample = "tenantry_tenants{server=\"pg-2\",state=\"suspended\"}";
    fleet.create("numbered", &["--server", "pg-2"]).await;
    fleet.cli(&["tenant", "suspend", "numbered"]).await.ok();
    until("the tenant to be counted", async || {
        let metrics = fleet.control_metrics().await;
        let operations = metrics.sum("tenantry_operations", &["kind=\"create\"", "state=\"done\""]);
        (metrics.get(sample) >= 1.0 && operations >= 1.0).then_some(())
    })
    .await;
    fleet.cli(&["tenant", "resume", "numbered"]).await.ok();
}

/// What the router's HTTP server says, and its status.
async fn ask(router: &Router, path: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(router.url(path)).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// Values of a metric by tenant.
fn by_tenant(metrics: &Metrics, name: &str) -> Vec<(String, f64)> {
    let mut values = metrics.labelled(name, "tenant");
    values.sort_by(|(a, _), (b, _)| a.cmp(b));
    values
}

async fn only_the_busiest_tenants_have_series_of_their_own(fleet: &Fleet) {
    const TRANSACTIONS: &str = "tenantry_router_tenant_transactions_total";
    let router = fleet.router(&["metrics_tenants_max=2"]).await;
    let mut clients = Vec::new();
    for tenant in ["hectic-1", "hectic-2", "hectic-3", "hectic-4"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
        clients.push(connect(&router.through(&fleet.config(tenant))).await.unwrap());
    }
    // One after another is the busiest. Nothing is ever taken back, nothing is counted twice, nothing is lost.
    let (mut before, mut counted) = (Vec::new(), 0.0);
    for round in 0..4 {
        for (client, number) in clients.iter().zip(0..) {
            let sleep = if number == round { "0.2" } else { "0.001" };
            client.run(&format!("SELECT pg_sleep({sleep})")).await;
        }
        counted += 4.0;
        let whole = "tenantry_router_transactions_total{server=\"pg-1\"}";
        let metrics = until("the transactions to be counted", async || {
            let metrics = router.metrics().await;
            (metrics.get(whole) >= counted).then_some(metrics)
        })
        .await;
        let now = by_tenant(&metrics, TRANSACTIONS);
        assert!(now.len() <= 3, "two, and the rest: {now:?}");
        for (tenant, value) in &now {
            let earlier = before.iter().find(|(known, _)| known == tenant).map_or(0.0, |(_, value)| *value);
            assert!(*value >= earlier, "{tenant}: {value} after {earlier}");
        }
        before = now;
    }
    // Activity is looked at once a second.
    let last = until("the last one to be among the busiest", async || {
        let now = by_tenant(&router.metrics().await, TRANSACTIONS);
        (now.len() == 3).then_some(now)
    })
    .await;
    let names: Vec<_> = last.iter().map(|(tenant, _)| tenant.as_str()).collect();
    for _ in 0..3 {
        for client in &clients {
            client.run("SELECT 1").await;
        }
    }
    let grown = |now: &[(String, f64)]| {
        now.iter().map(|(_, value)| value).sum::<f64>() - last.iter().map(|(_, value)| value).sum::<f64>()
    };
    until("what all did since to be counted among them", async || {
        let now = by_tenant(&router.metrics().await, TRANSACTIONS);
        let same = now.iter().map(|(tenant, _)| tenant.as_str()).eq(names.iter().copied());
        // Whoever changes places in between takes what it had along.
        (!same || grown(&now) == 12.0).then_some(())
    })
    .await;
    let held = by_tenant(&router.metrics().await, "tenantry_router_tenant_clients");
    assert_eq!(held.iter().map(|(_, clients)| clients).sum::<f64>(), 4.0, "{held:?}");
    let none = fleet.router(&["metrics_tenants_max=0"]).await;
    assert!(!none.metrics().await.has(TRANSACTIONS));
}

async fn the_api_tells_a_tenants_figures_exactly(fleet: &Fleet) {
    fleet.create("told-exactly", &["--server", "pg-2"]).await;
    let router = fleet.router(&["idle_server_timeout=100ms"]).await;
    let (status, cold) = ask(&router, "tenants/told-exactly").await;
    assert_eq!((status, &cold["state"], &cold["transactions"]), (200, &"cold".into(), &0.into()), "{cold}");
    let client = connect(&router.through(&fleet.config("told-exactly"))).await.unwrap();
    for _ in 0..7 {
        client.run("SELECT 1").await;
    }
    let told = until("seven transactions", async || {
        let (_, told) = ask(&router, "tenants/told-exactly").await;
        (told["transactions"] == 7).then_some(told)
    })
    .await;
    let shown = [&told["server"], &told["state"], &told["clients"], &told["statements"], &told["errors"]];
    let expected = serde_json::json!(["pg-2", "open", 1, 7, 0]);
    assert_eq!(serde_json::json!(shown), expected, "{told}");
    // Once it is cold, its figures are still there; and go on when it comes back.
    drop(client);
    until("the tenant to go cold", async || {
        let (_, told) = ask(&router, "tenants/told-exactly").await;
        assert_eq!(told["transactions"], 7);
        (told["state"] == "cold").then_some(())
    })
    .await;
    let client = connect(&router.through(&fleet.config("told-exactly"))).await.unwrap();
    client.run("SELECT 1").await;
    until("one more transaction", async || {
        let (_, told) = ask(&router, "tenants/told-exactly").await;
        (told["transactions"] == 8).then_some(())
    })
    .await;
    let (_, top) = ask(&router, "tenants?top=5").await;
    assert_eq!((top.as_array().map(Vec::len), &top[0]["tenant"]), (Some(1), &"told-exactly".into()), "{top}");
    for unknown in ["tenants/no-such-tenant", "tenants/-", "tenants/tenantry"] {
        let (status, answer) = ask(&router, unknown).await;
        assert!(status == 404 && answer["hint"].is_string(), "{unknown}: {answer}");
    }
    assert_eq!(ask(&router, "tenants?top=100000").await.0, 400);
}

async fn clients_of_the_http_server_that_say_nothing_do_not_stay(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    // More than it has places for: it serves again when they are sent away.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(("127.0.0.1", router.metrics_port)).await.unwrap());
    }
    let (status, _) = tokio::time::timeout(DEADLINE, ask(&router, "healthz")).await.unwrap();
    assert_eq!(status, 200);
    let read = tokio::time::timeout(DEADLINE, silent[0].read(&mut [0; 512])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "closed: {read:?}");
}
