//! `/v1/migrations`: runs over the fleet.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use catalog::{Operation, RunProgress, Target, TargetState};
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal};
use super::paging::{Page, SHORT, one_more, page};
use crate::context::Context;
use crate::error::Error;
use crate::fleet::examine::examine;
use crate::fleet::files::Input;
use crate::fleet::survey::Look;
use crate::fleet::waves;

pub(super) async fn run(State(context): Shared, Body(input): Body<Input>) -> Answer<Value> {
    if let Some(run) = context.catalog.runs(None, 1).await?.first().filter(|run| run.state == "running") {
        let why = format!("another migration run is under way ({}): wait for its end, or abort it", run.id);
        return Err(catalog::Error::Conflict(why).into());
    }
    let examined = examine(&context, &input, Look::History).await?;
    if let Some(refusal) = examined.refusal {
        return Err(Error::Usage(refusal).into());
    }
    let tenants = examined.tenants.into_iter().map(|tenant| tenant.id).collect();
    let targets = waves::divide(tenants, input.canary, &input.waves);
    let found = json!({ "version": examined.migrations.version(), "trial": examined.trial });
    let run = context.catalog.start_run(&json!(input), &found, &targets).await?;
    context.nudge.notify_one();
    find(&context, run).await
}

pub(super) async fn plan(State(context): Shared, Body(input): Body<Input>) -> Answer<Value> {
    let examined = examine(&context, &input, Look::Schema).await?;
    Ok(Json(json!(examined.plan(&context, &input).await?)))
}

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(asked): Query<Page<i64>>,
) -> Result<Response, Refusal> {
    let limit = asked.limit(SHORT)?;
    let mut runs = Vec::new();
    for operation in context.catalog.runs(asked.after, one_more(limit)).await? {
        let progress = context.catalog.run_progress(operation.id).await?;
        runs.push(shown(&operation, &progress, &[]));
    }
    Ok(page(runs, limit, &uri, |run| run["id"].to_string()))
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
    let Some(operation) = context.catalog.run(run).await? else {
        return Err(Refusal::not_found(&format!("migration run {run} does not exist")));
    };
    let progress = context.catalog.run_progress(run).await?;
    Ok(Json(shown(&operation, &progress, &context.catalog.run_troubles(run).await?)))
}

pub(crate) fn shown(operation: &Operation, progress: &RunProgress, troubles: &[Target]) -> Value {
    let of = |state, key: &str| {
        let there = troubles.iter().filter(|target| target.state == state);
        there.map(|t| json!({ "tenant": t.tenant, key: t.error })).collect::<Vec<_>>()
    };
    let running = operation.state == "running";
    let rate = progress.rate.filter(|rate| running && *rate > 0.0);
    json!({
        "id": operation.id, "state": operation.state, "step": operation.step,
        "version": operation.data.get("version"), "trial": operation.data.get("trial"), "wave": progress.wave, "last_wave": progress.last_wave,
        "total": progress.total, "done": progress.done, "failed": progress.failed, "pending": progress.pending,
        "gone": progress.gone, "error": operation.error,
        "rate": rate.map(|rate| (rate * 10.0).round() / 10.0),
        "eta_s": rate.map(|rate| (progress.pending as f64 / rate).ceil()),
        "servers": if running { servers(&operation.data) } else { json!({}) },
        "failures": of(TargetState::Failed, "error"), "waiting": of(TargetState::Pending, "reason"),
        "created_at": operation.created_at, "updated_at": operation.updated_at,
    })
}

/// How fast the run goes at each server, and why not faster.
fn servers(data: &Value) -> Value {
    let lanes = data.as_object().into_iter().flatten();
    let lanes = lanes.filter_map(|(key, lane)| Some((key.strip_prefix("lane:")?.to_owned(), lane.clone())));
    Value::Object(lanes.collect())
}
