//! The router: tells clients and tenants' servers apart from one another by nothing but the shard map.
//!
//! A connection's life: `listener` accepts it, `login` finds out who it is and which tenant it wants, and the
//! tenant's `worker` runs its `session`: each transaction on a connection of the tenant's `pool`, while the tenant's
//! `gate` is open. Beside that, `follower` keeps the map up to date, `report` tells the catalog about it,
//! `peers` knows the other routers, `reload` replaces the configuration, and `drain` ends it all.
//!
//! A tenant belongs to one worker, a thread with its own runtime, so that the path of a query takes no lock. What it does
//! not do: change the map, or anything on a server.

mod accept;
mod admin;
mod ask;
mod busiest;
mod cancel;
mod clock;
mod config;
mod descriptors;
mod drain;
mod error;
mod failures;
mod follower;
mod gate;
mod http;
mod listener;
mod load;
mod login;
mod looks;
mod map;
mod metrics;
mod narrowing;
mod peers;
mod places;
mod pool;
mod prepared;
mod process;
mod registry;
mod relay;
mod reload;
mod report;
mod search;
mod session;
mod shared;
mod snapshot;
mod state;
mod stats;
mod stream;
mod systemd;
mod tenant;
mod time_limits;
mod tls;
mod worker;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use catalog::Catalog;
use catalog::metrics::Maker;
use prometheus::Registry;
use shard_map::MasterKey;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{InvalidConfig, RouterConfig, Secret};
pub use error::RouterError;
pub use metrics::metrics;
pub use process::Process;
pub use tls::{TlsError, TlsMode};

use crate::follower::Follower;
use crate::gate::HoldReady;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::worker::{INBOX_MAX, WorkerMessage};

/// How long the last words to the catalog may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// What ends a run.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a router until `stop` ends and its clients are gone, or `shutdown_timeout` is over.
///
/// Call it on a multi-threaded runtime. `metrics` is the process's registry. In a box, so that the compiler makes all that runs
/// in it here, and not where it is awaited.
///
/// # Errors
/// [`RouterError`] when it can't start: a value in the configuration, an address in use.
pub fn run(
    config: RouterConfig,
    master_key: MasterKey,
    metrics: Registry,
    process: Process,
    stop: Shutdown,
) -> Pin<Box<dyn Future<Output = Result<(), RouterError>> + Send>> {
    Box::pin(route(config, master_key, metrics, process, stop))
}

async fn route(
    config: RouterConfig,
    master_key: MasterKey,
    metrics: Registry,
    mut process: Process,
    stop: Shutdown,
) -> Result<(), RouterError> {
    config.validate()?;
    let catalog = config.catalog_url.as_ref().map(|url| Catalog::new(url.expose(), &metrics)).transpose()?;
    descriptors::raise(&config);
    let port = listener::Port::open(process.listener.take(), config.listen, config.workers())?;
    let http_listener = http::listen(&config)?;
    let (peer_listener, cancel_address) = peers::bind(config.cancel_listen()).await?;
    let (shared, inboxes, holds) = share(config, (master_key, process), &metrics, cancel_address)?;
    let snapshot = Snapshot::new(&shared);
    snapshot.restore(&shared);
    let workers = start_workers(&shared, inboxes)?;
    tracing::info!(name = shared.name, listen = %shared.config().listen, workers = workers.len(), "router up");

    let stopping = CancellationToken::new();
    let tasks = TaskTracker::new();
    let until = |token: &CancellationToken| token.clone().cancelled_owned();
    tasks.spawn(http::run(http_listener, metrics, shared.clone(), until(&stopping)));
    // These have no end of their own.
    let endless = [
        tokio::spawn(Follower::new(shared.clone()).run()),
        tokio::spawn(snapshot.keep(shared.clone())),
        tokio::spawn(peers::run(peer_listener, shared.clone())),
        tokio::spawn(pool::probe::run(shared.clone())),
        tokio::spawn(tls::watch(shared.clone())),
        tokio::spawn(reload::run(shared.clone())),
        tokio::spawn(systemd::watch(shared.clone())),
        tokio::spawn(report::acknowledge(shared.clone(), catalog.clone(), holds)),
        tokio::spawn(reports(shared.clone(), catalog.clone())),
    ];
    if let Some(catalog) = &catalog {
        report::announce(&shared, catalog).await;
    }
    listener::run(port.listen(&shared)?, &shared, stop).await;
    // From now on, whoever watches the port asks the process that has taken over, if there is one.
    stopping.cancel();
    drain::run(&shared, workers).await;
    shared.console.close().await;
    for task in &endless {
        task.abort();
    }
    for task in endless {
        // Aborted, as it should be.
        drop(task.await);
    }
    if let Some(catalog) = catalog {
        farewell(&shared, &catalog).await;
    }
    tasks.close();
    drop(tokio::time::timeout(FAREWELL_TIMEOUT, tasks.wait()).await);
    Ok(())
}

type Inboxes = Vec<mpsc::Receiver<WorkerMessage>>;

fn share(
    config: RouterConfig,
    (master_key, process): (MasterKey, Process),
    metrics: &Registry,
    cancel_address: SocketAddr,
) -> Result<(Arc<Shared>, Inboxes, mpsc::Receiver<HoldReady>), RouterError> {
    let (workers, inboxes) = (0..config.workers()).map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let (holds, ready) = mpsc::channel(INBOX_MAX);
    let name = config.name();
    let shared = Shared {
        peers: peers::Peers::new(&name, cancel_address),
        routers_live: AtomicUsize::new(1),
        name,
        map: map::SharedMap::default(),
        metrics: metrics::Metrics::new(&Maker::new(metrics))?,
        login_secret: login::mock_secret(&master_key),
        master_key,
        tls: tls::Tls::new(&config)?,
        places: Arc::default(),
        failures: failures::Failures::default(),
        looks: looks::Looks::default(),
        searches: tokio::sync::Semaphore::new(search::SEARCHES_MAX),
        process,
        serving: AtomicBool::new(false),
        budgets: pool::Budgets::default(),
        breakers: pool::Breakers::default(),
        workers,
        holds,
        console: admin::Console::new(),
        logins: listener::Logins::default(),
        config: ArcSwap::from_pointee(config),
    };
    Ok((Arc::new(shared), inboxes, ready))
}

fn start_workers(shared: &Arc<Shared>, inboxes: Inboxes) -> Result<Vec<JoinHandle<()>>, RouterError> {
    let start = |(index, inbox)| {
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(worker::run(index, shared, inbox)),
                Err(error) => tracing::error!(%error, "a worker has no runtime"),
            }
        })
    };
    inboxes.into_iter().enumerate().map(start).collect::<Result<_, _>>().map_err(RouterError::Worker)
}

async fn reports(shared: Arc<Shared>, catalog: Option<Catalog>) {
    match catalog {
        Some(catalog) => report::run(shared, catalog).await,
        None => std::future::pending().await,
    }
}

/// Takes the router off the catalog's list, so that no hold waits for it.
async fn farewell(shared: &Shared, catalog: &Catalog) {
    match tokio::time::timeout(FAREWELL_TIMEOUT, catalog.remove_router(&shared.peers.process)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the router stays on the catalog's list until its report is old");
        }
        Err(_) => tracing::warn!("the catalog did not take the router off its list in time"),
    }
}
