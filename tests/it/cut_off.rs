//! A router that the catalog can't reach: it follows its tenants by what the servers' registries say, and a damaged snapshot
//! does not keep it from serving.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::process::Signal;

use crate::harness::ledger::Ledger;
use crate::harness::net::Way;
use crate::harness::{Fleet, Router, Sql as _, code, connect, leftovers, message, signal, trials, until};
use crate::map_damage::catalog;
use crate::moves::move_to;
use crate::recovery::has_come_to;

trials! {
    shared a_cutover_waits_for_a_router_that_does_not_report_for_a_moment,
    own a_router_that_is_cut_off_follows_two_moves_and_loses_nothing,
    own a_router_that_is_cut_off_finds_what_moved_from_a_server_that_died_since,
    own a_router_that_missed_many_changes_catches_up_at_one_go,
    own a_damaged_snapshot_is_set_aside_and_never_costs_a_route,
}

/// A router whose way to the catalog can be cut.
async fn router_with_a_way(fleet: &Fleet) -> (Router, Way) {
    let config: tokio_postgres::Config = fleet.variable("TENANTRY_CATALOG_URL").parse().unwrap();
    let way = Way::to(config.get_ports()[0]).await;
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    let (login, rest) = url.rsplit_once('@').unwrap();
    let database = rest.split_once('/').unwrap().1;
    let setting = format!("catalog_url={login}@127.0.0.1:{}/{database}", way.port);
    (fleet.router(&[&setting]).await, way)
}

async fn knows(router: &Router, fleet: &Fleet, tenant: &str) {
    let config = router.through(&fleet.config(tenant));
    until("the router to know the tenant", async || connect(&config).await.ok()).await.run("SELECT 1").await;
}

fn snapshot_of(fleet: &Fleet, router: &Router) -> PathBuf {
    fleet.path().join(format!("router-{}-{}", router.port, router.metrics_port)).join("snapshot")
}

/// Waits until a snapshot says this.
async fn says(snapshot: &Path, text: &str) {
    until("the snapshot to say it", async || {
        std::fs::read_to_string(snapshot).ok().filter(|content| content.contains(text))
    })
    .await;
}

async fn a_cutover_waits_for_a_router_that_does_not_report_for_a_moment(fleet: &Fleet) {
    fleet.create("waited-for", &["--server", "pg-1"]).await;
    let router = fleet.router(&[]).await;
    knows(&router, fleet, "waited-for").await;
    let client = connect(&router.through(&fleet.config("waited-for"))).await.unwrap();
    let start = ["move", "start", "waited-for", "--to", "pg-2"];
    let id = fleet.cli(&start).await.ok()["id"].as_i64().unwrap();
    // Its turn may come late, and a router that was silent for long is not waited for.
    has_come_to(&catalog(fleet).await, id, "arm").await;
    // As long as it stands still it can't hold, and what its clients had under way would be cut off.
    signal(router.pid(), Signal::STOP);
    let id = id.to_string();
    until("the move to wait for it", async || {
        let shown = fleet.cli(&["move", "show", &id]).await.ok();
        assert_eq!(shown["state"], "running", "{shown}");
        shown["waiting_for"].as_str().is_some_and(|what| what.contains("does not report")).then_some(())
    })
    .await;
    signal(router.pid(), Signal::CONT);
    until("the move to end", async || {
        (fleet.cli(&["move", "show", &id]).await.ok()["state"] == "switched").then_some(())
    })
    .await;
    client.run("SELECT 1").await;
}

