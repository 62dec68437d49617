//! The control plane dies at every step of every change of a tenant, as by `kill -9`; its successor ends the change. Afterwards
//! it is done, or undone: nothing is left on any server that the map does not account for.

use rustix::process::Signal;
use tokio_postgres::Client;

use crate::harness::{Fleet, HandControl, Sql as _, connect, signal, trials, until};
use crate::lifecycle::dumps;
use crate::map_damage::{catalog, found};

trials! {
    own a_change_ends_well_wherever_the_control_plane_dies,
    own making_renaming_and_dropping_end_well_wherever_the_control_plane_dies,
}

const SUSPEND: [&str; 5] = ["refuse", "refuse_done", "drain_done", "close_done", "record_done"];
const RESUME: [&str; 3] = ["roles", "roles_done", "open_done"];
const DELETE: [&str; 5] = ["refuse", "refuse_done", "drain_done", "close_done", "put_aside_done"];
const UNDELETE: [&str; 4] = ["take_back", "take_back_done", "schema_done", "open_done"];
const CREATE: [&str; 6] = ["claim", "claim_done", "roles_done", "database_done", "schema_done", "open_done"];
const CLONE: [&str; 8] = [
    "claim_done",
    "roles_done",
    "database_done",
    "read_put",
    "read_dropped",
    "copy_done",
    "analyze_done",
    "open_done",
];
const RENAME: [&str; 6] = ["claim", "claim_done", "hold_done", "close_done", "rename_done", "place_done"];
const DROP: [&str; 6] =
    ["refuse_done", "put_aside_done", "finish_moves_done", "dump_done", "doomed", "drop_done"];

/// A fleet whose control plane dies on demand.
struct Mortal<'f> {
    fleet: &'f Fleet,
    control: HandControl<'f>,
    catalog: Client,
}

impl<'f> Mortal<'f> {
    async fn of(fleet: &'f Fleet, check_interval: &str) -> Self {
        let dumps = format!("deleted_dump_dir={}", fleet.path().join("dumps").display());
        std::fs::create_dir(fleet.path().join("dumps")).unwrap();
        let interval = format!("map_check_interval={check_interval}");
        let control = fleet.take_control(&["lease_duration=1s", &dumps, &interval]);
        Self { fleet, control, catalog: catalog(fleet).await }
    }

    async fn last_operation(&self) -> i64 {
        self.catalog.number("SELECT coalesce(max(id), 0) FROM operation").await
    }

    /// Asks for a change, lets the control plane die at a point of it, and returns how the change ended.
    async fn dies_at(&mut self, point: &str, change: &[&str]) -> String {
        let failpoint = self.fleet.path().join("failpoint");
        let before = self.last_operation().await;
        std::fs::write(&failpoint, point).unwrap();
        // The answer may be lost with the process that was to give it; one that is starting gives none yet.
        until("the change to be on record", async || {
            self.fleet.cli(change).await;
            (self.last_operation().await > before).then_some(())
        })
        .await;
        let operation = self.last_operation().await;
        until("the failpoint to be reached", async || (!failpoint.exists()).then_some(())).await;
        self.control.start_again();
        self.ended(operation).await
    }

    /// How an operation ended; looks whether everything is accounted for then.
    async fn ended(&self, operation: i64) -> String {
        let state = format!("SELECT state FROM operation WHERE id = {operation}");
        let state = until("the change to end", async || {
            self.catalog.column(&state).await.pop().filter(|state| state != "running")
        })
        .await;
        until("the control plane to answer", async || {
            (self.fleet.cli(&["tenant", "list"]).await.status == 0).then_some(())
        })
        .await;
        assert_eq!(found(self.fleet).await, Vec::<String>::new(), "operation {operation} ended as {state}");
        self.nothing_is_left_over().await;
        state
    }

