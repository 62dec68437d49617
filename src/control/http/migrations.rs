//! `/v1/migrations`: runs over the fleet.

use axum::Json;
use axum::extract::{Path, State};
use catalog::{Kind, Operation, Target, TargetState};
use serde_json::{Value, json};
use shard_map::TenantState;

use super::Shared;
use super::answer::{Answer, Body, Refusal};
use crate::context::Context;
use crate::error::Error;
use crate::fleet::files::Input;
use crate::fleet::waves;

/// Runs that a list shows.
const LIST_MAX: i64 = 100;

pub(super) async fn run(State(context): Shared, Body(input): Body<Input>) -> Answer<Value> {
    input.check()?;
    let tenants = context.catalog.tenants(None, &input.selector).await?.into_iter();
    let tenants: Vec<_> =
        tenants.filter(|row| row.tenant.state != TenantState::Deleted).map(|row| row.tenant.id).collect();
    if tenants.is_empty() && !input.selector.is_all() {
        return Err(Error::NotFound(format!("no tenant matches {}", input.selector)).into());
    }
    let targets = waves::divide(tenants, input.canary, &input.waves);
    let run = context.catalog.start_run(&json!(input), &targets).await?;
    context.nudge.notify_one();
    find(&context, run).await
}

pub(super) async fn plan(State(context): Shared, Body(input): Body<Input>) -> Answer<Value> {
    let migrations = input.check()?;
    let rows = context.catalog.tenants(None, &input.selector).await?;
    let tenants = rows.iter().filter(|row| row.tenant.state != TenantState::Deleted).map(|row| {
        let at = row.schema_version.unwrap_or(0);
        let pending = migrations.list.iter().filter(|m| i64::from(m.version()) > i64::from(at));
        json!({
            "tenant": row.tenant.id, "server": row.tenant.server, "schema_version": row.schema_version,
            "pending": pending.map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    let tenants: Vec<Value> = tenants.collect();
    Ok(Json(json!({ "version": migrations.version(), "tenants": tenants })))
}

pub(super) async fn list(State(context): Shared) -> Answer<Vec<Value>> {
    let mut runs = Vec::new();
    for operation in context.catalog.operations(Kind::Migrate, LIST_MAX).await? {
        let targets = context.catalog.run_targets(operation.id).await?;
        runs.push(shown(&operation, &targets));
    }
    Ok(Json(runs))
}

pub(super) async fn show(State(context): Shared, Path(run): Path<i64>) -> Answer<Value> {
    find(&context, run).await
}

pub(super) async fn resume(State(context): Shared, Path(run): Path<i64>) -> Answer<Value> {
    drop(find(&context, run).await?);
    context.catalog.resume_run(run).await?;
    context.nudge.notify_one();
    find(&context, run).await
}

pub(super) async fn abort(State(context): Shared, Path(run): Path<i64>) -> Answer<Value> {
    let Json(found) = find(&context, run).await?;
    if found["state"] != "running" {
        return Err(
            catalog::Error::Conflict(format!("run {run} is {}: nothing to abort", found["state"])).into()
        );
    }
    context.catalog.request_abort(run).await?;
    context.nudge.notify_one();
    find(&context, run).await
}

async fn find(context: &Context, run: i64) -> Answer<Value> {
    let missing = || Refusal::not_found(&format!("migration run {run} does not exist"));
    let operation = match context.catalog.operation(run).await {
        Ok(operation) if operation.kind == Kind::Migrate => operation,
        Ok(_) | Err(catalog::Error::NotFound(_)) => return Err(missing()),
        Err(e) => return Err(e.into()),
    };
    Ok(Json(shown(&operation, &context.catalog.run_targets(run).await?)))
}

fn shown(operation: &Operation, targets: &[Target]) -> Value {
    let count = |state| targets.iter().filter(|target| target.state == state).count();
    let failures = targets.iter().filter(|target| target.state == TargetState::Failed);
    let waiting = targets.iter().filter(|t| t.state == TargetState::Pending && t.error.is_some());
    let version = serde_json::from_value::<Input>(operation.input.clone())
        .ok()
        .and_then(|input| input.check().ok())
        .map(|migrations| migrations.version());
    json!({
        "id": operation.id, "state": operation.state, "step": operation.step, "version": version,
        "total": targets.len(), "done": count(TargetState::Done), "failed": count(TargetState::Failed),
        "pending": count(TargetState::Pending), "gone": count(TargetState::Gone), "error": operation.error,
        "failures": failures.map(|t| json!({ "tenant": t.tenant, "error": t.error })).collect::<Vec<_>>(),
        "waiting": waiting.map(|t| json!({ "tenant": t.tenant, "reason": t.error })).collect::<Vec<_>>(),
        "created_at": operation.created_at, "updated_at": operation.updated_at,
    })
}
