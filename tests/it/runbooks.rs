//! The commands of every runbook work, in a fleet to which it happens.

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::cut_off::{give_server_back, lose_server};
use crate::harness::runbook::{RUNBOOKS, Runbook, sections};
use crate::harness::tls::{Authority, Files};
use crate::harness::{Fleet, Sql as _, connect, connect_url, trials, until};
use crate::migrations;

trials! {
    plain every_page_says_all_that_a_page_says,
    own parts_that_are_down_or_lost_come_back,
    own work_that_is_stuck_or_planned_is_done,
    versions a_server_is_left_for_a_newer_version,
}

/// What a page is wanted for, whatever else there is one for.
const PAGES: [&str; 10] = [
    "server-down",
    "catalog-down",
    "catalog-lost",
    "router-behind",
    "move-stuck",
    "migration-halted",
    "disk-slot",
    "rotating-keys",
    "postgres-upgrade",
    "server-at-peak",
];
const NOTICE: &str = "How you notice";
const MEANING: &str = "What it means for customers";
const DO: &str = "What to do";
const OVER: &str = "How you see that it is over";
const NEVER: &str = "What never to do";

async fn every_page_says_all_that_a_page_says() {
    let list = std::fs::read_to_string(format!("{RUNBOOKS}/README.md")).unwrap();
    for page in PAGES {
        assert!(list.contains(&format!("({page}.md)")), "there is no page {page}");
    }
    for file in std::fs::read_dir(RUNBOOKS).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        assert!(list.contains(&format!("({name})")), "README.md does not list {name}");
        let text = std::fs::read_to_string(&path).unwrap();
        let found = sections(&text);
        let headings: Vec<&str> = found.iter().map(|(heading, _)| heading.as_str()).collect();
        for heading in [NOTICE, MEANING, DO, OVER, NEVER] {
            assert!(headings.contains(&heading), "{name} has no section {heading:?}");
        }
        let kinds = text.lines().filter_map(|line| line.strip_prefix("```"));
        assert!(
            kinds.clone().all(|kind| ["sh", "text", ""].contains(&kind)),
            "{name}: {:?}",
            kinds.collect::<Vec<_>>()
        );
    }
}

async fn parts_that_are_down_or_lost_come_back(fleet: &mut Fleet) {
    let fleet = &*fleet;
    fleet.create("acme", &["--server", "pg-2"]).await;
    fleet.connect("acme").await.run("SELECT 1").await;
    the_catalog_is_down(fleet).await;
    a_router_hangs(fleet).await;
    the_catalog_is_lost(fleet).await;
    a_server_is_down(fleet).await;
}

async fn a_server_is_down(fleet: &Fleet) {
    let url = fleet.server_url("pg-2");
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let standby = fleet.server_standby("pg-2").await;
    let variables = [
        ("SERVER", "pg-2"),
        ("SERVER_URL", &url),
        ("TENANT", "acme"),
        ("PROMOTED", standby.url()),
        ("ELSEWHERE", &elsewhere),
    ];
    lose_server(fleet, "pg-2");
    let page = Runbook::open(fleet, "server-down", &variables).await;
    page.run(NOTICE).await;
    page.run(DO).await;
    give_server_back(fleet, "pg-2");
    until("the server to be back", async || {
        let client = connect(&fleet.config("acme")).await.ok()?;
        client.simple_query("SELECT 1").await.ok()
    })
    .await;
    page.run_until_well(OVER).await;
    page.run("It comes back from a backup").await;
    page.run("It comes back under another address").await;
    assert_eq!(fleet.cli(&["server", "show", "pg-2"]).await.ok()["host"], "localhost");
    lose_server(fleet, "pg-2");
    standby.promote().await;
    page.run("Its standby was promoted").await;
    until("clients to be served there", async || {
        let client = connect(&fleet.config("acme")).await.ok()?;
        client.simple_query("CREATE TABLE served_there ()").await.ok()
    })
    .await;
    page.done();
}

async fn the_catalog_is_down(fleet: &Fleet) {
    fleet.freeze("catalog", Signal::STOP);
    let url: Config = fleet.variable("TENANTRY_CATALOG_URL").parse().unwrap();
    let Host::Tcp(host) = &url.get_hosts()[0] else { panic!("a TCP host") };
    let catalog = format!("{host}:{}", url.get_ports()[0]);
    let page = Runbook::open(fleet, "catalog-down", &[("CATALOG", &catalog), ("TENANT", "acme")]).await;
    page.run(NOTICE).await;
    page.run(MEANING).await;
    fleet.freeze("catalog", Signal::CONT);
    page.run_until_well(OVER).await;
    page.done();
}

async fn a_router_hangs(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    router.signal(Signal::STOP);
    let page = Runbook::open(fleet, "router-behind", &[("TENANT", "acme")]).await;
    page.run(NOTICE).await;
    page.run(MEANING).await;
    router.signal(Signal::CONT);
    page.run_until_well(OVER).await;
    page.done();
}

