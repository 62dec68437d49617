//! `/v1/tenants` and the operations on them.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use catalog::{Kind, Operation, TenantFilter, TenantRow};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::labels::Labels;
use shard_map::placement::Wish;
use shard_map::policy::Quota;
use shard_map::selector::check_labels;
use shard_map::{Selector, ServerClass, ServerName, TenantId, TenantState};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal, parse};
use super::paging::{LONG, Page, SHORT, page};
use crate::context::Context;
use crate::error::Error;
use crate::{provision, quotas};

/// Longest time for which a request waits for what it asked for.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time for which a tenant may write although it is over its size: what stays longer is a quota.
const WRITABLE_FOR_MAX: Duration = Duration::from_hours(7 * 24);
/// How often it looks when nobody tells.
const WAIT_POLL: Duration = Duration::from_millis(100);

fn shown(row: &TenantRow) -> Value {
    let mut shown = json!(row);
    shown["database"] = json!(row.tenant.id.live_database());
    shown
}

#[derive(Deserialize)]
pub(super) struct Filter {
    server: Option<String>,
    selector: Option<String>,
    /// A part of the id.
    q: Option<String>,
    /// Whether how each is served is told, too.
    #[serde(default)]
    serving: bool,
}

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(Filter { server, selector, q, serving }): Query<Filter>,
    Query(asked): Query<Page<String>>,
) -> Result<Response, Refusal> {
    let limit = asked.limit(if serving { SHORT } else { LONG })?;
    let server = server.as_deref().map(parse::<ServerName>).transpose()?;
    let selector = selector.as_deref().map(parse::<Selector>).transpose()?.unwrap_or_default();
    if let Some(name) = &server {
        context.catalog.server(name).await?;
    }
    let filter = TenantFilter { server, selector, contains: q, after: asked.after, limit: limit + 1 };
    let tenants = context.catalog.some_tenants(&filter).await?;
    let mut rows: Vec<Value> = tenants.iter().map(shown).collect();
    if serving {
        let ids: Vec<&TenantId> = tenants.iter().map(|row| &row.tenant.id).collect();
        let servings = context.catalog.servings(&ids, context.config.router_timeout, false).await?;
        for (shown, TenantRow { tenant, .. }) in rows.iter_mut().zip(&tenants) {
            let judged =
                servings.get(&tenant.id).map(|serving| serving.judge(tenant.state, tenant.read_only));
            shown["serving"] = json!(judged.map(|(state, why)| json!({ "state": state, "why": why })));
        }
    }
    Ok(page(rows, limit, &uri, |row| row["id"].as_str().unwrap_or_default().to_owned()))
}

pub(super) async fn show(State(context): Shared, Path(id): Path<String>) -> Answer<Value> {
    let id: TenantId = parse(&id)?;
    let row = context.catalog.tenant(&id).await?;
    let mut shown = shown(&row);
    shown["operation"] = json!(context.catalog.running_operation(&id).await?);
    shown["drop_at"] = json!(context.catalog.grace_end(&id, context.config.delete_grace).await?);
    // What failed last, if nothing went well since: such as a last dump that keeps the tenant from being dropped.
    let failure = context.catalog.last_failure(&id).await?;
    shown["last_error"] = json!(failure.and_then(|failure| failure.error));
    add_quota(&context, &row, &mut shown).await?;
    Ok(Json(shown))
}

