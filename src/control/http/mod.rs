//! The HTTP API: intent comes in, what is on record goes out. `routes` has the table of what there is, `guard` stands
//! before it; a file for each resource.

mod answer;
mod audit;
mod doctor;
mod events;
mod guard;
mod listener;
mod load;
mod map;
mod migrations;
mod move_requests;
mod openapi;
mod overview;
mod page;
mod paging;
mod record;
mod repeat;
mod requests;
mod routes;
mod servers;
mod sign_in;
mod tenants;
mod tokens;
mod users;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use answer::Refusal;
pub(crate) use listener::Tls;
use listener::TlsListener;
pub(crate) use requests::Requests;
pub(crate) use sign_in::SignIn;

/// Largest request: a directory of migrations.
const BODY_BYTES_MAX: usize = 16 << 20;

/// What every handler works with.
pub(crate) type Shared = State<Arc<Context>>;

/// Serves until `stop`.
pub(crate) async fn serve(listener: TcpListener, context: Arc<Context>, stop: CancellationToken) {
    let tls = context.api_tls.clone();
    let app = app(context).into_make_service_with_connect_info::<record::Peer>();
    let stopped = stop.clone().cancelled_owned();
    let outcome = match tls {
        None => axum::serve(listener, app).with_graceful_shutdown(stopped).await,
        Some(tls) => {
            let listener = TlsListener::new(listener, tls, stop);
            axum::serve(listener, app).with_graceful_shutdown(stopped).await
        }
    };
    if let Err(error) = outcome {
        tracing::error!(%error, "the API stopped");
    }
}

fn app(context: Arc<Context>) -> Router {
    Router::new()
        .merge(routes::router(&context))
        .merge(page::routes())
        .route("/v1/openapi.json", get(openapi::serve))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .fallback(|| async { Refusal::not_found("there is no such resource") })
        .method_not_allowed_fallback(|| async {
            let hint = "see the header Allow for those that are";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here", hint)
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(context.clone(), count))
        .with_state(context)
}

async fn metrics(State(context): Shared) -> Response {
    let text = prometheus::TextEncoder::new().encode_to_string(&context.registry.gather());
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text.unwrap_or_default()).into_response()
}

async fn count(State(context): Shared, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    context.metrics.requests.with_label_values(&[response.status().as_str()]).inc();
    response
}
