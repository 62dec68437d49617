//! Parts of a fleet are killed or stopped, at the worst moments; what was acknowledged is there afterwards, once.

use rustix::process::Signal;
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, connect, connect_url, signal, trials, until};
use crate::moves::databases;

trials! {
    own a_move_ends_well_although_its_control_plane_is_killed_in_the_middle,
    own a_move_starts_over_although_its_target_is_half_dropped,
    own a_fleet_that_is_killed_comes_back_and_ends_its_moves,
    own a_killed_router_is_started_again_and_clients_reconnect,
    own a_killed_server_comes_back_and_nobody_elses_tenants_notice,
    own without_the_catalog_commands_exit_5_and_traffic_and_logins_go_on,
}

/// Rows that make a copy take a moment: of several ranges, as tests cut them.
const BULK_ROWS: i64 = 8_000;

pub(crate) async fn with_bulk(fleet: &Fleet, tenant: &str, server: &str) {
    fleet.create(tenant, &["--server", server]).await;
    let bulk = format!(
        "CREATE TABLE bulk (id int PRIMARY KEY, text text);
        INSERT INTO bulk SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, {BULK_ROWS}) n;
        CREATE INDEX ON bulk (text)"
    );
    fleet.connect(tenant).await.run(&bulk).await;
}

pub(crate) async fn has_its_bulk(fleet: &Fleet, tenant: &str) {
    let whole = "SELECT count(*) FROM bulk WHERE text = repeat(md5(id::text), 30)";
    assert_eq!(fleet.connect(tenant).await.number(whole).await, BULK_ROWS);
}

const PHASES: [&str; 10] =
    ["arm", "schema", "copy", "build", "compare", "catch_up", "cutover", "release", "verify", "switched"];

/// Waits until a move has come this far, as its own record says. Looks as often as it can: phases may be short.
pub(crate) async fn has_come_to(catalog: &Client, id: i64, phase: &str) {
    let goal = PHASES.iter().position(|known| *known == phase).expect("a phase");
    let step = format!("SELECT step FROM operation WHERE id = {id}");
    until("the move to come to its phase", async || {
        let step = catalog.column(&step).await.pop()?;
        // A move back turns round what another one has to copy.
        let step = if step == "turn_round" { "build" } else { &step };
        let reached = PHASES.iter().position(|known| *known == step);
        // One that is taken back or undone is past any phase that could be waited for.
        (reached.is_none() && step != "begin" || reached >= Some(goal)).then_some(())
    })
    .await;
}

/// Starts a move to the other one of two servers, and returns its number.
async fn start_move(fleet: &Fleet, tenant: &str) -> i64 {
    let from = fleet.tenant(tenant).await["server"].as_str().unwrap().to_owned();
    let to = if from == "pg-1" { "pg-3" } else { "pg-1" };
    fleet.cli(&["move", "start", tenant, "--to", to]).await.ok()["id"].as_i64().unwrap()
}

/// Waits for a move's end, whoever drives it by now, and checks that the tenant is where it says, and only there.
pub(crate) async fn ends_in_one_place(fleet: &Fleet, tenant: &str, id: i64) -> Value {
    let ended = until("the move to end", async || {
        let output = fleet.cli(&["move", "show", &id.to_string()]).await;
        (output.status == 0 && output.json()["state"] != "running").then(|| output.json())
    })
    .await;
    let is_there = ended["state"] == "switched" || ended["state"] == "completed";
    let place = if is_there { &ended["to"] } else { &ended["from"] };
    assert_eq!(fleet.tenant(tenant).await["server"], *place, "{ended}");
    let mut live = Vec::new();
    for server in ["pg-1", "pg-2", "pg-3"] {
        if databases(fleet, server, tenant).await.contains(&tenant.to_owned()) {
            live.push(server);
        }
    }
    assert_eq!(live, [place.as_str().unwrap()], "{ended}");
    ended
}

async fn a_move_ends_well_although_its_control_plane_is_killed_in_the_middle(fleet: &mut Fleet) {
    with_bulk(fleet, "hardy", "pg-1").await;
    let ledger = Ledger::start(fleet, "hardy", 4).await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    // Those that take time; what else a phase begins or ends with has a point at which it dies.
    for phase in ["copy", "catch_up", "cutover"] {
        let id = start_move(fleet, "hardy").await;
        has_come_to(&catalog, id, phase).await;
        let killed = fleet.process("control");
        fleet.kill_process("control");
        until("dev to start it again", async || fleet.process("control").filter(|new| Some(*new) != killed))
            .await;
        let ended = ends_in_one_place(fleet, "hardy", id).await;
        assert_eq!(ended["state"], "switched", "killed in {phase}, a move goes on: {ended}");
        assert_ne!(ended["verified"], false, "{ended}");
        ledger.goes_on().await;
    }
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "hardy").await;
}

