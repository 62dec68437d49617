//! Runs in which everything happens: tenants that fail or are locked, a server that hangs, a control plane that dies in
//! every wave, tenants that come, go, stand still or move. What a run reports is what is so, and `resume` finishes it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;

use crate::cut_off::{give_server_back, lose_server};
use crate::harness::{Fleet, Sql as _, connect, trials, until};
use crate::migrations::Files;

trials! {
    own a_run_is_exact_whatever_happens_in_it,
    own tenants_that_change_during_a_run_end_at_its_version,
    own tenants_of_a_server_that_stays_away_are_set_aside_and_taken_up_again,
}

const FIRST: (&str, &str) = ("V1__t.sql", "CREATE TABLE t (a int, b int)");

/// The answer of a command that a control plane may be too dead to give.
async fn status(fleet: &Fleet, run: i64) -> Value {
    until("the run to be told", async || {
        let output = fleet.cli(&["migrate", "status", &run.to_string()]).await;
        (output.status == 0).then(|| output.json())
    })
    .await
}

async fn ended(fleet: &Fleet, run: i64) -> Value {
    until("the run to end", async || {
        let run = status(fleet, run).await;
        (run["state"] != "running").then_some(run)
    })
    .await
}

async fn a_run_is_exact_whatever_happens_in_it(fleet: &mut Fleet) {
    let names: Vec<String> = (0..20).map(|n| format!("t-{n:02}")).collect();
    join_all(names.iter().map(|name| fleet.create(name, &[]))).await;
    let files = Files::new(&[FIRST]);
    fleet.cli(&["migrate", "run", "--dir", files.path()]).await.ok();

    // Ten have a row that the new constraint forbids, three are locked.
    for name in &names[5..15] {
        fleet.connect(name).await.run("INSERT INTO t VALUES (NULL, 1)").await;
    }
    let mut locks = Vec::new();
    for name in &names[15..18] {
        let lock = fleet.connect(name).await;
        lock.run("BEGIN; SELECT FROM t").await;
        locks.push(lock);
    }
    files.add("V2__strict.sql", "ALTER TABLE t ALTER a SET NOT NULL");
    files.add(
        "V3__index.sql",
        "-- tenantry: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS t_b ON t (b)",
    );
    let points = ["wave_0", "migrated", "wave_1", "migrated", "wave_2", "migrated"];
    let deaths = fleet.die_at(&points);
    let args = ["migrate", "run", "--dir", files.path(), "--waves", "40%,100%", "--max-failures", "13"];
    let run = fleet.cli(&[&args[..], &["--lock-timeout", "100ms", "--no-wait"]].concat()).await.ok();
    let id = run["id"].as_i64().unwrap();
    deaths.has_died(points.len() - 1).await;
    let failed = ended(fleet, id).await;
    let why = |tenant: &Value| (tenant["tenant"].as_str().unwrap().to_owned(), tenant["error"].to_string());
    let failures: BTreeMap<_, _> = failed["failures"].as_array().unwrap().iter().map(why).collect();
    assert_eq!(failures.keys().collect::<Vec<_>>(), names[5..18].iter().collect::<Vec<_>>(), "{failed}");
    for (index, name) in names[5..18].iter().enumerate() {
        let expected = if index < 10 { "null values" } else { "55P03" };
        assert!(failures[name].contains(expected), "{name}: {}", failures[name]);
    }
    assert_eq!((&failed["state"], &failed["done"]), (&"failed".into(), &7.into()), "{failed}");

    // What was in the way is gone; now a server hangs in the middle.
    drop(locks);
    for name in &names[5..15] {
        fleet.connect(name).await.run("UPDATE t SET a = 0").await;
    }
    fleet.freeze("pg-1", Signal::STOP);
    fleet.cli(&["migrate", "resume", &id.to_string(), "--no-wait"]).await.ok();
    until("the run to pause there", async || {
        let lane = &status(fleet, id).await["servers"]["pg-1"];
        (lane["slots"] == 0 && lane["why"].as_str()?.contains("does not answer")).then_some(())
    })
    .await;
    fleet.freeze("pg-1", Signal::CONT);
    let done = ended(fleet, id).await;
    assert_eq!(
        (&done["state"], &done["done"], &done["failed"]),
        (&"done".into(), &20.into(), &0.into()),
        "{done}"
    );
    are_at_the_third_version(fleet, &names).await;
    until("the metrics to be read", async || {
        let metrics = fleet.control_metrics().await;
        let told = metrics.get("tenantry_schema_tenants{version=\"3\"}") == 20.0;
        (told && metrics.get("tenantry_schema_skew") == 0.0).then_some(())
    })
    .await;
}

async fn are_at_the_third_version(fleet: &Fleet, names: &[String]) {
    for name in names {
        let owner = fleet.connect(name).await;
        let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 't_b'::regclass AND indisvalid";
        assert_eq!(owner.number(valid).await, 1, "{name}");
        assert_eq!(owner.number("SELECT count(*) FROM refinery_schema_history").await, 3);
        assert_eq!(fleet.tenant(name).await["schema_version"], 3);
    }
}

