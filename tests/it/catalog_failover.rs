//! The catalog is highly available: its server hangs or dies, a standby is promoted, and nobody but the operator notices.

use rustix::process::Signal;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, code, connect, signal, trials, until};
use crate::map_damage::{catalog, found, has_in_snapshot, has_snapshot, rebuild, restart};
use crate::migrations::Files;
use crate::moves::move_to;
use crate::recovery::{ends_in_one_place, has_its_bulk, with_bulk};

trials! {
    own a_standby_is_promoted_in_the_middle_of_a_move_and_a_migration,
    own a_load_runs_from_start_to_end_without_the_catalog,
    own what_a_promoted_standby_never_got_is_not_mixed_with_what_it_has,
}

async fn is_served(fleet: &Fleet, tenant: &str) {
    until("the control plane to work", async || {
        (fleet.cli(&["tenant", "create", tenant, "--wait"]).await.status == 0).then_some(())
    })
    .await;
    until("the router to hear of it", async || connect(&fleet.config(tenant)).await.ok())
        .await
        .run("SELECT 1")
        .await;
}

/// The old primary dies at last, and comes back as a standby, as whatever manages the pair sees to.
async fn old_primary_comes_back(fleet: &Fleet) {
    let killed = fleet.postmaster("catalog");
    std::fs::write(fleet.path().join("catalog/data/standby.signal"), "").unwrap();
    fleet.freeze("catalog", Signal::KILL);
    until("it to be started again", async || fleet.try_postmaster("catalog").filter(|new| *new != killed))
        .await;
    let url: tokio_postgres::Config = fleet.variable("TENANTRY_CATALOG_URL").parse().unwrap();
    let client = until("it to answer", async || connect(&url).await.ok()).await;
    assert_eq!(client.column("SELECT pg_is_in_recovery()").await, ["t"]);
}

async fn a_standby_is_promoted_in_the_middle_of_a_move_and_a_migration(fleet: &mut Fleet) {
    with_bulk(fleet, "moving", "pg-1").await;
    fleet.create("staying", &["--server", "pg-2"]).await;
    let standby = fleet.catalog_standby().await;
    standby.is_waited_for(&catalog(fleet).await).await;
    let moving = Ledger::start(fleet, "moving", 3).await;
    let staying = Ledger::start(fleet, "staying", 3).await;
    let files = Files::new(&[
        ("V1__first.sql", "CREATE TABLE t (a int)"),
        ("V2__second.sql", "SELECT pg_sleep(3); ALTER TABLE t ADD b int"),
    ]);
    let id = fleet.cli(&["move", "start", "moving", "--to", "pg-3"]).await.ok()["id"].as_i64().unwrap();
    let migrate = ["migrate", "run", "--dir", files.path(), "--selector", "id=staying", "--no-wait"];
    let run = fleet.cli(&migrate).await.ok()["id"].as_i64().unwrap().to_string();

    fleet.freeze("catalog", Signal::STOP);
    staying.goes_on().await;
    standby.promote().await;
    let ended = ends_in_one_place(fleet, "moving", id).await;
    assert_eq!(ended["state"], "switched", "{ended}");
    let migrated = until("the migration to end", async || {
        let shown = fleet.cli(&["migrate", "status", &run]).await;
        (shown.status == 0 && shown.json()["pending"] == 0).then(|| shown.json())
    })
    .await;
    assert_eq!((&migrated["done"], &migrated["failed"]), (&1.into(), &0.into()), "{migrated}");
    is_served(fleet, "afterwards").await;
    old_primary_comes_back(fleet).await;
    is_served(fleet, "later").await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    for ledger in [moving, staying] {
        ledger.goes_on().await;
        assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
        ledger.reckon(fleet).await;
    }
    has_its_bulk(fleet, "moving").await;
}

