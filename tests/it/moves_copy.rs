//! A move's copy, disturbed in its middle: rows that come to lie elsewhere, sessions that are lost. Every row arrives once.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Fleet, Sql as _, trials, until};

trials! {
    own a_copy_that_is_disturbed_in_its_middle_arrives_whole,
}

/// Blocks of a range in a build with failpoints.
const BLOCKS: i64 = 64;

/// Makes the control plane pause at blocks of tables.
pub(crate) struct Pauses {
    wish: PathBuf,
    paused: PathBuf,
}

impl Pauses {
    pub(crate) fn of(fleet: &Fleet) -> Self {
        Self { wish: fleet.path().join("failpoint"), paused: fleet.path().join("failpoint.paused") }
    }

    /// The places to pause at, each a point, a table and a block; whoever pauses elsewhere goes on.
    pub(crate) fn at(&self, places: &[(&str, &str, i64)]) {
        let line = |(point, table, block): &(&str, &str, i64)| {
            format!("pause {point} \"public\".\"{table}\" {block}\n")
        };
        drop(std::fs::remove_file(&self.paused));
        std::fs::write(&self.wish, places.iter().map(line).collect::<String>()).unwrap();
    }

    /// Waits until all of them are.
    pub(crate) async fn reached(&self) {
        let wanted = std::fs::read_to_string(&self.wish).unwrap();
        until("the copy to pause", async || {
            let paused = std::fs::read_to_string(&self.paused).unwrap_or_default();
            wanted.lines().all(|line| paused.lines().any(|other| other == line)).then_some(())
        })
        .await;
    }

    pub(crate) fn no_more(&self) {
        self.at(&[]);
    }
}

/// A table of several ranges, of which every other row is gone.
async fn sparse_table(fleet: &Fleet, tenant: &str, table: &str, rows: i64) {
    let client = fleet.connect(tenant).await;
    client.run(&format!("CREATE TABLE {table} (n bigint, note text)")).await;
    client.run(&format!("ALTER TABLE {table} SET (autovacuum_enabled = off)")).await;
    client
        .run(&format!("INSERT INTO {table} SELECT n, repeat('x', 200) FROM generate_series(1, {rows}) n"))
        .await;
    client.run(&format!("DELETE FROM {table} WHERE n % 2 = 0")).await;
    let blocks = format!("SELECT pg_relation_size('{table}') / 8192");
    assert!(client.number(&blocks).await > 3 * BLOCKS, "{table} must have several ranges");
}

async fn start(fleet: &Fleet, tenant: &str) -> String {
    let start = ["move", "start", tenant, "--to", "pg-3", "--verify", "full"];
    fleet.cli(&start).await.ok()["id"].as_i64().unwrap().to_string()
}

/// How it ended: well, verified, and with so many copies.
async fn ended_well(fleet: &Fleet, id: &str, copies: usize) -> Value {
    let shown = until("the move to end", async || {
        let shown = fleet.cli(&["move", "show", id]).await.ok();
        (shown["state"] != "running").then_some(shown)
    })
    .await;
    assert_eq!((&shown["state"], &shown["verified"]), (&"switched".into(), &true.into()), "{shown}");
    let steps = shown["steps"].as_array().unwrap().iter();
    let begun = steps.filter(|step| step["step"] == "copy").count();
    assert_eq!(begun, copies, "{shown}");
    shown
}

async fn a_copy_that_is_disturbed_in_its_middle_arrives_whole(fleet: &mut Fleet) {
    rows_that_came_to_lie_elsewhere_are_copied_once(fleet).await;
    lost_sessions_cost_no_more_than_a_range(fleet).await;
    without_its_snapshot_a_copy_is_begun_anew(fleet).await;
    an_index_that_takes_anothers_name_is_not_looked_at(fleet).await;
}

async fn rows_that_came_to_lie_elsewhere_are_copied_once(fleet: &Fleet) {
    fleet.create("rewritten", &["--server", "pg-1"]).await;
    sparse_table(fleet, "rewritten", "emptied", 20_000).await;
    sparse_table(fleet, "rewritten", "compacted", 16_000).await;
    let owner = fleet.connect("rewritten").await;
    let pauses = Pauses::of(fleet);
    // Of each, a range of the middle is late.
    pauses.at(&[("range", "emptied", BLOCKS), ("range", "compacted", BLOCKS)]);
    let id = start(fleet, "rewritten").await;
    pauses.reached().await;
    owner.run("TRUNCATE emptied; INSERT INTO emptied SELECT n FROM generate_series(1, 50) n").await;
    // What the snapshot sees and nobody else does must survive the rewrite, or the stream finds no row to change.
    owner.run("DELETE FROM compacted WHERE n % 7 = 0; UPDATE compacted SET n = -n WHERE n % 5 = 0").await;
    owner.run("INSERT INTO compacted SELECT n FROM generate_series(100001, 100100) n").await;
    owner.run("VACUUM FULL compacted").await;
    pauses.no_more();
    ended_well(fleet, &id, 1).await;
    let expected = "
        SELECT md5(string_agg(n::text, ' ' ORDER BY n)) FROM (
            SELECT CASE WHEN n % 5 = 0 THEN -n ELSE n END FROM generate_series(1, 16000, 2) n WHERE n % 7 <> 0
            UNION ALL SELECT generate_series(100001, 100100)) rows (n)";
    let found = "SELECT md5(string_agg(n::text, ' ' ORDER BY n)) FROM compacted";
    assert_eq!(owner.column(found).await, owner.column(expected).await);
    assert_eq!(owner.number("SELECT count(*) FROM compacted").await, 6957, "none is there twice");
    assert_eq!(owner.number("SELECT count(*) FROM emptied").await, 50);
}

