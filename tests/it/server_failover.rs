//! A server's standby is promoted, and its tenants are served there.

#[cfg(feature = "failpoints")]
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

#[cfg(feature = "failpoints")]
use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, connect, connect_url, trials, until};
#[cfg(feature = "failpoints")]
use crate::harness::{Output, signal};
#[cfg(feature = "failpoints")]
use crate::map_damage::catalog;
use crate::map_damage::found;
use crate::moves::move_to;
#[cfg(feature = "failpoints")]
use crate::recovery::{has_its_bulk, with_bulk};

trials! {
    own all_tenants_of_a_server_are_served_by_its_promoted_standby,
    #[cfg(feature = "failpoints")]
    own a_closed_server_is_opened_again_only_as_the_last_copy,
    #[cfg(feature = "failpoints")]
    own a_failover_is_ended_wherever_the_control_plane_dies,
    #[cfg(feature = "failpoints")]
    own an_old_primary_that_comes_back_in_the_middle_is_closed_as_soon_as_it_can_be,
    #[cfg(feature = "failpoints")]
    own the_promotion_of_one_of_several_hosts_is_followed_and_its_moves_are_settled,
}

async fn all_tenants_of_a_server_are_served_by_its_promoted_standby(fleet: &mut Fleet) {
    fleet.create("kept", &["--server", "pg-1"]).await;
    fleet.create("moving", &["--server", "pg-1"]).await;
    fleet.create("elsewhere", &["--server", "pg-2"]).await;
    let client = fleet.connect("kept").await;
    client.run("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let standby = fleet.server_standby("pg-1").await;
    let primary = fleet.direct("pg-1", "postgres").await;
    let failover = async |to: &str, more: &str| {
        fleet.cli(&["server", "failover", "pg-1", "--to", to, "--yes", more]).await
    };
    let accept = "--accept-differences";
    let error = failover(standby.url(), "--dry-run").await.error(4);
    assert!(error.contains("is a standby"), "{error}");
    no_file_leads_there(fleet, standby.url()).await;
    let error = failover(&fleet.server_url("pg-2"), accept).await.error(4);
    assert!(error.contains("in the map as pg-2"), "{error}");
    let error = failover(fleet.variable("TENANTRY_CATALOG_URL"), accept).await;
    assert_ne!(error.status, 0, "another cluster");
    let renamed = fleet.server_url("pg-1").replace("127.0.0.1", "localhost");
    assert_ne!(renamed, fleet.server_url("pg-1"));
    let error = failover(&renamed, accept).await.error(4);
    assert!(error.contains("the server that the map has already"), "{error}");
    fleet.connect("kept").await.run("INSERT INTO t VALUES (0); DELETE FROM t WHERE n = 0").await;

    // What it never got is named before anything is done.
    fleet.cli(&["server", "add", "pg-1", "--url", &both(fleet, standby.url())]).await.ok();
    standby.is_cut_off(&primary).await;
    fleet.create("late", &["--server", "pg-1"]).await;
    standby.promote().await;
    is_told_and_not_followed(fleet).await;
    let looked = failover(standby.url(), "--dry-run").await.ok();
    assert_eq!((&looked["applied"], &looked["tenants"]), (&json!(false), &json!(3)), "{looked}");
    let tenants: Vec<&Value> =
        looked["differences"].as_array().unwrap().iter().map(|finding| &finding["tenant"]).collect();
    assert_eq!(tenants, ["late"], "{looked}");
    let port = async || client.column("SELECT inet_server_port()::text").await;
    let before = port().await;
    assert_eq!(before, [primary.column("SHOW port").await[0].clone()], "nothing has changed");

    let refused = fleet.cli(&["server", "failover", "pg-1", "--to", standby.url(), "--yes"]).await;
    assert!(refused.hint().contains(accept), "{}", refused.stderr);
    let error = refused.error(4);
    assert!(error.contains("late"), "{error}");
    no_move_is_in_its_switch(fleet, async || failover(standby.url(), accept).await.error(4)).await;

    let done = failover(standby.url(), accept).await.ok();
    assert_eq!(done["applied"], true, "{done}");
    assert!(done["old_server"].as_str().unwrap().contains("fenced"), "{done}");
    until("the router to follow", async || (port().await != before).then_some(())).await;
    client.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 2);
    assert_eq!(fleet.connect("elsewhere").await.number("SELECT 1::bigint").await, 1);
    // The old one takes nobody, in case a router has not heard of it.
    let fenced = "SELECT count(*) FROM pg_database WHERE datname IN ('kept', 'late') AND datconnlimit = 0";
    assert_eq!(primary.number(fenced).await, 2);
    let inside = "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('kept', 'late')";
    assert_eq!(primary.number(inside).await, 0);
    // Nor does work go on there that began before.
    let term =
        async |url: &str| connect_url(url, "tenantry").await.number("SELECT term FROM controller_term").await;
    assert!(term(&fleet.server_url("pg-1")).await > term(standby.url()).await);
    let error = failover(&fleet.server_url("pg-1"), accept).await.error(4);
    assert!(error.contains("was closed as an old primary"), "{error}");
    nothing_else_leads_back(fleet).await;

    // What is lost is named until somebody gives it up, and everything else goes on.
    let lost = found(fleet).await;
    assert!(!lost.is_empty() && lost.iter().all(|finding| finding.contains("late")), "{lost:?}");
    move_to(fleet, "kept", "pg-2").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 2);
}

