//! A server's standby is promoted, and its tenants are served there.

use serde_json::{Value, json};

use crate::harness::{Fleet, Sql as _, connect_url, trials, until};
use crate::map_damage::found;
use crate::moves::move_to;

trials! {
    own all_tenants_of_a_server_are_served_by_its_promoted_standby,
}

async fn all_tenants_of_a_server_are_served_by_its_promoted_standby(fleet: &mut Fleet) {
    fleet.create("kept", &["--server", "pg-1"]).await;
    fleet.create("moving", &["--server", "pg-1"]).await;
    fleet.create("elsewhere", &["--server", "pg-2"]).await;
    let client = fleet.connect("kept").await;
    client.run("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let standby = fleet.server_standby("pg-1").await;
    let primary = fleet.direct("pg-1", "postgres").await;
    let failover = async |to: &str, more: &str| {
        fleet.cli(&["server", "failover", "pg-1", "--to", to, "--yes", more]).await
    };
    let accept = "--accept-differences";
    let error = failover(standby.url(), "--dry-run").await.error(4);
    assert!(error.contains("is a standby"), "{error}");
    let error = failover(&fleet.server_url("pg-2"), accept).await.error(4);
    assert!(error.contains("in the map as pg-2"), "{error}");
    let error = failover(fleet.variable("TENANTRY_CATALOG_URL"), accept).await;
    assert_ne!(error.status, 0, "another cluster");
    let renamed = fleet.server_url("pg-1").replace("127.0.0.1", "localhost");
    assert_ne!(renamed, fleet.server_url("pg-1"));
    let error = failover(&renamed, accept).await.error(4);
    assert!(error.contains("the server that the map has already"), "{error}");
    fleet.connect("kept").await.run("INSERT INTO t VALUES (0); DELETE FROM t WHERE n = 0").await;

    // What it never got is named before anything is done.
    standby.is_cut_off(&primary).await;
    fleet.create("late", &["--server", "pg-1"]).await;
    standby.promote().await;
    let looked = failover(standby.url(), "--dry-run").await.ok();
    assert_eq!((&looked["applied"], &looked["tenants"]), (&json!(false), &json!(3)), "{looked}");
    let tenants: Vec<&Value> =
        looked["differences"].as_array().unwrap().iter().map(|finding| &finding["tenant"]).collect();
    assert_eq!(tenants, ["late"], "{looked}");
    let port = async || client.column("SELECT inet_server_port()::text").await;
    let before = port().await;
    assert_eq!(before, [primary.column("SHOW port").await[0].clone()], "nothing has changed");

    let refused = fleet.cli(&["server", "failover", "pg-1", "--to", standby.url(), "--yes"]).await;
    assert!(refused.hint().contains(accept), "{}", refused.stderr);
    let error = refused.error(4);
    assert!(error.contains("late"), "{error}");
    no_move_is_in_its_switch(fleet, async || failover(standby.url(), accept).await.error(4)).await;

    let done = failover(standby.url(), accept).await.ok();
    assert_eq!(done["applied"], true, "{done}");
    assert!(done["old_server"].as_str().unwrap().contains("fenced"), "{done}");
    until("the router to follow", async || (port().await != before).then_some(())).await;
    client.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 2);
    assert_eq!(fleet.connect("elsewhere").await.number("SELECT 1::bigint").await, 1);
    // The old one takes nobody, in case a router has not heard of it.
    let fenced = "SELECT count(*) FROM pg_database WHERE datname IN ('kept', 'late') AND datconnlimit = 0";
    assert_eq!(primary.number(fenced).await, 2);
    let inside = "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('kept', 'late')";
    assert_eq!(primary.number(inside).await, 0);
    // Nor does work go on there that began before.
    let term =
        async |url: &str| connect_url(url, "tenantry").await.number("SELECT term FROM controller_term").await;
    assert!(term(&fleet.server_url("pg-1")).await > term(standby.url()).await);
    let error = failover(&fleet.server_url("pg-1"), accept).await.error(4);
    assert!(error.contains("was not promoted after"), "{error}");

    // What is lost is named until somebody gives it up, and everything else goes on.
    let lost = found(fleet).await;
    let is_known = |finding: &String| finding.contains("late") || finding.contains("moving");
    assert!(!lost.is_empty() && lost.iter().all(is_known), "{lost:?}");
    move_to(fleet, "kept", "pg-2").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 2);
}

/// A failover is refused as long as a move is in its switch.
async fn no_move_is_in_its_switch(fleet: &Fleet, refused: impl AsyncFn() -> String) {
    let (wish, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    std::fs::write(&wish, "wait cutover_prepared").unwrap();
    let start = ["move", "start", "moving", "--to", "pg-2"];
    let id = fleet.cli(&start).await.ok()["id"].as_i64().unwrap().to_string();
    until("it to stand there", async || waiting.exists().then_some(())).await;
    let error = refused().await;
    assert!(error.contains(&format!("move {id}")) && error.contains("cutover"), "{error}");
    std::fs::remove_file(&wish).unwrap();
    until("the move to switch", async || {
        (fleet.cli(&["move", "show", &id]).await.ok()["state"] == "switched").then_some(())
    })
    .await;
}
