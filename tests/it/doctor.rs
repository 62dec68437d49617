//! `tenantry doctor` names what is wrong, each with what to do, and says nothing of a fleet that is well.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Fleet, Sql as _, signal, tenantry, trials, until};
use crate::map_damage::{catalog, has_snapshot};
use crate::migrations::Files;

trials! {
    own each_thing_that_is_wrong_is_named_with_its_remedy,
    own what_can_be_seen_without_catalog_or_control_plane_is_told,
}

/// Findings as `part name: what => remedy`.
fn findings(diagnosis: &Value) -> Vec<String> {
    let findings = diagnosis["findings"].as_array().unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let line = |f: &Value| {
        assert!(["error", "warning"].contains(&text(f, "severity").as_str()), "{f}");
        format!("{} {}: {} => {}", text(f, "part"), text(f, "name"), text(f, "what"), text(f, "remedy"))
    };
    findings.iter().map(line).collect()
}

/// The parts that were looked at, with whether they are well.
fn checks(diagnosis: &Value) -> Vec<(String, bool)> {
    let checks = diagnosis["checks"].as_array().unwrap().iter();
    checks.map(|c| (format!("{} {}", c["part"], c["name"]).replace('"', ""), c["ok"] == true)).collect()
}

/// Fails with all that was found if one of these is not in it.
#[track_caller]
fn assert_named(found: &[String], expected: &[[&str; 3]]) {
    for [part, what, remedy] in expected {
        let is_it = |line: &&String| line.starts_with(part) && line.contains(what) && line.contains(remedy);
        assert!(found.iter().any(|line| is_it(&line)), "{part}: {what}: {remedy}: {found:#?}");
    }
}

async fn leave_things_at_servers(fleet: &Fleet) {
    let one = fleet.direct("pg-1", "tenantry").await;
    one.run("SELECT pg_create_logical_replication_slot('tenantry_move_999', 'pgoutput')").await;
    one.run("SELECT pg_create_physical_replication_slot('gone_standby', true)").await;
    one.run("SELECT check_term(1000)").await;
    let three = fleet.direct("pg-3", "postgres").await;
    three.run("CREATE DATABASE stray").await;
    three.run("CREATE DATABASE half").await;
    three.run("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'").await;
}

/// Moves that were given up, and one of which nobody can read what it is to do, so that it fails each time.
const MOVES: &str = "
    INSERT INTO operation (kind, tenant, state, step, input)
    SELECT 'move', 'third', 'aborted', 'aborted', '{}' FROM generate_series(1, 150);
    INSERT INTO operation (kind, tenant, state, step, input, data)
    VALUES ('move', 'first', 'switched', 'switched', '{}', '{\"keep_until\": 1}')";