/// A file of the fleet with the address of a standby.
async fn no_file_leads_there(fleet: &Fleet, standby: &str) {
    let port = |url: &str| url.parse::<tokio_postgres::Config>().unwrap().get_ports()[0].to_string();
    let declared = std::fs::read_to_string(fleet.path().join("fleet.toml")).unwrap();
    let (primary, path) = (port(&fleet.server_url("pg-1")), fleet.path().join("wrong.toml"));
    assert!(declared.contains(&primary), "{declared}");
    std::fs::write(&path, declared.replace(&primary, &port(standby))).unwrap();
    let error = fleet.cli(&["map", "apply", path.to_str().unwrap()]).await.error(4);
    assert!(error.contains("it is a standby"), "{error}");
}

/// Where the server was before its failover.
async fn nothing_else_leads_back(fleet: &Fleet) {
    let refused = fleet.cli(&["server", "add", "pg-1", "--url", &fleet.server_url("pg-1")]).await;
    assert!(refused.hint().contains("server failover pg-1"), "{}", refused.stderr);
    let error = refused.error(4);
    assert!(error.contains("before it failed over"), "{error}");
    // It was written before that.
    let declared = fleet.path().join("fleet.toml");
    let refused = fleet.cli(&["map", "apply", declared.to_str().unwrap()]).await.error(4);
    assert!(refused.contains("was left by a failover"), "{refused}");
}

/// As long as the old one acknowledges writes.
async fn is_told_and_not_followed(fleet: &Fleet) {
    until("it to be told", async || {
        let told = fleet.cli(&["doctor"]).await.stdout;
        told.contains("goes on taking writes").then_some(())
    })
    .await;
}

