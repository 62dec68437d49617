//! The control plane dies at each point of the way back where it has just done something, as by `kill -9`; its successor
//! finds what is on record, and ends it done or undone. No client sees an error, and nothing is lost.

use serde_json::Value;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, trials, until};
use crate::map_damage::{drop_catalog, found, has_snapshot};
use crate::moves::{databases, move_to};
use crate::moves_reverse::{LEASE, id_of, is_closed, show, with_config};
use crate::recovery::ends_in_one_place;

trials! {
    own a_turn_ends_well_wherever_in_it_or_its_window_the_control_plane_dies,
    own a_turn_is_undone_wherever_in_that_the_control_plane_dies,
    own a_window_is_closed_wherever_in_that_the_control_plane_dies,
    own a_turn_whose_catalog_is_lost_leaves_nothing_that_keeps_log,
}

/// Behind each act.
const TURN: [&str; 6] =
    ["turn_taken", "turn_guarded", "turn_detached", "turn_renamed", "turn_follows", "decide"];
const WINDOW: [&str; 4] = ["window_role", "window_sealed", "window_follows", "window_open"];
const UNDO: [&str; 4] = ["back_freed", "back_passed", "back_sealed", "back_follows"];
const CLOSING: [&str; 3] = ["window_closing", "window_slot_dropped", "window_taken_down"];

/// Turns a move round although the answer may be lost with the process that was to give it; returns the new move's number.
async fn reverse_unanswered(fleet: &Fleet, id: i64) -> i64 {
    let newest = async || {
        let output = fleet.cli(&["move", "list"]).await;
        (output.status == 0).then(|| output.json()[0]["id"].as_i64().unwrap_or(0))
    };
    until("the move back to be on record", async || {
        let known = newest().await.filter(|newest| *newest > id);
        if known.is_none() {
            fleet.cli(&["move", "reverse", &id.to_string()]).await;
        }
        known
    })
    .await
}

async fn a_turn_ends_well_wherever_in_it_or_its_window_the_control_plane_dies(fleet: &mut Fleet) {
    with_config(fleet, LEASE).await;
    fleet.create("mortal", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "mortal", 3).await;
    let mut id = move_to(fleet, "mortal", "pg-3").await["id"].as_i64().unwrap();
    for points in [&TURN[..], &WINDOW] {
        let deaths = fleet.die_at(points);
        id = reverse_unanswered(fleet, id).await;
        for (index, point) in points.iter().enumerate() {
            deaths.has_died(index).await;
            ledger.goes_on().await;
            assert!(ledger.errors().is_empty(), "after {point} a client saw {:?}", ledger.errors());
        }
        let ended = ends_in_one_place(fleet, "mortal", id).await;
        assert_eq!(ended["state"], "switched", "{ended}");
        assert_ne!(ended["verified"], false, "{ended}");
        assert!(ended["reversible_until"].is_string(), "{ended}");
        ledger.goes_on().await;
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

async fn a_turn_is_undone_wherever_in_that_the_control_plane_dies(fleet: &mut Fleet) {
    let fleet = &*fleet;
    with_config(fleet, LEASE).await;
    fleet.create("doubtful", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "doubtful", 3).await;
    let id = move_to(fleet, "doubtful", "pg-3").await["id"].as_i64().unwrap();
    let blocker = fleet.connect("doubtful").await;
    blocker.run("BEGIN; LOCK TABLE totals IN ACCESS SHARE MODE").await;
    let back = id_of(&fleet.cli(&["move", "reverse", &id.to_string()]).await.ok());
    until("it to wait", async || show(fleet, &back).await["waiting_for"].is_string().then_some(())).await;
    let deaths = fleet.die_at(&UNDO);
    fleet.cli(&["move", "abort", &back]).await;
    deaths.has_died(UNDO.len() - 1).await;
    blocker.run("COMMIT").await;
    let ended = ends_in_one_place(fleet, "doubtful", back.parse().unwrap()).await;
    assert_eq!(ended["state"], "aborted", "{ended}");
    let shown: Value = show(fleet, &id.to_string()).await;
    assert!(shown["reversible_until"].is_string(), "{shown}");
    assert_eq!(databases(fleet, "pg-1", "doubtful").await, ["doubtful__sealed"]);
    let marks = format!("SELECT rolname FROM pg_roles WHERE rolname = 'tenantry_move_{back}'");
    assert_eq!(fleet.direct("pg-3", "postgres").await.column(&marks).await, Vec::<String>::new());
    ledger.goes_on().await;
    let shown = fleet.cli(&["move", "reverse", &id.to_string(), "--wait"]).await.ok();
    assert_eq!((&shown["state"], &shown["to"]), (&"switched".into(), &"pg-1".into()), "{shown}");
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

async fn a_window_is_closed_wherever_in_that_the_control_plane_dies(fleet: &mut Fleet) {
    with_config(fleet, LEASE).await;
    fleet.create("final", &["--server", "pg-1"]).await;
    let client = fleet.connect("final").await;
    client.run("CREATE TABLE t (n int)").await;
    let id = id_of(&move_to(fleet, "final", "pg-3").await);
    let deaths = fleet.die_at(&CLOSING);
    client.run("COMMENT ON TABLE t IS 'another table'").await;
    deaths.has_died(CLOSING.len() - 1).await;
    let shown = is_closed(fleet, "final", &id).await;
    assert_eq!(shown["window_closed"]["what"], "COMMENT", "{shown}");
}

async fn a_turn_whose_catalog_is_lost_leaves_nothing_that_keeps_log(fleet: &mut Fleet) {
    let fleet = &*fleet;
    fleet.create("bereft", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "bereft", 3).await;
    has_snapshot(fleet, "bereft").await;
    for (point, state) in [("turn_guarded", "aborted"), ("catch_up", "aborted"), ("decide", "switched")] {
        let home = fleet.tenant("bereft").await["server"].as_str().unwrap().to_owned();
        let away = if home == "pg-1" { "pg-3" } else { "pg-1" };
        let id = move_to(fleet, "bereft", away).await["id"].as_i64().unwrap();
        let death = fleet.die_at(&[point]);
        let back = reverse_unanswered(fleet, id).await;
        death.has_died(0).await;
        drop_catalog(fleet).await;
        fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
        let ended = ends_in_one_place(fleet, "bereft", back).await;
        assert_eq!(ended["state"], state, "lost at {point}: {ended}");
        ledger.goes_on().await;
        // Of the way back that no record knows; the one of a move that was decided is another.
        let slots =
            format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'tenantry_reverse_{id}'");
        for server in ["pg-1", "pg-3"] {
            let direct = fleet.direct(server, "postgres").await;
            until("the slot to be dropped", async || (direct.number(&slots).await == 0).then_some(())).await;
        }
        assert_eq!(found(fleet).await, Vec::<String>::new(), "lost at {point}");
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}
