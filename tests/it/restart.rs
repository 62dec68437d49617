//! A router is stopped, and another process takes over its port: no transaction fails by that.

use std::cell::Cell;
use std::rc::Rc;

use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio_postgres::Config;

use crate::harness::raw::{Raw, cancel};
use crate::harness::{Fleet, Router, Sql as _, code, connect, connect_url, news, trials, until};

trials! {
    shared a_second_process_takes_over_while_clients_come_and_go,
    shared a_transaction_that_runs_when_its_router_is_stopped_ends_as_its_client_wants,
    shared a_client_that_never_pauses_is_sent_away_between_two_transactions,
    shared what_runs_when_the_time_is_over_is_told_and_cancelled,
    shared a_second_signal_stops_at_once,
    shared a_statement_is_cancelled_although_its_router_drains,
    shared a_client_waits_for_the_next_process_when_the_port_is_the_service_managers,
    own a_move_waits_for_both_processes_of_a_router,
}

/// Clients that connect, insert one row, and go, without end.
struct Comers {
    done: Rc<Cell<i64>>,
    stop: Rc<Cell<bool>>,
    tasks: Vec<JoinHandle<()>>,
}

const COMERS: usize = 8;

impl Comers {
    fn start(config: &Config) -> Self {
        let (done, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let come_and_go = || {
            let (config, done, stop) = (config.clone(), done.clone(), stop.clone());
            tokio::task::spawn_local(async move {
                while !stop.get() {
                    let client = connect(&config).await.expect("a connection");
                    client.run("INSERT INTO came VALUES (1)").await;
                    done.set(done.get() + 1);
                }
            })
        };
        let tasks = (0..COMERS).map(|_| come_and_go()).collect();
        Self { done, stop, tasks }
    }

    /// Waits until so many more have come and gone.
    async fn more(&self, count: i64) {
        let goal = self.done.get() + count;
        until("clients to come and go", async || {
            (self.done.get() >= goal || self.tasks.iter().any(JoinHandle::is_finished)).then_some(())
        })
        .await;
    }

    /// Stops them; none may have failed.
    async fn stop(self) -> i64 {
        self.stop.set(true);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.done.get()
    }
}

async fn a_second_process_takes_over_while_clients_come_and_go(fleet: &Fleet) {
    fleet.create("restart-comers", &[]).await;
    let router = fleet.router(&[]).await;
    let config = router.through(&fleet.config("restart-comers"));
    connect(&config).await.unwrap().run("CREATE TABLE came (n int)").await;
    let comers = Comers::start(&config);
    comers.more(20).await;
    let second = fleet.second_process(&router).await;
    comers.more(20).await;
    router.signal(Signal::TERM);
    assert!(router.end().await.success(), "{}", router.log());
    router.logs(&["drained"]).await;
    comers.more(100).await;
    let done = comers.stop().await;
    let client = connect(&config).await.unwrap();
    assert_eq!(client.number("SELECT count(*) FROM came").await, done);
    drop(second);
}

async fn a_transaction_that_runs_when_its_router_is_stopped_ends_as_its_client_wants(fleet: &Fleet) {
    fleet.create("restart-open", &[]).await;
    let router = fleet.router(&[]).await;
    let config = router.through(&fleet.config("restart-open"));
    let (client, idle) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    client.run("CREATE TABLE kept (n int); BEGIN; INSERT INTO kept VALUES (1)").await;
    router.signal(Signal::TERM);
    until("the idle one to be sent away", async || idle.is_closed().then_some(())).await;
    assert!(connect(&config).await.is_err(), "the port is closed");
    client.run("INSERT INTO kept VALUES (2)").await;
    client.run("COMMIT").await;
    until("the other one to be sent away", async || client.is_closed().then_some(())).await;
    assert!(router.end().await.success());
    let client = fleet.connect("restart-open").await;
    assert_eq!(client.number("SELECT count(*) FROM kept").await, 2);
}

async fn a_client_that_never_pauses_is_sent_away_between_two_transactions(fleet: &Fleet) {
    fleet.create("restart-busy", &[]).await;
    let router = fleet.router(&["shutdown_timeout=2s"]).await;
    let config = router.through(&fleet.config("restart-busy"));
    let client = connect(&config).await.unwrap();
    client.run("CREATE TABLE done (n int)").await;
    router.signal(Signal::TERM);
    let mut done = 0;
    let error = loop {
        match client.batch_execute("INSERT INTO done VALUES (1)").await {
            Ok(()) => done += 1,
            Err(error) => break error,
        }
    };
    // The last word, or the end of the connection behind it.
    assert!(code(&error) == "57P01" || client.is_closed(), "{error:?}");
    assert!(done > 0, "it was served while the router drained");
    assert!(router.end().await.success());
    assert!(!router.log().contains("what still runs ends now"), "{}", router.log());
    let client = fleet.connect("restart-busy").await;
    assert_eq!(client.number("SELECT count(*) FROM done").await, done);
}

/// A session that runs a statement which would never end, whose text has this mark.
async fn asleep(fleet: &Fleet, router: &Router, tenant: &str) -> Raw {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let mut session = Raw::login(&router.through(&fleet.config(tenant)), &[]).await;
    session.query(&format!("SELECT pg_sleep(100000) /* {tenant} */")).flush().await;
    until("the statement to run", async || (asleep_count(fleet, tenant).await == 1).then_some(())).await;
    session
}

async fn asleep_count(fleet: &Fleet, tenant: &str) -> i64 {
    let server = fleet.direct("pg-1", "postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()";
    server.number(&format!("{sql} AND query LIKE '%{tenant}%'")).await
}

async fn what_runs_when_the_time_is_over_is_told_and_cancelled(fleet: &Fleet) {
    let router = fleet.router(&["shutdown_timeout=500ms"]).await;
    let mut session = asleep(fleet, &router, "restart-long").await;
    router.signal(Signal::TERM);
    assert_eq!(session.reply().await.as_deref(), Some("E:57P01"));
    assert_eq!(session.reply().await, None);
    assert!(router.end().await.success());
    assert_eq!(asleep_count(fleet, "restart-long").await, 0, "the router has waited for its cancel request");
}

async fn a_second_signal_stops_at_once(fleet: &Fleet) {
    let router = fleet.router(&["shutdown_timeout=1h"]).await;
    let mut session = asleep(fleet, &router, "restart-twice").await;
    router.signal(Signal::TERM);
    router.logs(&["draining"]).await;
    router.signal(Signal::TERM);
    router.end().await;
    assert_eq!(session.reply().await, None);
}

async fn a_statement_is_cancelled_although_its_router_drains(fleet: &Fleet) {
    let (router, other) = (fleet.router(&["shutdown_timeout=1h"]).await, fleet.router(&[]).await);
    let mut session = asleep(fleet, &router, "restart-cancel").await;
    router.signal(Signal::TERM);
    router.logs(&["draining"]).await;
    until("the statement to be cancelled", async || {
        cancel(other.port, session.cancel_key).await;
        (asleep_count(fleet, "restart-cancel").await == 0).then_some(())
    })
    .await;
    let replies = session.replies(1).await;
    assert!(replies.contains(&"E:57014".to_owned()), "{replies:?}");
    assert_eq!(session.reply().await.as_deref(), Some("E:57P01"), "it was silent");
    assert!(router.end().await.success());
}

async fn a_client_waits_for_the_next_process_when_the_port_is_the_service_managers(fleet: &Fleet) {
    fleet.create("restart-lent", &[]).await;
    let manager = fleet.service_manager("notify");
    let router = fleet.router_under(&manager).await;
    assert_eq!(news(&manager).await, "READY=1\n");
    let config = router.through(&fleet.config("restart-lent"));
    connect(&config).await.unwrap().run("SELECT 1").await;
    router.signal(Signal::HUP);
    let reloading = news(&manager).await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(news(&manager).await, "READY=1\n");
    router.signal(Signal::TERM);
    assert_eq!(news(&manager).await, "STOPPING=1\n");
    assert!(router.end().await.success());
    let waiting = tokio::task::spawn_local(async move { connect(&config).await });
    let second = fleet.router_under(&manager).await;
    waiting.await.unwrap().expect("it was not lost").run("SELECT 1").await;
    drop(second);
}

async fn a_move_waits_for_both_processes_of_a_router(fleet: &mut Fleet) {
    fleet.create("restart-move", &["--server", "pg-1"]).await;
    let router = fleet.router(&[]).await;
    let second = fleet.second_process(&router).await;
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let same_name = format!("SELECT count(*) FROM router WHERE name = 'router-{}'", router.metrics_port);
    until("both to be on the list", async || (catalog.number(&same_name).await == 2).then_some(())).await;
    fleet.cli(&["move", "start", "restart-move", "--to", "pg-2", "--wait"]).await.ok();
    let acks = "SELECT count(DISTINCT process) FROM hold_ack";
    assert_eq!(catalog.number(acks).await, 3, "both, and the fleet's own");
    router.signal(Signal::TERM);
    assert!(router.end().await.success());
    assert_eq!(catalog.number(&same_name).await, 1, "the one that left has taken only itself off the list");
    drop(second);
}
