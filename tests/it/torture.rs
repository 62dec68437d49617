//! One tenant is moved again and again, with faults drawn by lot, under clients of every kind. `make torture` makes it long;
//! `TENANTRY_TORTURE_SEED` repeats what a run drew.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;

use crate::harness::checker::Checker;
use crate::harness::{Fleet, Sql as _, connect, connect_url, signal, trials, until};
use crate::recovery::{ends_in_one_place, has_come_to};

trials! {
    own moves_under_faults_lose_and_double_nothing,
}

/// Moves in a run that nobody asked to be long.
const MOVES: u64 = 5;
const SEED: u64 = 20_261_121;
/// How long clients rest between two transactions, and in a long run.
const PACE: Duration = Duration::from_millis(8);
const LONG_PACE: Duration = Duration::from_millis(60);
const SERVERS: [&str; 3] = ["pg-1", "pg-2", "pg-3"];
const PHASES: [&str; 10] =
    ["arm", "schema", "copy", "build", "compare", "catch_up", "cutover", "release", "verify", "switched"];

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    KillControl,
    FreezeControl,
    KillRouter,
    FreezeRouter,
    KillSource,
    KillTarget,
    Abort,
}

const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::KillControl,
    Fault::FreezeControl,
    Fault::KillRouter,
    Fault::FreezeRouter,
    Fault::KillSource,
    Fault::KillTarget,
    Fault::Abort,
];

fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

async fn moves_under_faults_lose_and_double_nothing(fleet: &mut Fleet) {
    let asked_moves = asked("TENANTRY_TORTURE_MOVES");
    let (moves, seed) = (asked_moves.unwrap_or(MOVES), asked("TENANTRY_TORTURE_SEED").unwrap_or(SEED));
    let mut lot = StdRng::seed_from_u64(seed);
    fleet.create("tortured", &["--server", SERVERS[0]]).await;
    let bulk = "CREATE TABLE bulk (id int PRIMARY KEY, text text);
        INSERT INTO bulk SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n";
    fleet.connect("tortured").await.run(bulk).await;
    // Hundreds of moves are for what is rare in them: the tenant is not to grow all the while.
    let pace = if asked_moves.is_some() { LONG_PACE } else { PACE };
    let checker = Checker::start(fleet, "tortured", pace, seed).await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let mut last = None;
    for number in 1..=moves {
        let from = fleet.tenant("tortured").await["server"].as_str().unwrap().to_owned();
        let way_back = last.take().filter(|_| lot.random_bool(0.4));
        let others: Vec<_> = SERVERS.into_iter().filter(|server| *server != from).collect();
        let drawn = *others.choose(&mut lot).unwrap();
        let to = way_back.as_ref().map_or(drawn, |(_, to): &(i64, String)| to);
        let (fault, phase) = (*FAULTS.choose(&mut lot).unwrap(), *PHASES.choose(&mut lot).unwrap());
        let moment = Duration::from_millis(lot.random_range(0..60));
        let id = match &way_back {
            Some((id, _)) => start(fleet, &["reverse", &id.to_string()]).await,
            None => start(fleet, &["start", "tortured", "--to", to]).await,
        };
        has_come_to(&catalog, id, phase).await;
        tokio::time::sleep(moment).await;
        strike(fleet, fault, (&from, to), id).await;
        let ended = ends_in_one_place(fleet, "tortured", id).await;
        assert_ne!(ended["verified"], false, "{ended}");
        // What was killed may have closed the window.
        let switched = ended["state"] == "switched" && ended["reversible_until"].is_string();
        last = switched.then(|| (id, from.clone()));
        checker.goes_on().await;
        if asked_moves.is_some() {
            println!(
                "{number}/{moves}: {from} to {to}{}, {fault:?} in {phase}: {}, hold {} ms, {} acknowledged",
                if way_back.is_some() { " (back)" } else { "" },
                ended["state"],
                ended["hold_ms"],
                checker.acknowledged()
            );
        }
    }
    if asked_moves.is_some() {
        println!("seed {seed}; clients saw {:?}", checker.errors());
    }
    checker.reckon(fleet).await;
    let whole = "SELECT count(*) FROM bulk WHERE text = repeat(md5(id::text), 10)";
    assert_eq!(fleet.connect("tortured").await.number(whole).await, 20_000);
}

/// Starts a move; what was killed just before may still be on its way back.
async fn start(fleet: &Fleet, change: &[&str]) -> i64 {
    let command = [&["move"], change].concat();
    until("the move to be started", async || {
        let started = fleet.cli(&command).await;
        (started.status == 0).then(|| started.json()["id"].as_i64().unwrap())
    })
    .await
}

async fn strike(fleet: &Fleet, fault: Fault, (from, to): (&str, &str), id: i64) {
    match fault {
        Fault::None => {}
        Fault::KillControl => killed(fleet, "control").await,
        Fault::KillRouter => killed(fleet, "router").await,
        Fault::FreezeControl => frozen(fleet, "control").await,
        Fault::FreezeRouter => frozen(fleet, "router").await,
        Fault::KillSource => server_killed(fleet, from).await,
        Fault::KillTarget => server_killed(fleet, to).await,
        // It may be too late for it.
        Fault::Abort => drop(fleet.cli(&["move", "abort", &id.to_string()]).await),
    }
}

/// Kills a part, which `dev` starts again.
async fn killed(fleet: &Fleet, role: &str) {
    let before = fleet.process(role);
    fleet.kill_process(role);
    until("dev to start it again", async || fleet.process(role).filter(|new| Some(*new) != before)).await;
}

/// Lets a part stand still for longer than its lease or a hold lasts.
async fn frozen(fleet: &Fleet, role: &str) {
    let Some(process) = fleet.process(role) else { return };
    signal(process, Signal::STOP);
    tokio::time::sleep(Duration::from_secs(6)).await;
    signal(process, Signal::CONT);
}

async fn server_killed(fleet: &Fleet, server: &str) {
    let before = fleet.postmaster(server);
    signal(before, Signal::KILL);
    until("the server to be started again", async || {
        fleet.try_postmaster(server).filter(|new| *new != before)
    })
    .await;
    // The move may be over by then, and who looks at what is left asks each server.
    let url = fleet.server_url(server).parse().unwrap();
    until("the server to answer", async || connect(&url).await.ok()).await;
}
