//! The control plane dies at each point of a move where it has just done something, as by `kill -9`; its successor
//! finds what is on record, and ends the move. No client sees an error, and nothing is lost.

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, trials, until};
use crate::moves_reverse::{LEASE, with_config};
use crate::recovery::{ends_in_one_place, has_its_bulk, with_bulk};

trials! {
    own a_move_ends_well_wherever_before_its_seal_the_control_plane_dies,
    own a_move_ends_well_wherever_after_its_seal_the_control_plane_dies,
}

/// The beginnings of a move's phases up to its cutover, and the ends of that one's acts, in their order.
const BEFORE: [&str; 7] = ["arm", "schema", "copy", "build", "compare", "catch_up", "cutover"];
const UNSEALED: [&str; 5] = ["drain", "fence", "apply", "sequences", "detach"];
const SEALED: [&str; 5] = ["seal", "check", "advance", "decide", "release"];
const AFTER: [&str; 3] = ["verify", "switched", "complete"];

async fn a_move_ends_well_wherever_before_its_seal_the_control_plane_dies(fleet: &mut Fleet) {
    dies_at(fleet, [&BEFORE, &UNSEALED]).await;
}

async fn a_move_ends_well_wherever_after_its_seal_the_control_plane_dies(fleet: &mut Fleet) {
    dies_at(fleet, [&SEALED, &AFTER]).await;
}

/// Starts a move although its answer may be lost with the process that was to give it; returns its number.
async fn start_move_unanswered(fleet: &Fleet) -> i64 {
    let newest = async || {
        let output = fleet.cli(&["move", "list"]).await;
        (output.status == 0).then(|| output.json()[0]["id"].as_i64().unwrap_or(0))
    };
    let before = until("the moves to be listed", newest).await;
    let to = if fleet.tenant("mortal").await["server"] == "pg-1" { "pg-3" } else { "pg-1" };
    fleet.cli(&["move", "start", "mortal", "--to", to]).await;
    until("the move to be on record", async || newest().await.filter(|id| *id > before)).await
}

/// Moves, each of which goes on through one death after the other.
async fn dies_at(fleet: &mut Fleet, moves: [&[&str]; 2]) {
    with_config(fleet, LEASE).await;
    with_bulk(fleet, "mortal", "pg-1").await;
    let ledger = Ledger::start(fleet, "mortal", 4).await;
    for points in moves {
        let deaths = fleet.die_at(points);
        let id = start_move_unanswered(fleet).await;
        for (index, point) in points.iter().enumerate() {
            if *point == "complete" {
                ends_in_one_place(fleet, "mortal", id).await;
                // The answer may be lost with the process that was to give it.
                fleet.cli(&["move", "complete", &id.to_string()]).await;
            }
            deaths.has_died(index).await;
            ledger.goes_on().await;
            assert!(ledger.errors().is_empty(), "after {point} a client saw {:?}", ledger.errors());
        }
        let last = if points.contains(&"complete") { "completed" } else { "switched" };
        let ended = until(&format!("the move to be {last}"), async || {
            let ended = ends_in_one_place(fleet, "mortal", id).await;
            (ended["state"] != "switched" || last == "switched").then_some(ended)
        })
        .await;
        assert_eq!(ended["state"], last, "{ended}");
        assert_ne!(ended["verified"], false, "{ended}");
        ledger.goes_on().await;
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "mortal").await;
}
