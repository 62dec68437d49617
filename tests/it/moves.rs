//! Tenants move between servers while their clients work, and nothing is lost, twice there, or refused.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use futures_util::future::{join, join_all};
use serde_json::Value;

use crate::harness::ledger::Ledger;
use crate::harness::programs::{pgbench, pgbench_initialize};
use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect_url, trials, until};

trials! {
    shared a_client_that_pipelines_without_a_pause_is_moved_too,
    shared pgbench_goes_on_through_moves,
    shared pgbench_with_prepared_statements_goes_on_through_moves,
    shared every_acknowledged_write_is_there_once_after_moves,
    shared sequences_go_on_without_giving_a_value_twice,
    shared a_move_is_shown_with_its_figures,
    shared an_idle_session_past_the_router_is_ended_and_loses_nothing,
    shared completing_a_move_removes_the_sealed_copy_and_all_that_was_made,
    shared a_tenant_moves_back_with_what_was_written_since,
    shared several_tenants_move_at_once,
}

/// Moves a tenant, and returns the move as shown at its end.
pub(crate) async fn move_to(fleet: &Fleet, tenant: &str, server: &str) -> Value {
    let shown = fleet.cli(&["move", "start", tenant, "--to", server, "--wait", "--timeout", "5m"]).await.ok();
    assert_eq!((&shown["state"], &shown["to"]), (&"switched".into(), &server.into()), "{shown}");
    assert_eq!(fleet.tenant(tenant).await["server"], server);
    shown
}

/// The databases of a server whose names begin like the tenant's.
pub(crate) async fn databases(fleet: &Fleet, server: &str, tenant: &str) -> Vec<String> {
    let sql = format!("SELECT datname FROM pg_database WHERE starts_with(datname, '{tenant}') ORDER BY 1");
    fleet.direct(server, "postgres").await.column(&sql).await
}

/// Runs pgbench again and again until the moves are over, then counts.
async fn bench_through_moves(fleet: &Fleet, tenant: &str, mode: &str, moves: &[&str]) {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    pgbench_initialize(fleet, tenant, "2").await;
    let over = Cell::new(false);
    let processed = Cell::new(0);
    let bench = async {
        while !over.get() {
            // As much as leaves the machine some time for the moves of the tests beside it.
            let args = ["-n", "-c", "8", "-j", "1", "-T", "2", "-R", "100", "-M", mode];
            let output = pgbench(fleet, tenant, &args).await.exits(0);
            let figure = |name: &str| -> i64 {
                let line = output.stdout.lines().find(|line| line.starts_with(name));
                let text = line.unwrap_or_else(|| panic!("{}", output.stdout)).rsplit(": ").next().unwrap();
                text.split([' ', '/']).next().unwrap().parse().unwrap()
            };
            assert_eq!(figure("number of failed transactions"), 0, "{}", output.stdout);
            assert!(!output.stderr.contains("error"), "{}", output.stderr);
            processed.set(processed.get() + figure("number of transactions actually processed"));
        }
    };
    let moving = async {
        let mut from = "pg-1";
        for to in moves {
            move_to(fleet, tenant, to).await;
            assert!(
                !databases(fleet, from, tenant).await.contains(&tenant.to_owned()),
                "{from} has it still"
            );
            from = to;
        }
        over.set(true);
    };
    tokio::join!(bench, moving);
    // Past the router: what is really there.
    let server = fleet.direct(moves.last().unwrap(), tenant).await;
    assert_eq!(server.number("SELECT count(*) FROM pgbench_history").await, processed.get());
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = h AND (SELECT sum(tbalance) FROM pgbench_tellers) = h
        AND (SELECT sum(bbalance) FROM pgbench_branches) = h FROM (SELECT sum(delta) AS h FROM pgbench_history) x";
    assert_eq!(server.column(sums).await, ["t"]);
}

async fn pgbench_goes_on_through_moves(fleet: &Fleet) {
    bench_through_moves(fleet, "bench-simple", "simple", &["pg-3", "pg-1"]).await;
}

async fn pgbench_with_prepared_statements_goes_on_through_moves(fleet: &Fleet) {
    bench_through_moves(fleet, "bench-prepared", "prepared", &["pg-3", "pg-1"]).await;
}

