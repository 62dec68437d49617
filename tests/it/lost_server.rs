//! Servers leave the map: one that is lost for good, so that nothing waits for it any more; and one that was emptied.

use serde_json::json;
use tokio_postgres::Client;

use crate::cut_off::lose_server;
use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, code, connect, connect_url, trials, until};
use crate::map_damage::found;
use crate::moves::move_to;
use crate::recovery::has_come_to;

trials! {
    own a_server_that_is_lost_for_good_leaves_the_map_and_holds_up_nobody,
}

/// Gives a lost server up; its moves leave their other servers first, which a refusal says.
async fn give_up(fleet: &Fleet, server: &str) -> serde_json::Value {
    until("the server to be given up", async || {
        let output = fleet.cli(&["server", "remove", server, "--lost", "--yes"]).await;
        match output.status {
            4 if output.stderr.contains("try again in a moment") => None,
            _ => Some(output.ok()),
        }
    })
    .await
}

/// A move away from the server to be lost, which follows and does not cut over. It has what keeps the target's log.
async fn half_moved(fleet: &Fleet, catalog: &Client) -> (i64, Client) {
    let reader = fleet.direct("pg-2", "half").await;
    // Without a number, so that no slot waits for it.
    reader.run("BEGIN; SELECT 1").await;
    let id = fleet.cli(&["move", "start", "half", "--to", "pg-3"]).await.ok()["id"].as_i64().unwrap();
    has_come_to(catalog, id, "catch_up").await;
    let target = fleet.direct("pg-3", "tenantry").await;
    until("the way back to be made", async || {
        (target.number("SELECT count(*) FROM pg_replication_slots").await == 1).then_some(())
    })
    .await;
    (id, reader)
}

/// Nothing streams on the target any more; the copy is the operator's.
async fn only_its_copy_is_left(fleet: &Fleet, id: i64) {
    let shown = fleet.cli(&["move", "show", &id.to_string()]).await.ok();
    assert_eq!(shown["state"], "failed", "{shown}");
    let target = fleet.direct("pg-3", "tenantry").await;
    assert_eq!(target.number("SELECT count(*) FROM pg_replication_slots").await, 0);
    assert_eq!(target.number("SELECT count(*) FROM pg_subscription").await, 0);
    assert!(found(fleet).await.contains(&"orphan_database half__arriving".to_owned()));
    target.run("DROP DATABASE half__arriving WITH (FORCE)").await;
}

async fn a_server_that_is_lost_for_good_leaves_the_map_and_holds_up_nobody(fleet: &mut Fleet) {
    for (tenant, server) in
        [("lost", "pg-2"), ("half", "pg-2"), ("spared", "pg-1"), ("bound", "pg-1"), ("unsure", "pg-3")]
    {
        fleet.create(tenant, &["--server", server]).await;
    }
    let ledger = Ledger::start(fleet, "spared", 2).await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    // A move on its way there, which waits for a transaction at its source.
    let open = fleet.direct("pg-1", "bound").await;
    open.run("BEGIN; CREATE TABLE t (a int)").await;
    let id = fleet.cli(&["move", "start", "bound", "--to", "pg-2"]).await.ok()["id"].as_i64().unwrap();
    has_come_to(&catalog, id, "arm").await;

    let (half, _reader) = half_moved(fleet, &catalog).await;

    let refused = fleet.cli(&["server", "remove", "pg-1", "--lost", "--yes"]).await.error(4);
    assert!(refused.contains("pg-1 answers"), "{refused}");
    lose_server(fleet, "pg-2");
    open.run("COMMIT").await;
    fleet.direct("pg-3", "tenantry").await.run("DELETE FROM tenant WHERE id = 'unsure'").await;
    let rebuilt = fleet.cli(&["map", "rebuild", "--apply"]).await.exits(1).json();
    let notes = rebuilt["notes"].to_string();
    assert!(notes.contains("pg-2 can't be asked") && notes.contains("--lost"), "{notes}");
    let refused = fleet.cli(&["server", "remove", "pg-2", "--yes"]).await;
    assert!(refused.hint().contains("tenantry server remove pg-2 --lost"), "{}", refused.stderr);
    assert!(refused.error(4).contains("has 2 tenants: half, lost"));

    let removed = give_up(fleet, "pg-2").await;
    assert_eq!(removed["lost_tenants"], json!(["half", "lost"]), "{removed}");
    assert_eq!(removed["kept"], json!([{ "server": "pg-3", "database": "half__arriving" }]), "{removed}");
    only_its_copy_is_left(fleet, half).await;
    let undone = fleet.cli(&["move", "show", &id.to_string()]).await.ok();
    assert!(undone["state"] == "aborted" || undone["state"] == "failed", "{undone}");
    assert_eq!(fleet.tenant("bound").await["server"], "pg-1");
    fleet.connect("bound").await.run("CREATE TABLE after (a int)").await;
    fleet.cli(&["tenant", "show", "lost"]).await.error(3);
    until("the router to hear of it", async || {
        let refused = connect(&fleet.config("lost")).await.err()?;
        (code(&refused) == "3D000").then_some(())
    })
    .await;
    let declared = fleet.path().join("fleet.toml");
    let text = std::fs::read_to_string(&declared).unwrap();
    let others: Vec<&str> = text.split("[[servers]]").filter(|part| !part.contains("\"pg-2\"")).collect();
    let rebuilt = fleet.cli(&["map", "rebuild"]).await.json();
    assert!(rebuilt["notes"].to_string().contains("only a file that was given here names it"), "{rebuilt}");
    std::fs::write(&declared, others.join("[[servers]]")).unwrap();
    // The router's snapshot, which is read beside the catalog, may have the server for a moment longer.
    until("nothing to be left in doubt", async || {
        let rebuilt = fleet.cli(&["map", "rebuild", "--apply"]).await;
        (rebuilt.status == 0).then_some(())
    })
    .await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    until("the fleet to be well", async || (fleet.cli(&["doctor"]).await.status == 0).then_some(())).await;

    // One that is emptied first, as it should be.
    let kept = fleet.cli(&["server", "drain", "pg-3", "--wait", "--timeout", "5m"]).await;
    assert!(kept.hint().contains("tenantry move start unsure --to SERVER"), "{}", kept.stderr);
    assert!(kept.error(1).contains("no server can take the tenant"), "it is the only dedicated one");
    let refused = fleet.cli(&["tenant", "create", "late", "--server", "pg-3"]).await.error(4);
    assert!(refused.contains("draining"), "{refused}");
    let moved = move_to(fleet, "unsure", "pg-1").await["id"].to_string();
    let refused = fleet.cli(&["server", "remove", "pg-3", "--yes"]).await;
    assert!(refused.hint().contains(&format!("tenantry move complete {moved}")), "{}", refused.stderr);
    refused.error(4);
    fleet.cli(&["move", "complete", &moved, "--wait"]).await.ok();
    fleet.cli(&["server", "remove", "pg-3", "--yes"]).await.ok();
    let left = fleet.cli(&["server", "list"]).await.ok();
    assert_eq!((left.as_array().unwrap().len(), &left[0]["name"]), (1, &json!("pg-1")));
    fleet.connect("unsure").await.run("CREATE TABLE t (a int)").await;
    ledger.goes_on().await;
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}
