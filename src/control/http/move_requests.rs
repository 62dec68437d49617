//! `/v1/moves`.

use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::{Extension, Json};
use catalog::{Kind, Operation};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::moves::Phase;
use shard_map::{ServerName, ServerState, TenantId};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal, parse};
use super::paging::{Page, SHORT, one_more, page};
use super::sign_in::{CONFIG, Who};
use crate::context::Context;
use crate::error::Error;
use crate::moves::{Input, Verify, Window, shown, start as starting};

/// Characters of the name of who asks.
const NAME_MAX: usize = 100;
/// The header that says who asks.
const ASKED_BY: &str = "x-tenantry-asked-by";
/// What a hold may be limited to.
const HOLD_MS: std::ops::RangeInclusive<u64> = 50..=60_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    tenant: String,
    to: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default = "Start::default_max_hold_ms")]
    max_hold_ms: u64,
    verify: Option<Verify>,
    /// For how long the source's copy is kept, in seconds.
    reverse_window_s: Option<u64>,
    #[serde(default)]
    kill_stragglers: bool,
    #[serde(default)]
    wait_sessions: bool,
    /// How long a cutover is put off for transactions and sessions in its way.
    max_wait_ms: Option<u64>,
    /// Codes of findings that the operator takes upon himself.
    #[serde(default)]
    accept: Vec<String>,
}

impl Start {
    fn default_max_hold_ms() -> u64 {
        2_000
    }
}

pub(super) async fn start(
    State(context): Shared,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    Body(start): Body<Start>,
) -> Answer<Value> {
    begin(&context, start, asked_by(&who, &headers)).await
}

/// Turns a move round, within its window: a move of its own, without a copy.
pub(super) async fn reverse(
    State(context): Shared,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    Path(id): Path<i64>,
) -> Answer<Value> {
    let operation = find_operation(&context, id).await?;
    let input: Input = serde_json::from_value(operation.input.clone())
        .map_err(|e| Error::Failed(format!("move {id} can't be read: {e}")))?;
    let tenant = operation.tenant.clone().ok_or_else(|| Error::Failed("a move without a tenant".into()))?;
    if !["switched", "completed"].contains(&operation.state.as_str()) {
        let message = format!("move {id} is {}: there is nothing to reverse", operation.state);
        return Err(Error::Refused { message, hint: None }.into());
    }
    let by_copy = format!("bring it back by a copy: tenantry move start {tenant} --to {}", input.from);
    if context.catalog.tenant(&tenant).await?.tenant.server != input.to {
        let message = format!("tenant {tenant} was moved again after move {id}");
        return Err(Error::refused(message, "start a move to the server that you want").into());
    }
    if let Some(why) = why_closed(&operation) {
        let message = format!("move {id} can't be turned round any more: {why}");
        return Err(Error::refused(message, by_copy).into());
    }
    if context.server(&input.from).await?.state == ServerState::Draining {
        // It would be moved away again at once.
        let hint = format!("take that back first: tenantry server drain {} --undo", input.from);
        return Err(Error::refused(format!("server {} is draining", input.from), hint).into());
    }
    let (from, to) = (input.to.clone(), input.from.clone());
    let input = Input { from, to, reverse_of: Some(id), asked_by: asked_by(&who, &headers), ..input };
    let back = context.catalog.start_move(&tenant, &input.from, &json!(input)).await?;
    context.nudge.notify_one();
    find(&context, back).await
}

/// Why a move's window is not open; none when it is.
fn why_closed(operation: &Operation) -> Option<String> {
    match Window::of(&operation.data) {
        _ if operation.state != "switched" => Some(format!("it is {}", operation.state)),
        _ if operation.data.get("finish") == Some(&json!(true)) => Some("it is being completed".to_owned()),
        Some(Window::Open { .. }) => None,
        Some(Window::Closed { closing, .. }) => {
            let at = closing.at.map_or_else(String::new, |at| format!(" since {at}"));
            Some(format!("its way back is closed{at}: {}", closing.why))
        }
        None => Some("it has no way back on record".to_owned()),
    }
}

/// Who asks, as the request's header has it.
fn asked_by(who: &Who, headers: &HeaderMap) -> Option<String> {
    named(who, headers.get(ASKED_BY).and_then(|said| said.to_str().ok()))
}

/// Who asks: by the name of the token, and as they say themselves, as one token may be of many.
fn named(who: &Who, said: Option<&str>) -> Option<String> {
    let said = said.map(str::trim).filter(|said| !said.is_empty());
    let said = said.map(|said| said.chars().take(NAME_MAX).collect::<String>());
    if who.name == CONFIG {
        return said;
    }
    Some(said.map_or_else(|| who.name.clone(), |said| format!("{} ({said})", who.name)))
}

