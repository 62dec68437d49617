//! Both sides of a move are compared before the cutover, while clients work: what differs is found and the tenant stays where
//! it is; what only changes all the time is not taken for a difference. What was compared and counted is on the receipt.

use std::cell::Cell;

use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::moves::{databases, move_to};
use crate::moves_copy::Pauses;
use crate::moves_reverse::{id_of, left, show};

trials! {
    own a_copy_is_compared_before_its_cutover,
    shared a_receipt_tells_what_was_moved_and_compared,
}

async fn a_copy_is_compared_before_its_cutover(fleet: &mut Fleet) {
    let fleet = &*fleet;
    what_was_altered_behind_the_stream_is_found(fleet).await;
    what_changes_all_the_time_agrees(fleet).await;
    a_comparison_goes_on_after_its_controller(fleet).await;
}

/// A tenant with a table of several ranges, a wide key, and a table without any.
async fn with_rows(fleet: &Fleet, tenant: &str) -> Client {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let owner = fleet.connect(tenant).await;
    owner
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT n, 'note ' || n FROM generate_series(1, 5000) n;
             CREATE TABLE wide (a text, b timestamptz, note text, PRIMARY KEY (a, b));
             INSERT INTO wide SELECT md5(n::text), now(), 'note' FROM generate_series(1, 2500) n;
             CREATE TABLE keyless (n int); INSERT INTO keyless SELECT n / 2 FROM generate_series(1, 2000) n",
        )
        .await;
    owner
}

/// Starts a move, and waits until it is about to compare the table from this range on.
async fn paused_at(fleet: &Fleet, tenant: &str, (table, range): (&str, i64), verify: &str) -> String {
    let pauses = Pauses::of(fleet);
    pauses.at(&[("compare", table, range)]);
    let start = ["move", "start", tenant, "--to", "pg-3", "--verify", verify];
    let id = id_of(&fleet.cli(&start).await.ok());
    pauses.reached().await;
    id
}

/// Changes rows of a copy as no stream does.
async fn alter(fleet: &Fleet, tenant: &str, sql: &str) {
    let superuser = fleet.direct("pg-3", &format!("{tenant}__arriving")).await;
    superuser.run(&format!("SET session_replication_role = replica; {sql}")).await;
}

async fn has_ended(fleet: &Fleet, id: &str) -> Value {
    until("the move to end", async || {
        let shown = fleet.cli(&["move", "show", id]).await;
        (shown.status == 0 && shown.json()["state"] != "running").then(|| shown.json())
    })
    .await
}

async fn what_was_altered_behind_the_stream_is_found(fleet: &Fleet) {
    let owner = with_rows(fleet, "altered").await;
    for (at, verify, sql, found) in [
        (
            ("t", 2),
            "full",
            "UPDATE t SET note = 'other' WHERE id = 3210",
            ["\"public\".\"t\"", "row 3210 differs"],
        ),
        (
            ("wide", 0),
            "count",
            "DELETE FROM wide WHERE a = md5('77')",
            ["\"public\".\"wide\"", "999 rows on the target"],
        ),
        (("keyless", 0), "full", "INSERT INTO keyless VALUES (-1)", ["\"public\".\"keyless\"", "2001 rows"]),
    ] {
        let id = paused_at(fleet, "altered", at, verify).await;
        alter(fleet, "altered", sql).await;
        Pauses::of(fleet).no_more();
        let ended = has_ended(fleet, &id).await;
        assert_eq!((&ended["state"], &ended["verified"]), (&"failed".into(), &false.into()), "{ended}");
        for part in found {
            assert!(ended["error"].as_str().unwrap().contains(part), "{ended}");
        }
        assert_eq!(
            (&ended["hold_ms"], ended["differences"].as_array().unwrap().len()),
            (&Value::Null, 1),
            "{ended}"
        );
        owner.run("UPDATE t SET note = note WHERE id = 1").await;
        assert_eq!(fleet.tenant("altered").await["server"], "pg-1");
        assert_eq!(databases(fleet, "pg-3", "altered").await, Vec::<String>::new());
        assert_eq!(left(fleet, "pg-1", "altered", &[&id]).await, Vec::<String>::new());
    }
}

