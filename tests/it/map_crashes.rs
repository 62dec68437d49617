//! A rebuild is killed at each of its steps: nothing is done by half, no controller can do harm meanwhile, and it is simply
//! done again.

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, trials, until};
use crate::map_damage::{EMPTY_ALL, catalog, drop_catalog, found, has_open_in_snapshot, rebuild};
use crate::moves::databases;
use crate::recovery::{ends_in_one_place, has_its_bulk, with_bulk};

trials! {
    own a_rebuild_that_is_killed_anywhere_is_done_again,
    own a_controller_whose_term_was_passed_changes_nothing,
    own a_move_whose_operation_is_lost_is_undone_or_ended,
}

async fn dies_at(fleet: &Fleet, point: &str) {
    let file = fleet.path().join("map-failpoint");
    std::fs::write(&file, point).unwrap();
    let variables = [("TENANTRY_FAILPOINT_FILE", file.to_str().unwrap())];
    fleet.cli_in(&variables, &["map", "rebuild", "--apply"]).await.exits(-1);
    assert!(!file.exists(), "{point} was reached");
}

async fn a_rebuild_that_is_killed_anywhere_is_done_again(fleet: &mut Fleet) {
    fleet.create("first", &["--server", "pg-1"]).await;
    fleet.create("second", &["--server", "pg-2"]).await;
    has_open_in_snapshot(fleet, "second").await;
    let ledger = Ledger::start(fleet, "first", 3).await;
    let points = [
        "map_prepared",
        "map_registries",
        "map_fenced",
        "map_records",
        "map_raised",
        "map_written",
        "map_done",
    ];
    let mut newest = "second".to_owned();
    for (point, number) in points.into_iter().zip(0..) {
        let catalog = catalog(fleet).await;
        let epoch = catalog.number("SELECT epoch FROM tenant WHERE id = 'first'").await;
        // The router's snapshot is all that is left to know what lived there.
        has_open_in_snapshot(fleet, &newest).await;
        fleet.direct("pg-2", "postgres").await.run("DROP DATABASE tenantry WITH (FORCE)").await;
        catalog.run(EMPTY_ALL).await;
        dies_at(fleet, point).await;
        let tenants = catalog.number("SELECT count(*) FROM tenant").await;
        assert_eq!(tenants > 0, point == "map_done", "all or nothing at {point}");
        ledger.goes_on().await;
        fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
        newest = format!("newcomer-{number}");
        rebuild(fleet, &newest).await;
        assert!(catalog.number("SELECT epoch FROM tenant WHERE id = 'first'").await >= epoch);
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

async fn a_controller_whose_term_was_passed_changes_nothing(fleet: &mut Fleet) {
    fleet.create("first", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "first", 3).await;
    let catalog = catalog(fleet).await;
    // Something to do, or it would not fence.
    catalog.run("UPDATE tenant SET labels = '{}', epoch = epoch - 1").await;
    dies_at(fleet, "map_fenced").await;
    let led = catalog.number("SELECT term FROM lease").await;
    let seen = fleet.direct("pg-1", "tenantry").await.number("SELECT term FROM controller_term").await;
    assert!(seen > led, "{seen} {led}");
    // The control plane still has its lease, and is asked to change something.
    fleet.cli(&["tenant", "suspend", "first", "--no-wait"]).await.ok();
    let log = fleet.path().join("log/control.log");
    until("it to notice", async || {
        std::fs::read_to_string(&log).unwrap().contains("left to the instance that leads now").then_some(())
    })
    .await;
    ledger.goes_on().await;
    let registry = fleet.direct("pg-1", "tenantry").await;
    assert_eq!(registry.column("SELECT state FROM tenant WHERE id = 'first'").await, ["open"]);
    assert_eq!(catalog.column("SELECT state FROM tenant WHERE id = 'first'").await, ["open"]);
    assert!(found(fleet).await.contains(&"term_behind pg-1".to_owned()));
    rebuild(fleet, "second").await;
    assert_eq!(
        fleet.tenant("first").await["state"],
        "open",
        "what was under way under the old term is given up"
    );
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    fleet.cli(&["tenant", "suspend", "first"]).await.ok();
    assert_eq!(registry.column("SELECT state FROM tenant WHERE id = 'first'").await, ["suspended"]);
    fleet.cli(&["tenant", "resume", "first"]).await.ok();
    ledger.goes_on().await;
    ledger.reckon(fleet).await;
}

/// Starts a move, lets the control plane die at a point of it, and drops the catalog. Then rebuilds, and returns how the
/// move ended of which no catalog knew any more.
async fn lose_move(fleet: &Fleet, point: &str) -> serde_json::Value {
    let failpoint = fleet.path().join("failpoint");
    std::fs::write(&failpoint, point).unwrap();
    let to = if fleet.tenant("bereft").await["server"] == "pg-1" { "pg-3" } else { "pg-1" };
    // Its answer may be lost with the process that was to give it.
    fleet.cli(&["move", "start", "bereft", "--to", to]).await;
    until("the failpoint to be reached", async || (!failpoint.exists()).then_some(())).await;
    drop_catalog(fleet).await;
    fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
    let id = until("the move to be on record", async || {
        let output = fleet.cli(&["move", "list"]).await;
        (output.status == 0).then(|| output.json()[0]["id"].as_i64()).flatten()
    })
    .await;
    ends_in_one_place(fleet, "bereft", id).await
}

async fn a_move_whose_operation_is_lost_is_undone_or_ended(fleet: &mut Fleet) {
    with_bulk(fleet, "bereft", "pg-1").await;
    let ledger = Ledger::start(fleet, "bereft", 4).await;
    has_open_in_snapshot(fleet, "bereft").await;
    for (point, state) in [
        ("schema", "aborted"),
        ("build", "aborted"),
        ("catch_up", "aborted"),
        ("fence", "aborted"),
        ("seal", "aborted"),
        ("advance", "aborted"),
        ("decide", "switched"),
        ("release", "switched"),
    ] {
        let ended = lose_move(fleet, point).await;
        assert_eq!(ended["state"], state, "lost at {point}: {ended}");
        ledger.goes_on().await;
        assert_eq!(found(fleet).await, Vec::<String>::new(), "lost at {point}");
        if state == "aborted" {
            assert_eq!(databases(fleet, "pg-3", "bereft").await, Vec::<String>::new(), "lost at {point}");
        }
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "bereft").await;
}