async fn a_move_starts_over_although_its_target_is_half_dropped(fleet: &mut Fleet) {
    with_bulk(fleet, "halved", "pg-1").await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let id = start_move(fleet, "halved").await;
    has_come_to(&catalog, id, "copy").await;
    signal(fleet.process("control").unwrap(), Signal::STOP);
    // What Postgres leaves when it is interrupted while it drops a database: nobody can connect to that one any more.
    let invalid = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'halved__arriving'";
    assert_eq!(fleet.direct("pg-3", "tenantry").await.execute(invalid, &[]).await.unwrap(), 1);
    fleet.kill_process("control");
    let ended = ends_in_one_place(fleet, "halved", id).await;
    assert_eq!(ended["state"], "switched", "{ended}");
    has_its_bulk(fleet, "halved").await;
}

async fn a_fleet_that_is_killed_comes_back_and_ends_its_moves(fleet: &mut Fleet) {
    with_bulk(fleet, "sturdy", "pg-1").await;
    let ledger = Ledger::start(fleet, "sturdy", 4).await;
    for phase in ["copy", "catch_up", "cutover"] {
        let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
        let id = start_move(fleet, "sturdy").await;
        has_come_to(&catalog, id, phase).await;
        fleet.kill().await;
        fleet.start_again().await;
        ends_in_one_place(fleet, "sturdy", id).await;
        ledger.goes_on().await;
    }
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "sturdy").await;
}

async fn a_killed_router_is_started_again_and_clients_reconnect(fleet: &mut Fleet) {
    fleet.create("persistent", &[]).await;
    let ledger = Ledger::start(fleet, "persistent", 4).await;
    for _ in 0..3 {
        let killed = fleet.process("router");
        fleet.kill_process("router");
        until("dev to start it again", async || fleet.process("router").filter(|new| Some(*new) != killed))
            .await;
        ledger.goes_on().await;
    }
    ledger.reckon(fleet).await;
}

async fn a_killed_server_comes_back_and_nobody_elses_tenants_notice(fleet: &mut Fleet) {
    fleet.create("struck", &["--server", "pg-1"]).await;
    fleet.create("spared", &["--server", "pg-2"]).await;
    let struck = Ledger::start(fleet, "struck", 3).await;
    let spared = Ledger::start(fleet, "spared", 3).await;
    let killed = fleet.postmaster("pg-1");
    signal(killed, Signal::KILL);
    spared.goes_on().await;
    until("the server to be started again", async || {
        fleet.try_postmaster("pg-1").filter(|new| *new != killed)
    })
    .await;
    struck.goes_on().await;
    assert!(spared.errors().is_empty(), "a client of another server saw {:?}", spared.errors());
    struck.reckon(fleet).await;
    spared.reckon(fleet).await;
}

async fn without_the_catalog_commands_exit_5_and_traffic_and_logins_go_on(fleet: &mut Fleet) {
    fleet.create("independent", &["--server", "pg-1"]).await;
    fleet.create("unvisited", &["--server", "pg-2"]).await;
    let ledger = Ledger::start(fleet, "independent", 3).await;
    fleet.freeze("catalog", Signal::STOP);
    let command = ["tenant", "create", "not-now"];
    let ((), refused) = tokio::join!(ledger.goes_on(), fleet.cli(&command));
    refused.error(5);
    fleet.connect("independent").await.run("SELECT 1").await;
    fleet.connect("unvisited").await.run("SELECT 1").await;
    let wrong = fleet.config_as(fleet.variable("TENANTRY_USER"), "wrong", "unvisited");
    let refused = connect(&wrong).await.expect_err("a refusal");
    assert_eq!(crate::harness::code(&refused), "28P01");
    // A router that has to start without it serves what it last knew.
    let killed = fleet.process("router");
    fleet.kill_process("router");
    until("dev to start it again", async || fleet.process("router").filter(|new| Some(*new) != killed)).await;
    until("it to serve", async || connect(&fleet.config("unvisited")).await.ok()).await;
    ledger.goes_on().await;
    fleet.freeze("catalog", Signal::CONT);
    until("the control plane to work again", async || {
        (fleet.cli(&["tenant", "create", "afterwards", "--wait"]).await.status == 0).then_some(())
    })
    .await;
    until("the router to hear of it", async || connect(&fleet.config("afterwards")).await.ok()).await;
    ledger.reckon(fleet).await;
}