/// Ends what the control plane has open in a tenant's database: its sessions, or the one that holds the snapshot.
async fn end_sessions(fleet: &Fleet, server: &str, database: &str, kind: &str) {
    let ended = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
         WHERE datname = '{database}' AND backend_type = '{kind}' AND application_name = 'tenantry control'"
    );
    assert!(fleet.direct(server, "postgres").await.number(&ended).await > 0, "a copy has sessions");
}

async fn lost_sessions_cost_no_more_than_a_range(fleet: &Fleet) {
    fleet.create("cut", &["--server", "pg-1"]).await;
    sparse_table(fleet, "cut", "t", 20_000).await;
    let pauses = Pauses::of(fleet);
    pauses.at(&[("loaded", "t", BLOCKS)]);
    let id = start(fleet, "cut").await;
    pauses.reached().await;
    for (server, database) in [("pg-1", "cut"), ("pg-3", "cut__arriving")] {
        end_sessions(fleet, server, database, "client backend").await;
    }
    // And one whose commit is not known to have been done.
    pauses.at(&[("copied", "t", BLOCKS)]);
    pauses.reached().await;
    end_sessions(fleet, "pg-1", "cut", "client backend").await;
    pauses.no_more();
    let shown = ended_well(fleet, &id, 1).await;
    assert_eq!(shown["rows_copied"], 10_000, "{shown}");
    let client = fleet.connect("cut").await;
    let found = "SELECT count(*) || ' ' || count(DISTINCT n) || ' ' || sum(n) FROM t";
    assert_eq!(client.column(found).await, ["10000 10000 100000000"]);
}

async fn without_its_snapshot_a_copy_is_begun_anew(fleet: &Fleet) {
    fleet.create("unseen", &["--server", "pg-1"]).await;
    sparse_table(fleet, "unseen", "t", 20_000).await;
    let pauses = Pauses::of(fleet);
    pauses.at(&[("range", "t", BLOCKS)]);
    let id = start(fleet, "unseen").await;
    pauses.reached().await;
    end_sessions(fleet, "pg-1", "unseen", "walsender").await;
    pauses.no_more();
    let shown = ended_well(fleet, &id, 2).await;
    assert_eq!(shown["rows_copied"], 10_000, "{shown}");
}

/// Before the guard against changes of the schema is up, its owner may do so. Whoever looks at the predicate of an index runs what
/// is constant in it.
async fn an_index_that_takes_anothers_name_is_not_looked_at(fleet: &Fleet) {
    fleet.create("swapped", &["--server", "pg-1"]).await;
    let owner = fleet.connect("swapped").await;
    owner
        .run(
            "CREATE FUNCTION plain() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                 IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                     RAISE EXCEPTION 'a superuser runs this';
                 END IF;
                 RETURN true;
             END $$;
             CREATE TABLE two (n int NOT NULL); CREATE UNIQUE INDEX looked_for ON two (n);
             CREATE UNIQUE INDEX other ON two (n) WHERE public.plain();
             COMMENT ON INDEX looked_for IS 'it''s \"kept\"';
             CREATE TABLE one (n int NOT NULL); CREATE UNIQUE INDEX left_alone ON one (n)",
        )
        .await;
    let wish = fleet.path().join("failpoint");
    std::fs::write(&wish, "wait arm_noted").unwrap();
    let id = start(fleet, "swapped").await;
    until("the move to know which index it takes", async || {
        std::fs::read_to_string(wish.with_extension("waiting")).ok().filter(|at| at == "arm_noted")
    })
    .await;
    owner
        .run(
            "ALTER INDEX looked_for RENAME TO away; ALTER INDEX other RENAME TO looked_for;
             COMMENT ON INDEX looked_for IS 'it''s \"kept\"'",
        )
        .await;
    std::fs::remove_file(&wish).unwrap();
    ended_well(fleet, &id, 1).await;
    let identities = "SELECT relname || ' ' || relreplident::text FROM pg_class WHERE relname IN ('one', 'two') ORDER BY 1";
    let source = fleet.direct("pg-1", "swapped__sealed").await;
    assert_eq!(source.column(identities).await, ["one i", "two f"]);
    let comments = "SELECT relname || ' ' || obj_description(oid, 'pg_class') FROM pg_class WHERE relname IN ('away', 'looked_for') ORDER BY 1";
    let expected = ["away it's \"kept\"", "looked_for it's \"kept\""];
    for (server, database) in [("pg-1", "swapped__sealed"), ("pg-3", "swapped")] {
        assert_eq!(fleet.direct(server, database).await.column(comments).await, expected);
    }
}