async fn every_acknowledged_write_is_there_once_after_moves(fleet: &Fleet) {
    fleet.create("ledger", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "ledger", 6).await;
    for to in ["pg-2", "pg-3", "pg-1"] {
        move_to(fleet, "ledger", to).await;
        ledger.goes_on().await;
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

async fn sequences_go_on_without_giving_a_value_twice(fleet: &Fleet) {
    fleet.create("counting", &["--server", "pg-1"]).await;
    let owner = fleet.connect("counting").await;
    owner.run("CREATE SEQUENCE plain; CREATE SEQUENCE cached CACHE 10 INCREMENT 3").await;
    owner.run("CREATE TABLE untouched (id bigint GENERATED ALWAYS AS IDENTITY (START 500))").await;
    let (over, taken) = (Cell::new(false), RefCell::new((BTreeSet::new(), BTreeSet::new())));
    let takers = join_all((0..4).map(async |_| {
        let client = fleet.connect("counting").await;
        while !over.get() {
            let row = client.query_one("SELECT nextval('plain'), nextval('cached')", &[]).await.unwrap();
            let mut taken = taken.borrow_mut();
            assert!(taken.0.insert(row.get::<_, i64>(0)), "{} was given twice", row.get::<_, i64>(0));
            assert!(taken.1.insert(row.get::<_, i64>(1)), "{} was given twice", row.get::<_, i64>(1));
        }
    }));
    let moving = async {
        for to in ["pg-3", "pg-2"] {
            move_to(fleet, "counting", to).await;
            let goal = taken.borrow().0.len() + 20;
            until("more values", async || (taken.borrow().0.len() >= goal).then_some(())).await;
        }
        over.set(true);
    };
    tokio::join!(takers, moving);
    let row = owner.query_one("INSERT INTO untouched DEFAULT VALUES RETURNING id", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 500, "one that was never used begins where it was to begin");
}

async fn a_move_is_shown_with_its_figures(fleet: &Fleet) {
    fleet.create("figures", &["--server", "pg-1"]).await;
    let client = fleet.connect("figures").await;
    client.run("CREATE TABLE t AS SELECT n FROM generate_series(1, 1234) n").await;
    let epoch = fleet.tenant("figures").await["epoch"].as_i64().unwrap();
    let ended = move_to(fleet, "figures", "pg-3").await;
    let id = ended["id"].as_i64().unwrap().to_string();
    let shown = fleet.cli(&["move", "show", &id]).await.ok();
    for (key, value) in [("tenant", "figures"), ("from", "pg-1"), ("to", "pg-3"), ("state", "switched")] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert!(shown["rows_copied"].as_i64().unwrap() >= 1234, "{shown}");
    assert!(shown["bytes_copied"].as_i64().unwrap() > 0, "{shown}");
    let hold = shown["hold_ms"].as_f64().unwrap();
    assert!(hold > 0.0 && hold < 2_000.0, "no longer than it may be: {hold} ms");
    assert_eq!((&shown["verified"], &shown["error"]), (&Value::Bool(true), &Value::Null));
    assert!(shown["step"].is_string(), "{shown}");
    assert!(fleet.tenant("figures").await["epoch"].as_i64().unwrap() > epoch, "the epoch grows");
    let listed = fleet.cli(&["move", "list"]).await.ok();
    assert!(listed.as_array().unwrap().iter().any(|listed| listed["id"] == shown["id"]));
    assert_eq!(client.number("SELECT count(*) FROM t").await, 1234, "a client that is connected goes on");
}

async fn an_idle_session_past_the_router_is_ended_and_loses_nothing(fleet: &Fleet) {
    fleet.create("straggler", &["--server", "pg-1"]).await;
    fleet.connect("straggler").await.run("CREATE TABLE t (n int)").await;
    let straggler = fleet.direct("pg-1", "straggler").await;
    straggler.run("INSERT INTO t VALUES (1)").await;
    move_to(fleet, "straggler", "pg-3").await;
    until("the session to be ended", async || straggler.is_closed().then_some(())).await;
    assert_eq!(fleet.connect("straggler").await.number("SELECT count(*) FROM t").await, 1);
}

async fn completing_a_move_removes_the_sealed_copy_and_all_that_was_made(fleet: &Fleet) {
    fleet.create("tidied", &["--server", "pg-1"]).await;
    fleet.connect("tidied").await.run("CREATE TABLE t (n int)").await;
    let id = move_to(fleet, "tidied", "pg-3").await["id"].as_i64().unwrap().to_string();
    assert_eq!(databases(fleet, "pg-1", "tidied").await, ["tidied__sealed"]);
    assert_eq!(databases(fleet, "pg-3", "tidied").await, ["tidied"]);
    let shown = fleet.cli(&["move", "complete", &id, "--wait"]).await.ok();
    assert_eq!(shown["state"], "completed");
    assert_eq!(databases(fleet, "pg-1", "tidied").await, Vec::<String>::new());
    for server in ["pg-1", "pg-3"] {
        let left = format!(
            "SELECT slot_name::text FROM pg_replication_slots WHERE slot_name LIKE 'tenantry\\_%\\_{id}'
             UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenantry\\_%\\_{id}'"
        );
        let left = fleet.direct(server, "postgres").await.column(&left).await;
        assert_eq!(left, Vec::<String>::new(), "{server}");
    }
    let left = "SELECT pubname FROM pg_publication UNION ALL SELECT subname FROM pg_subscription
            WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'tenantry'
        UNION ALL SELECT evtname FROM pg_event_trigger";
    assert_eq!(fleet.direct("pg-3", "tidied").await.column(left).await, Vec::<String>::new());
    fleet.connect("tidied").await.run("ALTER TABLE t ADD more int").await;
    fleet.cli(&["move", "complete", &id]).await.error(4);
}

async fn a_tenant_moves_back_with_what_was_written_since(fleet: &Fleet) {
    fleet.create("returning", &["--server", "pg-1"]).await;
    let client = fleet.connect("returning").await;
    client.run("CREATE TABLE t (place text); INSERT INTO t VALUES ('home')").await;
    let id = move_to(fleet, "returning", "pg-3").await["id"].as_i64().unwrap().to_string();
    client.run("INSERT INTO t VALUES ('away')").await;
    let shown = fleet.cli(&["move", "reverse", &id, "--wait"]).await.ok();
    assert_eq!((&shown["tenant"], &shown["to"]), (&"returning".into(), &"pg-1".into()));
    assert_eq!(fleet.tenant("returning").await["server"], "pg-1");
    assert_eq!(client.column("SELECT place FROM t ORDER BY 1").await, ["away", "home"]);
}

async fn several_tenants_move_at_once(fleet: &Fleet) {
    let names = ["convoy-1", "convoy-2", "convoy-3"];
    for name in names {
        fleet.create(name, &["--server", "pg-2"]).await;
        fleet.connect(name).await.run("CREATE TABLE t AS SELECT n FROM generate_series(1, 5000) n").await;
    }
    join_all(names.map(|name| move_to(fleet, name, "pg-3"))).await;
    for name in names {
        assert_eq!(fleet.connect(name).await.number("SELECT sum(n) FROM t").await, 12_502_500);
    }
}

async fn a_client_that_pipelines_without_a_pause_is_moved_too(fleet: &Fleet) {
    /// Answers that are outstanding at any time.
    const AHEAD: usize = 3;
    fleet.create("hurried", &["--server", "pg-1"]).await;
    let mut raw = Raw::login(&fleet.config("hurried"), &[]).await;
    raw.query("CREATE TABLE hits (number serial)");
    raw.replies(1).await;
    let stop = Cell::new(false);
    let writing = async {
        let insert = "INSERT INTO hits SELECT FROM pg_sleep(0.005)";
        for _ in 0..AHEAD {
            raw.query(insert);
        }
        let mut written = 0;
        while !stop.get() {
            raw.query(insert);
            assert_eq!(raw.replies(1).await, ["C:INSERT 0 1", "Z:I"]);
            written += 1;
        }
        written + raw.replies(AHEAD).await.iter().filter(|reply| *reply == "C:INSERT 0 1").count()
    };
    let moving = async {
        // Far more than it takes, so that a cutover is only taken back for a client that can't be stopped.
        let start = ["move", "start", "hurried", "--to", "pg-2", "--max-hold", "30s", "--wait"];
        let ended = fleet.cli(&start).await.ok();
        stop.set(true);
        ended
    };
    let (written, ended) = join(writing, moving).await;
    assert_eq!((&ended["state"], &ended["verified"]), (&"switched".into(), &true.into()), "{ended}");
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let taken_back = format!(
        "SELECT coalesce((data->>'taken_back')::bigint, 0) FROM operation WHERE id = {}",
        ended["id"]
    );
    assert_eq!(catalog.number(&taken_back).await, 0);
    let there = fleet.direct("pg-2", "hurried").await.number("SELECT count(DISTINCT number) FROM hits").await;
    assert_eq!(usize::try_from(there).unwrap(), written);
}
