//! A switched move is turned round within its window, without a copy: nothing is lost, nothing twice there, no sequence value
//! given again. What closes the window, and that nothing is left of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::ledger::Ledger;
use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, trials, until};
use crate::migrations::{Files, turn};
use crate::moves::{databases, move_to};

trials! {
    own a_move_is_turned_round_again_and_again_and_loses_nothing,
    own a_way_back_that_would_fill_the_disk_is_closed,
    shared a_schema_change_closes_the_window_with_a_warning,
    shared a_fleet_migration_closes_the_window,
    shared a_tenant_in_its_window_is_cloned_and_deleted_like_any_other,
    shared a_turn_that_is_aborted_leaves_the_window_open,
}

pub(crate) fn id_of(shown: &Value) -> String {
    shown["id"].as_i64().unwrap().to_string()
}

pub(crate) async fn show(fleet: &Fleet, id: &str) -> Value {
    fleet.cli(&["move", "show", id]).await.ok()
}

/// Turns a move round, and returns the move back as shown at its end.
pub(crate) async fn reverse(fleet: &Fleet, id: &str, to: &str) -> Value {
    let shown = fleet.cli(&["move", "reverse", id, "--wait", "--timeout", "2m"]).await.ok();
    assert_eq!((&shown["state"], &shown["to"]), (&"switched".into(), &to.into()), "{shown}");
    assert_eq!((&shown["rows_copied"], &shown["verified"]), (&0.into(), &true.into()), "{shown}");
    assert!(shown["reversible_until"].is_string(), "it can be turned round itself: {shown}");
    let turned = show(fleet, id).await;
    assert_eq!(
        (&turned["state"], &turned["reversible_until"]),
        (&"completed".into(), &Value::Null),
        "{turned}"
    );
    shown
}

/// All that is left on a server of the stream of any of these moves, or in the tenant's database.
pub(crate) async fn left(fleet: &Fleet, server: &str, tenant: &str, ids: &[&str]) -> Vec<String> {
    let ids = ids.join("|");
    let of_server = format!(
        "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name ~ '^tenantry_.*_({ids})$'
         UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^tenantry_.*_({ids})$'
         UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subname ~ '^tenantry_.*_({ids})$'"
    );
    let mut found = fleet.direct(server, "postgres").await.column(&of_server).await;
    if databases(fleet, server, tenant).await.contains(&tenant.to_owned()) {
        let of_database = "SELECT pubname FROM pg_publication UNION ALL SELECT evtname FROM pg_event_trigger
            UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'tenantry'
            UNION ALL SELECT relname || ' ' || relreplident::text FROM pg_class
                WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relreplident <> 'd'";
        found.extend(fleet.direct(server, tenant).await.column(of_database).await);
    }
    found
}

/// Waits until a move's window is closed and nothing of it is left on either server; returns the move.
pub(crate) async fn is_closed(fleet: &Fleet, tenant: &str, id: &str) -> Value {
    until("the window to be closed", async || {
        let shown = fleet.cli(&["move", "show", id]).await;
        (shown.status == 0 && !shown.json()["window_closed"].is_null()).then_some(())
    })
    .await;
    for server in ["pg-1", "pg-3"] {
        until("the stream back to be removed", async || {
            left(fleet, server, tenant, &[id]).await.is_empty().then_some(())
        })
        .await;
    }
    let shown = show(fleet, id).await;
    assert_eq!(shown["reversible_until"], Value::Null, "{shown}");
    shown
}