async fn what_changes_all_the_time_agrees(fleet: &Fleet) {
    let owner = with_rows(fleet, "restless").await;
    let id = paused_at(fleet, "restless", ("t", 1), "full").await;
    let (over, changes) = (Cell::new(false), Cell::new(0));
    // One client, so that the target can follow also where it shares a busy machine.
    let changing = async {
        let connection = fleet.connect("restless").await;
        while !over.get() {
            let (hot, young) = (changes.get() % 7 + 1500, 10_000 + changes.get() % 100);
            connection
                .run(&format!(
                    "UPDATE t SET note = clock_timestamp()::text WHERE id = {hot}; DELETE FROM t WHERE id = {young} - 50;
                     INSERT INTO t VALUES ({young}, 'young') ON CONFLICT DO NOTHING; INSERT INTO keyless VALUES ({hot})"
                ))
                .await;
            changes.set(changes.get() + 1);
        }
    };
    let comparing = async {
        // The stream stands at this row, so both sides differ for certain until it is let go.
        let arriving = fleet.direct("pg-3", "restless__arriving").await;
        arriving.run("BEGIN; SELECT FROM t WHERE id = 1500 FOR UPDATE").await;
        until("changes", async || (changes.get() > 50).then_some(())).await;
        Pauses::of(fleet).no_more();
        until("rows to differ", async || {
            show(fleet, &id).await["compared"]["ranges_looked_again"].as_u64().filter(|ranges| *ranges > 0)
        })
        .await;
        arriving.run("ROLLBACK").await;
        drop(arriving);
        let ended = has_ended(fleet, &id).await;
        over.set(true);
        ended
    };
    let (_, ended) = tokio::join!(changing, comparing);
    assert_eq!((&ended["state"], &ended["verified"]), (&"switched".into(), &true.into()), "{ended}");
    let before = &ended["receipt"]["before"];
    assert!(before["rows_settled"].as_i64().unwrap() > 0, "{ended}");
    assert_eq!((&before["tables_done"], &before["left_out"]), (&3.into(), &0.into()), "{ended}");
    assert_eq!(owner.number("SELECT count(*) FROM t WHERE id <= 5000").await, 5000);
}

async fn a_comparison_goes_on_after_its_controller(fleet: &Fleet) {
    with_rows(fleet, "handed-on").await;
    // Of two workers one stands, and the other does the rest.
    let id = paused_at(fleet, "handed-on", ("t", 1), "full").await;
    until("the others to be compared", async || {
        (show(fleet, &id).await["compared"]["tables_done"].as_u64()? == 2).then_some(())
    })
    .await;
    fleet.kill_process("control");
    let pauses = Pauses::of(fleet);
    pauses.at(&[("compare", "t", 4), ("compare", "wide", 0), ("compare", "keyless", 0)]);
    until("the successor to go on", async || {
        let paused = std::fs::read_to_string(fleet.path().join("failpoint.paused")).unwrap_or_default();
        assert!(!paused.contains("wide") && !paused.contains("keyless"), "they were compared: {paused}");
        paused.contains("\"t\"").then_some(())
    })
    .await;
    fleet.cli(&["move", "abort", &id, "--wait", "--timeout", "1m"]).await.ok();
    pauses.no_more();
    assert_eq!(left(fleet, "pg-1", "handed-on", &[&id]).await, Vec::<String>::new());
}

async fn a_receipt_tells_what_was_moved_and_compared(fleet: &Fleet) {
    let owner = with_rows(fleet, "receipted").await;
    owner.run("CREATE SEQUENCE numbers INCREMENT 7").await;
    let taken = owner.number("SELECT nextval('numbers')").await;
    let moved = move_to(fleet, "receipted", "pg-3").await;
    let receipt = &moved["receipt"];
    for at in [
        "/fence/source_lsn",
        "/fence/target_lsn",
        "/fence/written_at",
        "/before/ended_at",
        "/after/ended_at",
        "/made_at",
    ] {
        assert!(receipt.pointer(at).is_some_and(Value::is_string), "{at}: {receipt}");
    }
    assert!(receipt["hold_ms"].is_number() && receipt["hold_parts_ms"]["decide"].is_number(), "{receipt}");
    assert!(receipt["asked_by"].as_str().unwrap().contains('@'), "{receipt}");
    let rows = |table: &str| {
        let tables = receipt["tables"].as_array().unwrap().iter();
        tables.clone().find(|one| one["table"] == format!("\"public\".\"{table}\"")).unwrap()["rows"].clone()
    };
    assert_eq!(
        (rows("t"), rows("wide"), rows("keyless")),
        (5000.into(), 2500.into(), 2000.into()),
        "{receipt}"
    );
    assert_eq!(
        (&receipt["before"]["rows"], &receipt["after"]["rows"]),
        (&9500.into(), &9500.into()),
        "{receipt}"
    );
    let sequences = &receipt["sequences"];
    assert_eq!(
        (&sequences["count"], &sequences["values"][0]["last_value"]),
        (&1.into(), &taken.into()),
        "{receipt}"
    );

    // A move back has its own, and each has hashes that anybody can check.
    let back = fleet.cli(&["move", "reverse", &id_of(&moved), "--wait"]).await.ok();
    assert_eq!(back["receipt"]["before"]["rows"], 9500, "{back}");
    fleet.cli(&["move", "complete", &id_of(&back), "--wait"]).await.ok();
    let start = ["move", "start", "receipted", "--to", "pg-3", "--wait"];
    let full = fleet.cli(&start).await.ok();
    let sum =
        "SELECT sum(('x' || left(md5(ROW(id, note)::text), 16))::bit(64)::bigint::numeric)::text FROM t";
    let hash = owner.column(sum).await.remove(0);
    let hashes = full["receipt"]["tables"].as_array().unwrap().iter().map(|one| &one["hash"]);
    assert!(hashes.clone().any(|one| *one == hash), "{hash}: {full}");
    fleet.cli(&["move", "complete", &id_of(&full), "--wait"]).await.ok();
    assert_eq!(show(fleet, &id_of(&full)).await["receipt"], full["receipt"], "it is kept");
}
