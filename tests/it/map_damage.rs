//! The catalog is damaged, emptied, dropped or replaced by an old backup, under load: clients go on, `map verify` names what
//! is wrong, and `map rebuild` sets it right from the servers.

use rustix::process::Signal;
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::ledger::Ledger;
use crate::harness::programs::{back_up_catalog, restore_catalog};
use crate::harness::{Fleet, Sql as _, connect, connect_url, signal, trials, until};
use crate::moves::move_to;

trials! {
    own emptied_tables_are_filled_again_while_clients_go_on,
    own swapped_and_deleted_placements_are_set_right_while_clients_go_on,
    own a_dropped_catalog_is_made_anew_while_clients_go_on,
    own a_catalog_restored_from_a_backup_is_brought_to_the_truth,
    own what_is_wrong_on_servers_is_named,
    own what_is_under_way_goes_on_after_a_rebuild,
    own two_servers_that_claim_a_tenant_are_told_and_not_decided,
}

/// Every table of the catalog but the record of its migrations.
pub(crate) const EMPTY_ALL: &str =
    "TRUNCATE server, tenant, router_user, hold, lease, map_version, fleet, change_log,
    operation, operation_step, migration_target, router, hold_ack, placement_policy, map_check";

pub(crate) async fn catalog(fleet: &Fleet) -> Client {
    connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await
}

/// What `map verify` finds, as `kind tenant-or-server`.
pub(crate) async fn found(fleet: &Fleet) -> Vec<String> {
    let output = fleet.cli(&["map", "verify"]).await;
    let findings = output.json();
    let findings = findings.as_array().unwrap();
    assert_eq!(output.status, i32::from(!findings.is_empty()), "{}", output.stderr);
    let shown = |finding: &Value| {
        let text = |key: &str| finding[key].as_str().map(str::to_owned);
        let what = text("database").or(text("tenant")).or(text("server")).unwrap_or_default();
        format!("{} {what}", text("kind").unwrap())
    };
    findings.iter().map(shown).collect()
}

/// Restarts a part that `dev` starts again.
pub(crate) async fn restart(fleet: &Fleet, role: &str) {
    let killed = fleet.process(role);
    fleet.kill_process(role);
    until("dev to start it again", async || fleet.process(role).filter(|new| Some(*new) != killed)).await;
}

/// Rebuilds, and looks whether everything works again: nothing differs, and what is new reaches the routers.
pub(crate) async fn rebuild(fleet: &Fleet, newcomer: &str) -> Value {
    let planned = fleet.cli(&["map", "rebuild"]).await.ok();
    assert_eq!(planned["applied"], false);
    let outcome = fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
    assert_eq!((&outcome["applied"], &outcome["left"]), (&true.into(), &Value::Array(Vec::new())));
    assert_eq!(found(fleet).await, Vec::<String>::new());
    let again = fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
    assert_eq!(again["steps"], Value::Array(Vec::new()), "once is enough");
    until("the control plane to lead again", async || {
        (fleet.cli(&["tenant", "create", newcomer, "--wait"]).await.status == 0).then_some(())
    })
    .await;
    until("the router to hear of it", async || connect(&fleet.config(newcomer)).await.ok())
        .await
        .run("SELECT 1")
        .await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    outcome
}

async fn two_tenants_at_work(fleet: &Fleet) -> (Ledger, Ledger) {
    fleet.create("first", &["--server", "pg-1", "--label", "plan=gold"]).await;
    fleet.create("second", &["--server", "pg-2"]).await;
    let ledgers = (Ledger::start(fleet, "first", 3).await, Ledger::start(fleet, "second", 3).await);
    has_snapshot(fleet, "second").await;
    ledgers
}

/// Waits until the router's copy of the map has a tenant.
pub(crate) async fn has_snapshot(fleet: &Fleet, tenant: &str) {
    has_in_snapshot(fleet, &format!("\"{tenant}\"")).await;
}

/// The same of a tenant that was being made a moment ago, and is open.
pub(crate) async fn has_open_in_snapshot(fleet: &Fleet, tenant: &str) {
    let snapshot = fleet.path().join("router/snapshot");
    until("the router to write that it is open", async || {
        let text = std::fs::read_to_string(&snapshot).ok()?;
        (text.contains(&format!("\"{tenant}\"")) && !text.contains("\"creating\"")).then_some(())
    })
    .await;
}