async fn a_move_is_turned_round_again_and_again_and_loses_nothing(fleet: &mut Fleet) {
    let fleet = &*fleet;
    fleet.create("pendulum", &["--server", "pg-1"]).await;
    let owner = fleet.connect("pendulum").await;
    owner
        .run(
            "CREATE SEQUENCE plain; CREATE SEQUENCE cached CACHE 10 INCREMENT 3;
             CREATE TABLE keyless (n int); INSERT INTO keyless SELECT generate_series(1, 100);
             CREATE TABLE source (n int PRIMARY KEY); CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM source",
        )
        .await;
    let ledger = Ledger::start(fleet, "pendulum", 4).await;
    let (over, taken) = (Cell::new(false), RefCell::new((BTreeSet::new(), BTreeSet::new())));
    let takers = join_all((0..2).map(async |_| {
        let client = fleet.connect("pendulum").await;
        while !over.get() {
            let row = client.query_one("SELECT nextval('plain'), nextval('cached')", &[]).await.unwrap();
            let mut taken = taken.borrow_mut();
            assert!(taken.0.insert(row.get::<_, i64>(0)), "{} was given twice", row.get::<_, i64>(0));
            assert!(taken.1.insert(row.get::<_, i64>(1)), "{} was given twice", row.get::<_, i64>(1));
        }
    }));
    let moving = async {
        let mut shown = move_to(fleet, "pendulum", "pg-3").await;
        assert!(shown["reversible_until"].is_string() && shown["window_closed"].is_null(), "{shown}");
        let mut ids = vec![id_of(&shown)];
        for (round, to) in ["pg-1", "pg-3", "pg-1"].into_iter().enumerate() {
            ledger.goes_on().await;
            // What has no key, what is truncated, and what is refreshed goes along, too.
            owner.run(&format!("UPDATE keyless SET n = -n WHERE n = {}", round + 1)).await;
            owner
                .run(&format!("TRUNCATE source; INSERT INTO source SELECT generate_series(0, {round})"))
                .await;
            owner.run("REFRESH MATERIALIZED VIEW counted").await;
            owner.run("BEGIN; CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT 1; COMMIT").await;
            shown = reverse(fleet, &id_of(&shown), to).await;
            ids.push(id_of(&shown));
            let goal = taken.borrow().0.len() + 20;
            until("more values", async || (taken.borrow().0.len() >= goal).then_some(())).await;
            assert_eq!(owner.number("SELECT n FROM counted").await, i64::try_from(round).unwrap() + 1);
        }
        over.set(true);
        ids
    };
    let (_, ids) = tokio::join!(takers, moving);
    assert_eq!(owner.number("SELECT count(*) FROM keyless WHERE n < 0").await, 3);
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    for id in &ids[..3] {
        let refused = fleet.cli(&["move", "reverse", id]).await;
        assert!(!refused.hint().is_empty(), "it says what to do");
        refused.error(4);
    }
    let last = ids.last().unwrap();
    fleet.cli(&["move", "complete", last, "--wait"]).await.ok();
    fleet.cli(&["move", "reverse", last]).await.error(4);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for server in ["pg-1", "pg-3"] {
        assert_eq!(left(fleet, server, "pendulum", &ids).await, Vec::<String>::new(), "{server}");
    }
    assert_eq!(databases(fleet, "pg-3", "pendulum").await, Vec::<String>::new());
    assert_eq!(databases(fleet, "pg-1", "pendulum").await, ["pendulum"]);
}