/// What it may use, where each of that is from, and what it uses.
async fn add_quota(context: &Context, row: &TenantRow, shown: &mut Value) -> Result<(), Refusal> {
    let server = context.server(&row.tenant.server).await?;
    let quota = row.tenant.quota_on(&server);
    let used = context.catalog.tenant_use(&row.tenant.id).await?;
    let standing = used.as_ref().zip(quota.size).map(|(used, size)| quotas::standing(used.bytes, size));
    shown["quota"] = json!(quota);
    shown["own_quota"] = json!(row.tenant.quota.as_deref().copied().unwrap_or_default());
    shown["read_only"] = json!(row.tenant.read_only);
    shown["bytes"] = json!(used.as_ref().map(|used| used.bytes));
    shown["size_state"] = json!(standing.map(quotas::Standing::as_str));
    shown["writable_until"] = json!(used.and_then(|used| used.writable_until));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetQuota {
    /// By key; null: the class's counts again. What is not named stays.
    #[serde(default)]
    quota: serde_json::Map<String, Value>,
    /// Lets it write for so long although it is over its size.
    writable_for_ms: Option<u64>,
}

pub(super) async fn set_quota(
    State(context): Shared,
    Path(id): Path<String>,
    Body(set): Body<SetQuota>,
) -> Answer<Value> {
    let id: TenantId = parse(&id)?;
    let writable_for = set.writable_for_ms.map(Duration::from_millis);
    if writable_for.is_some_and(|time| time > WRITABLE_FOR_MAX) {
        let most = WRITABLE_FOR_MAX.as_millis();
        return Err(Refusal::usage(&format!("writable_for_ms: use {most} (7 days) or less")));
    }
    if set.quota.is_empty() {
        context.catalog.tenant(&id).await?;
    } else {
        context.catalog.set_quota(&id, |before| merged(before, set.quota)).await?;
    }
    if let Some(time) = writable_for {
        context.catalog.let_write(&id, time).await?;
    }
    context.measure_nudge.notify_one();
    show(State(context), Path(id.to_string())).await
}

/// A quota with some of its keys changed.
fn merged(before: Quota, changes: serde_json::Map<String, Value>) -> Result<Quota, Refusal> {
    let mut quota = json!(before);
    for (key, value) in changes {
        quota[key] = value;
    }
    if let Some(keys) = quota.as_object_mut() {
        keys.retain(|_, value| !value.is_null());
    }
    let quota: Quota = serde_json::from_value(quota).map_err(|e| Refusal::usage(&format!("quota: {e}")))?;
    quota.check().map_err(|(key, message)| Refusal::usage(&format!("quota: {key}: {message}")))?;
    Ok(quota)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    id: String,
    server: Option<String>,
    class: Option<ServerClass>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    quota: serde_json::Map<String, Value>,
    /// Only say where it would go, and why.
    #[serde(default)]
    dry_run: bool,
    /// Answer when it serves, or after so long.
    #[serde(default)]
    wait_ms: u64,
}

pub(super) async fn create(
    State(context): Shared,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    check_labels(&create.labels).map_err(|why| Refusal::usage(&why))?;
    make(&context, create, None).await
}

/// Makes a tenant that is a copy of the one in the path; with its labels, unless others are given.
pub(super) async fn clone(
    State(context): Shared,
    Path(source): Path<String>,
    Body(mut create): Body<Create>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let source: TenantId = parse(&source)?;
    check_labels(&create.labels).map_err(|why| Refusal::usage(&why))?;
    if create.labels.is_empty() {
        create.labels = context.catalog.tenant(&source).await?.tenant.labels;
    }
    make(&context, create, Some(&source)).await
}

async fn make(
    context: &Context,
    create: Create,
    source: Option<&TenantId>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let id: TenantId = parse(&create.id)?;
    let (policy, away) = tokio::try_join!(context.policy(), provision::ask_servers(context, &id))?;
    let wish = Wish {
        away,
        server: create.server.as_deref().map(parse).transpose()?,
        class: create.class,
        labels: create.labels,
        quota: merged(Quota::default(), create.quota)?,
        bytes: 0,
    };
    if create.dry_run {
        let decision = context.catalog.try_placement(&id, &wish, &policy).await?;
        return Ok((StatusCode::OK, Json(json!(decision))));
    }
    let (operation, _) = context.catalog.create_tenant(&id, &wish, &policy, source).await?;
    context.nudge.notify_one();
    let wait = Duration::from_millis(create.wait_ms).min(WAIT_MAX);
    let status = match ended(context, operation, wait).await?.as_str() {
        "running" => StatusCode::ACCEPTED,
        "done" => StatusCode::CREATED,
        // Why, is told by the operation.
        _ => return Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "operation": operation })))),
    };
    let mut shown = shown(&context.catalog.tenant(&id).await?);
    shown["operation"] = json!(operation);
    Ok((status, Json(shown)))
}

/// The operation's state when it has ended, or the time is over.
async fn ended(context: &Context, operation: i64, wait: Duration) -> Result<String, Refusal> {
    let deadline = Instant::now() + wait;
    loop {
        let ended = context.ended.notified();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok("running".to_owned());
        }
        let state = context.catalog.operation(operation).await?.state;
        if state != "running" {
            return Ok(state);
        }
        // Another instance may drive it: it tells nobody here.
        drop(tokio::time::timeout(left.min(WAIT_POLL), ended).await);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    to: String,
}

pub(super) async fn rename(
    State(context): Shared,
    Path(id): Path<String>,
    Body(rename): Body<Rename>,
) -> Answer<Value> {
    let (from, to) = (parse::<TenantId>(&id)?, parse::<TenantId>(&rename.to)?);
    let operation = context.catalog.start_rename(&from, &to).await?;
    context.nudge.notify_one();
    Ok(Json(json!({ "operation": operation })))
}

pub(super) async fn suspend(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id.0, Kind::Suspend, &[TenantState::Open], json!({})).await
}

pub(super) async fn resume(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id.0, Kind::Resume, &[TenantState::Suspended], json!({})).await
}

pub(super) async fn undelete(context: Shared, id: Path<String>) -> Answer<Value> {
    start(context, &id.0, Kind::Undelete, &[TenantState::Deleted], json!({})).await
}

#[derive(Deserialize)]
pub(super) struct Delete {
    #[serde(default)]
    now: bool,
    #[serde(default)]
    dump: bool,
}

pub(super) async fn delete(context: Shared, id: Path<String>, Query(delete): Query<Delete>) -> Answer<Value> {
    if delete.dump && context.config.deleted_dump_dir.is_none() {
        let hint = "set deleted_dump_dir in the control plane's configuration";
        return Err(Error::refused("a last dump has no place to go to", hint).into());
    }
    let mut states = vec![TenantState::Open, TenantState::Suspended];
    if delete.now {
        states.push(TenantState::Deleted);
    }
    start(context, &id.0, Kind::Delete, &states, json!({ "now": delete.now, "dump": delete.dump })).await
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
