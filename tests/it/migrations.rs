//! Schema changes over many tenants: all of them, wave by wave, and what becomes of those that fail.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    own a_full_run_reaches_every_tenant_and_those_made_later,
    shared a_run_reaches_the_tenants_of_its_selector_only,
    shared a_plan_tells_what_is_pending_and_what_differs_and_changes_nothing,
    shared a_tenant_that_fails_is_listed_and_catches_up_when_the_run_is_resumed,
    shared a_failing_canary_keeps_the_others_untouched,
    shared a_migration_with_an_error_leaves_nothing_of_itself,
    shared an_index_that_a_failure_left_invalid_is_found_and_rebuilt,
    shared a_file_has_limits_and_settings_of_its_own,
    shared a_migration_gives_way_to_the_application_and_tries_again,
    shared an_aborted_run_begins_no_further_tenant_and_can_be_resumed,
}

/// Only one run goes on in a fleet at a time.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    static RUNS: Mutex<()> = Mutex::const_new(());
    RUNS.lock().await
}

/// A directory of migrations.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let files_dir = Self(tempfile::tempdir().unwrap());
        for (name, sql) in files {
            files_dir.add(name, sql);
        }
        files_dir
    }

    pub(crate) fn add(&self, name: &str, sql: &str) {
        fs::write(self.0.path().join(name), sql).unwrap();
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// Makes tenants that share a label, which selects them.
async fn tenants(fleet: &Fleet, label: &str, names: &[&str]) -> String {
    for name in names {
        fleet.create(name, &["--label", &format!("group={label}")]).await;
    }
    format!("group={label}")
}

/// What stands in a tenant's table `t`.
async fn columns(fleet: &Fleet, tenant: &str) -> Vec<String> {
    let sql = "SELECT column_name FROM information_schema.columns WHERE table_name = 't' ORDER BY 1";
    fleet.connect(tenant).await.column(sql).await
}

fn failed_tenants(run: &Value) -> Vec<&str> {
    run["failures"].as_array().unwrap().iter().map(|failure| failure["tenant"].as_str().unwrap()).collect()
}

const FIRST: (&str, &str) = ("V1__first.sql", "CREATE TABLE t (a int)");
const SECOND: (&str, &str) = ("V2__second.sql", "ALTER TABLE t ADD b int NOT NULL DEFAULT 0");

async fn a_full_run_reaches_every_tenant_and_those_made_later(fleet: &mut Fleet) {
    let names: Vec<String> = (1..=5).map(|i| format!("all-{i}")).collect();
    for name in &names {
        fleet.create(name, &[]).await;
    }
    let files = Files::new(&[FIRST, SECOND]);
    files.add("README.md", "not a migration");
    let run = fleet.cli(&["migrate", "run", "--dir", files.path(), "--canary", "1"]).await.ok();
    assert_eq!((&run["state"], &run["total"], &run["done"]), (&"done".into(), &5.into(), &5.into()));
    assert_eq!((&run["failed"], &run["pending"]), (&0.into(), &0.into()));
    assert_eq!(run["failures"], serde_json::json!([]));
    let id = run["id"].as_i64().unwrap().to_string();
    assert_eq!(fleet.cli(&["migrate", "status", &id]).await.ok(), run);
    assert_eq!(fleet.cli(&["migrate", "status"]).await.ok(), run, "the latest run is shown");
    for name in &names {
        assert_eq!(columns(fleet, name).await, ["a", "b"]);
        assert_eq!(fleet.tenant(name).await["schema_version"], 2);
    }
    // The application may use what the owner's migrations made.
    let app = connect(&fleet.user("app", "all-1", &["--access", "app"]).await).await.unwrap();
    app.run("INSERT INTO t (a) VALUES (1)").await;

    assert_eq!(fleet.create("late", &[]).await["schema_version"], 2);
    assert_eq!(columns(fleet, "late").await, ["a", "b"]);

    files.add("V3__third.sql", "ALTER TABLE t ADD c int");
    let run = fleet.cli(&["migrate", "run", "--dir", files.path(), "--waves", "50%,100%"]).await.ok();
    assert_eq!((&run["total"], &run["done"]), (&6.into(), &6.into()));
    assert_eq!(columns(fleet, "late").await, ["a", "b", "c"]);
    let again = fleet.cli(&["migrate", "run", "--dir", files.path()]).await.ok();
    assert_eq!((&again["state"], &again["done"]), (&"done".into(), &6.into()), "what is applied stays");
    assert_eq!(app.number("SELECT a FROM t").await, 1);
}

async fn a_run_reaches_the_tenants_of_its_selector_only(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "some", &["some-1", "some-2"]).await;
    fleet.create("other-1", &["--label", "group=other"]).await;
    let files = Files::new(&[FIRST]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", &selector];
    assert_eq!(fleet.cli(&args).await.ok()["total"], 2);
    assert_eq!(columns(fleet, "some-2").await, ["a"]);
    assert_eq!(columns(fleet, "other-1").await, Vec::<String>::new());
    assert_eq!(fleet.tenant("other-1").await["schema_version"], Value::Null);
}

async fn a_plan_tells_what_is_pending_and_what_differs_and_changes_nothing(fleet: &Fleet) {
    let _turn = turn().await;
    let names = ["planned-1", "planned-2", "planned-3"];
    let selector = tenants(fleet, "planned", &names).await;
    let files = Files::new(&[FIRST]);
    let run = ["migrate", "run", "--dir", files.path(), "--selector", &selector];
    fleet.cli(&run).await.ok();
    let [_, other, drifted] = [0, 1, 2].map(|index| fleet.connect(names[index]));
    let (other, drifted) = (other.await, drifted.await);
    other.run("CREATE TABLE made_by_hand (a int)").await;
    drifted.run("UPDATE refinery_schema_history SET checksum = '17'").await;
    files.add(SECOND.0, SECOND.1);
    let plan = ["migrate", "plan", "--dir", files.path(), "--selector", &selector];
    let plan = fleet.cli(&plan).await.ok();
    let tenants = plan["tenants"].as_array().unwrap();
    let of = |key: &str| tenants.iter().map(|tenant| tenant[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("tenant"), names);
    assert_eq!(
        (of("schema_version"), of("wave")),
        ([1, 1, 1].map(Value::from).into(), [0, 3, 3].map(Value::from).into())
    );
    let pending = tenants[0]["pending"].as_array().unwrap();
    assert!(pending.len() == 1 && pending[0].as_str().unwrap().contains("second"), "{plan}");
    assert_eq!(of("schema_differs"), [false, true, false].map(Value::from));
    let drift = tenants[2]["drift"][0].as_str().unwrap();
    assert!(drift.contains("V1__first.sql") && drift.contains("different"), "{drift}");
    assert_eq!((&plan["refused"], &plan["versions"]["1"]), (&Value::Null, &3.into()), "{plan}");
    assert!(
        plan["estimate_s"].as_f64().unwrap() > 0.0 && plan["trial"].as_str().unwrap().starts_with("made")
    );
    assert_eq!(columns(fleet, "planned-1").await, ["a"]);
    let copies = "SELECT count(*) FROM pg_database WHERE datname LIKE 'tenantry\\_try\\_%'";
    let server = fleet.tenant("planned-1").await["server"].as_str().unwrap().to_owned();
    assert_eq!(fleet.direct(&server, "postgres").await.number(copies).await, 0);
    // The one that drifted is set aside; the others go on.
    let failed = fleet.cli(&[&run[..], &["--max-failures", "1"]].concat()).await.exits(1).json();
    assert_eq!((failed_tenants(&failed), &failed["done"]), (vec!["planned-3"], &2.into()), "{failed}");
}

async fn a_tenant_that_fails_is_listed_and_catches_up_when_the_run_is_resumed(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "mixed", &["mixed-1", "mixed-2", "mixed-3"]).await;
    let files = Files::new(&[FIRST]);
    let selected = ["--selector", selector.as_str()];
    let run = [&["migrate", "run", "--dir", files.path()], &selected[..]].concat();
    fleet.cli(&run).await.ok();
    let owner = fleet.connect("mixed-2").await;
    owner.run("INSERT INTO t VALUES (NULL)").await;
    files.add("V2__strict.sql", "ALTER TABLE t ALTER a SET NOT NULL");
    let output = fleet.cli(&[&run[..], &["--canary", "0", "--max-failures", "5"]].concat()).await;
    let (failed, hint) = (output.json(), output.hint());
    output.error(1);
    assert_eq!(failed_tenants(&failed), ["mixed-2"]);
    assert_eq!(
        (&failed["state"], &failed["done"], &failed["failed"]),
        (&"failed".into(), &2.into(), &1.into())
    );
    let why = failed["failures"][0]["error"].as_str().unwrap();
    assert!(why.contains("strict") && why.contains("null values"), "{why}");
    let versions = ["mixed-1", "mixed-2", "mixed-3"]
        .map(async |name| fleet.tenant(name).await["schema_version"].clone());
    let versions = futures_util::future::join_all(versions).await;
    assert_eq!(versions, [2, 1, 2].map(Value::from));

    let id = failed["id"].as_i64().unwrap().to_string();
    assert!(hint.contains(&format!("migrate resume {id}")), "{hint}");
    fleet.cli(&["migrate", "resume", &id]).await.error(1);
    owner.run("DELETE FROM t WHERE a IS NULL").await;
    let resumed = fleet.cli(&["migrate", "resume", &id]).await.ok();
    assert_eq!(
        (&resumed["state"], &resumed["done"], &resumed["failed"]),
        (&"done".into(), &3.into(), &0.into())
    );
    assert_eq!(fleet.tenant("mixed-2").await["schema_version"], 2);
    fleet.cli(&["migrate", "resume", &id]).await.error(4);
}

async fn a_failing_canary_keeps_the_others_untouched(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "birds", &["bird-1", "bird-2", "bird-3"]).await;
    let wrong = "DO $$ BEGIN IF current_database() LIKE 'bird-%' THEN RAISE 'wrong'; END IF; END $$";
    let files = Files::new(&[("V1__wrong.sql", wrong)]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", &selector, "--max-failures", "9"];
    let output = fleet.cli(&args).await.exits(1);
    let run = output.json();
    assert_eq!((&run["failed"], &run["pending"], &run["done"]), (&1.into(), &2.into(), &0.into()), "{run}");
}

async fn a_migration_with_an_error_leaves_nothing_of_itself(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "broken", &["broken-1"]).await;
    let broken = "CREATE TABLE half (n int); SELECT 1 / count(*) FROM t; CREATE TABLE whole (n int)";
    let files = Files::new(&[FIRST, ("V2__broken.sql", broken)]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", &selector];
    let run = fleet.cli(&args).await.exits(1).json();
    let why = run["failures"][0]["error"].as_str().unwrap();
    assert!(why.contains("V2__broken.sql") && why.contains("22012"), "{why}");
    let client = fleet.connect("broken-1").await;
    assert_eq!(client.fails("SELECT * FROM half").await, "42P01");
    assert_eq!(columns(fleet, "broken-1").await, ["a"], "what came before it stays");
}

async fn an_index_that_a_failure_left_invalid_is_found_and_rebuilt(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "indexed", &["indexed-1", "indexed-2"]).await;
    let files = Files::new(&[FIRST]);
    let run = ["migrate", "run", "--dir", files.path(), "--selector", &selector];
    fleet.cli(&run).await.ok();
    let owner = fleet.connect("indexed-2").await;
    owner.run("INSERT INTO t VALUES (1), (1)").await;
    let index = "-- tenantry: no-transaction\n\
                 CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS one_a ON t (a);\nVACUUM t";
    files.add("V2__index.sql", index);
    let failed = fleet.cli(&[&run[..], &["--max-failures", "1"]].concat()).await.exits(1).json();
    assert_eq!(failed_tenants(&failed), ["indexed-2"]);
    let why = failed["failures"][0]["error"].as_str().unwrap();
    assert!(why.contains("V2__index.sql:2") && why.contains("23505"), "{why}");
    let plan = fleet.cli(&["migrate", "plan", "--dir", files.path(), "--selector", &selector]).await.ok();
    assert_eq!(plan["tenants"][1]["invalid_indexes"], serde_json::json!(["public.one_a"]));
    owner.run("DELETE FROM t").await;
    fleet.cli(&["migrate", "resume", &failed["id"].to_string()]).await.ok();
    for name in ["indexed-1", "indexed-2"] {
        let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_a'::regclass";
        assert_eq!(fleet.connect(name).await.column(valid).await, ["t"]);
        assert_eq!(fleet.tenant(name).await["schema_version"], 2);
    }
}