async fn each_thing_that_is_wrong_is_named_with_its_remedy(fleet: &mut Fleet) {
    fleet.create("first", &["--server", "pg-1"]).await;
    fleet.create("second", &["--server", "pg-2"]).await;
    let well = until("all to be well", async || {
        let output = fleet.cli(&["doctor"]).await;
        (output.status == 0).then(|| output.json())
    })
    .await;
    assert_eq!((&well["ok"], findings(&well)), (&true.into(), Vec::new()));
    let seen = checks(&well);
    for part in ["catalog catalog", "control leader", "server pg-1", "server pg-2", "server pg-3", "map map"]
    {
        assert!(seen.contains(&(part.to_owned(), true)), "{part}: {seen:?}");
    }
    assert!(seen.iter().any(|(part, ok)| part.starts_with("router ") && *ok), "{seen:?}");

    let catalog = catalog(fleet).await;
    leave_things_at_servers(fleet).await;
    // What only a tenant's own data shows.
    let bad = "SELECT 1 / (CASE current_database() WHEN 'first' THEN 0 ELSE 1 END)";
    let files = Files::new(&[("V1__bad.sql", bad)]);
    fleet.cli(&["migrate", "run", "--dir", files.path()]).await.exits(1);
    catalog.run("UPDATE tenant SET server = 'pg-3' WHERE id = 'second'").await;
    catalog.run("UPDATE server SET max_connections = 100000 WHERE name = 'pg-3'").await;
    catalog.run(MOVES).await;
    // The control plane's own look, which it keeps, by nobody's files.
    has_snapshot(fleet, "second").await;
    fleet.cli_in(&[("TENANTRY_MAP_CONFIG", "")], &["map", "verify"]).await.exits(1);
    let (router, two) = (fleet.process("router").unwrap(), fleet.postmaster("pg-2"));
    signal(router, Signal::STOP);
    signal(two, Signal::STOP);
    let found = until("the router to be missed and the move to have failed often", async || {
        let output = fleet.cli(&["doctor"]).await.exits(1);
        assert!(output.stderr.contains(" found"), "{}", output.stderr);
        let found = findings(&output.json());
        let has = |what: &str| found.iter().any(|line| line.contains(what));
        (has("it has not reported for") && has("fails again and again")).then_some(found)
    })
    .await;
    let moves = fleet.cli(&["move", "list"]).await.json();
    assert_eq!(moves.as_array().unwrap().len(), 151, "all of them");
    assert!(moves[0]["trying"]["tries"].as_u64() >= Some(5), "{moves}");
    signal(two, Signal::CONT);
    signal(router, Signal::CONT);
    assert_named(
        &found,
        &[
            ["server pg-1", "slot tenantry_move_999 was left by move 999", "tenantry_move_999"],
            [
                "server pg-1",
                "slot gone_standby is inactive",
                "pg_drop_replication_slot('\\''gone_standby'\\'')",
            ],
            ["server pg-1", "it has seen term 1000", "tenantry map rebuild --apply"],
            ["server pg-2", "it can't be reached", "start it"],
            ["server pg-3", "database half is invalid", "DROP DATABASE"],
            ["server pg-3", "routers may open 100000 connections", "--max-connections"],
            ["router ", "it has not reported for", "its log"],
            ["map ", "orphan_database", "find out whose it is"],
            ["map ", "wrong_server", "tenantry map rebuild --apply"],
            ["operations ", "of tenant first fails again and again", "tenantry move show"],
            ["moves ", "its window ended", "tenantry move complete"],
            ["migrations ", "halted (failed)", "tenantry migrate resume"],
        ],
    );
    let known = found.iter().filter(|line| line.starts_with("server pg-2")).count();
    assert_eq!(known, 1, "of a server that is away nothing else is claimed: {found:#?}");
}

async fn what_can_be_seen_without_catalog_or_control_plane_is_told(fleet: &mut Fleet) {
    // The control plane knows its servers from then on.
    until("all to be well", async || (fleet.cli(&["doctor"]).await.status == 0).then_some(())).await;
    fleet.freeze("catalog", Signal::STOP);
    let output = fleet.cli(&["doctor"]).await;
    let seen = output.json();
    let line = output.error(5);
    assert!(line.contains("the catalog can't be reached"), "{line}");
    assert_eq!(seen["ok"], false);
    let parts = checks(&seen);
    assert!(parts.contains(&("catalog catalog".to_owned(), false)), "{parts:?}");
    for server in ["server pg-1", "server pg-2", "server pg-3"] {
        assert!(parts.contains(&(server.to_owned(), true)), "{parts:?}");
    }
    fleet.freeze("catalog", Signal::CONT);
    until("all to be well again", async || (fleet.cli(&["doctor"]).await.status == 0).then_some(())).await;

    // For people.
    let login = ["TENANTRY_API", "TENANTRY_TOKEN"].map(|name| (name, fleet.variable(name)));
    let table = tenantry(&["doctor"], &login).await.exits(0).stdout;
    assert!(table.lines().any(|line| line.starts_with("server") && line.contains(" ok ")), "{table}");

    // Nobody answers there; the catalog and the servers do.
    let nobody = ("TENANTRY_API", "http://127.0.0.1:1");
    let output = fleet.cli_in(&[nobody], &["doctor"]).await;
    let seen = output.json();
    let line = output.error(5);
    assert!(line.contains("the control plane at http://127.0.0.1:1 can't be reached"), "{line}");
    let parts = checks(&seen);
    assert_eq!(parts[0], ("control http://127.0.0.1:1".to_owned(), false));
    for part in ["catalog catalog", "control leader", "server pg-2"] {
        assert!(parts.contains(&(part.to_owned(), true)), "{part}: {parts:?}");
    }
    let alone = fleet.cli_in(&[nobody, ("TENANTRY_MAP_CONFIG", "")], &["doctor"]).await;
    assert_eq!(alone.stdout, "");
    assert!(alone.error(5).contains("can't be reached"));
}