async fn a_router_that_is_cut_off_follows_two_moves_and_loses_nothing(fleet: &mut Fleet) {
    for tenant in ["busy", "idle"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    let (router, way) = router_with_a_way(fleet).await;
    knows(&router, fleet, "idle").await;
    let through_it = Ledger::start_as(fleet, &router.through(&fleet.config("busy")), 3).await;
    let other = Rc::new(catalog(fleet).await);
    // The last that it hears of one tenant is that it is being made.
    fleet.create("made", &["--server", "pg-1"]).await;
    other.run("UPDATE tenant SET state = 'creating' WHERE id = 'made'").await;
    let made = router.through(&fleet.config("made"));
    until("the router to hear of it", async || {
        connect(&made).await.err().filter(|error| message(error).contains("being created"))
    })
    .await;
    way.end().await;
    through_it.goes_on().await;
    until("the router to find it open at its server", async || connect(&made).await.ok()).await;
    for server in ["pg-2", "pg-3"] {
        for tenant in ["busy", "idle"] {
            move_to(fleet, tenant, server).await;
        }
        through_it.goes_on().await;
    }
    // Nobody has asked for this one meanwhile: both moves at once, and no catalog anywhere.
    drop(other);
    fleet.freeze("catalog", Signal::STOP);
    let idle = router.through(&fleet.config("idle"));
    connect(&idle).await.unwrap().run("CREATE TABLE seen (a int)").await;
    through_it.goes_on().await;
    // What it found out is in its snapshot, beside the version that it had.
    says(&snapshot_of(fleet, &router), "\"id\":\"idle\",\"server\":\"pg-3\"").await;
    fleet.freeze("catalog", Signal::CONT);
    let seen = fleet.direct("pg-3", "idle").await;
    assert_eq!(seen.number("SELECT count(*) FROM pg_tables WHERE tablename = 'seen'").await, 1);
    through_it.reckon(fleet).await;
}

/// Takes a server away for good: what starts it again finds nothing to start.
pub(crate) fn lose_server(fleet: &Fleet, server: &str) {
    let path = fleet.path().join(server);
    std::fs::rename(path.join("data"), path.join("data.away")).unwrap();
    leftovers(&path).into_keys().for_each(|pid| signal(pid, Signal::KILL));
}

/// Gives a server back that was taken away; what starts it again finds it within seconds.
pub(crate) fn give_server_back(fleet: &Fleet, server: &str) {
    let path = fleet.path().join(server);
    std::fs::rename(path.join("data.away"), path.join("data")).unwrap();
}

async fn a_router_that_is_cut_off_finds_what_moved_from_a_server_that_died_since(fleet: &mut Fleet) {
    for tenant in ["gone", "unread", "stayed"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    let (router, way) = router_with_a_way(fleet).await;
    knows(&router, fleet, "stayed").await;
    let spared = fleet.create("spared", &["--server", "pg-2"]).await;
    knows(&router, fleet, spared["id"].as_str().unwrap()).await;
    let ledger = Ledger::start_as(fleet, &router.through(&fleet.config("spared")), 2).await;
    way.end().await;
    for (tenant, server) in [("gone", "pg-2"), ("unread", "pg-3")] {
        move_to(fleet, tenant, server).await;
    }
    let at = async |tenant: &str, server: &str| {
        let config = router.through(&fleet.config(tenant));
        let client = until("the tenant to be found", async || connect(&config).await.ok()).await;
        client.run("CREATE TABLE seen (a int)").await;
        let seen = fleet.direct(server, tenant).await;
        assert_eq!(seen.number("SELECT count(*) FROM pg_tables WHERE tablename = 'seen'").await, 1);
    };
    // The server is there, and can't say what it knew.
    fleet.direct("pg-1", "postgres").await.run("DROP DATABASE tenantry WITH (FORCE)").await;
    at("unread", "pg-3").await;
    lose_server(fleet, "pg-1");
    at("gone", "pg-2").await;
    says(&snapshot_of(fleet, &router), "\"id\":\"gone\",\"server\":\"pg-2\"").await;
    let stayed = connect(&router.through(&fleet.config("stayed"))).await.expect_err("nobody else has it");
    assert_eq!(code(&stayed), "57P03");
    ledger.goes_on().await;
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

async fn a_router_that_missed_many_changes_catches_up_at_one_go(fleet: &mut Fleet) {
    // Nothing but notifications makes it look, and these come in one.
    let router = fleet.router(&["poll_interval=1h"]).await;
    let catalog = catalog(fleet).await;
    let many = "INSERT INTO router_user (name, verifier, tenants, access, pool_mode)
        SELECT 'many-' || n, verifier, tenants, access, pool_mode FROM router_user, generate_series(1, 25000) n";
    catalog.run(many).await;
    let version = catalog.number("SELECT version FROM map_version").await as f64;
    until("the router to have all of them", async || {
        (router.metrics().await.get("tenantry_router_map_version") >= version).then_some(())
    })
    .await;
}

async fn a_damaged_snapshot_is_set_aside_and_never_costs_a_route(fleet: &mut Fleet) {
    for tenant in ["first", "second"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    let router = fleet.router(&[]).await;
    knows(&router, fleet, "second").await;
    let snapshot = snapshot_of(fleet, &router);
    says(&snapshot, "\"id\":\"second\"").await;
    // The snapshot before this one does not know it, and has the second tenant where it was.
    move_to(fleet, "second", "pg-2").await;
    fleet.create("third", &["--server", "pg-3"]).await;
    says(&snapshot, "\"id\":\"third\"").await;
    let old = snapshot.with_extension("old");
    signal(router.pid(), Signal::KILL);
    router.end().await;
    let sound = std::fs::read(&snapshot).unwrap();
    let before = std::fs::read(&old).unwrap();
    fleet.freeze("catalog", Signal::STOP);
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    let future =
        String::from_utf8(sound.clone()).unwrap().replace("tenantry-shard-map/2", "tenantry-shard-map/3");
    for damaged in [sound[..sound.len() / 3].to_vec(), flipped, future.into_bytes(), Vec::new()] {
        std::fs::write(&snapshot, &damaged).unwrap();
        std::fs::write(&old, &before).unwrap();
        let again = fleet.router_at(router.port, router.metrics_port, &[]).await;
        for tenant in ["first", "second", "third"] {
            let client = connect(&again.through(&fleet.config(tenant))).await.unwrap();
            assert_eq!(client.column("SELECT current_database()").await, [tenant]);
        }
        assert_eq!(std::fs::read(snapshot.with_extension("bad")).unwrap(), damaged);
    }
    // With neither: nobody is let in, until there is a catalog again.
    for file in [&snapshot, &old] {
        std::fs::write(file, "nonsense").unwrap();
    }
    fleet.freeze("catalog", Signal::CONT);
    let again = fleet.router_at(router.port, router.metrics_port, &[]).await;
    for tenant in ["first", "second", "third"] {
        knows(&again, fleet, tenant).await;
    }
    says(&snapshot, "\"id\":\"third\"").await;
}
