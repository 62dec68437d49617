//! `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches the process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::worker::Shared;

#[derive(Clone)]
struct Watched {
    registry: Registry,
    shared: Arc<Shared>,
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
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Watched { registry, shared });
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop).await {
        tracing::warn!(%error, "metrics are not served any more");
    }
}

async fn metrics(State(watched): State<Watched>) -> impl IntoResponse {
    let mut text = Vec::new();
    let status = match TextEncoder::new().encode(&watched.registry.gather(), &mut text) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
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
