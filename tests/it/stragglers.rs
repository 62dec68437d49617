//! Who is in the way of a cutover: named, waited for, and ended only where that was asked for.

use std::cell::Cell;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use tokio_postgres::Config;

use crate::harness::ledger::Ledger;
use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, signal, trials, until};
use crate::moves_copy::Pauses;

trials! {
    own who_is_in_the_way_of_a_cutover_is_named_and_not_broken,
    own logins_without_end_and_sessions_that_cannot_be_held,
}

/// Superusers that log in past the router, all the time.
const STORM: usize = 50;

/// A move under way.
struct Moving(String);

impl Moving {
    async fn start(fleet: &Fleet, tenant: &str, to: &str, more: &[&str]) -> Self {
        let args = [&["move", "start", tenant, "--to", to], more].concat();
        Self(fleet.cli(&args).await.ok()["id"].as_i64().unwrap().to_string())
    }

    async fn show(&self, fleet: &Fleet) -> Value {
        fleet.cli(&["move", "show", &self.0]).await.ok()
    }

    /// Waits until it waits for something in whose name all of these words are.
    async fn waits_for(&self, fleet: &Fleet, words: &[&str]) {
        until("the move to say who is in its way", async || {
            let shown = self.show(fleet).await;
            assert_eq!(shown["state"], "running", "{shown}");
            let text = shown["waiting_for"].as_str().unwrap_or_default();
            words.iter().all(|word| text.contains(word)).then_some(())
        })
        .await;
    }

    async fn ends(&self, fleet: &Fleet, state: &str) -> Value {
        let shown = until("the move to end", async || {
            let shown = self.show(fleet).await;
            (shown["state"] != "running").then_some(shown)
        })
        .await;
        assert_eq!(shown["state"], state, "{shown}");
        shown
    }
}

/// A superuser's session past the router, in a transaction that has written nothing.
async fn straggler(fleet: &Fleet, server: &str, tenant: &str) -> Raw {
    let mut config: Config = fleet.server_url(server).parse().unwrap();
    config.dbname(tenant);
    let mut session = Raw::open(&config, &[("application_name", "night job")]).await.unwrap();
    session.query("BEGIN").query("SELECT 1").replies(2).await;
    session
}

/// Lets pg-1 have prepared transactions.
async fn allow_prepared(fleet: &Fleet) {
    let admin = fleet.direct("pg-1", "postgres").await;
    admin.run("ALTER SYSTEM SET max_prepared_transactions = 5").await;
    let before = fleet.postmaster("pg-1");
    signal(before, Signal::INT);
    let config: Config = fleet.server_url("pg-1").parse().unwrap();
    until("the server to be started again", async || {
        let new = admin.is_closed() && fleet.try_postmaster("pg-1").is_some_and(|now| now != before);
        if new { connect(&config).await.ok() } else { None }
    })
    .await;
}

async fn who_is_in_the_way_of_a_cutover_is_named_and_not_broken(fleet: &mut Fleet) {
    allow_prepared(fleet).await;
    fleet.create("patient", &["--server", "pg-1"]).await;
    fleet.connect("patient").await.run("CREATE TABLE t (what text PRIMARY KEY)").await;
    a_prepared_transaction_of_another_database_is_named(fleet).await;
    a_prepared_transaction_is_waited_for_and_never_rolled_back(fleet).await;
    a_transaction_past_the_routers_ends_before_the_fence(fleet).await;
    a_transaction_past_the_routers_is_named_and_ended_only_by_wish(fleet).await;
    let rows = fleet.connect("patient").await.column("SELECT what FROM t ORDER BY what").await;
    assert_eq!(rows, ["first", "past the router", "second"]);
}

async fn a_prepared_transaction_of_another_database_is_named(fleet: &Fleet) {
    let other = fleet.direct("pg-1", "postgres").await;
    other.run("BEGIN; CREATE TABLE elsewhere (); PREPARE TRANSACTION 'elsewhere'").await;
    let found = fleet.cli(&["move", "start", "patient", "--to", "pg-3", "--dry-run"]).await.ok();
    let finding = found["findings"].as_array().unwrap().iter().find(|f| {
        let what = f["what"].as_str().unwrap();
        what.contains("'elsewhere'") && what.contains("database postgres")
    });
    assert_eq!(finding.expect("it is found")["level"], "warning", "{found}");
    let moving = Moving::start(fleet, "patient", "pg-2", &[]).await;
    moving.waits_for(fleet, &["in database postgres", "'elsewhere'"]).await;
    assert_eq!(moving.show(fleet).await["step"], "arm", "no slot can be made");
    other.run("ROLLBACK PREPARED 'elsewhere'").await;
    moving.ends(fleet, "switched").await;
    Moving::start(fleet, "patient", "pg-1", &[]).await.ends(fleet, "switched").await;
}

/// A move in whose middle somebody prepares a transaction.
async fn prepared_meanwhile(fleet: &Fleet, gid: &str, more: &[&str]) -> Moving {
    let pauses = Pauses::of(fleet);
    pauses.at(&[("range", "t", 0)]);
    let moving = Moving::start(fleet, "patient", "pg-3", more).await;
    pauses.reached().await;
    let client = fleet.direct("pg-1", "patient").await;
    client.run(&format!("BEGIN; INSERT INTO t VALUES ('{gid}'); PREPARE TRANSACTION '{gid}'")).await;
    pauses.no_more();
    moving
}