async fn what_a_promoted_standby_never_got_is_not_mixed_with_what_it_has(fleet: &mut Fleet) {
    fleet.create("moved", &["--server", "pg-1"]).await;
    let standby = fleet.catalog_standby().await;
    let primary = catalog(fleet).await;
    let other = fleet.router(&[]).await;
    let ledger = Ledger::start(fleet, "moved", 3).await;
    standby.is_cut_off(&primary).await;
    move_to(fleet, "moved", "pg-2").await;
    is_served(fleet, "made").await;
    fleet.user("unlucky", "moved", &[]).await;
    let version = primary.number("SELECT version FROM map_version").await;
    // One of them is restarted, and remembers by its snapshot alone by which changes it came where it is.
    has_in_snapshot(fleet, &format!("/2 {version} ")).await;

    fleet.freeze("catalog", Signal::STOP);
    restart(fleet, "router").await;
    ledger.goes_on().await;
    standby.promote().await;
    let promoted = standby.client().await;
    assert!(promoted.number("SELECT version FROM map_version").await < version, "changes are lost");
    // Both follow a catalog that is behind them, and do not go back to where tenants were.
    let map_version = "tenantry_router_map_version";
    until("the routers to follow the new primary", async || {
        let now = promoted.number("SELECT version FROM map_version").await as f64;
        let routers = [fleet.router_metrics().await.get(map_version), other.metrics().await.get(map_version)];
        (routers == [now, now]).then_some(())
    })
    .await;
    ledger.goes_on().await;
    for log in [std::fs::read_to_string(fleet.path().join("log/router.log")).unwrap(), other.log()] {
        assert!(log.contains("the catalog has lost its last changes"), "{log}");
    }
    connect(&fleet.config("made")).await.unwrap().run("SELECT 1").await;
    // What is changed there has the numbers of what was lost, and is heard all the same.
    let lucky = fleet.user("lucky", "moved", &[]).await;
    let through = other.through(&lucky);
    until("the other router to hear of it", async || connect(&through).await.ok()).await;
    let named = found(fleet).await;
    for expected in ["wrong_server moved", "missing_tenant made"] {
        assert!(named.contains(&expected.to_owned()), "{expected}: {named:?}");
    }
    rebuild(fleet, "newcomer").await;
    assert_eq!(fleet.tenant("moved").await["server"], "pg-2");
    ledger.goes_on().await;
    ledger.reckon(fleet).await;
    old_primary_comes_back(fleet).await;
}

async fn a_load_runs_from_start_to_end_without_the_catalog(fleet: &mut Fleet) {
    for (tenant, server) in [("carried", "pg-1"), ("struck", "pg-2"), ("unvisited", "pg-3")] {
        fleet.create(tenant, &["--server", server]).await;
    }
    let router = fleet.router(&[]).await;
    let knows = router.through(&fleet.config("unvisited"));
    until("the router to know the tenants", async || connect(&knows).await.ok()).await;
    has_snapshot(fleet, "unvisited").await;
    let carried = Ledger::start_as(fleet, &router.through(&fleet.config("carried")), 4).await;
    let struck = Ledger::start_as(fleet, &router.through(&fleet.config("struck")), 2).await;
    let data = fleet.path().join("catalog/data");
    for mode in ["hangs", "is gone"] {
        if mode == "hangs" {
            fleet.freeze("catalog", Signal::STOP);
        } else {
            // Whatever starts it again finds nothing to start.
            std::fs::rename(&data, data.with_extension("away")).unwrap();
            fleet.freeze("catalog", Signal::KILL);
        }
        let commands: [&[&str]; 5] = [
            &["tenant", "create", "not-now"],
            &["tenant", "list"],
            &["server", "list"],
            &["move", "start", "carried", "--to", "pg-3"],
            &["user", "create", "nobody"],
        ];
        for command in commands {
            let why = fleet.cli(command).await.error(5);
            assert!(why.contains("catalog"), "{mode}: {command:?}: {why}");
        }
        // New logins, at a tenant that is new to the router, too; and wrong ones are refused.
        connect(&knows).await.unwrap().run("SELECT 1").await;
        let wrong = fleet.config_as(fleet.variable("TENANTRY_USER"), "wrong", "unvisited");
        assert_eq!(code(&connect(&wrong).await.expect_err("a refusal")), "28P01");
        restart(fleet, "router").await;
        let unvisited = fleet.config("unvisited");
        until("it to serve by its snapshot", async || connect(&unvisited).await.ok()).await;
        let killed = fleet.postmaster("pg-2");
        signal(killed, Signal::KILL);
        until("the server to be started again", async || {
            fleet.try_postmaster("pg-2").filter(|new| *new != killed)
        })
        .await;
        struck.goes_on().await;
        carried.goes_on().await;
        if mode == "hangs" {
            fleet.freeze("catalog", Signal::CONT);
        } else {
            std::fs::rename(data.with_extension("away"), &data).unwrap();
        }
        is_served(fleet, &format!("after-it-{}", mode.replace(' ', "-"))).await;
    }
    let newest = router.through(&fleet.config("after-it-is-gone"));
    until("the other router to catch up", async || connect(&newest).await.ok()).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    carried.goes_on().await;
    assert!(carried.errors().is_empty(), "a client saw {:?}", carried.errors());
    carried.reckon(fleet).await;
    struck.reckon(fleet).await;
}
