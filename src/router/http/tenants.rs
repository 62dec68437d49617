//! `/tenants`: what single tenants do at this router, exactly.

use std::rc::Rc;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::TenantId;

use crate::admin::state;
use crate::ask::{self, NoAnswer, PORTION};
use crate::http::Watched;
use crate::shared::Shared;
use crate::stats::{Counters, Figure};
use crate::worker::Worker;

/// Tenants that are told at once.
const TOP_MAX: usize = 1000;
const TOP: usize = 20;

/// How many are wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    top: Option<usize>,
}

fn error(status: StatusCode, message: impl Into<String>, hint: &str) -> Response {
    (status, Json(json!({ "error": message.into(), "hint": hint }))).into_response()
}

fn no_answer(failed: NoAnswer) -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, failed.to_string(), "try again")
}

/// One tenant.
pub(super) async fn one(State(watched): State<Watched>, Path(name): Path<String>) -> Response {
    let shared = &watched.shared;
    let id = TenantId::new(&name).ok().filter(|id| shared.map.read().tenants.contains_key(id));
    let Some(id) = id else {
        let message = format!("tenant {name:?} does not exist");
        return error(StatusCode::NOT_FOUND, message, "`tenantry tenant list` lists all tenants");
    };
    match ask::each(shared, &[id], shown).await {
        Ok(tenants) => tenants.into_iter().next().map(|tenant| Json(tenant).into_response()),
        Err(failed) => Some(no_answer(failed)),
    }
    .unwrap_or_else(|| no_answer(NoAnswer))
}

/// The busiest tenants, the busiest first.
pub(super) async fn busiest(State(watched): State<Watched>, Query(wanted): Query<Wanted>) -> Response {
    let top = wanted.top.unwrap_or(TOP);
    if top > TOP_MAX {
        let message = format!("top={top} is not allowed: 0 to {TOP_MAX}");
        return error(StatusCode::BAD_REQUEST, message, "ask for fewer");
    }
    match find_busiest(&watched.shared, top).await {
        Ok(tenants) => Json(tenants).into_response(),
        Err(failed) => no_answer(failed),
    }
}

async fn find_busiest(shared: &Arc<Shared>, top: usize) -> Result<Vec<Value>, NoAnswer> {
    let mut best: Vec<((f64, u64), TenantId)> = Vec::new();
    for portion in ask::tenants(shared, true).await?.chunks(PORTION) {
        let ranks = ask::each(shared, portion, rank).await?;
        best.extend(ranks.into_iter().zip(portion.iter().cloned()));
        best.sort_by(|((a, m), _), ((b, n), _)| b.total_cmp(a).then(n.cmp(m)));
        best.truncate(top);
    }
    let tenants: Vec<_> = best.into_iter().map(|(_, tenant)| tenant).collect();
    ask::each(shared, &tenants, shown).await
}

/// By what tenants are compared: lately, and before.
fn rank(worker: &Rc<Worker>, id: &TenantId) -> (f64, u64) {
    let rank = |counters: &Counters| (counters.activity(), counters.figures().get(Figure::Transactions));
    match worker.warm(id) {
        Some(tenant) => rank(&tenant.counters),
        None => worker.cold.borrow().get(id).map(rank).unwrap_or_default(),
    }
}

fn shown(worker: &Rc<Worker>, id: &TenantId) -> Value {
    let mut shown = match worker.warm(id) {
        Some(tenant) => {
            let clients = tenant.clients.borrow();
            let waiting = clients.values().filter(|client| client.waiting.get().is_some()).count();
            json!({
                "tenant": id,
                "server": tenant.place().map(|place| place.server.name.clone()),
                "state": state(&tenant),
                "clients": clients.len(),
                "waiting": waiting,
                "server_connections": tenant.open.get(),
            })
        }
        None => {
            let server = worker.shared.map.read().tenants.get(id).map(|tenant| tenant.server.clone());
            json!({
                "tenant": id,
                "server": server,
                "state": "cold",
                "clients": 0,
                "waiting": 0,
                "server_connections": 0,
            })
        }
    };
    let figures = worker.figures(id);
    for figure in Figure::ALL {
        shown[figure.name()] = figures.get(figure).into();
    }
    shown
}
