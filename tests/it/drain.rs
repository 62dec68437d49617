//! A server is emptied: all that can be moved leaves it under load, a few at a time, whoever leads meanwhile; what can't is
//! named with what to do; and taking it back stops it.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, connect_url, trials, until};
use crate::recovery::{has_come_to, has_its_bulk, with_bulk};

trials! {
    own a_server_is_emptied_under_load_and_what_stays_is_named,
}

const PLAIN: [&str; 3] = ["drain-a", "drain-b", "drain-c"];
const WITH_BULK: &str = "drain-bulk";
const WRITTEN: [&str; 2] = ["drain-w1", "drain-w2"];
const SUSPENDED: &str = "drain-suspended";
const REFUSED: &str = "drain-refused";

async fn on(fleet: &Fleet, server: &str) -> Vec<String> {
    let listed = fleet.cli(&["tenant", "list", "--server", server]).await.ok();
    listed.as_array().unwrap().iter().map(|tenant| tenant["id"].as_str().unwrap().to_owned()).collect()
}

fn tenants(listed: &Value) -> Vec<&str> {
    listed["listed"].as_array().unwrap().iter().map(|one| one["tenant"].as_str().unwrap()).collect()
}

/// The most moves from a server that were under way at once: as many as were when one of them began.
async fn at_once(catalog: &Client, server: &str) -> i64 {
    let moves = format!(
        "SELECT o.id, o.created_at AS begun, s.started_at AS switched FROM operation o
            JOIN operation_step s ON s.operation = o.id AND s.step = 'switched'
            WHERE o.kind = 'move' AND o.input->>'from' = '{server}'"
    );
    let sql = format!(
        "WITH m AS ({moves}) SELECT max(n) FROM (
            SELECT count(*) AS n FROM m a JOIN m b ON b.begun <= a.begun AND b.switched > a.begun GROUP BY a.id) x"
    );
    catalog.number(&sql).await
}

async fn a_server_is_emptied_under_load_and_what_stays_is_named(fleet: &mut Fleet) {
    with_bulk(fleet, WITH_BULK, "pg-1").await;
    for tenant in PLAIN.into_iter().chain(WRITTEN).chain([SUSPENDED, REFUSED]) {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    fleet.cli(&["tenant", "suspend", SUSPENDED, "--wait"]).await.ok();
    fleet.connect(REFUSED).await.run("CREATE TABLE marks (seen pg_lsn)").await;
    let ledgers = [Ledger::start(fleet, WRITTEN[0], 2).await, Ledger::start(fleet, WRITTEN[1], 2).await];
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;

    let answer = fleet.cli(&["server", "drain", "pg-1"]).await.exits(0);
    assert!(answer.stderr.contains("tenantry server drain pg-1 --wait"), "{}", answer.stderr);
    assert_eq!(answer.json()["state"], "draining");
    let first = until("a move to begin by itself", async || {
        let newest = catalog.column("SELECT min(id) FROM operation WHERE kind = 'move'").await.pop()?;
        newest.parse::<i64>().ok()
    })
    .await;
    has_come_to(&catalog, first, "copy").await;
    // Its successor finds a server that drains, and moves that are under way.
    fleet.kill_process("control");

    let stays = until("the control plane to be back", async || {
        let output = fleet.cli(&["server", "drain", "pg-1", "--wait", "--timeout", "10m"]).await;
        (output.status != 5).then(|| output.exits(1))
    })
    .await;
    let hint = stays.hint();
    assert!(
        hint.contains("--accept log_positions")
            && hint.contains(&format!("tenantry tenant resume {SUSPENDED}")),
        "{hint}"
    );
    let drain = &stays.json();
    assert_eq!((&drain["tenants_left"], &drain["pending"]), (&json!(2), &json!(0)), "{drain}");
    assert_eq!(tenants(&drain["set_aside"]), [REFUSED], "{drain}");
    assert_eq!(tenants(&drain["not_movable"]), [SUSPENDED], "{drain}");
    assert!(drain["rate"]["tenants_per_hour"].as_f64() > Some(0.0), "{drain}");
    let error = stays.error(1);
    assert!(
        error.contains(REFUSED) && error.contains(SUSPENDED) && error.contains("log positions"),
        "{error}"
    );
    assert_eq!(on(fleet, "pg-1").await, [REFUSED, SUSPENDED]);
    assert_eq!(on(fleet, "pg-3").await, Vec::<String>::new(), "the dedicated one is not asked for");
    let shown = fleet.cli(&["server", "show", "pg-1"]).await.ok();
    let sealed = &shown["drain"]["sealed_copies"];
    assert_eq!((&sealed["count"], sealed["listed"].as_array().unwrap().len()), (&json!(6), 6), "{shown}");
    assert!(sealed["listed"][0]["kept_until"].is_string(), "{shown}");
    assert!(at_once(&catalog, "pg-1").await <= 2, "no more at once than moves_per_server_max");
    let again = "SELECT count(*) FROM (SELECT FROM operation WHERE kind = 'move' GROUP BY tenant HAVING count(*) > 1) x";
    assert_eq!(catalog.number(again).await, 0, "the successor went on with what was there");
    let metrics = fleet.control_metrics().await;
    let gauge = "tenantry_draining_tenants{server=\"pg-1\",standing=\"not_movable\"}";
    assert!((metrics.get(gauge) - 1.0).abs() < 0.1);

    fleet.cli(&["tenant", "resume", SUSPENDED, "--wait"]).await.ok();
    fleet.connect(REFUSED).await.run("DROP TABLE marks").await;
    let empty = fleet.cli(&["server", "drain", "pg-1", "--wait", "--timeout", "10m"]).await.ok();
    assert_eq!(empty["tenants_left"], 0, "{empty}");
    for ledger in &ledgers {
        ledger.goes_on().await;
        assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    }
    fleet.cli(&["server", "drain", "pg-1", "--undo"]).await.ok();
    stops_when_it_is_taken_back(fleet, &catalog).await;
    for ledger in ledgers {
        ledger.goes_on().await;
        assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
        ledger.reckon(fleet).await;
    }
    has_its_bulk(fleet, WITH_BULK).await;
}

/// All are on the second server now, and begin to go back.
async fn stops_when_it_is_taken_back(fleet: &Fleet, catalog: &Client) {
    let begun = "SELECT count(*) FROM operation WHERE kind = 'move' AND input->>'from' = 'pg-2'";
    fleet.cli(&["server", "drain", "pg-2"]).await.ok();
    until("a move to begin", async || (catalog.number(begun).await > 0).then_some(())).await;
    fleet.cli(&["server", "drain", "pg-2", "--undo"]).await.ok();
    let before = catalog.number(begun).await;
    assert!(before < 8, "{before} moves had begun");
    let running = "SELECT count(*) FROM operation WHERE state = 'running'";
    until("those to end", async || (catalog.number(running).await == 0).then_some(())).await;
    let shown = fleet.cli(&["server", "show", "pg-2"]).await.ok();
    assert_eq!((&shown["state"], &shown["drain"]), (&json!("active"), &Value::Null), "{shown}");
    assert_eq!(
        i64::try_from(on(fleet, "pg-1").await.len()).unwrap(),
        before,
        "they ended where they were to go"
    );
    fleet.create("drain-late", &["--server", "pg-2"]).await;
    assert_eq!(catalog.number(begun).await, before, "no more began");
}