async fn a_schema_change_closes_the_window_with_a_warning(fleet: &Fleet) {
    fleet.create("fidgety", &["--server", "pg-1"]).await;
    let client = fleet.connect("fidgety").await;
    client.run("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)").await;
    let id = id_of(&move_to(fleet, "fidgety", "pg-3").await);
    let mut raw = Raw::login(&fleet.config("fidgety"), &[]).await;
    raw.query(
        "BEGIN; CREATE TABLE never (n int); INSERT INTO never VALUES (1); UPDATE never SET n = 2; ROLLBACK",
    );
    assert!(
        raw.replies(1).await.iter().any(|reply| reply.starts_with("N:01000")),
        "also of what is rolled back"
    );
    raw.query(
        "CREATE TEMP TABLE scratch (n int); CREATE INDEX ON scratch (n); DROP TABLE scratch; ANALYZE t",
    );
    assert!(!raw.replies(1).await.iter().any(|reply| reply.starts_with('N')), "nothing of that lasts");
    let published = "SELECT count(*) FROM pg_publication WHERE pubname LIKE 'tenantry\\_reverse\\_%'";
    let there = fleet.direct("pg-3", "fidgety").await;
    assert_eq!(there.number(published).await, 1, "what is rolled back closes nothing");
    assert!(show(fleet, &id).await["reversible_until"].is_string());

    raw.query("CREATE TABLE more (n int)");
    let replies = raw.replies(1).await;
    assert!(replies.iter().any(|reply| reply.starts_with("N:01000")), "{replies:?}");
    // A table without a key would be refused this while it is published.
    client.run("INSERT INTO more VALUES (1); UPDATE more SET n = 2").await;
    let shown = is_closed(fleet, "fidgety", &id).await;
    let closed = &shown["window_closed"];
    assert_eq!(
        (&closed["what"], &closed["who"]),
        (&"CREATE TABLE".into(), &"fidgety__owner".into()),
        "{shown}"
    );
    assert!(closed["at"].is_string() && shown["state"] == "switched", "{shown}");
    let refused = fleet.cli(&["move", "reverse", &id]).await;
    assert!(refused.hint().contains("tenantry move start fidgety --to pg-1"), "{}", refused.hint());
    let error = refused.error(4);
    assert!(error.contains("fidgety__owner changed the schema: CREATE TABLE"), "{error}");
    raw.query("CREATE TABLE again (n int)");
    assert!(raw.replies(1).await.iter().all(|reply| !reply.starts_with("N:01000")), "no window, no warning");
    client.run("CREATE INDEX CONCURRENTLY late ON t (n)").await;
    move_to(fleet, "fidgety", "pg-1").await;

    for ddl in ["CREATE INDEX CONCURRENTLY later ON t (n)", "DROP INDEX CONCURRENTLY late"] {
        let to = if fleet.tenant("fidgety").await["server"] == "pg-1" { "pg-3" } else { "pg-1" };
        let id = id_of(&move_to(fleet, "fidgety", to).await);
        client.run(ddl).await;
        is_closed(fleet, "fidgety", &id).await;
    }
}

async fn a_fleet_migration_closes_the_window(fleet: &Fleet) {
    let _turn = turn().await;
    fleet.create("developing", &["--server", "pg-1", "--label", "group=developing"]).await;
    fleet.connect("developing").await.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    let id = id_of(&move_to(fleet, "developing", "pg-3").await);
    let files = Files::new(&[("V1__more.sql", "ALTER TABLE t ADD more int")]);
    fleet.cli(&["migrate", "run", "--dir", files.path(), "--selector", "group=developing"]).await.ok();
    let shown = is_closed(fleet, "developing", &id).await;
    assert_eq!(shown["window_closed"]["who"], "developing__owner", "{shown}");
    fleet.cli(&["move", "reverse", &id]).await.error(4);
}

async fn a_tenant_in_its_window_is_cloned_and_deleted_like_any_other(fleet: &Fleet) {
    fleet.create("ordinary", &["--server", "pg-1"]).await;
    let client = fleet.connect("ordinary").await;
    client.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let id = id_of(&move_to(fleet, "ordinary", "pg-3").await);
    fleet.cli(&["tenant", "clone", "ordinary", "ordinary-too", "--wait"]).await.ok();
    let clone = until("the router to hear of it", async || {
        crate::harness::connect(&fleet.config("ordinary-too")).await.ok()
    })
    .await;
    assert_eq!(clone.number("SELECT count(*) FROM t").await, 1);
    clone.run("ALTER TABLE t ADD more int").await;
    assert!(show(fleet, &id).await["reversible_until"].is_string(), "of its source nothing was changed");
    fleet.cli(&["tenant", "suspend", "ordinary"]).await.ok();
    fleet.cli(&["move", "reverse", &id]).await.error(4);
    fleet.cli(&["tenant", "resume", "ordinary"]).await.ok();
    assert!(show(fleet, &id).await["reversible_until"].is_string());
    fleet.cli(&["tenant", "delete", "ordinary", "--yes", "--now"]).await.ok();
    for server in ["pg-1", "pg-3"] {
        until("everything to be gone", async || {
            let gone = left(fleet, server, "ordinary", &[&id]).await.is_empty();
            let databases = databases(fleet, server, "ordinary").await;
            (gone && databases.iter().all(|name| name.starts_with("ordinary-too"))).then_some(())
        })
        .await;
    }
}

