//! Who stands still, or dies, while a move goes on without him.

use rustix::process::Signal;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Router, Sql as _, connect, signal, trials, until};
use crate::map_damage::catalog;
use crate::moves_reverse::with_config;
use crate::recovery::{ends_in_one_place, has_its_bulk, with_bulk};

trials! {
    own a_router_that_is_frozen_through_a_whole_cutover_wakes_up_and_loses_nothing,
    own a_second_control_plane_goes_on_with_a_copy_and_inside_a_hold,
}

async fn a_router_that_is_frozen_through_a_whole_cutover_wakes_up_and_loses_nothing(fleet: &mut Fleet) {
    let fleet = &*fleet;
    with_config(fleet, "router_timeout = \"1s\"\nrouter_lost_after = \"3s\"").await;
    with_bulk(fleet, "twofold", "pg-1").await;
    let frozen = fleet.router(&[]).await;
    let through_it = frozen.through(&fleet.config("twofold"));
    drop(until("the router to know the tenant", async || connect(&through_it).await.ok()).await);
    let ledger = Ledger::start_through(fleet, &[fleet.config("twofold"), through_it.clone()], 2).await;
    let (wish, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    for round in 0..3 {
        drop(std::fs::remove_file(&waiting));
        let to = if fleet.tenant("twofold").await["server"] == "pg-1" { "pg-3" } else { "pg-1" };
        std::fs::write(&wish, "wait build_watched").unwrap();
        let start = ["move", "start", "twofold", "--to", to, "--kill-stragglers", "--max-wait", "1s"];
        let id = fleet.cli(&start).await.ok()["id"].as_i64().unwrap();
        until("the copy to be built", async || waiting.exists().then_some(())).await;
        // One that is idle, and one in the middle of a transaction.
        let idle = connect(&through_it).await.unwrap();
        let open = connect(&through_it).await.unwrap();
        open.run(&format!("BEGIN; INSERT INTO entries VALUES (100, {round})")).await;
        signal(frozen.pid(), Signal::STOP);
        // On a busy machine it takes a moment, in which it would still send something on.
        until("all of the router to stand still", async || stands_still(&frozen).then_some(())).await;
        std::fs::remove_file(&wish).unwrap();
        // These lie in its sockets until it wakes up.
        let sql = [
            format!("INSERT INTO entries VALUES (101, {round})"),
            format!("INSERT INTO entries VALUES (100, {}); COMMIT", round + 1000),
        ];
        let late = async { tokio::join!(idle.batch_execute(&sql[0]), open.batch_execute(&sql[1])) };
        let moved = async {
            let shown = ends_in_one_place(fleet, "twofold", id).await;
            assert_eq!(shown["state"], "switched", "{shown}");
            signal(frozen.pid(), Signal::CONT);
            shown
        };
        let ((written, committed), shown) = tokio::join!(late, moved);
        assert_eq!(shown["verified"], true, "{shown}");
        ledger.goes_on().await;
        let rows = async |writer: i64, number: i64| {
            let sql = format!("SELECT count(*) FROM entries WHERE writer = {writer} AND number = {number}");
            fleet.connect("twofold").await.number(&sql).await
        };
        // What is acknowledged is where the tenant is now, once; what is refused is nowhere.
        assert_eq!(rows(101, round).await, i64::from(written.is_ok()), "{written:?}");
        assert!(committed.is_err(), "its transaction was ended at the old server");
        assert_eq!((rows(100, round).await, rows(100, round + 1000).await), (0, 0));
        fleet.connect("twofold").await.run("DELETE FROM entries WHERE writer > 99").await;
        // Nothing came to the sealed copy but by the stream back.
        let from = if to == "pg-3" { "pg-1" } else { "pg-3" };
        let entries = "SELECT writer || ' ' || number FROM entries";
        let sealed = fleet.direct(from, "twofold__sealed").await.column(entries).await;
        let live = fleet.direct(to, "twofold").await.column(entries).await;
        let live: std::collections::BTreeSet<_> = live.into_iter().collect();
        let only_there: Vec<_> =
            sealed.iter().filter(|row| !live.contains(*row) && !row.starts_with("10")).collect();
        assert!(only_there.is_empty(), "{only_there:?}");
    }
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "twofold").await;
}

/// Whether every thread of it is stopped: the state follows the name, which is in parentheses.
fn stands_still(router: &Router) -> bool {
    let tasks = format!("/proc/{}/task", router.pid().as_raw_nonzero());
    std::fs::read_dir(tasks).unwrap().all(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// A hold has to be over within seconds, whoever dies in it.
const TAKE_OVER_SECONDS_MAX: i64 = 10;

async fn a_second_control_plane_goes_on_with_a_copy_and_inside_a_hold(fleet: &mut Fleet) {
    let fleet = &*fleet;
    with_bulk(fleet, "heired", "pg-1").await;
    let ledger = Ledger::start(fleet, "heired", 3).await;
    let client = catalog(fleet).await;
    let (wish, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    let before = client.column("SELECT holder FROM lease").await.remove(0);
    let first = fleet.take_control(&[]);
    for (point, to) in [("copy_loaded", "pg-3"), ("seal", "pg-1"), ("limited", "pg-3"), ("decide", "pg-1")] {
        until("the first one to lead", async || {
            let holder = client.column("SELECT holder FROM lease WHERE expires_at > now()").await.pop()?;
            (holder != before && !holder.starts_with("control-2/")).then_some(())
        })
        .await;
        let second = fleet.second_control();
        let led = client.number("SELECT term FROM lease").await;
        drop(std::fs::remove_file(&waiting));
        std::fs::write(&wish, format!("wait {point}")).unwrap();
        let id = fleet.cli(&["move", "start", "heired", "--to", to]).await.ok()["id"].as_i64().unwrap();
        until("it to stand there", async || waiting.exists().then_some(())).await;
        ledger.take_stall();
        first.kill();
        let killed = std::time::Instant::now();
        std::fs::remove_file(&wish).unwrap();
        // For as long as nobody leads: what is configured, not what this machine makes of it.
        let left = "SELECT ceil(extract(epoch FROM expires_at - now()))::bigint FROM lease";
        assert!(client.number(left).await < TAKE_OVER_SECONDS_MAX);
        until("the other one to lead", async || {
            (client.number("SELECT term FROM lease").await > led).then_some(())
        })
        .await;
        let taken_over = killed.elapsed();
        ledger.goes_on().await;
        let (goes_on, stall) = (killed.elapsed(), ledger.take_stall());
        until("the move to end", async || {
            let state = client.column(&format!("SELECT state FROM operation WHERE id = {id}")).await;
            (state != ["running"]).then_some(())
        })
        .await;
        if std::env::var_os("TENANTRY_FAULTS").is_some() {
            eprintln!(
                "leader killed at {point}: the other leads after {taken_over:.1?}, clients go on after {goes_on:.1?} \
                 (longest stall {stall:.1?}), the move ends after {:.1?}",
                killed.elapsed()
            );
        }
        first.start_again();
        let ended = ends_in_one_place(fleet, "heired", id).await;
        assert_eq!(ended["state"], "switched", "{point}: {ended}");
        ledger.goes_on().await;
        assert!(ledger.errors().is_empty(), "after {point} a client saw {:?}", ledger.errors());
        drop(second);
    }
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "heired").await;
}
