//! What keeps a move from being a burden: an operator who pauses it, a bound for the log that its source keeps for it, and what
//! routers measure of its neighbours.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::Value;
use tokio::task::{JoinHandle, spawn_local};

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, trials, until};
use crate::moves::databases;
use crate::moves_copy::Pauses;
use crate::moves_reverse::{id_of, left, show, with_config};

trials! {
    own a_move_stands_still_while_it_is_paused_and_is_undone_before_it_fills_a_disk,
}

/// Blocks of a range in a build with failpoints.
const BLOCKS: i64 = 64;
/// Bytes a second, so that a copy takes a while.
const COPY_MOST: i64 = 6_000_000;
/// Ranges that two workers have begun when the move is paused.
const BEGUN: i64 = 2;

async fn start(fleet: &Fleet, tenant: &str, to: &str) -> String {
    id_of(&fleet.cli(&["move", "start", tenant, "--to", to]).await.ok())
}

async fn has_come_to(fleet: &Fleet, id: &str, step: &str) {
    until("the move to come there", async || {
        let shown = show(fleet, id).await;
        assert_eq!(shown["state"], "running", "{shown}");
        (shown["step"] == step).then_some(())
    })
    .await;
}

async fn ends(fleet: &Fleet, id: &str, state: &str) -> Value {
    let shown = until("the move to end", async || {
        let shown = show(fleet, id).await;
        (shown["state"] != "running").then_some(shown)
    })
    .await;
    assert_eq!(shown["state"], state, "{shown}");
    shown
}

/// A tenant on pg-1 with a table of several ranges.
async fn with_ranges(fleet: &Fleet, tenant: &str) {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let client = fleet.connect(tenant).await;
    client.run("CREATE TABLE bulk (n bigint PRIMARY KEY, note text)").await;
    client.run("INSERT INTO bulk SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n").await;
    assert!(client.number("SELECT pg_relation_size('bulk') / 8192").await > 4 * BLOCKS);
}

async fn slots(fleet: &Fleet, server: &str, id: &str) -> i64 {
    let slots = format!(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '^tenantry_(move|reverse)_{id}$'"
    );
    fleet.direct(server, "postgres").await.number(&slots).await
}

async fn a_move_stands_still_while_it_is_paused_and_is_undone_before_it_fills_a_disk(fleet: &mut Fleet) {
    let fleet = &*fleet;
    with_ranges(fleet, "weary").await;
    let ledger = Ledger::start(fleet, "weary", 3).await;
    nothing_arrives_while_it_is_paused_also_under_another_controller(fleet, &ledger).await;
    nobody_is_cut_over_while_it_is_paused(fleet, &ledger).await;
    it_is_undone_before_it_keeps_too_much_log_paused_or_not(fleet, &ledger).await;
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    it_gives_way_to_neighbours_that_it_slows_down(fleet).await;
}

async fn nothing_arrives_while_it_is_paused_also_under_another_controller(fleet: &Fleet, ledger: &Ledger) {
    let pauses = Pauses::of(fleet);
    pauses.at(&[("range", "bulk", 0), ("range", "bulk", BLOCKS)]);
    let id = start(fleet, "weary", "pg-3").await;
    pauses.reached().await;
    let shown = fleet.cli(&["move", "pause", &id]).await.ok();
    let paused = shown["paused"].clone();
    assert!(paused["since"].is_string() && paused["by"].is_string(), "{shown}");
    pauses.no_more();
    let arriving = fleet.direct("pg-3", "weary__arriving").await;
    let arrived = "SELECT count(*) FROM tenantry.copied WHERE table_name LIKE '%bulk%'";
    until("what was begun to arrive", async || (arriving.number(arrived).await == BEGUN).then_some(())).await;
    for _ in 0..3 {
        ledger.goes_on().await;
        assert_eq!(arriving.number(arrived).await, BEGUN, "nothing more arrives");
    }
    drop(arriving);
    // Its successor finds a copy whose snapshot is gone. It makes no other, whose slot would keep log, until it may go on.
    let bounds = format!("move_wal_bytes_max = 40000000\ncopy_bytes_per_second_max = {COPY_MOST}");
    with_config(fleet, &bounds).await;
    has_come_to(fleet, &id, "arm").await;
    ledger.goes_on().await;
    let shown = fleet.cli(&["move", "pause", &id]).await.ok();
    assert_eq!((&shown["paused"], &shown["step"]), (&paused, &"arm".into()), "{shown}");
    assert_eq!(slots(fleet, "pg-1", &id).await, 0);
    let shown = fleet.cli(&["move", "resume", &id]).await.ok();
    assert_eq!(shown["paused"], Value::Null, "{shown}");
    let shown = ends(fleet, &id, "switched").await;
    assert_eq!(shown["verified"], true, "{shown}");
    assert_eq!(fleet.connect("weary").await.number("SELECT count(*) FROM bulk").await, 20_000);
    for verb in ["pause", "resume"] {
        let refused = fleet.cli(&["move", verb, &id]).await.error(4);
        assert!(refused.contains("switched"), "{refused}");
    }
}