async fn a_turn_that_is_aborted_leaves_the_window_open(fleet: &Fleet) {
    fleet.create("wavering", &["--server", "pg-1"]).await;
    let client = fleet.connect("wavering").await;
    client.run("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)").await;
    let id = id_of(&move_to(fleet, "wavering", "pg-3").await);
    let blocker = fleet.connect("wavering").await;
    // It writes nothing: other tests' slots would wait for it.
    blocker.run("BEGIN; SELECT n FROM t").await;
    let back = id_of(&fleet.cli(&["move", "reverse", &id]).await.ok());
    until("it to wait", async || show(fleet, &back).await["waiting_for"].is_string().then_some(())).await;
    assert_eq!(
        client.fails("CREATE TABLE more (n int)").await,
        "TT002",
        "no change while it is turned round"
    );
    fleet.cli(&["move", "reverse", &id]).await.error(4);
    let ended = fleet.cli(&["move", "abort", &back, "--wait"]).await.ok();
    assert_eq!(ended["state"], "aborted", "{ended}");
    blocker.run("COMMIT").await;
    assert_eq!(fleet.tenant("wavering").await["server"], "pg-3");
    assert_eq!(databases(fleet, "pg-1", "wavering").await, ["wavering__sealed"]);
    client.run("UPDATE t SET n = n + 10").await;
    reverse(fleet, &id, "pg-1").await;
    assert_eq!(client.column("SELECT n FROM t ORDER BY n").await, ["11", "12"]);
}

/// So that a successor leads soon.
pub(crate) const LEASE: &str = "lease_duration = \"2s\"";

/// Starts the control plane again with this line more in its configuration, and returns when it leads.
pub(crate) async fn with_config(fleet: &Fleet, line: &str) {
    let file = fleet.path().join("control.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{line}\n{before}")).unwrap();
    let killed = fleet.process("control");
    fleet.kill_process("control");
    until("dev to start it again", async || fleet.process("control").filter(|new| Some(*new) != killed))
        .await;
    until("it to lead", async || {
        let tried = fleet.cli(&["user", "create", "afterwards"]).await;
        (tried.status == 0).then_some(())
    })
    .await;
}

async fn a_way_back_that_would_fill_the_disk_is_closed(fleet: &mut Fleet) {
    let fleet = &*fleet;
    with_config(fleet, "reverse_wal_bytes_max = 4000000").await;
    fleet.create("voluble", &["--server", "pg-1"]).await;
    let client = fleet.connect("voluble").await;
    client.run("CREATE TABLE t (id int PRIMARY KEY, text text)").await;
    let id = id_of(&move_to(fleet, "voluble", "pg-3").await);
    // The sealed copy is let in no more, so nobody reads the slot.
    let there = fleet.direct("pg-3", "postgres").await;
    let slot = format!("FROM pg_replication_slots WHERE slot_name = 'tenantry_reverse_{id}'");
    there.run(&format!("ALTER ROLE tenantry_reverse_{id} NOLOGIN")).await;
    there.run(&format!("SELECT pg_terminate_backend(active_pid) {slot}")).await;
    client.run("INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n").await;
    let shown = is_closed(fleet, "voluble", &id).await;
    let why = shown["window_closed"]["why"].as_str().unwrap();
    assert!(why.contains("reverse_wal_bytes_max"), "{why}");
    assert_eq!(there.number(&format!("SELECT count(*) {slot}")).await, 0);
    fleet.cli(&["move", "reverse", &id]).await.error(4);
    assert_eq!(client.number("SELECT count(*) FROM t").await, 20_000);
}