async fn tenants_that_change_during_a_run_end_at_its_version(fleet: &mut Fleet) {
    for name in ["blocked", "frozen", "moving", "back", "later"] {
        fleet.create(name, &["--server", "pg-1"]).await;
    }
    for name in ["back", "later"] {
        fleet.cli(&["tenant", "delete", name, "--yes", "--wait"]).await.ok();
    }
    // The canary and the one that is to move wait for locks that the test holds.
    let mut locks = Vec::new();
    for name in ["blocked", "moving"] {
        let lock = fleet.direct("pg-1", name).await;
        lock.run("SELECT pg_advisory_lock(77)").await;
        locks.push(lock);
    }
    let files = Files::new(&[("V1__t.sql", "SELECT pg_advisory_xact_lock(77); CREATE TABLE t (a int)")]);
    let args =
        ["migrate", "run", "--dir", files.path(), "--waves", "100%", "--lock-timeout", "1h", "--no-wait"];
    let id = fleet.cli(&args).await.ok()["id"].as_i64().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until("the canary to wait", async || (locks[0].number(waits).await == 1).then_some(())).await;

    fleet.cli(&["tenant", "suspend", "frozen"]).await.ok();
    until("it to be suspended", async || {
        (fleet.tenant("frozen").await["state"] == "suspended").then_some(())
    })
    .await;
    fleet.create("late", &[]).await;
    fleet.cli(&["tenant", "undelete", "back"]).await.ok();
    until("it to be back", async || (fleet.tenant("back").await["state"] == "open").then_some(())).await;
    locks[0].run("SELECT pg_advisory_unlock(77)").await;
    // The move waits for the migration that has begun, and what it copies is the new schema.
    until("the other one to wait", async || (locks[1].number(waits).await == 1).then_some(())).await;
    let the_move = fleet.cli(&["move", "start", "moving", "--to", "pg-3"]).await.ok()["id"].as_i64().unwrap();
    let step = async || fleet.cli(&["move", "show", &the_move.to_string()]).await.ok();
    until("the move to wait", async || (step().await["step"] == "arm").then_some(())).await;
    assert_eq!(status(fleet, id).await["state"], "running");
    locks[1].run("SELECT pg_advisory_unlock(77)").await;
    until("the move to be made", async || (step().await["state"] == "switched").then_some(())).await;
    let done = ended(fleet, id).await;
    assert_eq!((&done["state"], &done["failed"]), (&"done".into(), &0.into()), "{done}");
    fleet.cli(&["tenant", "resume", "frozen"]).await.ok();
    until("it to be resumed", async || (fleet.tenant("frozen").await["state"] == "open").then_some(())).await;
    fleet.cli(&["tenant", "undelete", "later", "--wait"]).await.ok();
    for name in ["blocked", "frozen", "moving", "back", "late", "later"] {
        assert_eq!(fleet.tenant(name).await["schema_version"], 1, "{name}");
        fleet.connect(name).await.run("SELECT a FROM t").await;
    }
    assert_eq!(fleet.tenant("moving").await["server"], "pg-3");
}

async fn tenants_of_a_server_that_stays_away_are_set_aside_and_taken_up_again(fleet: &mut Fleet) {
    let there = ["a-canary", "there-1", "there-2"];
    let away = ["away-1", "away-2", "away-3"];
    for (names, server) in [(there, "pg-1"), (away, "pg-2")] {
        for name in names {
            fleet.create(name, &["--server", server]).await;
        }
    }
    // The canary waits until the server is gone, so that the wave comes to it in vain.
    let lock = fleet.direct("pg-1", "a-canary").await;
    lock.run("SELECT pg_advisory_lock(77)").await;
    let files = Files::new(&[("V1__t.sql", "SELECT pg_advisory_xact_lock(77); CREATE TABLE t (a int)")]);
    let args = ["migrate", "run", "--dir", files.path(), "--waves", "100%", "--max-failures", "3"];
    let run = fleet.cli(&[&args[..], &["--lock-timeout", "1h", "--no-wait"]].concat()).await.ok();
    let id = run["id"].as_i64().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until("the canary to wait", async || (lock.number(waits).await == 1).then_some(())).await;
    lose_server(fleet, "pg-2");
    lock.run("SELECT pg_advisory_unlock(77)").await;
    until("the run to say that it waits", async || {
        let why = &status(fleet, id).await["servers"]["pg-2"]["why"];
        why.as_str().filter(|why| why.contains("does not answer")).map(drop)
    })
    .await;
    let failed = ended(fleet, id).await;
    let why = |tenant: &Value| (tenant["tenant"].as_str().unwrap().to_owned(), tenant["error"].to_string());
    let failures: BTreeMap<_, _> = failed["failures"].as_array().unwrap().iter().map(why).collect();
    assert_eq!(failures.keys().collect::<Vec<_>>(), away.iter().collect::<Vec<_>>(), "{failed}");
    assert!(
        failures.values().all(|why| why.contains("pg-2") && why.contains("no answer for 30s")),
        "{failed}"
    );
    assert_eq!((&failed["state"], &failed["done"]), (&"failed".into(), &3.into()), "{failed}");
    for name in there {
        fleet.connect(name).await.run("SELECT a FROM t").await;
    }

    give_server_back(fleet, "pg-2");
    until("it to be back", async || {
        (fleet.cli(&["server", "show", "pg-2"]).await.ok()["reachable"] == true).then_some(())
    })
    .await;
    fleet.cli(&["migrate", "resume", &id.to_string(), "--no-wait"]).await.ok();
    let done = ended(fleet, id).await;
    assert_eq!(
        (&done["state"], &done["done"], &done["failed"]),
        (&"done".into(), &6.into(), &0.into()),
        "{done}"
    );
    for name in there.into_iter().chain(away) {
        let client =
            until("its server to be routed to", async || connect(&fleet.config(name)).await.ok()).await;
        assert_eq!(client.number("SELECT count(*) FROM refinery_schema_history").await, 1, "{name}");
        assert_eq!(fleet.tenant(name).await["schema_version"], 1, "{name}");
    }
}
