//! What Prometheus reads: the names that dashboards and alerts rely on, and that they move.

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::moves::move_to;

trials! {
    shared the_router_has_the_promised_metrics,
    shared the_control_plane_has_the_promised_metrics,
    shared transactions_errors_and_clients_are_counted,
    shared clients_that_wait_for_a_connection_are_counted,
    shared moves_are_counted_with_their_holds,
    shared tenants_and_operations_are_counted,
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
