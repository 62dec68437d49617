//! A server's registry is lost, as a whole or some of it, while its tenants' databases stay: clients go on, `map verify` says
//! so, and `map rebuild` puts it back as it was.

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, trials};
use crate::map_damage::{found, rebuild, restart};
use crate::moves::move_to;

trials! {
    own a_lost_registry_is_made_anew_while_clients_go_on,
}

const RECORDS: &str = "
    SELECT concat_ws(' ', id, database, epoch, state, moved_to, moved_to_address) FROM tenant ORDER BY id";

async fn drop_registry(fleet: &Fleet, server: &str) {
    fleet.direct(server, "postgres").await.run("DROP DATABASE tenantry WITH (FORCE)").await;
}

/// Arms a server by several operators at a time.
async fn arm_at_once(fleet: &Fleet, server: &str) {
    let url = fleet.server_url(server);
    let adding = ["server", "add", server, "--url", &url];
    for armed in join_all([(); 4].map(|()| fleet.cli(&adding))).await {
        armed.ok();
    }
}

async fn records(fleet: &Fleet, server: &str) -> Vec<String> {
    fleet.direct(server, "tenantry").await.column(RECORDS).await
}

async fn a_lost_registry_is_made_anew_while_clients_go_on(fleet: &mut Fleet) {
    for tenant in ["busy", "left", "asleep", "deleted"] {
        fleet.create(tenant, &["--server", "pg-2"]).await;
    }
    // One copy that a move left, one tenant of each state, and one that came from elsewhere.
    fleet.create("came", &["--server", "pg-1"]).await;
    move_to(fleet, "left", "pg-1").await;
    move_to(fleet, "came", "pg-2").await;
    fleet.cli(&["tenant", "suspend", "asleep"]).await.ok();
    fleet.cli(&["tenant", "delete", "deleted", "--yes"]).await.ok();
    let (busy, came) = (Ledger::start(fleet, "busy", 3).await, Ledger::start(fleet, "came", 3).await);
    let before = records(fleet, "pg-2").await;
    assert_eq!(before.len(), 5, "{before:?}");

    drop_registry(fleet, "pg-2").await;
    busy.goes_on().await;
    let named = found(fleet).await;
    for expected in [
        "lost_registry pg-2",
        "missing_record busy",
        "missing_record asleep",
        "missing_record deleted",
        "orphan_database busy",
        "orphan_database left__sealed",
    ] {
        assert!(named.contains(&expected.to_owned()), "{expected}: {named:?}");
    }
    let outcome = rebuild(fleet, "newcomer").await;
    assert!(outcome["steps"].as_array().unwrap().iter().all(|step| step["what"] != "tenant"), "{outcome}");
    let after: Vec<_> = records(fleet, "pg-2").await;
    let after: Vec<_> = after.into_iter().filter(|record| !record.starts_with("newcomer")).collect();
    assert_eq!(after, before);
    fleet.cli(&["tenant", "resume", "asleep"]).await.ok();
    fleet.cli(&["tenant", "undelete", "deleted"]).await.ok();
    move_to(fleet, "busy", "pg-3").await;
    move_to(fleet, "left", "pg-2").await;
    busy.goes_on().await;

    // Some of it, and by the control plane itself. Without a term on record it would refuse nobody.
    let registry = fleet.direct("pg-3", "tenantry").await;
    registry.run("TRUNCATE tenant, controller_term, fleet").await;
    assert_eq!(found(fleet).await, ["lost_registry pg-3", "missing_record busy", "orphan_database busy"]);
    restart(fleet, "router").await;
    busy.goes_on().await;
    fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "rebuild", "--apply"]).await.ok();
    assert_eq!(found(fleet).await, Vec::<String>::new());
    assert_eq!(registry.fails("SELECT check_term(0)").await, "TT001");

    // Armed anew by operators before that, all at once, it is empty; and what was sealed and sent elsewhere is not opened again.
    drop_registry(fleet, "pg-2").await;
    arm_at_once(fleet, "pg-2").await;
    let other = fleet.direct("pg-1", "tenantry").await;
    other.run("UPDATE tenant SET moved_to = 'pg-3', epoch = epoch + 100 WHERE id = 'came'").await;
    let refused = fleet.cli(&["map", "rebuild", "--apply"]).await;
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(records(fleet, "pg-2").await.iter().all(|record| !record.starts_with("came ")));
    came.goes_on().await;
    other.run("UPDATE tenant SET moved_to = 'pg-2', epoch = epoch - 100 WHERE id = 'came'").await;
    let outcome = fleet.cli(&["map", "rebuild", "--apply"]).await.ok();
    assert_eq!(outcome["left"], Value::Array(Vec::new()), "{outcome}");
    // With its database lost as well it stays on the map, until an operator gives it up.
    fleet.create("perished", &["--server", "pg-3"]).await;
    registry.run("DELETE FROM tenant WHERE id = 'perished'").await;
    fleet.direct("pg-3", "postgres").await.run("DROP DATABASE perished WITH (FORCE)").await;
    let outcome = fleet.cli(&["map", "rebuild", "--apply"]).await.json();
    assert_eq!(outcome["left"][0]["kind"], "missing_record", "{outcome}");
    assert_eq!(fleet.tenant("perished").await["state"], "open");
    fleet.cli(&["tenant", "delete", "perished", "--now", "--yes"]).await.ok();
    rebuild(fleet, "latecomer").await;
    move_to(fleet, "came", "pg-1").await;
    for ledger in [busy, came] {
        ledger.goes_on().await;
        ledger.reckon(fleet).await;
    }
}
