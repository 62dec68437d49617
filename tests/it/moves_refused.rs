//! Moves that are refused, held up or given up; and what is refused while a tenant moves.

use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::migrations::{Files, turn};
use crate::moves::databases;
use crate::moves_reverse::left;

trials! {
    shared moves_that_cannot_be_meant_are_refused,
    shared what_cannot_be_replicated_is_found_before_anything_is_touched,
    shared a_dry_run_of_a_clean_tenant_finds_nothing,
    shared an_aborted_move_leaves_everything_as_it_was,
    shared the_schema_cannot_be_changed_during_a_move,
    shared a_tenant_is_not_changed_otherwise_while_it_moves,
    shared a_migration_waits_for_the_end_of_a_move,
    shared a_transaction_that_stays_open_delays_the_move_and_is_not_broken,
}

/// A move that can't switch yet, as a transaction of the tenant stays open.
struct HeldUp {
    id: String,
    blocker: Client,
}

impl HeldUp {
    async fn start(fleet: &Fleet, tenant: &str, to: &str) -> Self {
        let blocker = fleet.connect(tenant).await;
        // Only reads: a transaction that has written would keep the move from beginning at all.
        blocker.run("BEGIN; SELECT 1").await;
        let started = fleet.cli(&["move", "start", tenant, "--to", to]).await.ok();
        let id = started["id"].as_i64().unwrap().to_string();
        until("the move to wait for the open transaction", async || {
            let shown = fleet.cli(&["move", "show", &id]).await.ok();
            assert_eq!(shown["state"], "running", "{shown}");
            let waits = shown["waiting_for"].as_str().is_some_and(|what| what.contains("transaction"));
            (shown["step"] == "catch_up" && waits).then_some(())
        })
        .await;
        Self { id, blocker }
    }

    /// Lets it go on, and returns it as it ended.
    async fn release(self, fleet: &Fleet) -> Value {
        self.blocker.run("COMMIT").await;
        self.ended(fleet).await
    }

    async fn ended(&self, fleet: &Fleet) -> Value {
        until("the move to end", async || {
            let shown = fleet.cli(&["move", "show", &self.id]).await.ok();
            (shown["state"] != "running").then_some(shown)
        })
        .await
    }
}

async fn moves_that_cannot_be_meant_are_refused(fleet: &Fleet) {
    fleet.create("settled", &["--server", "pg-1"]).await;
    let start = async |tenant: &str, to: &str| fleet.cli(&["move", "start", tenant, "--to", to]).await;
    let error = start("settled", "pg-1").await.error(4);
    assert!(error.contains("pg-1"), "{error}");
    start("settled", "pg-99").await.error(3);
    start("nobody-here", "pg-3").await.error(3);
    for hold in ["0s", "1ms", "1h", "soon"] {
        fleet.cli(&["move", "start", "settled", "--to", "pg-3", "--max-hold", hold]).await.exits(2);
    }
    for verb in ["show", "abort", "complete", "reverse"] {
        fleet.cli(&["move", verb, "987654"]).await.error(3);
    }
    assert_eq!(fleet.tenant("settled").await["server"], "pg-1");
}