/// The same for any text.
pub(crate) async fn has_in_snapshot(fleet: &Fleet, what: &str) {
    let snapshot = fleet.path().join("router/snapshot");
    until("the router to write its snapshot", async || {
        std::fs::read_to_string(&snapshot).ok().filter(|text| text.contains(what))
    })
    .await;
}

async fn emptied_tables_are_filled_again_while_clients_go_on(fleet: &mut Fleet) {
    let (first, second) = two_tenants_at_work(fleet).await;
    catalog(fleet).await.run(EMPTY_ALL).await;
    first.goes_on().await;
    assert!(
        first.errors().is_empty() && second.errors().is_empty(),
        "{:?}",
        (first.errors(), second.errors())
    );
    // One that has to start anew does so by its snapshot, and believes no empty catalog.
    restart(fleet, "router").await;
    first.goes_on().await;
    second.goes_on().await;
    let found = found(fleet).await;
    for expected in
        ["missing_tenant first", "missing_tenant second", "missing_server pg-3", "version_behind "]
    {
        assert!(found.contains(&expected.to_owned()), "{expected}: {found:?}");
    }
    let before = catalog(fleet).await.number("SELECT count(*) FROM tenant").await;
    fleet.cli(&["map", "rebuild"]).await.ok();
    assert_eq!(
        catalog(fleet).await.number("SELECT count(*) FROM tenant").await,
        before,
        "a plan changes nothing"
    );
    rebuild(fleet, "third").await;
    assert_eq!(fleet.tenant("first").await["labels"]["plan"], "gold", "the snapshot had it");
    first.goes_on().await;
    first.reckon(fleet).await;
    second.reckon(fleet).await;
}

async fn swapped_and_deleted_placements_are_set_right_while_clients_go_on(fleet: &mut Fleet) {
    let (first, second) = two_tenants_at_work(fleet).await;
    let catalog = catalog(fleet).await;
    // The same epoch can't mean two servers, and nothing vanishes that was not deleted: routers do not believe it.
    catalog.run("UPDATE tenant SET server = CASE server WHEN 'pg-1' THEN 'pg-2' ELSE 'pg-1' END").await;
    first.goes_on().await;
    second.goes_on().await;
    assert_eq!(found(fleet).await, ["wrong_server first", "wrong_server second"]);
    // By the control plane itself, which leads again afterwards.
    fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "rebuild", "--apply"]).await.ok();
    assert_eq!(found(fleet).await, Vec::<String>::new());
    catalog.run("DELETE FROM change_log; UPDATE tenant SET server = 'pg-3'").await;
    rebuild(fleet, "third").await;
    catalog.run("DELETE FROM tenant WHERE id = 'first'").await;
    catalog.run("UPDATE tenant SET epoch = 1, state = 'suspended' WHERE id = 'third'").await;
    // A second one of the name would take its clients from it.
    for server in ["pg-1", "pg-3"] {
        let refused = fleet.cli(&["tenant", "create", "first", "--server", server, "--wait"]).await.error(4);
        assert!(refused.contains("has tenant first on record"), "{refused}");
    }
    first.goes_on().await;
    assert_eq!(found(fleet).await, ["epoch_behind third", "state_differs third", "missing_tenant first"]);
    rebuild(fleet, "fourth").await;
    first.goes_on().await;
    assert!(
        first.errors().is_empty() && second.errors().is_empty(),
        "{:?}",
        (first.errors(), second.errors())
    );
    // With their epochs, the higher one is believed; there is nothing at that server, so nothing can go wrong there.
    catalog
        .run(
            "UPDATE tenant t SET server = o.server, epoch = o.epoch FROM tenant o
             WHERE (t.id, o.id) IN (('first', 'second'), ('second', 'first'))",
        )
        .await;
    let found = found(fleet).await;
    assert!(found.contains(&"wrong_server first".to_owned()), "{found:?}");
    rebuild(fleet, "fifth").await;
    first.goes_on().await;
    second.goes_on().await;
    first.reckon(fleet).await;
    second.reckon(fleet).await;
}

pub(crate) async fn drop_catalog(fleet: &Fleet) {
    let admin = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "postgres").await;
    admin.run("DROP DATABASE tenantry_catalog WITH (FORCE)").await;
}

