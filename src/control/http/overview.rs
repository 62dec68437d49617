//! What the page shows beside the resources: `/v1/crowds`, and of a tenant `history` and `serving`.

use axum::Json;
use axum::extract::State;
use catalog::{Crowd, PastOperation, Serving};
use serde_json::{Value, json};
use shard_map::TenantId;

use super::Shared;
use super::answer::{Answer, Path, parse};

/// Tenants that are told of for one server: more would be smaller than a pixel can show.
const CROWD_MAX: i64 = 1_000;
/// Operations of a tenant that are told.
const HISTORY_MAX: i64 = 100;

/// Each server's largest and busiest tenants.
pub(super) async fn crowds(State(context): Shared) -> Answer<Vec<Crowd>> {
    Ok(Json(context.catalog.crowds(CROWD_MAX).await?))
}

/// What was done to a tenant, newest first.
pub(super) async fn history(State(context): Shared, Path(id): Path<String>) -> Answer<Vec<PastOperation>> {
    let id: TenantId = parse(&id)?;
    let history = context.catalog.tenant_history(&id, HISTORY_MAX).await?;
    if history.is_empty() {
        // Whoever mistyped it is told so.
        context.catalog.tenant(&id).await?;
    }
    Ok(Json(history))
}

/// Whether a tenant's clients are served, as far as routers report.
pub(super) async fn serving(State(context): Shared, Path(id): Path<String>) -> Answer<Value> {
    let id: TenantId = parse(&id)?;
    let row = context.catalog.tenant(&id).await?;
    // Routers tell its figures from then on. Without that, how it is served is known all the same.
    drop(context.catalog.watch_tenant(&id).await);
    let servings = context.catalog.servings(&[&id], context.config.router_timeout, true).await?;
    let serving = servings.into_values().next().unwrap_or(Serving { routers: Vec::new(), held_ms: None });
    let (state, why) = serving.judge(row.tenant.state, row.tenant.read_only);
    let Serving { routers, held_ms } = serving;
    Ok(Json(json!({ "state": state, "why": why, "routers": routers, "held_ms": held_ms })))
}
