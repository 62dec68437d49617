//! A server's connections are divided among its tenants and routers: everybody gets on, and Postgres never says that there
//! are too many.

use std::cell::Cell;
use std::rc::Rc;

use futures_util::future::{join_all, try_join_all};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

use crate::harness::{Fleet, Metrics, Router, Sql as _, connect, connect_url, signal, trials, until};

trials! {
    own more_tenants_than_connections_all_work_in_turn,
    own a_tenant_that_never_pauses_leaves_others_their_part,
    own routers_share_a_servers_connections,
}

/// Connections of ordinary roles beyond those for routers: the control plane's, and the test's own.
const OTHERS: u32 = 4;

/// Makes pg-1 a server that has room for so few connections of routers, and for hardly any other.
async fn shrink(fleet: &Fleet, connections: u32) {
    let url = fleet.server_url("pg-1");
    let admin = connect_url(&url, "postgres").await;
    // The last three are kept for superusers.
    admin.run(&format!("ALTER SYSTEM SET max_connections = {}", connections + OTHERS + 3)).await;
    let max = connections.to_string();
    fleet.cli(&["server", "add", "pg-1", "--url", &url, "--max-connections", &max]).await.ok();
    let before = fleet.postmaster("pg-1");
    signal(before, Signal::INT);
    until("the server to be started again", async || {
        (admin.is_closed() && fleet.try_postmaster("pg-1").is_some_and(|now| now != before)).then_some(())
    })
    .await;
    let config: Config = url.parse().unwrap();
    until("it to serve", async || connect(&config).await.ok()).await;
}

/// Makes tenants on pg-1.
async fn create(fleet: &Fleet, names: &[String]) {
    join_all(names.iter().map(|name| fleet.create(name, &["--server", "pg-1"]))).await;
}

/// How to connect through a router, as soon as it knows the tenant.
async fn config(fleet: &Fleet, router: &Router, tenant: &str) -> Config {
    let config = router.through(&fleet.config(tenant));
    until("the router to know the tenant", async || connect(&config).await.ok()).await;
    config
}

/// What pg-1 refused as it had no connection left.
fn refusals(fleet: &Fleet) -> Vec<String> {
    let log = std::fs::read_to_string(fleet.path().join("log/pg-1.log")).unwrap();
    assert!(log.contains("database system is ready"), "it is the server's log");
    let told = |line: &&str| line.contains("too many clients") || line.contains("connection slots");
    log.lines().filter(told).map(str::to_owned).collect()
}

/// Connections of tenants at pg-1.
const OPEN: &str = "SELECT count(*) FROM pg_sleep(0.005), pg_stat_activity
    WHERE backend_type = 'client backend' AND datname NOT IN ('postgres', 'tenantry', 'template1')";

async fn more_tenants_than_connections_all_work_in_turn(fleet: &mut Fleet) {
    const CONNECTIONS: u32 = 4;
    let names: Vec<String> = (0..20).map(|number| format!("turn-{number}")).collect();
    create(fleet, &names).await;
    shrink(fleet, CONNECTIONS).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let watching = Rc::new(Cell::new(true));
    let watch = {
        let watching = watching.clone();
        tokio::task::spawn_local(async move {
            let mut most = 0;
            while watching.get() {
                most = most.max(server.number(OPEN).await);
            }
            most
        })
    };
    let worked = try_join_all(names.iter().map(async |name| {
        let client = connect(&fleet.config(name)).await?;
        for _ in 0..10 {
            client.batch_execute("BEGIN; SELECT pg_sleep(0.005); COMMIT").await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    }));
    worked.await.expect("no client sees an error");
    // And one after another, each with what the others do not use any more.
    for name in &names {
        fleet.connect(name).await.run("SELECT 1").await;
    }
    watching.set(false);
    let most = watch.await.unwrap();
    assert!(most <= i64::from(CONNECTIONS), "{most} connections at a time");
    assert_eq!(refusals(fleet), Vec::<String>::new());
    let waits = "tenantry_router_budget_wait_seconds_count{server=\"pg-1\"}";
    assert!(fleet.router_metrics().await.get(waits) >= 15.0, "tenants waited for one another");
}

/// Clients of one tenant that work without a pause.
struct Busy {
    done: Rc<Cell<usize>>,
    stop: Rc<Cell<bool>>,
    clients: Vec<JoinHandle<()>>,
}

impl Busy {
    async fn start(config: &Config, clients: usize) -> Self {
        let (done, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let work = |client: Client| {
            let (done, stop) = (done.clone(), stop.clone());
            tokio::task::spawn_local(async move {
                while !stop.get() {
                    client.run("SELECT pg_sleep(0.002)").await;
                    done.set(done.get() + 1);
                }
            })
        };
        let connected = join_all((0..clients).map(|_| connect(config))).await;
        let clients = connected.into_iter().map(|client| work(client.unwrap())).collect();
        Self { done, stop, clients }
    }

    async fn ends(self) {
        self.stop.set(true);
        for client in self.clients {
            client.await.expect("no client sees an error");
        }
    }
}

async fn a_tenant_that_never_pauses_leaves_others_their_part(fleet: &mut Fleet) {
    let light: Vec<String> = (0..6).map(|number| format!("light-{number}")).collect();
    create(fleet, &[&light[..], &["greedy".to_owned()]].concat()).await;
    shrink(fleet, 4).await;
    let greedy = Busy::start(&fleet.config("greedy"), 60).await;
    until("it to have every connection", async || (held(&fleet.router_metrics().await) == 4.0).then_some(()))
        .await;
    let before = greedy.done.get();
    join_all(light.iter().map(async |name| {
        let client = fleet.connect(name).await;
        for _ in 0..20 {
            client.run("SELECT pg_sleep(0.002)").await;
        }
    }))
    .await;
    assert!(greedy.done.get() > before, "it goes on beside them");
    greedy.ends().await;
    assert_eq!(refusals(fleet), Vec::<String>::new());
}

/// Connections that a router has at pg-1.
fn held(metrics: &Metrics) -> f64 {
    metrics.sum("tenantry_router_server_connections", &["server=\"pg-1\""])
}

async fn routers_share_a_servers_connections(fleet: &mut Fleet) {
    create(fleet, &["shared-1".to_owned(), "shared-2".to_owned()]).await;
    shrink(fleet, 9).await;
    // The fleet's own router is the third in the end, and has nothing to do.
    let first = fleet.router(&[]).await;
    let busy = Busy::start(&config(fleet, &first, "shared-1").await, 20).await;
    until("it to have a half", async || (held(&first.metrics().await) == 4.0).then_some(())).await;
    let second = fleet.router(&[]).await;
    let other = Busy::start(&config(fleet, &second, "shared-2").await, 20).await;
    until("each to have a third", async || {
        (held(&first.metrics().await) == 3.0 && held(&second.metrics().await) == 3.0).then_some(())
    })
    .await;
    let (before, before_other) = (busy.done.get(), other.done.get());
    until("both to go on", async || {
        (busy.done.get() > before + 100 && other.done.get() > before_other + 100).then_some(())
    })
    .await;
    other.ends().await;
    drop(second);
    until("the first to have a half again", async || (held(&first.metrics().await) == 4.0).then_some(()))
        .await;
    busy.ends().await;
    assert_eq!(refusals(fleet), Vec::<String>::new());
}
