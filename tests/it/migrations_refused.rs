//! Runs that are refused before anything is changed, with the reason.

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::migrations::{Files, turn};

trials! {
    shared files_that_cannot_run_are_refused_with_their_line,
    shared directories_that_contradict_themselves_are_refused,
    shared a_file_that_was_changed_after_it_ran_is_refused,
    shared a_second_run_at_once_is_refused,
    shared runs_that_cannot_be_meant_are_refused,
    shared what_an_owner_makes_of_the_history_never_runs_as_a_superuser,
}

async fn directories_that_contradict_themselves_are_refused(fleet: &Fleet) {
    fleet.create("untouched", &["--label", "group=untouched"]).await;
    let refused = async |files: &Files| {
        let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=untouched"];
        fleet.cli(&args).await.error(2)
    };
    let good = "CREATE TABLE t (n int)";
    let twice = Files::new(&[("V1__a.sql", good), ("V01__b.sql", good)]);
    let error = refused(&twice).await;
    assert!(error.contains("V01__b.sql") || error.contains("V1__a.sql"), "{error}");
    let unnamed = Files::new(&[("V1__a.sql", good), ("second.sql", good)]);
    let error = refused(&unnamed).await;
    assert!(error.contains("second.sql") && error.contains("V<number>__<name>.sql"), "{error}");
    let empty = Files::new(&[("README.md", "nothing")]);
    let error = refused(&empty).await;
    assert!(error.contains(empty.path()), "{error}");
    let missing = format!("{}/nowhere", empty.path());
    let error = fleet.cli(&["migrate", "run", "--dir", &missing]).await.error(2);
    assert!(error.contains("nowhere"), "{error}");
    assert_eq!(fleet.connect("untouched").await.fails("SELECT * FROM t").await, "42P01");
}

