//! `/v1/tenants` and the operations on them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use catalog::{Kind, Operation, TenantRow};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::labels::Labels;
use shard_map::placement::Wish;
use shard_map::policy::Quota;
use shard_map::{Selector, ServerClass, ServerName, TenantId, TenantState};

use super::Shared;
use super::answer::{Answer, Body, Refusal, parse};

fn shown(row: &TenantRow) -> Value {
    let mut shown = json!(row);
    shown["database"] = json!(row.tenant.id.live_database());
    shown
}

#[derive(Deserialize)]
pub(super) struct Filter {
    server: Option<String>,
    selector: Option<String>,
}

pub(super) async fn list(State(context): Shared, Query(filter): Query<Filter>) -> Answer<Vec<Value>> {
    let server = filter.server.as_deref().map(parse::<ServerName>).transpose()?;
    let selector = filter.selector.as_deref().map(parse::<Selector>).transpose()?.unwrap_or_default();
    if let Some(name) = &server {
        context.catalog.server(name).await?;
    }
    let rows = context.catalog.tenants(server.as_ref(), &selector).await?;
    Ok(Json(rows.iter().map(shown).collect()))
}

pub(super) async fn show(State(context): Shared, Path(id): Path<String>) -> Answer<Value> {
    let id: TenantId = parse(&id)?;
    let mut shown = shown(&context.catalog.tenant(&id).await?);
    shown["operation"] = json!(context.catalog.running_operation(&id).await?);
    Ok(Json(shown))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    id: String,
    server: Option<String>,
    class: Option<ServerClass>,
    #[serde(default)]
    labels: Labels,
    /// Only say where it would go, and why.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn create(
    State(context): Shared,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let id: TenantId = parse(&create.id)?;
    let wish = Wish {
        server: create.server.as_deref().map(parse).transpose()?,
        class: create.class,
        labels: create.labels,
        quota: Quota::default(),
    };
    let policy = context.policy().await?;
    if create.dry_run {
        let decision = context.catalog.try_placement(&id, &wish, &policy).await?;
        return Ok((StatusCode::OK, Json(json!(decision))));
    }
    let (operation, _) = context.catalog.create_tenant(&id, &wish, &policy).await?;
    context.nudge.notify_one();
    let mut shown = shown(&context.catalog.tenant(&id).await?);
    shown["operation"] = json!(operation);
    Ok((StatusCode::ACCEPTED, Json(shown)))
}

pub(super) async fn suspend(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id, Kind::Suspend, &[TenantState::Open], json!({})).await
}

pub(super) async fn resume(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id, Kind::Resume, &[TenantState::Suspended], json!({})).await
}

pub(super) async fn undelete(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id, Kind::Undelete, &[TenantState::Deleted], json!({})).await
}

#[derive(Deserialize)]
pub(super) struct Delete {
    #[serde(default)]
    now: bool,
}

pub(super) async fn delete(context: Shared, id: Path<String>, Query(delete): Query<Delete>) -> Answer<Value> {
    let mut states = vec![TenantState::Open, TenantState::Suspended];
    if delete.now {
        states.push(TenantState::Deleted);
    }
    start(context, &id, Kind::Delete, &states, json!({ "now": delete.now })).await
}

async fn start(
    State(context): Shared,
    id: &str,
    kind: Kind,
    expected: &[TenantState],
    input: Value,
) -> Answer<Value> {
    let operation = context.catalog.start_operation(kind, &parse::<TenantId>(id)?, expected, &input).await?;
    context.nudge.notify_one();
    Ok(Json(json!({ "operation": operation })))
}

pub(super) async fn operation(State(context): Shared, Path(id): Path<i64>) -> Answer<Operation> {
    Ok(Json(context.catalog.operation(id).await?))
}
