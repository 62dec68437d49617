//! `/metrics` for Prometheus, `/tenants` for single tenants, `/healthz` and `/readyz` for whoever watches the process.
//!
//! It asks nobody for a password, so what it takes from others is bounded: so many connections at a time, one request
//! on each, and a time for all of it, in which a slow client is as good as one that says nothing.

mod tenants;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::task::TaskTracker;

use crate::accept;
use crate::ask;
use crate::busiest::Busiest;
use crate::config::RouterConfig;
use crate::error::RouterError;
use crate::listener;
use crate::shared::Shared;

/// Connections at a time; who comes later waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to come.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Watched {
    registry: Registry,
    shared: Arc<Shared>,
    busiest: Arc<Mutex<Busiest>>,
}

/// Opens the port of `metrics_listen`.
pub(crate) fn listen(config: &RouterConfig) -> Result<TcpListener, RouterError> {
    let (key, address) = ("metrics_listen", config.metrics_listen);
    let opened = TcpListener::from_std(listener::bind(key, address)?.listen()?);
    opened.map_err(|source| RouterError::Listen { key, address, source })
}

/// Answers until `stop` ends.
pub(crate) async fn run(
    listener: TcpListener,
    registry: Registry,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/tenants", get(tenants::busiest))
        .route("/tenants/{name}", get(tenants::one))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Watched { registry, shared, busiest: Arc::default() });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { break };
        let app = app.clone();
        connections.spawn(async move {
            serve(stream, app).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // Never closed.
    let place = places.clone().acquire_owned().await.ok()?;
    let (stream, _) = accept::accept(listener, "metrics_listen", || ()).await;
    Some((stream, place))
}

async fn serve(stream: TcpStream, app: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // A connection that is kept would have to be given up some time, perhaps just when the next scrape comes.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to metrics_listen failed"),
        Err(_) => tracing::debug!("a connection to metrics_listen took longer than {CONNECTION_TIMEOUT:?}"),
    }
}

async fn metrics(State(watched): State<Watched>) -> impl IntoResponse {
    // A scrape that is given up meanwhile must not lose what it took: the next one tells it.
    let gathered = tokio::spawn(gather(watched)).await;
    let (status, text) = match gathered {
        Ok(Some(text)) => (StatusCode::OK, text),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    (status, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn gather(watched: Watched) -> Option<Vec<u8>> {
    let Watched { registry, shared, busiest } = watched;
    if let Err(error) = ask::ask_all(&shared, |worker| worker.metrics.flush()).await {
        tracing::warn!(%error, "some of what a worker counted comes with the next scrape");
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).ok()?;
    let most = shared.config().metrics_tenants_max;
    if most > 0 {
        text.extend(busiest.lock().await.gather(&shared, most).await.into_bytes());
    }
    Some(text)
}

async fn ready(State(watched): State<Watched>) -> impl IntoResponse {
    let shared = &watched.shared;
    if !shared.map.is_loaded() {
        (StatusCode::SERVICE_UNAVAILABLE, "no shard map yet\n")
    } else if !shared.serving.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "not open for clients\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