async fn the_catalog_is_lost(fleet: &Fleet) {
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    connect_url(url, "postgres").await.run("DROP DATABASE tenantry_catalog WITH (FORCE)").await;
    let variables = [("SNAPSHOT", fleet.variable("TENANTRY_MAP_SNAPSHOT")), ("TENANT", "acme")];
    whole(fleet, "catalog-lost", &variables).await;
}

async fn work_that_is_stuck_or_planned_is_done(fleet: &mut Fleet) {
    let fleet = &*fleet;
    for tenant in ["acme", "bravo"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    a_server_is_too_busy(fleet).await;
    let id = a_move_waits(fleet).await;
    a_slot_keeps_log(fleet, &id).await;
    a_migration_halts(fleet).await;
    keys_are_rotated(fleet).await;
}

/// A page whose sections are all run in a row.
async fn whole(fleet: &Fleet, name: &str, variables: &[(&str, &str)]) {
    let page = Runbook::open(fleet, name, variables).await;
    for heading in [NOTICE, MEANING, DO] {
        page.run(heading).await;
    }
    page.run_until_well(OVER).await;
    page.done();
}

async fn a_server_is_too_busy(fleet: &Fleet) {
    let url = fleet.server_url("pg-3");
    // The new one.
    fleet.cli(&["server", "remove", "pg-3", "--yes"]).await.ok();
    fleet.cli(&["tenant", "set", "acme", "--quota", "connections=7"]).await.ok();
    whole(
        fleet,
        "server-at-peak",
        &[("BUSY", "pg-1"), ("NEW", "pg-3"), ("NEW_URL", &url), ("TENANT", "acme")],
    )
    .await;
    let quota = &fleet.tenant("acme").await["own_quota"];
    assert_eq!(quota["connections"], json!(7), "it has the quota again that it had: {quota}");
}

/// Returns the number of the move that went through in the end.
async fn a_move_waits(fleet: &Fleet) -> String {
    let client = fleet.connect("bravo").await;
    client.run("BEGIN; SELECT 1").await;
    let started = fleet.cli(&["move", "start", "bravo", "--to", "pg-2"]).await.ok();
    let id = started["id"].to_string();
    until("the move to wait", async || {
        let shown = fleet.cli(&["move", "show", &id]).await.ok();
        shown["waiting_for"].is_string().then_some(())
    })
    .await;
    whole(fleet, "move-stuck", &[("MOVE", &id), ("TENANT", "bravo"), ("TO", "pg-2")]).await;
    let moves = fleet.cli(&["move", "list"]).await.ok();
    let is_it = |shown: &&Value| shown["tenant"] == "bravo" && shown["state"] == "switched";
    moves.as_array().unwrap().iter().find(is_it).expect("a move that went through")["id"].to_string()
}

async fn a_slot_keeps_log(fleet: &Fleet, switched: &str) {
    let slot = "tenantry_move_999";
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    fleet.direct("pg-1", "tenantry").await.run(&make).await;
    let url = fleet.server_url("pg-1");
    fleet.create("busy", &["--server", "pg-1"]).await;
    let client = fleet.connect("busy").await;
    client.run("BEGIN; SELECT 1").await;
    let running = fleet.cli(&["move", "start", "busy", "--to", "pg-2"]).await.ok()["id"].to_string();
    let variables = [("SERVER_URL", url.as_str()), ("SLOT", slot), ("RUNNING", &running), ("MOVE", switched)];
    whole(fleet, "disk-slot", &variables).await;
    assert_eq!(fleet.cli(&["move", "show", &running]).await.ok()["state"], "aborted");
}

async fn a_migration_halts(fleet: &Fleet) {
    let client = fleet.connect("bravo").await;
    client.run("CREATE TABLE people (name text); INSERT INTO people VALUES ('twice'), ('twice')").await;
    let unique = "CREATE TABLE IF NOT EXISTS people (name text); CREATE UNIQUE INDEX once ON people (name)";
    let files = migrations::Files::new(&[("V1__once.sql", unique)]);
    let run = fleet.cli(&["migrate", "run", "--dir", files.path(), "--canary", "2"]).await.exits(1).json();
    let mending = "DELETE FROM people a USING people b WHERE a.name = b.name AND a.ctid > b.ctid";
    let run = run["id"].to_string();
    let variables = [("RUN", run.as_str()), ("TENANT", "bravo"), ("MENDING", mending), ("DIR", files.path())];
    let page = Runbook::open(fleet, "migration-halted", &variables).await;
    for heading in [NOTICE, MEANING, DO, "The file is wrong and ran nowhere"] {
        page.run(heading).await;
    }
    page.run_until_well(OVER).await;
    it_stops_at_once(fleet, &page).await;
    page.done();
}

/// A run that waits for a client's lock is stopped.
async fn it_stops_at_once(fleet: &Fleet, page: &Runbook) {
    let reading = fleet.connect("bravo").await;
    reading.run("BEGIN; SELECT FROM people").await;
    let files = migrations::Files::new(&[
        (
            "V1__once.sql",
            "CREATE TABLE IF NOT EXISTS people (name text); CREATE UNIQUE INDEX once ON people (name)",
        ),
        ("V2__more.sql", "ALTER TABLE people ADD more text"),
    ]);
    let run = fleet.cli(&["migrate", "run", "--dir", files.path(), "--no-wait"]).await.ok()["id"].to_string();
    let server = fleet.tenant("bravo").await["server"].as_str().unwrap().to_owned();
    let there = fleet.direct(&server, "postgres").await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'bravo' AND wait_event_type = 'Lock'";
    until("the run to wait", async || (there.number(waits).await > 0).then_some(())).await;
    page.set("RUN", &run);
    page.run("It has to stop while it runs").await;
    reading.run("COMMIT").await;
    until("the run to have ended", async || {
        let shown = fleet.cli(&["migrate", "status", &run]).await.json();
        (shown["state"] == "aborted").then_some(())
    })
    .await;
    fleet.cli(&["migrate", "resume", &run]).await.ok();
}

async fn keys_are_rotated(fleet: &Fleet) {
    fleet.user("app", "acme", &["--access", "readonly", "--pool-mode", "session"]).await;
    fleet.cli(&["token", "create", "ann", "--role", "viewer"]).await.ok();
    let (files, authority) = (Files::of(fleet, "rotated"), Authority::new());
    let shown = files.shown(&authority.issue("127.0.0.1", &["127.0.0.1"]));
    let file = |key: &str| {
        let setting = shown.iter().find_map(|setting| setting.strip_prefix(&format!("{key}=")));
        setting.expect("a file for TLS").to_owned()
    };
    let (cert, key) = (file("tls_cert_file"), file("tls_key_file"));
    let router = fleet.router(&["tls_mode=allow", &shown[0], &shown[1]]).await;
    let servers = (1..=3).map(|i| {
        let name = fleet.variable(&format!("TENANTRY_SERVER_{i}"));
        format!("{name}={}", fleet.server_url(name))
    });
    let servers = servers.collect::<Vec<_>>().join(" ");
    let address = format!("127.0.0.1:{}", router.port);
    let page = Runbook::open(
        fleet,
        "rotating-keys",
        &[
            ("LOGIN", "app"),
            ("TOKEN_NAME", "ann"),
            ("TENANT", "acme"),
            ("CERT", &cert),
            ("KEY", &key),
            ("ROUTER", &address),
            ("SERVERS", &servers),
        ],
    )
    .await;
    for heading in [NOTICE, "A user's password", "A router's certificate", "A token of the API"] {
        page.run(heading).await;
    }
    let has = async |what: &str, expected: Value| {
        let listed = fleet.cli(&[what, "list"]).await.ok();
        let is_it =
            |entry: &Value| expected.as_object().unwrap().iter().all(|(key, value)| entry[key] == *value);
        assert!(listed.as_array().unwrap().iter().any(is_it), "{expected} in {listed}");
    };
    has(
        "user",
        json!({ "name": "app-next", "tenants": "id=acme", "access": "readonly", "pool_mode": "session" }),
    )
    .await;
    has("token", json!({ "name": "ann-next", "role": "viewer" })).await;
    drop(router);
    fleet.stop_in_order().await;
    let master_key = fleet.path().join("secrets/master_key");
    let before = std::fs::read_to_string(&master_key).unwrap();
    let first = if before.starts_with('A') { "B" } else { "A" };
    std::fs::write(&master_key, format!("{first}{}", &before[1..])).unwrap();
    fleet.start_again().await;
    page.run("The master key").await;
    page.run_until_well(OVER).await;
    page.done();
}

async fn a_server_is_left_for_a_newer_version(fleet: &mut Fleet) {
    for tenant in ["acme", "bravo"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    let url = fleet.server_url("pg-3");
    let variables = [("OLD", "pg-1"), ("NEW", "pg-3"), ("NEW_URL", url.as_str()), ("TENANT", "acme")];
    let page = Runbook::open(fleet, "postgres-upgrade", &variables).await;
    for heading in [NOTICE, MEANING, DO] {
        page.run(heading).await;
    }
    page.run_until_well(OVER).await;
    let moves = fleet.cli(&["move", "list"]).await.ok();
    let can_go_back = |shown: &Value| shown["state"] == "switched";
    assert!(
        moves.as_array().unwrap().iter().all(can_go_back),
        "seeing that it is over ends no way back: {moves}"
    );
    page.run_until_well("When applications have worked there for the whole window").await;
    page.done();
    assert_eq!(fleet.tenant("acme").await["server"], "pg-3");
    assert_eq!(
        fleet.cli(&["server", "show", "pg-3"]).await.ok()["class"],
        "shared",
        "the class of the old one"
    );
}