async fn what_cannot_be_replicated_is_found_before_anything_is_touched(fleet: &Fleet) {
    fleet.create("unmovable", &["--server", "pg-1"]).await;
    let client = fleet.connect("unmovable").await;
    client.run("CREATE UNLOGGED TABLE fleeting (n int); CREATE UNLOGGED TABLE small (n int)").await;
    // More than goes along in a hold.
    client.run("INSERT INTO fleeting SELECT generate_series(1, 500000); INSERT INTO small VALUES (1)").await;
    client.run("SELECT lo_create(0) FROM generate_series(1, 1001)").await;
    client.run("CREATE TABLE marks (id int PRIMARY KEY, seen pg_lsn)").await;
    let start = async |more: &[&str]| {
        fleet.cli(&[&["move", "start", "unmovable", "--to", "pg-3"], more].concat()).await
    };
    let output = start(&[]).await;
    assert!(output.hint().len() > 10);
    let error = output.error(4);
    assert!(error.contains("large objects") && error.contains("fleeting"), "all at once: {error}");

    let found = start(&["--dry-run"]).await.exits(4).json();
    let errors: Vec<&Value> =
        found["findings"].as_array().unwrap().iter().filter(|f| f["level"] == "error").collect();
    let codes: Vec<_> = errors.iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["large_objects", "unlogged_rows", "log_positions"], "{found}");
    assert!(errors.iter().all(|finding| !finding["remedy"].as_str().unwrap().is_empty()), "{found}");
    start(&["--accept", "large_objects"]).await.error(2);

    client.run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata").await;
    let refused = start(&["--wait", "--accept", "unlogged_rows"]).await;
    assert!(refused.hint().contains("--accept log_positions"));
    refused.error(4);
    let moved = start(&["--wait", "--accept", "log_positions", "--accept", "unlogged_rows"]).await.ok();
    assert_eq!(moved["state"], "switched", "{moved}");
    assert_eq!(client.number("SELECT count(*) FROM fleeting").await, 0, "as after a crash");
    assert_eq!(client.number("SELECT count(*) FROM small").await, 1, "what fits goes along");
}

async fn a_dry_run_of_a_clean_tenant_finds_nothing(fleet: &Fleet) {
    fleet.create("clean", &["--server", "pg-1"]).await;
    let client = fleet.connect("clean").await;
    client.run("CREATE TABLE t (id int PRIMARY KEY, x text)").await;
    client.run("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 1000) n").await;
    let found = fleet.cli(&["move", "start", "clean", "--to", "pg-3", "--dry-run"]).await.ok();
    let errors = found["findings"].as_array().unwrap().iter().filter(|f| f["level"] == "error").count();
    assert_eq!(errors, 0, "{found}");
    let bytes = |key: &str| found[key].as_i64().unwrap();
    assert!(bytes("database_bytes") > bytes("bytes"), "{found}");
    let estimate = |key: &str| found["estimate"][key].as_f64().unwrap_or_else(|| panic!("{key}: {found}"));
    assert!(estimate("seconds") >= 1.0 && estimate("bytes_per_second") > 0.0, "{found}");
    assert_eq!(databases(fleet, "pg-3", "clean").await, Vec::<String>::new());
    assert_eq!(fleet.tenant("clean").await["server"], "pg-1");
}

async fn an_aborted_move_leaves_everything_as_it_was(fleet: &Fleet) {
    fleet.create("undecided", &["--server", "pg-1"]).await;
    let client = fleet.connect("undecided").await;
    client.run("CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE keyless (n int)").await;
    client.run("INSERT INTO keyless SELECT generate_series(1, 1000)").await;
    let before = fleet.tenant("undecided").await;
    let held_up = HeldUp::start(fleet, "undecided", "pg-3").await;
    assert!(
        !left(fleet, "pg-1", "undecided", &[&held_up.id]).await.is_empty(),
        "a move under way has traces"
    );
    client.run("INSERT INTO keyless VALUES (1001); UPDATE keyless SET n = -n WHERE n = 1").await;

    let ended = fleet.cli(&["move", "abort", &held_up.id, "--wait"]).await.ok();
    assert_eq!(ended["state"], "aborted");
    held_up.blocker.run("COMMIT").await;
    for server in ["pg-1", "pg-3"] {
        let remains = left(fleet, server, "undecided", &[&held_up.id]).await;
        assert_eq!(remains, Vec::<String>::new(), "{server}");
    }
    assert_eq!(databases(fleet, "pg-1", "undecided").await, ["undecided"]);
    assert_eq!(databases(fleet, "pg-3", "undecided").await, Vec::<String>::new());
    let roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'undecided\\_\\_%'";
    assert_eq!(fleet.direct("pg-3", "postgres").await.column(roles).await, Vec::<String>::new());
    let after = fleet.tenant("undecided").await;
    assert_eq!((&after["server"], &after["epoch"]), (&before["server"], &before["epoch"]));
    client.run("ALTER TABLE keyless ADD more int; DROP TABLE keyed").await;
    assert_eq!(client.number("SELECT count(*) FROM keyless").await, 1001);
    fleet.cli(&["move", "abort", &held_up.id]).await.error(4);
}