async fn a_file_has_limits_and_settings_of_its_own(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "marked", &["marked-1"]).await;
    let seen = "SELECT current_setting('lock_timeout') AS l, current_setting('statement_timeout') AS s, \
                current_setting('work_mem') AS w";
    let files = Files::new(&[
        ("V1__t.sql", &format!("CREATE TABLE seen AS {seen}")),
        (
            "V2__own.sql",
            &format!(
                "-- tenantry: lock_timeout=7s\n-- tenantry: statement_timeout=9s\n\
                 -- tenantry: set work_mem = '5MB'\nINSERT INTO seen {seen}"
            ),
        ),
        ("V3__after.sql", &format!("INSERT INTO seen {seen}")),
    ]);
    let run = ["migrate", "run", "--dir", files.path(), "--selector", &selector];
    fleet.cli(&[&run[..], &["--lock-timeout", "3s", "--statement-timeout", "4s"]].concat()).await.ok();
    let all = "SELECT l || ' ' || s || ' ' || w FROM seen";
    assert_eq!(fleet.connect("marked-1").await.column(all).await, ["3s 4s 4MB", "7s 9s 5MB", "3s 4s 4MB"]);
    files.add("V4__slow.sql", "-- tenantry: statement_timeout=50ms\nSELECT pg_sleep(60) FROM seen");
    let failed = fleet.cli(&run).await.exits(1).json();
    let why = failed["failures"][0]["error"].as_str().unwrap();
    assert!(why.contains("V4__slow.sql") && why.contains("57014"), "{why}");
}

