//! A controller that hung right before a write, and goes on as if it still led, is refused by the servers themselves: it does not
//! look at its lease, and what it is about to do would be possible but for its term.

use std::path::Path;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, trials, until};
use crate::map_damage::{catalog, found};

trials! {
    own what_a_controller_does_that_leads_no_more_is_refused_by_the_servers,
    own a_clone_whose_source_began_to_move_waits_for_the_moves_end,
    own what_its_successor_opened_under_a_name_that_it_was_about_to_drop_stays,
}

/// Refusals by a registry that the fleet's own control plane met.
fn refusals(fleet: &Fleet) -> usize {
    let log = std::fs::read_to_string(fleet.path().join("log/control.log")).unwrap();
    let refused =
        |line: &&str| line.contains("TT001") && line.contains("left to the instance that leads now");
    log.lines().filter(refused).count()
}

async fn exists(file: &Path) {
    until("the control plane to stand where it was told to", async || file.exists().then_some(())).await;
}

async fn shows(fleet: &Fleet, args: &[&str], state: &str) {
    until("what was under way to end", async || {
        let shown = fleet.cli(args).await;
        (shown.status == 0 && shown.json()["state"] == state).then_some(())
    })
    .await;
}

async fn what_a_controller_does_that_leads_no_more_is_refused_by_the_servers(fleet: &mut Fleet) {
    fleet.create("guarded", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "guarded", 3).await;
    let catalog = catalog(fleet).await;
    let holder = "SELECT holder FROM lease WHERE expires_at > now()";
    let registry = fleet.direct("pg-1", "tenantry").await;
    let seen = "
        SELECT concat_ws(' ', t, (SELECT datconnlimit FROM pg_database WHERE datname = t.database))
        FROM tenant t WHERE id = 'guarded'";
    let (wish, reached) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.reached"));
    // Right before the fence, the seal, and the name being taken away: each of them would take the tenant from its clients.
    for point in ["limit", "sealed", "leaving"] {
        until("the fleet's own control plane to lead", async || {
            catalog.column(holder).await.pop().filter(|holder| !holder.starts_with("control-2/"))
        })
        .await;
        let led = catalog.number("SELECT term FROM lease").await;
        std::fs::write(&wish, format!("stand {point}")).unwrap();
        let mut operation = String::new();
        if point == "leaving" {
            fleet.cli(&["tenant", "delete", "guarded", "--yes", "--no-wait"]).await.ok();
        } else {
            let start = ["move", "start", "guarded", "--to", "pg-3", "--max-hold", "30s"];
            operation = fleet.cli(&start).await.ok()["id"].as_i64().unwrap().to_string();
        }
        exists(&reached).await;
        let second = fleet.second_control();
        until("the other one to lead", async || {
            (catalog.number("SELECT term FROM lease").await > led).then_some(())
        })
        .await;
        // The other one ends it, so that the tenant is again what it was before.
        if point == "leaving" {
            shows(fleet, &["tenant", "show", "guarded"], "deleted").await;
            until("the deletion to end", async || {
                (fleet.cli(&["tenant", "undelete", "guarded", "--no-wait"]).await.status == 0).then_some(())
            })
            .await;
            shows(fleet, &["tenant", "show", "guarded"], "open").await;
        } else {
            fleet.cli(&["move", "abort", &operation]).await.ok();
            shows(fleet, &["move", "show", &operation], "aborted").await;
        }
        ledger.goes_on().await;
        let (before, refused) = (registry.column(seen).await, refusals(fleet));
        std::fs::write(&wish, "").unwrap();
        until("its act to be refused", async || (refusals(fleet) > refused).then_some(())).await;
        assert_eq!(registry.column(seen).await, before, "{point}");
        ledger.goes_on().await;
        std::fs::remove_file(&reached).unwrap();
        drop(second);
    }
    until("the control plane to work", async || {
        (fleet.cli(&["tenant", "create", "afterwards", "--wait"]).await.status == 0).then_some(())
    })
    .await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    ledger.reckon(fleet).await;
}