async fn nobody_is_cut_over_while_it_is_paused(fleet: &Fleet, ledger: &Ledger) {
    let mut client = fleet.connect("weary").await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("SELECT count(*) FROM bulk", &[]).await.unwrap();
    let id = start(fleet, "weary", "pg-1").await;
    has_come_to(fleet, &id, "catch_up").await;
    fleet.cli(&["move", "pause", &id]).await.ok();
    transaction.commit().await.unwrap();
    until("the pause to be all that is waited for", async || {
        let shown = show(fleet, &id).await;
        assert_eq!((&shown["state"], &shown["step"]), (&"running".into(), &"catch_up".into()), "{shown}");
        shown["waiting_for"].as_str().is_some_and(|what| what.contains("move resume")).then_some(())
    })
    .await;
    until("it to be counted as paused, and not as running", async || {
        let metrics = fleet.control_metrics().await;
        let count =
            |state: &str| metrics.get(&format!("tenantry_operations{{kind=\"move\",state=\"{state}\"}}"));
        (count("paused") == 1.0 && count("running") == 0.0).then_some(())
    })
    .await;
    // What follows goes on following.
    let probe =
        client.query_one("INSERT INTO bulk SELECT max(n) + 1 FROM bulk RETURNING n", &[]).await.unwrap();
    let arriving = fleet.direct("pg-1", "weary__arriving").await;
    let followed = format!("SELECT count(*) FROM bulk WHERE n = {}", probe.get::<_, i64>(0));
    until("the row to be applied", async || (arriving.number(&followed).await == 1).then_some(())).await;
    drop(arriving);
    fleet.cli(&["move", "abort", &id, "--wait"]).await.ok();
    ledger.goes_on().await;
    assert_eq!(databases(fleet, "pg-1", "weary").await, Vec::<String>::new());
}

/// Makes a server write so much log, of nobody's.
async fn log(fleet: &Fleet, server: &str, megabytes: usize) {
    let client = fleet.direct(server, "postgres").await;
    for _ in 0..megabytes {
        client.run("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))").await;
    }
}

async fn it_is_undone_before_it_keeps_too_much_log_paused_or_not(fleet: &Fleet, ledger: &Ledger) {
    let pauses = Pauses::of(fleet);
    pauses.at(&[("range", "bulk", 0)]);
    let id = start(fleet, "weary", "pg-2").await;
    pauses.reached().await;
    fleet.cli(&["move", "pause", &id]).await.ok();
    log(fleet, "pg-3", 25).await;
    let shown = until("a warning", async || {
        let shown = show(fleet, &id).await;
        assert_eq!(shown["state"], "running", "{shown}");
        shown["warning"].is_string().then_some(shown)
    })
    .await;
    assert!(shown["warning"].as_str().unwrap().contains("move_wal_bytes_max"), "{shown}");
    assert_eq!(shown["wal_retained"][0]["server"], "pg-3", "{shown}");
    let metrics = fleet.control_metrics().await;
    assert!(metrics.get("tenantry_move_wal_retained_bytes{server=\"pg-3\"}") > 20e6);
    log(fleet, "pg-3", 25).await;
    let shown = ends(fleet, &id, "failed").await;
    let why = shown["error"].as_str().unwrap();
    assert!(why.contains("pg-3") && why.contains("move_wal_bytes_max"), "{why}");
    pauses.no_more();
    assert_eq!(left(fleet, "pg-3", "weary", &[&id]).await, Vec::<String>::new());
    assert_eq!(databases(fleet, "pg-2", "weary").await, Vec::<String>::new());
    ledger.goes_on().await;
}

/// Clients of another tenant, whose transactions take long or not.
fn neighbours(clients: Vec<tokio_postgres::Client>, slow: &Rc<Cell<bool>>) -> Vec<JoinHandle<()>> {
    let work = async |client: tokio_postgres::Client, slow: Rc<Cell<bool>>| {
        loop {
            let seconds = if slow.get() { 0.05 } else { 0.002 };
            client.batch_execute(&format!("SELECT pg_sleep({seconds})")).await.unwrap();
        }
    };
    clients.into_iter().map(|client| spawn_local(work(client, slow.clone()))).collect()
}

async fn it_gives_way_to_neighbours_that_it_slows_down(fleet: &Fleet) {
    fleet.create("neighbour", &["--server", "pg-1"]).await;
    fleet.create("heavy", &["--server", "pg-1"]).await;
    let heavy = fleet.connect("heavy").await;
    heavy.run("CREATE TABLE bulk (note text); ALTER TABLE bulk ALTER note SET STORAGE EXTERNAL").await;
    heavy.run("INSERT INTO bulk SELECT repeat('x', 1900) FROM generate_series(1, 40000) n").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(fleet.connect("neighbour").await);
    }
    let slow = Rc::new(Cell::new(false));
    let neighbours = neighbours(clients, &slow);
    let id = start(fleet, "heavy", "pg-3").await;
    // Also under way when nobody is in its way, but not before it is known how they are without it.
    until("the copy to come on", async || {
        let shown = show(fleet, &id).await;
        assert_eq!(shown["state"], "running", "{shown}");
        (shown["bytes_copied"].as_i64().unwrap() > COPY_MOST).then_some(())
    })
    .await;
    slow.set(true);
    let shown = until("it to give way", async || {
        let shown = show(fleet, &id).await;
        assert_eq!((&shown["state"], &shown["step"]), (&"running".into(), &"copy".into()), "{shown}");
        shown["slowed_by"].as_str().is_some_and(|why| why.contains("99th percentile")).then_some(shown)
    })
    .await;
    assert!(shown["slowed_by"].as_str().unwrap().contains("server pg-1"), "{shown}");
    assert!(shown["bytes_per_second_max"].as_i64().unwrap() < COPY_MOST, "{shown}");
    fleet.cli(&["move", "abort", &id, "--wait"]).await.ok();
    assert!(neighbours.iter().all(|client| !client.is_finished()), "no neighbour saw an error");
    neighbours.iter().for_each(JoinHandle::abort);
}