async fn a_prepared_transaction_is_waited_for_and_never_rolled_back(fleet: &Fleet) {
    let moving = prepared_meanwhile(fleet, "first", &["--max-wait", "1s", "--kill-stragglers"]).await;
    let ended = moving.ends(fleet, "failed").await;
    let error = ended["error"].as_str().unwrap();
    assert!(error.contains("'first'") && error.contains("COMMIT PREPARED"), "{error}");
    assert_eq!(ended["taken_back"], 0, "nobody was held in vain: {ended}");
    fleet.direct("pg-1", "patient").await.run("COMMIT PREPARED 'first'").await;

    let moving = prepared_meanwhile(fleet, "second", &[]).await;
    moving.waits_for(fleet, &["'second'"]).await;
    fleet.direct("pg-1", "patient").await.run("COMMIT PREPARED 'second'").await;
    moving.ends(fleet, "switched").await;
}

async fn a_transaction_past_the_routers_ends_before_the_fence(fleet: &Fleet) {
    let pauses = Pauses::of(fleet);
    pauses.at(&[("range", "t", 0)]);
    // Long enough that it counts as young until the hold.
    let moving = Moving::start(fleet, "patient", "pg-1", &["--max-hold", "60s"]).await;
    pauses.reached().await;
    let mut writer = straggler(fleet, "pg-3", "patient").await;
    writer.query("INSERT INTO t VALUES ('past the router')").replies(1).await;
    pauses.no_more();
    let server = fleet.direct("pg-3", "postgres").await;
    let fenced = "SELECT count(*) FROM pg_database WHERE datname = 'patient' AND datconnlimit = 0";
    until("the fence to be up", async || (server.number(fenced).await > 0).then_some(())).await;
    assert_eq!(writer.query("COMMIT").replies(1).await, ["C:COMMIT", "Z:I"]);
    let ended = moving.ends(fleet, "switched").await;
    assert_eq!(ended["taken_back"], 0, "{ended}");
}

async fn a_transaction_past_the_routers_is_named_and_ended_only_by_wish(fleet: &Fleet) {
    let mut session = straggler(fleet, "pg-1", "patient").await;
    let names = ["postgres", "pid ", "night job", "idle in transaction", "open for"];
    let moving = Moving::start(fleet, "patient", "pg-3", &["--max-wait", "500ms"]).await;
    let ended = moving.ends(fleet, "failed").await;
    let error = ended["error"].as_str().unwrap();
    assert!(names.iter().all(|name| error.contains(name)), "{error}");
    assert!(error.contains("--kill-stragglers"), "{error}");
    assert_eq!(session.query("SELECT 2").replies(1).await, ["T", "D:2", "C:SELECT 1", "Z:T"]);

    let more = ["--max-wait", "500ms", "--kill-stragglers"];
    let moving = Moving::start(fleet, "patient", "pg-3", &more).await;
    moving.waits_for(fleet, &names).await;
    moving.ends(fleet, "switched").await;
    assert_eq!(session.reply().await.as_deref(), Some("E:57P01"));
}

async fn logins_without_end_and_sessions_that_cannot_be_held(fleet: &mut Fleet) {
    superusers_who_log_in_all_the_time_keep_no_tenant_from_moving(fleet).await;
    a_session_that_cannot_be_held_is_waited_for_or_ended(fleet).await;
}

async fn superusers_who_log_in_all_the_time_keep_no_tenant_from_moving(fleet: &Fleet) {
    fleet.create("stormy", &["--server", "pg-1"]).await;
    let limit = "ALTER DATABASE stormy CONNECTION LIMIT 45";
    fleet.direct("pg-1", "postgres").await.run(limit).await;
    let ledger = Ledger::start(fleet, "stormy", 3).await;
    let mut config: Config = fleet.server_url("pg-1").parse().unwrap();
    config.dbname("stormy");
    let (over, logins) = (Cell::new(false), Cell::new(0));
    let storm = join_all((0..STORM).map(async |_| {
        while !over.get() {
            // Refused when the server is full, ended at the fence, and in the end there is no such database.
            if let Ok(client) = connect(&config).await {
                logins.set(logins.get() + 1);
                drop(client.simple_query("SELECT 1").await);
            }
            tokio::task::yield_now().await;
        }
    }));
    let moving = async {
        until("the storm to begin", async || (logins.get() > STORM).then_some(())).await;
        Moving::start(fleet, "stormy", "pg-3", &[]).await.ends(fleet, "switched").await;
        over.set(true);
    };
    tokio::join!(storm, moving);
    ledger.goes_on().await;
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    let kept = "SELECT datconnlimit FROM pg_database WHERE datname = 'stormy'";
    assert_eq!(fleet.direct("pg-3", "postgres").await.number(kept).await, 45);
}

async fn a_session_that_cannot_be_held_is_waited_for_or_ended(fleet: &Fleet) {
    fleet.create("listening", &["--server", "pg-1"]).await;
    let mut session = Raw::open(&fleet.config("listening"), &[]).await.unwrap();
    session.query("LISTEN news").replies(1).await;
    let moving = Moving::start(fleet, "listening", "pg-3", &["--wait-sessions"]).await;
    moving.waits_for(fleet, &["1 session at router", "listen"]).await;
    session.query("UNLISTEN news").replies(1).await;
    let ended = moving.ends(fleet, "switched").await;
    assert_eq!(ended["taken_back"], 0, "{ended}");
    assert_eq!(session.query("LISTEN news").replies(1).await, ["C:LISTEN", "Z:I"], "it was not ended");

    Moving::start(fleet, "listening", "pg-1", &[]).await.ends(fleet, "switched").await;
    assert_eq!(session.reply().await.as_deref(), Some("E:57P01"));
}