async fn what_its_successor_opened_under_a_name_that_it_was_about_to_drop_stays(fleet: &mut Fleet) {
    let there = ["--server", "pg-1"];
    for source in ["whole", "scratched"] {
        fleet.create(source, &there).await;
    }
    fleet.connect("whole").await.run("CREATE TABLE kept AS SELECT 7 AS n").await;
    // What it has can't be cloned, so that the clone is undone.
    fleet.connect("scratched").await.run("CREATE UNLOGGED TABLE scratch ()").await;
    let catalog = catalog(fleet).await;
    let registry = fleet.direct("pg-1", "tenantry").await;
    let (wish, reached) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.reached"));
    let oid = async |database: &str| {
        let oid = format!("SELECT oid::bigint FROM pg_database WHERE datname = '{database}'");
        until("the database to be there", async || registry.column(&oid).await.pop()).await
    };
    // Right before a clone's retry makes room for itself, and before an undone clone is removed.
    for (point, source, name) in
        [("doom_unrecorded", "whole", "copied"), ("doom_open", "scratched", "retried")]
    {
        let first_leads =
            "SELECT holder FROM lease WHERE expires_at > now() AND holder NOT LIKE 'control-2/%'";
        until("the fleet's own control plane to lead", async || catalog.column(first_leads).await.pop())
            .await;
        let led = catalog.number("SELECT term FROM lease").await;
        std::fs::write(&wish, format!("stand {point}")).unwrap();
        fleet.cli(&["tenant", "clone", source, name, "--server", "pg-1"]).await.ok();
        exists(&reached).await;
        let second = fleet.second_control();
        until("the other one to lead", async || {
            (catalog.number("SELECT term FROM lease").await > led).then_some(())
        })
        .await;
        // The other one ends it, and opens a tenant of that name.
        if source == "scratched" {
            until("the clone to be undone, and the name to be free", async || {
                let create = ["tenant", "create", name, "--server", "pg-1", "--wait"];
                (fleet.cli(&create).await.status == 0).then_some(())
            })
            .await;
            fleet.connect(name).await.run("CREATE TABLE kept AS SELECT 7 AS n").await;
        }
        shows(fleet, &["tenant", "show", name], "open").await;
        let (opened, refused) = (oid(name).await, refusals(fleet));
        std::fs::write(&wish, "").unwrap();
        until("its act to be refused", async || (refusals(fleet) > refused).then_some(())).await;
        assert_eq!(oid(name).await, opened, "{point}");
        let kept = fleet.direct("pg-1", name).await;
        assert_eq!(kept.number("SELECT n FROM kept").await, 7, "{point}");
        std::fs::remove_file(&reached).unwrap();
        drop((kept, second));
    }
    until("the map to be sound", async || found(fleet).await.is_empty().then_some(())).await;
}

async fn a_clone_whose_source_began_to_move_waits_for_the_moves_end(fleet: &mut Fleet) {
    for tenant in ["mobile", "busy"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    fleet.connect("mobile").await.run("CREATE TABLE kept AS SELECT 7 AS n").await;
    // The move comes as far as its guard, and waits for this.
    let busy = fleet.connect("busy").await;
    busy.run("CREATE TABLE t (); BEGIN; SELECT txid_current()").await;
    let (wish, reached) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.reached"));
    std::fs::write(&wish, "stand doom_unrecorded").unwrap();
    fleet.cli(&["tenant", "clone", "mobile", "resting", "--server", "pg-2"]).await.ok();
    exists(&reached).await;
    fleet.cli(&["move", "start", "mobile", "--to", "pg-3"]).await.ok();
    let source = fleet.direct("pg-1", "mobile").await;
    let guards = "SELECT evtname FROM pg_event_trigger WHERE evtname = 'tenantry_guard_end'";
    until("the move's guard to be up", async || source.column(guards).await.pop()).await;
    drop(source);
    std::fs::write(&wish, "").unwrap();
    until("the clone to wait", async || {
        let log = std::fs::read_to_string(fleet.path().join("log/control.log")).unwrap();
        log.contains("is at work on tenant mobile").then_some(())
    })
    .await;
    std::fs::remove_file(&reached).unwrap();
    busy.run("COMMIT").await;
    shows(fleet, &["tenant", "show", "resting"], "open").await;
    assert_eq!(fleet.connect("resting").await.number("SELECT n FROM kept").await, 7);
}