async fn a_dropped_catalog_is_made_anew_while_clients_go_on(fleet: &mut Fleet) {
    let (first, second) = two_tenants_at_work(fleet).await;
    move_to(fleet, "second", "pg-3").await;
    drop_catalog(fleet).await;
    restart(fleet, "router").await;
    let blind = [("TENANTRY_MAP_SNAPSHOT", "")];
    let refused = fleet.cli_in(&blind, &["map", "rebuild", "--apply"]).await;
    assert!(refused.hint().contains("--snapshot"), "{}", refused.stderr);
    assert!(refused.error(4).contains("no users"));
    first.goes_on().await;
    let named = found(fleet).await;
    for expected in
        ["missing_tenant first", "missing_tenant second", "missing_server pg-1", "lost_move second__sealed"]
    {
        assert!(named.contains(&expected.to_owned()), "{expected}: {named:?}");
    }
    rebuild(fleet, "third").await;
    assert_eq!(fleet.tenant("second").await["server"], "pg-3");
    first.goes_on().await;
    second.goes_on().await;
    // The sealed copy is still somebody's business.
    let moves = fleet.cli(&["move", "list"]).await.ok();
    let id = moves[0]["id"].as_i64().unwrap().to_string();
    assert_eq!(fleet.cli(&["move", "complete", &id, "--wait"]).await.ok()["state"], "completed");
    // A fleet of `dev` that lost it while it was down makes it anew by itself.
    drop_catalog(fleet).await;
    fleet.kill().await;
    fleet.start_again().await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    first.goes_on().await;
    second.goes_on().await;
    first.reckon(fleet).await;
    second.reckon(fleet).await;
}

async fn a_catalog_restored_from_a_backup_is_brought_to_the_truth(fleet: &mut Fleet) {
    let (first, second) = two_tenants_at_work(fleet).await;
    fleet.create("deleted-since", &["--server", "pg-1"]).await;
    let backup = back_up_catalog(fleet).await;
    fleet.create("made-since", &["--server", "pg-1"]).await;
    fleet.cli(&["tenant", "delete", "deleted-since", "--now", "--yes"]).await.ok();
    move_to(fleet, "first", "pg-3").await;
    let epoch = fleet.tenant("first").await["epoch"].as_i64().unwrap();
    // Two more leaders, so that the term is behind also when one took the lease of the restored catalog already; the servers
    // have seen theirs when they have changed something there.
    fleet.cli(&["tenant", "suspend", "made-since"]).await.ok();
    for verb in ["resume", "suspend"] {
        restart(fleet, "control").await;
        until("it to lead", async || {
            (fleet.cli(&["tenant", verb, "made-since"]).await.status == 0).then_some(())
        })
        .await;
    }

    restore_catalog(fleet, &backup).await;
    let found = found(fleet).await;
    for expected in [
        "term_behind pg-1",
        "wrong_server first",
        "epoch_behind first",
        "missing_tenant made-since",
        "missing_record deleted-since",
        "lost_move first__sealed",
    ] {
        assert!(found.contains(&expected.to_owned()), "{expected}: {found:?}");
    }
    first.goes_on().await;
    // That it was deleted, and not lost, is for an operator to say.
    let outcome = fleet.cli(&["map", "rebuild", "--apply"]).await.exits(1).json();
    assert_eq!(outcome["left"].as_array().unwrap().len(), 1, "{outcome}");
    assert_eq!(outcome["left"][0]["tenant"], "deleted-since", "{outcome}");
    until("the control plane to lead again", async || {
        let delete = ["tenant", "delete", "deleted-since", "--now", "--yes"];
        (fleet.cli(&delete).await.status == 0).then_some(())
    })
    .await;
    rebuild(fleet, "after").await;
    let shown = fleet.tenant("first").await;
    assert_eq!(
        (&shown["server"], shown["epoch"].as_i64().unwrap() >= epoch),
        (&"pg-3".into(), true),
        "{shown}"
    );
    assert_eq!(fleet.tenant("made-since").await["state"], "suspended");
    fleet.cli(&["tenant", "show", "deleted-since"]).await.error(3);
    // The control plane works on what the backup had, too: the tenant moves on, over its own old copy.
    move_to(fleet, "first", "pg-1").await;
    first.goes_on().await;
    assert!(
        first.errors().is_empty() && second.errors().is_empty(),
        "{:?}",
        (first.errors(), second.errors())
    );
    first.reckon(fleet).await;
    second.reckon(fleet).await;
}