/// A failover is refused as long as a move is in its switch.
async fn no_move_is_in_its_switch(fleet: &Fleet, refused: impl AsyncFn() -> String) {
    let (wish, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    std::fs::write(&wish, "wait cutover_prepared").unwrap();
    let start = ["move", "start", "moving", "--to", "pg-2"];
    let id = fleet.cli(&start).await.ok()["id"].as_i64().unwrap().to_string();
    until("it to stand there", async || waiting.exists().then_some(())).await;
    let error = refused().await;
    assert!(error.contains(&format!("move {id}")) && error.contains("cutover"), "{error}");
    std::fs::remove_file(&wish).unwrap();
    until("the move to switch", async || {
        (fleet.cli(&["move", "show", &id]).await.ok()["state"] == "switched").then_some(())
    })
    .await;
}

#[cfg(feature = "failpoints")]
async fn fail_over(fleet: &Fleet, to: &str) -> Output {
    fleet.cli(&["server", "failover", "pg-1", "--to", to, "--yes"]).await
}

#[cfg(feature = "failpoints")]
async fn shown(fleet: &Fleet) -> Option<Value> {
    let output = fleet.cli(&["server", "show", "pg-1"]).await;
    (output.status == 0).then(|| output.json())
}

/// Waits until the last failover is done, and returns the server as shown then.
#[cfg(feature = "failpoints")]
async fn is_done(fleet: &Fleet) -> Value {
    until("the failover to be done", async || {
        shown(fleet).await.filter(|shown| shown["failovers"][0]["state"] == "done")
    })
    .await
}

/// Waits until the address where the server was is in this state.
#[cfg(feature = "failpoints")]
async fn old_is(fleet: &Fleet, port: &Value, state: &str) {
    until("the old address to be seen", async || {
        let shown = shown(fleet).await?;
        let addresses = shown["addresses"].as_array()?.clone();
        addresses.iter().find(|address| address["port"] == *port && address["state"] == state).map(drop)
    })
    .await;
}

/// What doctor finds at the server.
#[cfg(feature = "failpoints")]
async fn diagnosed(fleet: &Fleet) -> String {
    let diagnosis = fleet.cli(&["doctor"]).await.json();
    let findings = diagnosis["findings"].as_array().unwrap().clone();
    findings.iter().filter(|finding| finding["name"] == "pg-1").map(Value::to_string).collect()
}

#[cfg(feature = "failpoints")]
async fn a_failover_is_ended_wherever_the_control_plane_dies(fleet: &mut Fleet) {
    const POINTS: [&str; 9] = [
        "confirm",
        "await_switches",
        "seal_again",
        "close_old",
        "old_closed",
        "point",
        "pointed",
        "settle_moves",
        "await_routers",
    ];
    fleet.create("kept", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "kept", 3).await;
    let standby = fleet.server_standby("pg-1").await;
    standby.is_waited_for(&fleet.direct("pg-1", "postgres").await).await;
    let control = fleet.take_control(&["lease_duration=1s"]);
    standby.promote().await;
    until("the control plane to lead, and the standby to be promoted", async || {
        let looked = fleet.cli(&["server", "failover", "pg-1", "--to", standby.url(), "--dry-run"]).await;
        (looked.status == 0).then_some(())
    })
    .await;
    let failpoint = fleet.path().join("failpoint");
    std::fs::write(&failpoint, POINTS[0]).unwrap();
    let catalog = catalog(fleet).await;
    let before = catalog.column("SELECT port::text FROM server WHERE name = 'pg-1'").await;
    let deaths = async {
        for (index, point) in POINTS.iter().enumerate() {
            until(&format!("it to die at {point}"), async || (!failpoint.exists()).then_some(())).await;
            let now = catalog.column("SELECT port::text FROM server WHERE name = 'pg-1'").await;
            assert_eq!(now != before, index >= 6, "the map is changed by one step: {point}");
            if let Some(next) = POINTS.get(index + 1) {
                std::fs::write(&failpoint, next).unwrap();
            }
            control.start_again();
        }
    };
    // What asked may be told nothing: its instance died.
    tokio::join!(fail_over(fleet, standby.url()), deaths);
    let shown = is_done(fleet).await;
    assert_eq!(shown["failovers"].as_array().unwrap().len(), 1, "{shown}");
    assert!(shown["failovers"][0]["old_server"].as_str().unwrap().starts_with("it was fenced"), "{shown}");
    ledger.goes_on().await;
    ledger.reckon(fleet).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}

#[cfg(feature = "failpoints")]
async fn an_old_primary_that_comes_back_in_the_middle_is_closed_as_soon_as_it_can_be(fleet: &mut Fleet) {
    fleet.create("kept", &["--server", "pg-1"]).await;
    let ledger = Ledger::start(fleet, "kept", 3).await;
    let standby = fleet.server_standby("pg-1").await;
    standby.is_waited_for(&fleet.direct("pg-1", "postgres").await).await;
    let port = shown(fleet).await.unwrap()["port"].clone();
    let down = fleet.keep_parts_down();
    signal(fleet.postmaster("pg-1"), Signal::QUIT);
    until("the server to be gone", async || fleet.try_postmaster("pg-1").is_none().then_some(())).await;
    standby.promote().await;
    let (wish, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    std::fs::write(&wish, "wait old_closed").unwrap();
    let back = async {
        until("it to stand there", async || waiting.exists().then_some(())).await;
        drop(down);
        let connect = async || {
            let config: tokio_postgres::Config = fleet.server_url("pg-1").parse().unwrap();
            crate::harness::connect(&config).await.ok()
        };
        let old = until("the old one to be back", connect).await;
        const INSIDE: &str = "
            SELECT pid::text FROM pg_stat_activity WHERE datname = 'kept' AND wait_event = 'SyncRep' LIMIT 1";
        let inside = until("the router to be there", async || old.column(INSIDE).await.pop()).await;
        // It hangs, and can't be ended.
        let hanging = Pid::from_raw(inside.parse().unwrap()).unwrap();
        signal(hanging, Signal::STOP);
        // Another one is in the middle of what waits for no standby.
        let open = fleet.connect("kept").await;
        open.run("BEGIN; SET LOCAL synchronous_commit = off; INSERT INTO entries VALUES (100, 1)").await;
        std::fs::remove_file(&wish).unwrap();
        (old, hanging, open)
    };
    let (done, (old, hanging, open)) = tokio::join!(fail_over(fleet, standby.url()), back);
    let done = done.ok();
    assert_eq!((&done["applied"], &done["routers_behind"]), (&json!(true), &json!([])), "{done}");
    assert!(done["old_server"].as_str().unwrap().contains("does not answer"), "{done}");
    open.batch_execute("COMMIT").await.unwrap_err();
    ledger.goes_on().await;
    old_is(fleet, &port, "open").await;
    let found_then = diagnosed(fleet).await;
    assert!(
        found_then.contains("two hosts take writes") && found_then.contains("not closed in full"),
        "{found_then}"
    );
    signal(hanging, Signal::CONT);
    old_is(fleet, &port, "closed").await;
    let found_then = diagnosed(fleet).await;
    assert!(found_then.contains("two hosts take writes") && !found_then.contains("in full"), "{found_then}");
    let inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'kept'";
    assert_eq!(old.number(inside).await, 0);
    let late = fleet.direct("pg-1", "kept").await;
    assert_eq!(late.number("SELECT count(*) FROM entries WHERE writer = 100").await, 0);
    drop(late);
    assert_eq!(old.number("SELECT datconnlimit::bigint FROM pg_database WHERE datname = 'kept'").await, 0);
    // Nor does anything go back to it: what was acknowledged, each time, is at the new one.
    assert_ne!(shown(fleet).await.unwrap()["port"], port);
    ledger.goes_on().await;
    ledger.reckon(fleet).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}

/// A URL of the server with its standby as another host.
fn both(fleet: &Fleet, standby: &str) -> String {
    let url = fleet.server_url("pg-1");
    let (login, place) = url.rsplit_once('@').unwrap();
    format!("{login}@{},{place}", address_of(standby))
}

fn address_of(url: &str) -> &str {
    url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0
}

/// Neither on the promoted server, nor on the other one of the moves, is anything that streams or guards.
#[cfg(feature = "failpoints")]
async fn nothing_is_left_of_moves(fleet: &Fleet, promoted: &str) {
    for server in [connect_url(promoted, "postgres").await, fleet.direct("pg-2", "postgres").await] {
        until("nothing to stream", async || {
            let slots = server.column("SELECT slot_name FROM pg_replication_slots").await;
            slots.is_empty().then_some(())
        })
        .await;
        let arriving = "SELECT datname FROM pg_database WHERE datname LIKE '%\\_\\_arriving'";
        assert_eq!(server.column(arriving).await, Vec::<String>::new());
    }
    for tenant in [connect_url(promoted, "leaving").await, fleet.direct("pg-2", "coming").await] {
        let left = "
            SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_publication)
                + (SELECT count(*) FROM pg_namespace WHERE nspname = 'tenantry')";
        assert_eq!(tenant.number(left).await, 0);
    }
}

/// A move that has come to its copy, and stands there.
#[cfg(feature = "failpoints")]
async fn stands_in_its_copy(fleet: &Fleet, tenant: &str, to: &str) -> i64 {
    let id = fleet.cli(&["move", "start", tenant, "--to", to]).await.ok()["id"].as_i64().unwrap();
    until("it to come to its copy", async || {
        (fleet.cli(&["move", "show", &id.to_string()]).await.ok()["step"] == "copy").then_some(())
    })
    .await;
    id
}

#[cfg(feature = "failpoints")]
async fn the_promotion_of_one_of_several_hosts_is_followed_and_its_moves_are_settled(fleet: &mut Fleet) {
    for (tenant, server) in [("kept", "pg-1"), ("gone", "pg-1")] {
        fleet.create(tenant, &["--server", server]).await;
    }
    with_bulk(fleet, "leaving", "pg-1").await;
    with_bulk(fleet, "coming", "pg-2").await;
    let ledger = Ledger::start(fleet, "kept", 3).await;
    let standby = fleet.server_standby("pg-1").await;
    let first = shown(fleet).await.unwrap()["port"].clone();
    let added = fleet.cli(&["server", "add", "pg-1", "--url", &both(fleet, standby.url())]).await.ok();
    assert_eq!(added["port"], first, "the one that takes writes: {added}");
    standby.is_waited_for(&fleet.direct("pg-1", "postgres").await).await;
    let window = move_to(fleet, "gone", "pg-2").await["id"].as_i64().unwrap();
    let wish = fleet.path().join("failpoint");
    std::fs::write(&wish, "wait copy").unwrap();
    let leaving = stands_in_its_copy(fleet, "leaving", "pg-2").await;
    let coming = stands_in_its_copy(fleet, "coming", "pg-1").await;

    // The old one stays up: now there are two that take writes.
    standby.promote().await;
    let shown_then = is_done(fleet).await;
    assert_ne!(shown_then["port"], first, "{shown_then}");
    ledger.goes_on().await;
    std::fs::remove_file(&wish).unwrap();
    for (tenant, id) in [("leaving", leaving), ("coming", coming)] {
        let ended = until("the move to end", async || {
            let shown = fleet.cli(&["move", "show", &id.to_string()]).await.ok();
            (shown["state"] != "running").then_some(shown)
        })
        .await;
        assert_eq!(ended["state"], "failed", "{ended}");
        assert_eq!(fleet.tenant(tenant).await["server"], ended["from"]);
        for key in ["error", "failed_over"] {
            assert!(
                ended[key].as_str().unwrap().contains("failed over to its standby in step copy"),
                "{ended}"
            );
        }
        has_its_bulk(fleet, tenant).await;
    }
    nothing_is_left_of_moves(fleet, standby.url()).await;
    let closed = until("its way back to be closed", async || {
        let shown = fleet.cli(&["move", "show", &window.to_string()]).await.ok();
        (!shown["window_closed"].is_null()).then_some(shown)
    })
    .await;
    assert!(closed["window_closed"]["why"].as_str().unwrap().contains("its source, failed over"), "{closed}");
    old_is(fleet, &first, "closed").await;
    let found_then = diagnosed(fleet).await;
    assert!(found_then.contains("two hosts take writes"), "{found_then}");

    // Once, on record, and never back.
    let audit = fleet.cli(&["audit", "--about", "pg-1"]).await.ok();
    let by_itself: Vec<&Value> =
        audit.as_array().unwrap().iter().filter(|record| record["who"] == "tenantry").collect();
    assert_eq!(by_itself.len(), 1, "{audit}");
    assert_eq!(by_itself[0]["operation"], shown_then["failovers"][0]["operation"], "{audit}");
    crate::map_damage::restart(fleet, "control").await;
    old_is(fleet, &first, "closed").await;
    let shown_then = is_done(fleet).await;
    assert_eq!(shown_then["failovers"].as_array().unwrap().len(), 1, "{shown_then}");
    ledger.goes_on().await;
    ledger.reckon(fleet).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
}

#[cfg(feature = "failpoints")]
async fn a_closed_server_is_opened_again_only_as_the_last_copy(fleet: &mut Fleet) {
    for tenant in ["kept", "stays", "leaves"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    let client = fleet.connect("kept").await;
    client.run("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    let standby = fleet.server_standby("pg-1").await;
    let primary = fleet.direct("pg-1", "postgres").await;
    standby.is_cut_off(&primary).await;
    standby.promote().await;
    let failover = async |to: &str, more: &[&str]| {
        fleet.cli(&[&["server", "failover", "pg-1", "--to", to, "--yes"], more].concat()).await
    };
    failover(standby.url(), &[]).await.ok();
    until("the router to follow", async || client.batch_execute("INSERT INTO t VALUES (2)").await.ok()).await;
    let id = move_to(fleet, "leaves", "pg-2").await["id"].to_string();
    fleet.cli(&["move", "complete", &id, "--wait"]).await.ok();

    let old = fleet.server_url("pg-1");
    let error = failover(&old, &["--reopen"]).await.error(4);
    assert!(error.contains("was not promoted after server pg-1"), "the present one answers: {error}");
    drop(standby);
    let refused = failover(&old, &["--accept-differences"]).await;
    assert!(refused.hint().contains("--reopen"), "{}", refused.stderr);
    assert!(refused.error(4).contains("was closed as an old primary"));
    let error = failover(&old, &["--reopen"]).await.error(4);
    assert!(error.contains("leaves"), "it is not there any more: {error}");
    // It is away for a while; then the control plane dies with it half opened, and what asked may be told nothing.
    let (failpoint, waiting) = (fleet.path().join("failpoint"), fleet.path().join("failpoint.waiting"));
    std::fs::write(&failpoint, "wait confirm").unwrap();
    let away = async {
        until("it to stand there", async || waiting.exists().then_some(())).await;
        let _down = fleet.keep_parts_down();
        signal(fleet.postmaster("pg-1"), Signal::QUIT);
        until("the server to be gone", async || fleet.try_postmaster("pg-1").is_none().then_some(())).await;
        std::fs::write(&failpoint, "reopened").unwrap();
        let trying = until("it to be told why nothing goes on", async || {
            let failover = shown(fleet).await?["failovers"][0].clone();
            failover["trying"].is_object().then_some(failover)
        })
        .await;
        assert_eq!((&trying["state"], &trying["step"]), (&json!("running"), &json!("confirm")), "{trying}");
        assert!(trying["trying"]["error"].as_str().unwrap().contains("can't be reached"), "{trying}");
    };
    tokio::join!(failover(&old, &["--reopen", "--accept-differences"]), away);
    until("it to have died", async || (!failpoint.exists()).then_some(())).await;
    let shown = is_done(fleet).await;
    assert_eq!(shown["failovers"].as_array().unwrap().len(), 2, "there, and back: {shown}");

    let client = until("the router to follow", async || connect(&fleet.config("kept")).await.ok()).await;
    assert_eq!(client.column("SELECT n::text FROM t").await, ["1"], "what it had when it was closed");
    client.run("INSERT INTO t VALUES (3)").await;
    // Its registry takes changes.
    move_to(fleet, "kept", "pg-2").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 2);
    // It stays open, but for who has left.
    let again = fleet.direct("pg-1", "postgres").await;
    let limit =
        |tenant: &str| format!("SELECT datconnlimit::bigint FROM pg_database WHERE datname = '{tenant}'");
    assert_eq!(again.number(&limit("stays")).await, -1);
    assert_eq!(again.number(&limit("leaves")).await, 0);
    let lost = found(fleet).await;
    assert!(!lost.is_empty() && lost.iter().all(|finding| finding.contains("leaves")), "{lost:?}");
}