async fn files_that_cannot_run_are_refused_with_their_line(fleet: &Fleet) {
    let _turn = turn().await;
    fleet.create("careful", &["--label", "group=careful"]).await;
    let files = Files::new(&[("V1__t.sql", "CREATE TABLE t (n int)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=careful"];
    fleet.cli(&args).await.ok();
    let second = "V2__more.sql";
    for (sql, place, what) in [
        ("ALTER TABLE t ADD a int;\n\nALTER TABEL t ADD b int;", "V2__more.sql:3: ", "syntax error"),
        ("ALTER TABLE t ADD a int;\nALTER TABLE t ADD b nonsense;", "V2__more.sql:2: ", "nonsense"),
        ("ALTER TABLE t ADD a int;\nALTER TABLE gone ADD b int;", "V2__more.sql:2: ", "gone"),
        ("ALTER TABLE t ADD a int;\nCOMMIT;", "V2__more.sql:2: ", "COMMIT"),
        ("CREATE INDEX CONCURRENTLY i ON t (n)", "V2__more.sql:1: ", "no-transaction"),
        ("-- tenantry: nonsense\nSELECT 1", "V2__more.sql:1: ", "unknown"),
    ] {
        files.add(second, sql);
        let error = fleet.cli(&args).await.error(2);
        assert!(error.contains(place) && error.contains(what), "{sql}: {error}");
    }
    files.add(second, "ALTER TABLE t ADD a int");
    files.add("V4__gap.sql", "SELECT 1");
    let error = fleet.cli(&args).await.error(2);
    assert!(error.contains("V4__gap.sql:1: version 3 is missing"), "{error}");
    let client = fleet.connect("careful").await;
    assert_eq!(client.fails("SELECT a FROM t").await, "42703", "nothing of it ran");
    assert_eq!(fleet.tenant("careful").await["schema_version"], 1);
}

async fn a_file_that_was_changed_after_it_ran_is_refused(fleet: &Fleet) {
    let _turn = turn().await;
    fleet.create("changed", &["--label", "group=changed"]).await;
    let files = Files::new(&[("V1__t.sql", "-- The table.\nCREATE TABLE t (n int)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=changed"];
    fleet.cli(&args).await.ok();
    files.add("V1__t.sql", "-- The table.\nCREATE TABLE t (n bigint)");
    files.add("V2__more.sql", "ALTER TABLE t ADD more int");
    let why = fleet.cli(&args).await.error(2);
    assert!(why.contains("V1__t.sql:2: ") && why.contains("different"), "{why}");
    let client = fleet.connect("changed").await;
    assert_eq!(client.fails("SELECT more FROM t").await, "42703", "nothing behind it ran");
}

async fn a_second_run_at_once_is_refused(fleet: &Fleet) {
    let _turn = turn().await;
    let shown = fleet.create("single", &["--label", "group=single"]).await;
    let lock = fleet.direct(shown["server"].as_str().unwrap(), "single").await;
    lock.run("SELECT pg_advisory_lock(78)").await;
    let files = Files::new(&[("V1__t.sql", "SELECT pg_advisory_xact_lock(78)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=single"];
    let first = fleet.cli(&[&args[..], &["--no-wait", "--lock-timeout", "1h"]].concat()).await.ok();
    let error = fleet.cli(&args).await.error(4);
    assert!(error.contains("under way"), "{error}");
    lock.run("SELECT pg_advisory_unlock(78)").await;
    let id = first["id"].as_i64().unwrap().to_string();
    until("the first to end", async || {
        let run = fleet.cli(&["migrate", "status", &id]).await.ok();
        (run["state"] == "done").then_some(())
    })
    .await;
    fleet.cli(&args).await.ok();
}

async fn runs_that_cannot_be_meant_are_refused(fleet: &Fleet) {
    let _turn = turn().await;
    let files = Files::new(&[("V1__t.sql", "SELECT 1")]);
    let run = |more: &'static [&'static str]| {
        let args: Vec<String> =
            ["migrate", "run", "--dir", files.path()].iter().chain(more).map(ToString::to_string).collect();
        async move { fleet.cli(&args.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    run(&["--selector", "group=nobody-has-it"]).await.error(3);
    for more in [
        &["--waves", "10%"][..],
        &["--waves", "50%,10%,100%"],
        &["--waves", "nonsense"],
        &["--selector", "nonsense"],
        &["--per-server", "0"],
        &["--lock-timeout", "2"],
        &["--lock-timeout", "0s"],
    ] {
        let output = run(more).await;
        assert_eq!(output.status, 2, "{more:?}: {}", output.stderr);
    }
    fleet.cli(&["migrate", "status", "987654"]).await.error(3);
    fleet.cli(&["migrate", "resume", "987654"]).await.error(3);
    fleet.cli(&["migrate", "abort", "987654"]).await.error(3);
}

async fn what_an_owner_makes_of_the_history_never_runs_as_a_superuser(fleet: &Fleet) {
    let _turn = turn().await;
    fleet.create("forger", &["--label", "group=forger"]).await;
    let files = Files::new(&[("V1__t.sql", "CREATE TABLE t (n int)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--selector", "group=forger"];
    fleet.cli(&args).await.ok();
    let client = fleet.connect("forger").await;
    client
        .run(
            "CREATE FUNCTION plain() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                 IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
                     RAISE EXCEPTION 'a superuser runs this';
                 END IF;
                 RETURN true;
             END $$;
             CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM public.plain();
                 RETURN new;
             END $$;
             CREATE TRIGGER noted BEFORE INSERT ON refinery_schema_history FOR EACH ROW EXECUTE FUNCTION noted();
             CREATE FUNCTION sure() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.plain(); END';
             CREATE INDEX ON refinery_schema_history (version) WHERE public.sure();
             CREATE DOMAIN sane AS int CHECK (public.sure());
             CREATE TABLE computed (n int, sane bool GENERATED ALWAYS AS (n > 0 AND public.sure()) STORED);
             CREATE VIEW constants AS SELECT '{1}'::sane[] AS sane",
        )
        .await;
    // It is tried on a copy that has the same history, and all else that may run while it is made.
    files.add("V2__more.sql", "ALTER TABLE t ADD more int");
    let plan = ["migrate", "plan", "--dir", files.path(), "--selector", "group=forger"];
    let plan = fleet.cli(&plan).await.ok();
    assert!(plan["trial"].as_str().unwrap().starts_with("made on a copy of forger"), "{plan}");
    let left = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^tenantry_trial_.*' AND pg_has_role(rolname, 'forger__owner', 'MEMBER')";
    let server = fleet.tenant("forger").await["server"].as_str().unwrap().to_owned();
    let server = fleet.direct(&server, "postgres").await;
    assert_eq!(server.column(left).await, Vec::<String>::new());
    fleet.cli(&args).await.ok();
    client
        .run(
            "ALTER TABLE refinery_schema_history RENAME TO history;
             CREATE VIEW refinery_schema_history AS SELECT * FROM history WHERE public.plain()",
        )
        .await;
    files.add("V3__again.sql", "ALTER TABLE t ADD again int");
    let refused = fleet.cli(&args).await;
    assert_ne!(refused.status, 0);
    let why = format!("{}{}", refused.stdout, refused.stderr);
    assert!(why.contains("no plain table") && !why.contains("a superuser runs this"), "{why}");
    client
        .run("DROP VIEW refinery_schema_history; ALTER TABLE history RENAME TO refinery_schema_history")
        .await;
    fleet.cli(&args).await.ok();
}