    /// Each server has the databases and roles of the tenants that live there, and no others.
    async fn nothing_is_left_over(&self) {
        for server in ["pg-1", "pg-2", "pg-3"] {
            let expected = format!(
                "SELECT name FROM tenant, LATERAL (VALUES
                    (CASE state WHEN 'deleted' THEN id || '__deleted' ELSE id END),
                    (id || '__app'), (id || '__owner'), (id || '__readonly')) AS names (name)
                 WHERE server = '{server}' ORDER BY name COLLATE \"C\""
            );
            let there = "SELECT name FROM (SELECT datname::text FROM pg_database
                    WHERE datname NOT IN ('postgres', 'template0', 'template1', 'tenantry')
                UNION ALL SELECT rolname::text FROM pg_roles
                    WHERE rolname !~ '^(pg_|tenantry_|in_the_way)' AND NOT rolsuper) AS names (name)
                ORDER BY name COLLATE \"C\"";
            let there = self.fleet.direct(server, "postgres").await.column(there).await;
            assert_eq!(there, self.catalog.column(&expected).await, "on {server}");
        }
    }

    /// Waits until a tenant is served, and looks for its row.
    async fn serves(&self, tenant: &str) {
        let config = self.fleet.config(tenant);
        let kept = until(&format!("{tenant} to be served"), async || {
            let client = connect(&config).await.ok()?;
            let rows = client.simple_query("SELECT n FROM kept").await.ok()?;
            Some(rows.len())
        })
        .await;
        assert!(kept > 1, "{tenant} has lost its row");
    }

    async fn with_data(&self, tenant: &str) {
        let created = until("the control plane to answer", async || {
            let output = self.fleet.cli(&["tenant", "create", tenant, "--server", "pg-1", "--wait"]).await;
            (output.status == 0).then_some(())
        });
        created.await;
        self.fleet.connect(tenant).await.run("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await;
    }
}

async fn a_change_ends_well_wherever_the_control_plane_dies(fleet: &mut Fleet) {
    let mut mortal = Mortal::of(fleet, "1s").await;
    mortal.with_data("mortal").await;
    let there_and_back =
        [("suspend", &SUSPEND[..], "resume", &RESUME[..]), ("delete", &DELETE, "undelete", &UNDELETE)];
    for (away, away_points, back, back_points) in there_and_back {
        for (i, point) in away_points.iter().enumerate() {
            let yes: &[&str] = if away == "delete" { &["--yes"] } else { &[] };
            let change = [&["tenant", away, "mortal", "--no-wait"], yes].concat();
            let state = mortal.dies_at(point, &change).await;
            assert_eq!(state, "done", "{away} died at {point}");
            match back_points.get(i) {
                Some(point) => {
                    let state = mortal.dies_at(point, &["tenant", back, "mortal", "--no-wait"]).await;
                    assert_eq!(state, "done", "{back} died at {point}");
                }
                None => drop(mortal.fleet.cli(&["tenant", back, "mortal"]).await.ok()),
            }
            mortal.serves("mortal").await;
        }
    }
    what_readers_left_goes(fleet).await;
}