async fn a_migration_gives_way_to_the_application_and_tries_again(fleet: &Fleet) {
    let _turn = turn().await;
    let selector = tenants(fleet, "busy", &["busy-1"]).await;
    let server = fleet.tenant("busy-1").await["server"].as_str().unwrap().to_owned();
    let files = Files::new(&[FIRST]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", &selector, "--lock-timeout", "200ms"];
    fleet.cli(&args).await.ok();
    files.add(SECOND.0, SECOND.1);
    let app = fleet.connect("busy-1").await;
    app.run("BEGIN; INSERT INTO t VALUES (1)").await;
    let direct = fleet.direct(&server, "busy-1").await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'busy-1' AND wait_event_type = 'Lock'";
    let (run, ()) = tokio::join!(fleet.cli(&args), async {
        until("the migration to wait", async || (direct.number(waits).await == 1).then_some(())).await;
        until("the migration to give way", async || (direct.number(waits).await == 0).then_some(())).await;
        app.run("COMMIT").await;
    });
    assert_eq!(run.ok()["done"], 1);
    assert_eq!(columns(fleet, "busy-1").await, ["a", "b"]);
}

async fn an_aborted_run_begins_no_further_tenant_and_can_be_resumed(fleet: &Fleet) {
    let _turn = turn().await;
    let names = ["halted-1", "halted-2", "halted-3"];
    let selector = tenants(fleet, "halted", &names).await;
    // The first one waits for a lock that a test can hold.
    let server = fleet.tenant(names[0]).await["server"].as_str().unwrap().to_owned();
    let lock = fleet.direct(&server, names[0]).await;
    lock.run("SELECT pg_advisory_lock(77)").await;
    let files = Files::new(&[("V1__t.sql", "SELECT pg_advisory_xact_lock(77); CREATE TABLE t (a int)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", &selector, "--no-wait"];
    let more = ["--canary", "1", "--lock-timeout", "1h"];
    let run = fleet.cli(&[&args[..], &more].concat()).await.ok();
    let id = run["id"].as_i64().unwrap().to_string();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until("the canary to wait", async || (lock.number(waits).await == 1).then_some(())).await;
    fleet.cli(&["migrate", "abort", &id]).await.ok();
    lock.run("SELECT pg_advisory_unlock(77)").await;
    let ended = until("the run to end", async || {
        let run = fleet.cli(&["migrate", "status", &id]).await.ok();
        (run["state"] != "running").then_some(run)
    })
    .await;
    assert_eq!((&ended["state"], &ended["pending"]), (&"aborted".into(), &2.into()), "{ended}");
    let resumed = fleet.cli(&["migrate", "resume", &id]).await.ok();
    assert_eq!((&resumed["state"], &resumed["done"]), (&"done".into(), &3.into()));
}