async fn what_is_wrong_on_servers_is_named(fleet: &mut Fleet) {
    for tenant in ["vanished", "renamed", "sound"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    assert_eq!(found(fleet).await, Vec::<String>::new());
    let server = fleet.direct("pg-1", "postgres").await;
    server.run("DROP DATABASE vanished WITH (FORCE)").await;
    server.run("ALTER DATABASE renamed RENAME TO stray").await;
    fleet
        .direct("pg-1", "tenantry")
        .await
        .run("UPDATE tenant SET epoch = epoch + 3 WHERE id = 'sound'")
        .await;
    let expected = [
        "epoch_behind sound",
        "missing_database renamed",
        "missing_database vanished",
        "orphan_database stray",
    ];
    assert_eq!(found(fleet).await, expected);
    // A new leader looks by itself before long.
    let catalog = catalog(fleet).await;
    catalog.run("DELETE FROM map_check").await;
    fleet.kill_process("control");
    let kept = "SELECT counts->>'missing_database' FROM map_check";
    until("the leader's own look", async || catalog.column(kept).await.pop().filter(|count| count == "2"))
        .await;
    until("it to answer", async || (fleet.cli(&["server", "list"]).await.status == 0).then_some(())).await;
    // Through the API the same, and in its metrics and its record from then on.
    let by_api = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "verify"]).await.exits(1).json();
    assert_eq!(by_api.as_array().unwrap().len(), 4, "{by_api}");
    let metrics = fleet.control_metrics().await;
    assert_eq!(metrics.get("tenantry_control_map_findings{kind=\"missing_database\"}"), 2.0);
    assert_eq!(metrics.get("tenantry_control_map_findings{kind=\"two_claims\"}"), 0.0);
    // What is lost on a server no rebuild can bring back: it says so, and sets the rest right.
    let error = fleet.cli(&["map", "rebuild", "--apply"]).await.error(1);
    assert!(error.contains("3 differences stay"), "{error}");
    server.run("ALTER DATABASE stray RENAME TO renamed").await;
    assert_eq!(found(fleet).await, ["missing_database vanished"]);
    fleet.cli(&["map", "verify", "--file", "/nowhere"]).await.error(2);
}

async fn what_is_under_way_goes_on_after_a_rebuild(fleet: &mut Fleet) {
    fleet.create("damaged", &["--server", "pg-1"]).await;
    let control = fleet.process("control").unwrap();
    signal(control, Signal::STOP);
    // As the API writes it down.
    let catalog = catalog(fleet).await;
    let asked = "INSERT INTO tenant (id, server, epoch, state)
            SELECT 'unborn', 'pg-1', version + 1, 'creating' FROM map_version;
        INSERT INTO operation (kind, tenant, state, step, input) VALUES ('create', 'unborn', 'running', 'begin', '{}')";
    catalog.run(asked).await;
    catalog.run("UPDATE tenant SET server = 'pg-2' WHERE id = 'damaged'").await;
    assert_eq!(found(fleet).await, ["wrong_server damaged"]);
    let outcome = fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
    let changed: Vec<_> = outcome["steps"].as_array().unwrap().iter().map(|step| &step["what"]).collect();
    assert_eq!(changed, ["tenant", "version"], "{outcome}");
    signal(control, Signal::CONT);
    until("the creation to end", async || {
        let output = fleet.cli(&["tenant", "show", "unborn"]).await;
        (output.status == 0 && output.json()["state"] == "open").then_some(())
    })
    .await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}

async fn two_servers_that_claim_a_tenant_are_told_and_not_decided(fleet: &mut Fleet) {
    fleet.create("claimed", &["--server", "pg-1"]).await;
    let registry = fleet.direct("pg-2", "tenantry").await;
    registry.run("INSERT INTO tenant VALUES ('claimed', 'claimed', 1, 'open', NULL, NULL, 0)").await;
    fleet.direct("pg-2", "postgres").await.run("CREATE DATABASE claimed").await;
    assert_eq!(found(fleet).await, ["two_claims claimed"]);
    let before = fleet.tenant("claimed").await;
    fleet.cli(&["map", "rebuild", "--apply"]).await.error(1);
    assert_eq!(fleet.tenant("claimed").await["server"], before["server"]);
    // The operator decides.
    registry.run("DELETE FROM tenant").await;
    fleet.direct("pg-2", "postgres").await.run("DROP DATABASE claimed").await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}