async fn begin(context: &Context, start: Start, asked_by: Option<String>) -> Answer<Value> {
    let (id, to) = (parse::<TenantId>(&start.tenant)?, parse::<ServerName>(&start.to)?);
    if !HOLD_MS.contains(&start.max_hold_ms) {
        let (least, most) = (HOLD_MS.start(), HOLD_MS.end());
        return Err(Refusal::usage(&format!("max_hold: use {least}ms to {most}ms")));
    }
    let mut checked = starting::check(context, &id, &to, start.dry_run).await?;
    checked.found.accept(&start.accept)?;
    let (found, from) = (&checked.found, &checked.source.name);
    if start.dry_run {
        return Ok(Json(json!({
            "tenant": id, "from": from, "to": to, "findings": found.findings, "tables": found.tables,
            "rows_estimate": found.rows_estimate, "bytes": found.bytes,
            "database_bytes": found.database_bytes, "estimate": found.estimate,
        })));
    }
    checked.may_start()?;
    let input = Input {
        from: from.clone(),
        to,
        max_hold_ms: start.max_hold_ms,
        verify: start.verify.unwrap_or_default(),
        keep_sealed_s: start.reverse_window_s.unwrap_or(context.config.reverse_window.as_secs()),
        kill_stragglers: start.kill_stragglers,
        wait_sessions: start.wait_sessions,
        max_wait_ms: start.max_wait_ms,
        accepted: start.accept.clone(),
        asked_by,
        reverse_of: None,
    };
    let operation = context.catalog.start_move(&id, &input.from, &json!(input)).await?;
    context.nudge.notify_one();
    let Json(mut shown) = find(context, operation).await?;
    shown["findings"] = json!(found.findings);
    Ok(Json(shown))
}

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(asked): Query<Page<i64>>,
) -> Result<Response, Refusal> {
    let limit = asked.limit(SHORT)?;
    let moves = context.catalog.operations(Kind::Move, asked.after, one_more(limit)).await?;
    let moves = moves.iter().map(|operation| shown(operation, &[])).collect();
    Ok(page(moves, limit, &uri, |shown: &Value| shown["id"].to_string()))
}

pub(super) async fn show(State(context): Shared, Path(id): Path<i64>) -> Answer<Value> {
    find(&context, id).await
}

pub(super) async fn abort(State(context): Shared, Path(id): Path<i64>) -> Answer<Value> {
    let operation = find_operation(&context, id).await?;
    let phase = operation.step.parse().unwrap_or(Phase::Arm);
    if operation.state != "running" || !phase.can_abort() {
        let (message, hint) = match operation.state.as_str() {
            "running" => (format!("move {id} is in phase {phase}: too late to abort"), None),
            "switched" => (
                format!("move {id} is switched: too late to abort"),
                Some(format!("bring the tenant back with: tenantry move reverse {id}")),
            ),
            state => (format!("move {id} is {state}: nothing to abort"), None),
        };
        return Err(Error::Refused { message, hint }.into());
    }
    context.catalog.request_abort(id).await?;
    find(&context, id).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    /// Who asks, for whoever wonders later.
    by: Option<String>,
}

pub(super) async fn pause(
    State(context): Shared,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    Path(id): Path<i64>,
    Body(pause): Body<Pause>,
) -> Answer<Value> {
    find_operation(&context, id).await?;
    let by = pause.by.map_or_else(|| asked_by(&who, &headers), |by| named(&who, Some(&by)));
    let by = by.unwrap_or_else(|| "an operator".to_owned());
    let steps = Phase::ALL.into_iter().filter(|phase| phase.can_pause()).map(Phase::as_str);
    let steps: Vec<&str> = steps.chain(["begin"]).collect();
    if !context.catalog.pause_move(id, &by, &steps).await? {
        return Err(not_to_be_paused(&find_operation(&context, id).await?).into());
    }
    find(&context, id).await
}

fn not_to_be_paused(operation: &Operation) -> Error {
    let Operation { id, state, step, .. } = operation;
    let (message, hint) = match (state.as_str(), step.as_str()) {
        ("running", "cutover") => (
            format!("move {id} is in its cutover, which is over within seconds: it can't be paused now"),
            Some("ask again if that was taken back: tenantry move show tells".to_owned()),
        ),
        ("running", "undo") => (format!("move {id} is being undone: there is nothing to pause"), None),
        ("running", step) => {
            (format!("move {id} is in phase {step}, past its decision: too late to pause"), None)
        }
        (state, _) => (format!("move {id} is {state}: there is nothing to pause"), None),
    };
    Error::Refused { message, hint }
}

pub(super) async fn resume(State(context): Shared, Path(id): Path<i64>) -> Answer<Value> {
    let operation = find_operation(&context, id).await?;
    if operation.state != "running" {
        let message = format!("move {id} is {}: there is nothing to resume", operation.state);
        return Err(Error::Refused { message, hint: None }.into());
    }
    context.catalog.resume_move(id).await?;
    context.nudge.notify_one();
    find(&context, id).await
}

pub(super) async fn complete(State(context): Shared, Path(id): Path<i64>) -> Answer<Value> {
    let operation = find_operation(&context, id).await?;
    if operation.state != "switched" {
        let message = format!("move {id} is {}: only a switched move can be completed", operation.state);
        return Err(Error::Refused { message, hint: None }.into());
    }
    context.catalog.finish_move(id).await?;
    context.nudge.notify_one();
    find(&context, id).await
}

async fn find(context: &Context, id: i64) -> Answer<Value> {
    let operation = find_operation(context, id).await?;
    let mut shown = shown(&operation, &context.catalog.steps(id).await?);
    shown["receipt"] = operation.data.get("receipt").cloned().unwrap_or_default();
    Ok(Json(shown))
}

async fn find_operation(context: &Context, id: i64) -> Result<Operation, Refusal> {
    match context.catalog.operation(id).await {
        Ok(operation) if operation.kind == Kind::Move => Ok(operation),
        Ok(_) | Err(catalog::Error::NotFound(_)) => {
            Err(Refusal::not_found(&format!("move {id} does not exist")))
        }
        Err(e) => Err(e.into()),
    }
}