async fn the_schema_cannot_be_changed_during_a_move(fleet: &Fleet) {
    fleet.create("guarded", &["--server", "pg-1"]).await;
    let client = fleet.connect("guarded").await;
    client.run("CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE doomed (n int)").await;
    client.run("CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS rows FROM t").await;
    let held_up = HeldUp::start(fleet, "guarded", "pg-3").await;
    for ddl in [
        "CREATE TABLE more (n int)",
        "ALTER TABLE t ADD more int",
        "DROP TABLE doomed",
        "CREATE INDEX ON t (n)",
        "CREATE INDEX CONCURRENTLY late ON t (n)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "GRANT SELECT ON t TO PUBLIC",
        "CREATE TABLE copy AS SELECT * FROM t",
        "COMMENT ON TABLE t IS 'x'",
    ] {
        assert_eq!(client.fails(ddl).await, "TT002", "{ddl}");
    }
    client.run("BEGIN; CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1; COMMIT").await;
    client.run("CREATE TEMP TABLE scratch (n int); CREATE INDEX ON scratch (n); DROP TABLE scratch").await;
    client.run("DISCARD ALL").await;
    client.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    client.run("REFRESH MATERIALIZED VIEW totals").await;
    let ended = held_up.release(fleet).await;
    assert_eq!(ended["state"], "switched", "{ended}");
    assert_eq!(client.number("SELECT rows FROM totals").await, 2, "a refresh moves along");
    client.run("ALTER TABLE t ADD more int").await;
}

async fn a_tenant_is_not_changed_otherwise_while_it_moves(fleet: &Fleet) {
    fleet.create("occupied", &["--server", "pg-1"]).await;
    fleet.connect("occupied").await.run("CREATE TABLE t (n int)").await;
    let held_up = HeldUp::start(fleet, "occupied", "pg-3").await;
    for args in [
        &["tenant", "suspend", "occupied"][..],
        &["tenant", "delete", "occupied", "--yes"],
        &["move", "start", "occupied", "--to", "pg-2"],
        &["move", "complete", &held_up.id],
        &["move", "reverse", &held_up.id],
    ] {
        fleet.cli(args).await.error(4);
    }
    assert_eq!(held_up.release(fleet).await["state"], "switched");
    fleet.cli(&["tenant", "suspend", "occupied"]).await.ok();
    fleet.cli(&["tenant", "resume", "occupied"]).await.ok();
}

async fn a_migration_waits_for_the_end_of_a_move(fleet: &Fleet) {
    let _turn = turn().await;
    fleet.create("migrant", &["--server", "pg-1", "--label", "group=migrant"]).await;
    fleet.connect("migrant").await.run("CREATE TABLE t (n int)").await;
    let held_up = HeldUp::start(fleet, "migrant", "pg-3").await;
    let files = Files::new(&[("V1__more.sql", "ALTER TABLE t ADD more int")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=migrant", "--no-wait"];
    let id = fleet.cli(&args).await.ok()["id"].as_i64().unwrap().to_string();
    let status = async || fleet.cli(&["migrate", "status", &id]).await.ok();
    until("the migration to be put off", async || {
        let run = status().await;
        assert_eq!(run["failed"], 0, "{run}");
        (run["waiting"][0]["tenant"] == "migrant").then_some(())
    })
    .await;
    assert_eq!(held_up.release(fleet).await["state"], "switched");
    until("the migration to be done", async || (status().await["state"] == "done").then_some(())).await;
    fleet.connect("migrant").await.run("SELECT more FROM t").await;
}

async fn a_transaction_that_stays_open_delays_the_move_and_is_not_broken(fleet: &Fleet) {
    fleet.create("unhurried", &["--server", "pg-1"]).await;
    fleet.connect("unhurried").await.run("CREATE TABLE t (n int)").await;
    let held_up = HeldUp::start(fleet, "unhurried", "pg-3").await;
    held_up.blocker.run("INSERT INTO t VALUES (1)").await;
    let ended = held_up.release(fleet).await;
    assert_eq!(ended["state"], "switched", "{ended}");
    assert_eq!(fleet.connect("unhurried").await.number("SELECT count(*) FROM t").await, 1);
}
