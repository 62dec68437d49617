//! The control plane: what operators ask for is written down as intent, done by whichever instance leads, and looked
//! at again until it is so.
//!
//! Intent comes in through `http`; `reconciler` finds it; `provision`, `fleet` and `moves` act, through `server`. It
//! never sees a router: they meet in the shard map, by epoch.

mod config;
mod context;
mod doctor;
mod drain;
mod dump_place;
mod error;
mod failover;
mod failpoint;
mod fleet;
mod http;
mod leader;
mod live;
mod lock_file;
mod locked_out;
mod map;
mod measure;
mod metrics;
mod moves;
mod provision;
mod quotas;
mod readers;
mod reconciler;
mod restore;
mod server;
mod stock;
mod turns;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use catalog::Catalog;
use catalog::metrics::Maker;
use prometheus::Registry;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use catalog::Role;
pub use config::{ControlConfig, Secrets};
use context::Context;
pub use doctor::{Check, Diagnosis, Doctor, Finding, Severity};
pub use dump_place::DumpPlace;
pub use error::{Error, Result};
pub use map::{MapTools, Outcome};
use metrics::Metrics;
pub use metrics::metrics;
pub use moves::programs::major_of;

/// How long a start waits for the catalog before it gives up.
const CATALOG_START_TIMEOUT: Duration = Duration::from_secs(30);

/// What ends a run.
pub type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs one control-plane instance until `shutdown` completes.
///
/// In a box, so that the compiler makes all that runs in it here. What an `async fn` does is else made where that is awaited: in
/// one piece with each binary, and not beside other crates.
///
/// # Errors
/// When the environment says of its store for dumps what can't be meant, when its port is taken, its `work_dir` can't be made, or the catalog can't be reached at the start, or can't be brought up to date.
pub fn run(
    config: ControlConfig,
    secrets: Secrets,
    shutdown: Shutdown,
) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
    Box::pin(serve(config, secrets, shutdown))
}

async fn serve(config: ControlConfig, secrets: Secrets, shutdown: Shutdown) -> Result<()> {
    config.validate().map_err(Error::Usage)?;
    let api_tls = config.api_tls()?.map(Arc::new);
    let dumps = config.deleted_dump_dir.as_ref().map(provision::Dumps::at).transpose()?;
    let registry = Registry::new();
    let catalog = Catalog::new(&secrets.catalog_url, &registry)?;
    let metrics = Metrics::new(&Maker::new(&registry)).map_err(|e| Error::Failed(e.to_string()))?;
    let listener = tokio::net::TcpListener::bind(&config.listen)
        .await
        .map_err(|source| Error::Io { what: format!("listen: {}", config.listen), source })?;
    // Now and not in the middle of the first move.
    tokio::fs::create_dir_all(&config.work_dir)
        .await
        .map_err(|source| Error::Io { what: format!("work_dir: {}", config.work_dir.display()), source })?;
    migrate(&catalog).await?;
    let connector = server::Connector::new(secrets.master_key.clone(), config.server_tls());
    let context = Arc::new(Context {
        doctor: Doctor::of_control(catalog.clone(), connector.clone(), &config),
        map: MapTools::of_control(catalog.clone(), connector.clone(), &config),
        map_turn: tokio::sync::Mutex::new(()),
        closing_turn: tokio::sync::Mutex::new(()),
        budgets: moves::throttle::Budgets::new(config.copy_bytes_per_second_max),
        catalog,
        connector,
        key: secrets.master_key,
        config,
        dumps,
        metrics,
        registry,
        nudge: Notify::new(),
        stock_nudge: Notify::new(),
        drain_nudge: Notify::new(),
        stock_claimed: watch::Sender::new(None),
        measure_nudge: Notify::new(),
        ended: Notify::new(),
        live: live::Live::default(),
        term: watch::Sender::new(None),
        turns: turns::Turns::default(),
        api_tls,
        sign_in: http::SignIn::new(secrets.token),
        requests: http::Requests::default(),
    });
    let stop = CancellationToken::new();
    let leader = tokio::spawn(leader::lead(context.clone(), stop.clone()));
    let reconciler = tokio::spawn(reconciler::reconcile(context.clone(), stop.clone()));
    let figures = tokio::spawn(metrics::refresh(context.clone(), stop.clone()));
    let map = tokio::spawn(map::watch::watch(context.clone(), stop.clone()));
    let locked_out = tokio::spawn(locked_out::watch(context.clone(), stop.clone()));
    let measure = tokio::spawn(measure::measure(context.clone(), stop.clone()));
    let stock = tokio::spawn(stock::keep(context.clone(), stop.clone()));
    let windows = tokio::spawn(moves::watch(context.clone(), stop.clone()));
    let wal = tokio::spawn(moves::watch_wal(context.clone(), stop.clone()));
    let pace = tokio::spawn(moves::throttle::watch(context.clone(), stop.clone()));
    let drain = tokio::spawn(drain::keep(context.clone(), stop.clone()));
    let live = tokio::spawn(live::watch(context.clone(), stop.clone()));
    let addresses = tokio::spawn(failover::watch(context.clone(), stop.clone()));
    let api = tokio::spawn(http::serve(listener, context.clone(), stop.clone()));
    tracing::info!("control plane serves");
    shutdown.await;
    stop.cancel();
    // Each ends at its next look at `stop`; none of them fails but by a defect, which its own log line told.
    for task in [
        leader, reconciler, figures, map, locked_out, measure, stock, windows, wal, pace, drain, live,
        addresses, api,
    ] {
        drop(tokio::time::timeout(Duration::from_secs(5), task).await);
    }
    context.requests.settle().await;
    Ok(())
}

/// Brings the catalog's schema up to date; waits for a catalog that is only just starting.
async fn migrate(catalog: &Catalog) -> Result<()> {
    let deadline = tokio::time::Instant::now() + CATALOG_START_TIMEOUT;
    loop {
        match catalog.migrate().await {
            Err(catalog::Error::Unreachable(why)) if tokio::time::Instant::now() < deadline => {
                tracing::warn!(%why, "the catalog does not answer yet");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}
