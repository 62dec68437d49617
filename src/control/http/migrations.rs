//! `/v1/migrations`: runs over the fleet.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal};
use super::paging::{Page, SHORT, one_more, page};
use crate::context::Context;
use crate::error::Error;
use crate::fleet::examine::examine;
use crate::fleet::files::Input;
use crate::fleet::shown;
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