/// Roles with which operations read that ended while the server was away, and what they left open.
async fn what_readers_left_goes(fleet: &Fleet) {
    fleet.cli(&["tenant", "suspend", "mortal", "--wait"]).await.ok();
    let server = fleet.direct("pg-1", "postgres").await;
    server
        .run("CREATE ROLE tenantry_read_1 LOGIN IN ROLE mortal__owner; CREATE ROLE tenantry_read_2 LOGIN")
        .await;
    server.run("CREATE DATABASE half").await;
    fleet.direct("pg-1", "half").await.run("GRANT CREATE ON SCHEMA public TO tenantry_read_2").await;
    server.run("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'").await;
    let inside = fleet.direct("pg-1", "mortal").await;
    inside.run("CREATE TABLE made (n int); ALTER TABLE made OWNER TO tenantry_read_1").await;
    server.run("ALTER DATABASE mortal CONNECTION LIMIT 64").await;
    let role = async |role: &str| {
        let sql = format!("SELECT rolcanlogin::text FROM pg_roles WHERE rolname = 'tenantry_read_{role}'");
        server.column(&sql).await
    };
    until("what was left of the first to go", async || {
        let limit = server.number("SELECT datconnlimit FROM pg_database WHERE datname = 'mortal'").await;
        (limit == 0 && role("1").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(inside.number("SELECT count(*) FROM pg_class WHERE relname = 'made'").await, 0);
    // What it has in a database that is half dropped goes with that.
    until("the second to be kept out", async || (role("2").await == ["false"]).then_some(())).await;
    server.run("DROP DATABASE half").await;
    until("the second to go", async || role("2").await.is_empty().then_some(())).await;
    fleet.cli(&["tenant", "resume", "mortal", "--wait"]).await.ok();
    assert_eq!(fleet.connect("mortal").await.number("SELECT n FROM kept").await, 7);
}

async fn making_renaming_and_dropping_end_well_wherever_the_control_plane_dies(fleet: &mut Fleet) {
    // Later than this lasts: no look sets right what a clone leaves.
    let mut mortal = Mortal::of(fleet, "1h").await;
    mortal.with_data("origin").await;
    for (i, point) in CREATE.iter().enumerate() {
        let id = format!("made-{i}");
        let state = mortal.dies_at(point, &["tenant", "create", &id]).await;
        assert_eq!((state.as_str(), &fleet.tenant(&id).await["state"]), ("done", &"open".into()), "{point}");
    }
    for (i, point) in CLONE.iter().enumerate() {
        let (id, server) = (format!("copy-{i}"), ["pg-1", "pg-2"][i % 2]);
        let state = mortal.dies_at(point, &["tenant", "clone", "origin", &id, "--server", server]).await;
        assert_eq!(state, "done", "clone died at {point}");
        mortal.serves(&id).await;
    }
    let readers = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tenantry\\_read\\_%'";
    assert_eq!(fleet.direct("pg-1", "postgres").await.number(readers).await, 0);
    // One that can't be done is undone, wherever.
    fleet.connect("origin").await.run("CREATE UNLOGGED TABLE scratch ()").await;
    for point in ["undo", "undo_done"] {
        let state = mortal.dies_at(point, &["tenant", "clone", "origin", "never"]).await;
        assert_eq!(state, "failed", "clone died at {point}");
        fleet.cli(&["tenant", "show", "never"]).await.error(3);
    }
    let names = ["origin", "renamed"];
    for (i, point) in RENAME.iter().enumerate() {
        let (from, to) = (names[i % 2], names[(i + 1) % 2]);
        let state = mortal.dies_at(point, &["tenant", "rename", from, to]).await;
        assert_eq!(state, "done", "rename died at {point}");
        mortal.serves(to).await;
        fleet.cli(&["tenant", "show", from]).await.error(3);
    }
    fleet.direct("pg-1", "postgres").await.run("CREATE ROLE in_the_way__app").await;
    for point in ["undo", "undo_done"] {
        let state = mortal.dies_at(point, &["tenant", "rename", "origin", "in_the_way"]).await;
        assert_eq!(state, "failed", "rename died at {point}");
        mortal.serves("origin").await;
        fleet.cli(&["tenant", "show", "in_the_way"]).await.error(3);
    }
    for (i, point) in DROP.iter().enumerate() {
        let id = format!("copy-{i}");
        let state =
            mortal.dies_at(point, &["tenant", "delete", &id, "--now", "--dump", "--no-wait", "--yes"]).await;
        assert_eq!(state, "done", "dropping died at {point}");
        fleet.cli(&["tenant", "show", &id]).await.error(3);
        assert_eq!(dumps(fleet, &id).len(), 1, "{point}");
    }
    a_killed_server_ends_no_change_halfway(&mortal).await;
}

async fn a_killed_server_ends_no_change_halfway(mortal: &Mortal<'_>) {
    for change in [
        &["tenant", "rename", "origin", "renamed"][..],
        &["tenant", "clone", "made-0", "copied"],
        &["tenant", "delete", "made-1", "--now", "--no-wait", "--yes"],
    ] {
        mortal.fleet.cli(change).await.ok();
        let operation = mortal.last_operation().await;
        crash_backends(mortal.fleet, "pg-1").await;
        mortal.ended(operation).await;
    }
}

/// Kills one backend of a server, which makes Postgres end all sessions and recover.
async fn crash_backends(fleet: &Fleet, server: &str) {
    let client = fleet.direct(server, "postgres").await;
    let pid = client.number("SELECT pg_backend_pid()").await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    signal(pid, Signal::KILL);
    until("the server to answer again", async || {
        let url = fleet.server_url(server);
        let mut config: tokio_postgres::Config = url.parse().unwrap();
        config.dbname("postgres");
        connect(&config).await.ok()
    })
    .await;
}
