//! The HTTP API: intent comes in, what is on record goes out. A file for each resource.

mod answer;
mod doctor;
mod map;
mod migrations;
mod move_requests;
mod servers;
mod tenants;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use answer::Refusal;

/// Largest request: a directory of migrations.
const BODY_BYTES_MAX: usize = 16 << 20;

/// What every handler works with.
pub(crate) type Shared = State<Arc<Context>>;

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    context: Arc<Context>,
    token: String,
    stop: CancellationToken,
) {
    let app = routes(context, token);
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the API stopped");
    }
}

fn routes(context: Arc<Context>, token: String) -> Router {
    let token: Arc<str> = token.into();
    let resources = Router::new()
        .route("/servers", get(servers::list).post(servers::add))
        .route("/servers/{name}", get(servers::show).delete(servers::remove))
        .route("/servers/{name}/drain", get(servers::drained).post(servers::drain))
        .route("/servers/{name}/upgrade-plan", get(servers::upgrade_plan))
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{id}", get(tenants::show).delete(tenants::delete))
        .route("/tenants/{id}/quota", put(tenants::set_quota))
        .route("/tenants/{id}/suspend", post(tenants::suspend))
        .route("/tenants/{id}/resume", post(tenants::resume))
        .route("/tenants/{id}/undelete", post(tenants::undelete))
        .route("/tenants/{id}/clone", post(tenants::clone))
        .route("/tenants/{id}/rename", post(tenants::rename))
        .route("/operations/{id}", get(tenants::operation))
        .route("/users", get(users::list).post(users::create))
        .route("/users/{name}", axum::routing::delete(users::remove))
        .route("/users/{name}/password", put(users::passwd))
        .route("/migrations", get(migrations::list).post(migrations::run))
        .route("/migrations/plan", post(migrations::plan))
        .route("/migrations/{id}", get(migrations::show))
        .route("/migrations/{id}/resume", post(migrations::resume))
        .route("/migrations/{id}/abort", post(migrations::abort))
        .route("/doctor", get(doctor::examine))
        .route("/map", get(map::export))
        .route("/map/check", get(map::check))
        .route("/map/verify", post(map::verify))
        .route("/map/rebuild", post(map::rebuild))
        .route("/map/import", post(map::import))
        .route("/map/apply", post(map::apply))
        .route("/moves", get(move_requests::list).post(move_requests::start))
        .route("/moves/{id}", get(move_requests::show))
        .route("/moves/{id}/abort", post(move_requests::abort))
        .route("/moves/{id}/complete", post(move_requests::complete))
        .route("/moves/{id}/pause", post(move_requests::pause))
        .route("/moves/{id}/resume", post(move_requests::resume))
        .route("/moves/{id}/reverse", post(move_requests::reverse))
        .layer(middleware::from_fn_with_state(token, authenticate));
    Router::new()
        .nest("/v1", resources)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .fallback(|| async { Refusal::not_found("there is no such resource") })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(context.clone(), count))
        .with_state(context)
}

async fn metrics(State(context): Shared) -> Response {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], context.metrics.encode()).into_response()
}

async fn count(State(context): Shared, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    context.metrics.requests.with_label_values(&[response.status().as_str()]).inc();
    response
}

async fn authenticate(State(token): State<Arc<str>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if bool::from(given.as_bytes().ct_eq(token.as_bytes())) {
        return next.run(request).await;
    }
    Refusal {
        status: StatusCode::UNAUTHORIZED,
        error: "the token is missing or wrong".to_owned(),
        hint: Some("give --token or TENANTRY_TOKEN".to_owned()),
    }
    .into_response()
}
