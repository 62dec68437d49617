//! A server that does not answer: its tenants are told in time, it is left alone until it is back, and others' tenants do
//! not notice.

use futures_util::future::join_all;
use rustix::process::Signal;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, Sql as _, code, connect, leftovers, message, signal, trials, until};

trials! {
    own a_server_that_hangs_is_left_alone_and_comes_back_by_itself,
    own a_server_that_is_gone_is_waited_for,
}

async fn a_server_that_hangs_is_left_alone_and_comes_back_by_itself(fleet: &mut Fleet) {
    let names: Vec<String> = (0..5).map(|number| format!("hung-{number}")).collect();
    join_all(names.iter().map(|name| fleet.create(name, &["--server", "pg-1"]))).await;
    fleet.create("spared", &["--server", "pg-2"]).await;
    let router = fleet.router(&["connect_timeout=200ms", "queue_timeout=2s"]).await;
    let through = |name: &str| router.through(&fleet.config(name));
    until("the router to know the tenants", async || connect(&through("spared")).await.ok()).await;
    let up = "tenantry_router_server_up{server=\"pg-1\"}";
    let spared = Ledger::start(fleet, "spared", 2).await;

    fleet.freeze("pg-1", Signal::STOP);
    // Their first clients: for each tenant the router needs a connection of its own.
    let clients = names.iter().cycle().take(25).map(async |name| connect(&through(name)).await.err());
    for refusal in join_all(clients).await {
        let refusal = refusal.expect("nobody is there");
        assert_eq!(code(&refusal), "57P03", "{refusal:?}");
        assert!(message(&refusal).contains("can't be reached"), "{refusal:?}");
    }
    let metrics = router.metrics().await;
    assert_eq!(metrics.get(up), 0.0);
    // Those that were under way when it hung, and one at a time since.
    let failed = metrics.sum("tenantry_router_server_connects_total", &["pg-1", "failed"]);
    assert!((3.0..=20.0).contains(&failed), "{failed} attempts");
    connect(&through("spared")).await.unwrap().run("SELECT 1").await;
    spared.goes_on().await;

    fleet.freeze("pg-1", Signal::CONT);
    until("the server to be found back, though no client asks for it", async || {
        (router.metrics().await.get(up) == 1.0).then_some(())
    })
    .await;
    join_all(names.iter().map(async |name| {
        until("the tenant to be served", async || connect(&through(name)).await.ok())
            .await
            .run("SELECT 1")
            .await;
    }))
    .await;
    assert!(spared.errors().is_empty(), "a client of another server saw {:?}", spared.errors());
    spared.reckon(fleet).await;
}

async fn a_server_that_is_gone_is_waited_for(fleet: &mut Fleet) {
    let names: Vec<String> = (0..5).map(|number| format!("waiting-{number}")).collect();
    join_all(names.iter().map(|name| fleet.create(name, &["--server", "pg-1"]))).await;
    let router = fleet.router(&["queue_timeout=2m"]).await;
    let through = async |name: &String| {
        let config = router.through(&fleet.config(name));
        until("the router to know the tenant", async || connect(&config).await.ok()).await
    };
    let clients = join_all(names.iter().map(through)).await;
    let killed = fleet.postmaster("pg-1");
    let all: Vec<_> = leftovers(&fleet.path().join("pg-1")).into_keys().collect();
    signal(killed, Signal::KILL);
    // A session that a backend still answered would be ended by it.
    until("its last process to be gone", async || {
        let there = leftovers(&fleet.path().join("pg-1"));
        (!all.iter().any(|pid| there.contains_key(pid))).then_some(())
    })
    .await;
    // It replays its log, says that it is starting, and serves: nobody is told any of that.
    let transactions = clients.iter().map(async |client| {
        until("a connection that was not lost", async || client.batch_execute("SELECT 1").await.ok()).await;
        for _ in 0..5 {
            client.run("SELECT 1").await;
        }
    });
    join_all(transactions).await;
    let metrics = router.metrics().await;
    assert_eq!(metrics.get("tenantry_router_server_up{server=\"pg-1\"}"), 1.0);
    assert_eq!(metrics.get("tenantry_router_errors_total{sqlstate=\"57P03\"}"), 0.0);
}
